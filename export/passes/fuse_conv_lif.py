"""Integer convolutions and the neurons behind them become one op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from export.passes.artifact import read_artifact, write_artifact
from export.passes.base import (
    Array,
    GraphPass,
    attribute,
    constant,
    is_op,
    only_user,
    producer,
)
from export.passes.integer_inputs import partner_of
from export.passes.rewiring import new_constant, register, remove_unread, take_place
from lif_op.spec import DOMAIN, words
from runtime.metadata import State

_NHWC = (0, 2, 3, 1)


class FuseConvLif(GraphPass):
    """One pass over registers instead of an int32 tensor between convolution and neuron.

    Before::

        x u8 -> snn::QConv -> acc i32 -> snn::QLIF(mem [N, C, H, W]) -> spike u8, mem_out
        Concat(x, spike.L) -> snn::QConv -> snn::QLIF                     (or Add of two QConv)

    After, with spikes packed 32 channels to a word and channels last in membranes::

        x u8 or packed -> snn::QConvLIF(mem [N, H, W, C]) -> spike u32, mem_out
        x, spike.L [N, H, W, ceil(C / 32)] -> snn::QConvLIFRec -> spike u32, mem_out

    A ``QConv`` without a neuron, such as the flow head's, reads packed spikes too. Who else reads a
    layer's spikes gets them through ``snn::UnpackSpikes``. Membrane states become
    NHWC, spike states of recurrent layers packed32, in the graph and in its metadata. Neurons with
    a current that is not a ``QConv``'s alone, or with a membrane that is no state, stay.
    """

    name = "fuse_conv_lif"
    counts_on_bodies = True
    summary = "snn::QConv and snn::QLIF become snn::QConvLIF or snn::QConvLIFRec, spikes packed"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        graph = model.graph
        changed: set[str] = set()
        changes = 0
        for node in list(graph):
            if not is_op(node, "QLIF", DOMAIN) or not _has_state(graph, node):
                continue
            found = _match(graph, node)
            if found is None:
                continue
            changed |= _fuse(graph, node, found)
            changes += 1
        changes += sum(_read_words(node) for node in graph)
        for node in list(graph):
            if is_op(node, "UnpackSpikes", DOMAIN) and _unread(node.outputs[0]):
                graph.remove(node, safe=True)
        artifact = read_artifact(model)
        if changed and artifact is not None:
            channels = {layer.name: layer.channels for layer in artifact.layers}
            states = tuple(
                _relaid(state, channels[state.layer]) if state.input in changed else state
                for state in artifact.states
            )
            write_artifact(model, replace(artifact, states=states))
        return changes


@dataclass(frozen=True)
class _Match:
    """A convolution in front of a neuron: nodes from first to last, and what it computes with.

    previous: the layer's spike state, None where the layer is not recurrent.
    """

    nodes: Sequence[ir.Node]
    x: ir.Value
    weight: Array
    bias: Array
    name: str
    strides: list[int]
    pads: list[int]
    previous: ir.Value | None = None
    weight_rec: Array | None = None


def _has_state(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether the membrane is a state of its own, which can change its layout."""
    mem, mem_out = node.inputs[1], node.outputs[1]
    return (
        mem is not None
        and mem.is_graph_input()
        and mem.shape is not None
        and mem.shape.rank() == 4
        and only_user(mem) is node
        and mem_out.is_graph_output()
        and not mem_out.uses()
    )


def _match(graph: ir.Graph, node: ir.Node) -> _Match | None:
    acc = node.inputs[0]
    if acc is None or only_user(acc) is not node:
        return None
    add = producer(acc, "Add")
    if add is not None:
        return _match_sum(graph, node, add)
    conv = producer(acc, "QConv", DOMAIN)
    plain = None if conv is None else _convolution(conv)
    if conv is None or plain is None:
        return None
    return _match_concat(graph, node, conv, plain) or plain


def _convolution(conv: ir.Node) -> _Match | None:
    x, weight, bias = conv.inputs[0], constant(conv.inputs[1]), constant(conv.inputs[2])
    if x is None or weight is None or bias is None:
        return None
    name = (conv.inputs[1].name if conv.inputs[1] is not None else None) or "weight"
    strides, pads = list(attribute(conv, "strides")), list(attribute(conv, "pads"))
    return _Match([conv], x, weight, bias, name.removesuffix(".weight"), strides, pads)


def _match_concat(graph: ir.Graph, node: ir.Node, conv: ir.Node, plain: _Match) -> _Match | None:
    """A convolution of input and previous spikes side by side, taken apart."""
    concat = producer(plain.x, "Concat")
    if concat is None or only_user(plain.x) is not conv or len(concat.inputs) != 2:
        return None
    x, previous = concat.inputs
    channels = plain.weight.shape[0]
    split = plain.weight.shape[1] - channels
    whole = attribute(concat, "axis") == 1 and split > 0 and _keeps_size(plain)
    if not whole or x is None or previous is None or not _is_own_state(graph, node, previous):
        return None
    return replace(
        plain,
        nodes=[concat, conv],
        x=x,
        weight=plain.weight[:, :split],
        previous=previous,
        weight_rec=plain.weight[:, split:],
    )


def _match_sum(graph: ir.Graph, node: ir.Node, add: ir.Node) -> _Match | None:
    """Two convolutions added up, one of them of the layer's previous spikes."""
    convs = [producer(value, "QConv", DOMAIN) for value in add.inputs]
    parts = [
        None if conv is None or only_user(conv.outputs[0]) is not add else _convolution(conv)
        for conv in convs
    ]
    for first, second in ((0, 1), (1, 0)):
        plain, own = parts[first], parts[second]
        if plain is None or own is None or not _keeps_size(own):
            continue
        if own.weight.shape[0] == own.weight.shape[1] and _is_own_state(graph, node, own.x):
            nodes = [*plain.nodes, *own.nodes, add]
            bias = plain.bias + own.bias
            return replace(plain, nodes=nodes, bias=bias, previous=own.x, weight_rec=own.weight)
    return None


def _keeps_size(part: _Match) -> bool:
    height, width = part.weight.shape[2:]
    odd = height % 2 == 1 and width % 2 == 1
    return odd and part.strides == [1, 1] and part.pads == [height // 2, width // 2] * 2


def _is_own_state(graph: ir.Graph, node: ir.Node, value: ir.Value) -> bool:
    """Whether a value is the state that this neuron's spikes become, read by nobody else."""
    spike = node.outputs[0]
    return (
        value.is_graph_input()
        and value.dtype == ir.DataType.UINT8
        and only_user(value) is not None
        and spike.is_graph_output()
        and spike.name == partner_of(value.name or "")
    )


def _fuse(graph: ir.Graph, node: ir.Node, found: _Match) -> set[str]:
    """Put the fused op in place; returns the state inputs that changed."""
    mem, decay, threshold = node.inputs[1:4]
    unpack = producer(found.x, "UnpackSpikes", DOMAIN)
    x = found.x if unpack is None else unpack.inputs[0]
    constants = [new_constant(f"{found.name}.weight", found.weight)]
    constants.append(new_constant(f"{found.name}.bias", found.bias))
    inputs, op_type = [x, *constants], "QConvLIF"
    if found.previous is not None and found.weight_rec is not None:
        op_type = "QConvLIFRec"
        constants.append(new_constant(f"{found.name}.weight_rec", found.weight_rec))
        inputs += [found.previous, constants[-1]]
    attributes = {
        "strides": found.strides,
        "pads": found.pads,
        "frac_bits": attribute(node, "frac_bits"),
        "reset": attribute(node, "reset"),
    }
    layer = (node.name or "neuron").removesuffix(".QLIF")
    fused = ir.node(
        op_type,
        [*inputs, mem, decay, threshold],
        attributes,
        domain=DOMAIN,
        num_outputs=2,
        name=f"{layer}.{op_type}",
    )
    graph.insert_after(node, fused)
    changed = _hand_over_membrane(node, fused, mem)
    changed |= _hand_over_spikes(graph, node, fused, found)
    old = [value for part in found.nodes for value in part.inputs]
    graph.remove([node, *found.nodes], safe=True)
    remove_unread(graph, old)
    register(graph, constants)
    return changed


def _hand_over_membrane(node: ir.Node, fused: ir.Node, mem: ir.Value | None) -> set[str]:
    old, new = node.outputs[1], fused.outputs[1]
    new.type = old.type
    take_place(old, new)
    new.shape = _permuted(old.shape)
    if mem is None:
        return set()
    mem.shape = _permuted(mem.shape)
    return {mem.name or ""}


def _hand_over_spikes(graph: ir.Graph, node: ir.Node, fused: ir.Node, found: _Match) -> set[str]:
    """Packed spikes go into the state of a recurrent layer; other readers get them unpacked."""
    old, packed = node.outputs[0], fused.outputs[0]
    channels = found.weight.shape[0]
    packed.type, packed.shape = ir.TensorType(ir.DataType.UINT32), _packed(old.shape, channels)
    unpack = ir.node(
        "UnpackSpikes",
        [packed],
        {"channels": channels},
        domain=DOMAIN,
        name=f"{(fused.name or 'spikes').rpartition('.')[0]}.unpack",
    )
    graph.insert_after(fused, unpack)
    whole = unpack.outputs[0]
    whole.type, whole.shape = old.type, old.shape
    if found.previous is None:
        packed.name = f"{old.name}.packed"
        take_place(old, whole)
        return set()
    name, old.name = old.name, None
    packed.name, whole.name = name, f"{name}.bytes"
    for position, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[position] = packed
    old.replace_all_uses_with(whole)
    found.previous.type = ir.TensorType(ir.DataType.UINT32)
    found.previous.shape = _packed(found.previous.shape, channels)
    return {found.previous.name or ""}


def _permuted(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[axis] for axis in _NHWC])


def _packed(shape: ir.Shape | None, channels: int) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[0], shape[2], shape[3], words(channels)])


def _read_words(node: ir.Node) -> bool:
    """Let a convolution read the words behind unpacked spikes."""
    unpack = producer(node.inputs[0], "UnpackSpikes", DOMAIN) if node.inputs else None
    if unpack is None or not is_op(node, "QConv", DOMAIN):
        return False
    node.replace_input_with(0, unpack.inputs[0])
    return True


def _unread(value: ir.Value) -> bool:
    return not value.uses() and not value.is_graph_output()


def _relaid(state: State, channels: int) -> State:
    """A state in its new layout."""
    batch, _, height, width = state.shape
    if state.role == "mem":
        return replace(state, layout="NHWC", shape=(batch, height, width, channels))
    shape = (batch, height, width, words(channels))
    return replace(state, layout="packed32", dtype="uint32", shape=shape)

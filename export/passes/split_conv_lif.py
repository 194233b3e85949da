"""The inverse of fuse_conv_lif, for whoever looks at accumulators or wants channels first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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
    required_constant,
)
from export.passes.integer_inputs import partner_of
from export.passes.rewiring import new_constant, register, remove_unread, take_place
from lif_op.spec import DOMAIN
from runtime.metadata import State

_NCHW = (0, 3, 1, 2)
FUSED = ("QConvLIF", "QConvLIFRec")
"""Ops that are a convolution and its neuron."""


class SplitConvLif(GraphPass):
    """Convolution and neuron apart, spikes as bytes, membranes with channels first.

    Before::

        x u8 or packed -> snn::QConvLIF(mem [N, H, W, C]) -> spike u32, mem_out
        x, spike.L u32 -> snn::QConvLIFRec -> spike u32, mem_out

    After::

        x u8 -> snn::QConv -> acc i32 -> snn::QLIF(mem [N, C, H, W]) -> spike u8, mem_out
        Concat(x, spike.L u8) -> snn::QConv -> snn::QLIF               (or Add of two QConv)

    The graph computes the same integers, slower. States become NCHW, in the graph and in its
    metadata. Layers whose weights are computed, or whose membrane or previous spikes are no
    states, stay.
    """

    name = "split_conv_lif"
    summary = "snn::QConvLIF and snn::QConvLIFRec become snn::QConv and snn::QLIF, states NCHW"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        graph = model.graph
        changed: set[str] = set()
        changes = 0
        for node in list(graph):
            if is_fused(node) and _has_states(node):
                changed |= _split(graph, node)
                changes += 1
        if changes:
            _read_bytes(graph)
            _relay(model, changed)
        return changes


def is_fused(node: ir.Node | None) -> bool:
    """Whether a node is a convolution and its neuron in one."""
    return node is not None and node.domain == DOMAIN and node.op_type in FUSED


def _has_states(node: ir.Node) -> bool:
    """Whether weights are constants, and all that changes its layout a state of this node."""
    recurrent = node.op_type == "QConvLIFRec"
    weights = (1, 2, 4) if recurrent else (1, 2)
    if any(constant(node.inputs[position]) is None for position in weights):
        return False
    mem, mem_out = node.inputs[5 if recurrent else 3], node.outputs[1]
    known = mem is not None and mem.shape is not None and mem.shape.rank() == 4
    if not known or mem is None or not _is_state(mem, mem_out) or mem_out.uses():
        return False
    previous = node.inputs[3] if recurrent else None
    return previous is None or _is_state(previous, node.outputs[0])


def _is_state(value: ir.Value, output: ir.Value) -> bool:
    """Whether a value is a graph input with one reader, and the output what it becomes."""
    return (
        value.is_graph_input()
        and only_user(value) is not None
        and output.is_graph_output()
        and output.name == partner_of(value.name or "")
    )


def _split(graph: ir.Graph, node: ir.Node) -> set[str]:
    """Put convolution and neuron in the place of a fused op; returns the states that changed."""
    recurrent = node.op_type == "QConvLIFRec"
    layer = (node.name or "neuron").removesuffix(f".{node.op_type}")
    mem, decay, threshold = node.inputs[-3:]
    nodes, constants = _convolution(node, _bytes(graph, node), layer, recurrent)
    neuron = ir.node(
        "QLIF",
        [nodes[-1].outputs[0], mem, decay, threshold],
        {name: attribute(node, name) for name in ("frac_bits", "reset")},
        domain=DOMAIN,
        num_outputs=2,
        name=f"{layer}.QLIF",
    )
    for part in nodes:
        part.outputs[0].name = part.name
    graph.insert_after(node, [*nodes, neuron])
    spike, mem_out = neuron.outputs
    mem_out.type = node.outputs[1].type
    take_place(node.outputs[1], mem_out)
    states = [mem]
    channels = _array(node, 1).shape[0]
    spike.type = ir.TensorType(ir.DataType.UINT8)
    spike.shape = _bytes_shape(node.outputs[0].shape, channels)
    _hand_over_spikes(graph, neuron, node.outputs[0], channels, state=recurrent)
    for value in (mem, mem_out):
        if value is not None and value.shape is not None:
            value.shape = ir.Shape([value.shape[axis] for axis in _NCHW])
    if recurrent:
        previous = node.inputs[3]
        if previous is not None:
            previous.type = ir.TensorType(ir.DataType.UINT8)
            previous.shape = _bytes_shape(previous.shape, channels)
        states.append(previous)
    old = list(node.inputs)
    graph.remove(node, safe=True)
    remove_unread(graph, old)
    register(graph, constants)
    return {state.name or "" for state in states if state is not None}


def _convolution(
    node: ir.Node, x: ir.Value | None, layer: str, recurrent: bool
) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes that compute a layer's accumulator, and their constants, weight first."""
    strides, pads = attribute(node, "strides"), attribute(node, "pads")
    weight, bias = _array(node, 1), _array(node, 2)
    if not recurrent:
        constants = _named(layer, weight=weight, bias=bias)
        return [_conv([x, *constants], strides, pads, f"{layer}.conv.acc")], constants
    previous, own = node.inputs[3], _array(node, 4)
    sides = [side // 2 for side in own.shape[2:]] * 2
    if own.shape[2:] == weight.shape[2:] and list(strides) == [1, 1] and list(pads) == sides:
        constants = _named(layer, weight=np.concatenate([weight, own], axis=1), bias=bias)
        both = ir.node("Concat", [x, previous], {"axis": 1}, name=f"{layer}.inputs.int")
        conv = _conv([both.outputs[0], *constants], strides, pads, f"{layer}.conv.acc")
        return [both, conv], constants
    constants = _named(layer, weight=weight, bias=bias, weight_rec=own)
    constants += _named(layer, bias_rec=np.zeros_like(bias))
    first = _conv([x, *constants[:2]], strides, pads, f"{layer}.conv.acc")
    second = _conv([previous, *constants[2:]], [1, 1], sides, f"{layer}.conv.rec.acc")
    return [
        first,
        second,
        ir.node("Add", [first.outputs[0], second.outputs[0]], name=f"{layer}.acc"),
    ], constants


def _array(node: ir.Node, position: int) -> Array:
    return required_constant(node, position, "weight or bias")


def _bytes(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """The input of a fused op as bytes; words that nobody here packed are unpacked."""
    x = node.inputs[0]
    source = None if x is None else x.producer()
    if is_op(source, "PackSpikes", DOMAIN) and source is not None:
        return source.inputs[0]
    if x is None or (x.dtype != ir.DataType.UINT32 and not is_fused(source)):
        return x
    attributes = {"channels": _array(node, 1).shape[1]}
    unpack = ir.node("UnpackSpikes", [x], attributes, domain=DOMAIN)
    graph.insert_before(node, unpack)
    return unpack.outputs[0]


def _named(layer: str, **arrays: Array) -> list[ir.Value]:
    return [new_constant(f"{layer}.{name}", array) for name, array in arrays.items()]


def _conv(inputs: list[ir.Value | None], strides: object, pads: object, name: str) -> ir.Node:
    attributes = {"strides": strides, "pads": pads}
    return ir.node("QConv", inputs, attributes, domain=DOMAIN, name=name)  # type: ignore[arg-type]


def _hand_over_spikes(
    graph: ir.Graph, neuron: ir.Node, packed: ir.Value, channels: int, *, state: bool
) -> None:
    """Bytes go into the state; other readers of the words get them packed for the time being."""
    spike = neuron.outputs[0]
    name = (packed.name or "spikes").removesuffix(".packed")
    again = ir.node("PackSpikes", [spike], {"channels": channels}, domain=DOMAIN)
    graph.insert_after(neuron, again)
    words = again.outputs[0]
    words.type, words.shape = packed.type, packed.shape
    if state:
        packed.name, spike.name = None, name
        for position, output in enumerate(graph.outputs):
            if output is packed:
                graph.outputs[position] = spike
        words.name = f"{name}.packed"
        packed.replace_all_uses_with(words)
    else:
        take_place(packed, words)
        spike.name = name if words.name != name else f"{name}.bytes"


def _read_bytes(graph: ir.Graph) -> None:
    """Who reads spikes that were bytes before reads those; what is unread then goes."""
    for node in list(graph):
        packed = node.inputs[0] if node.inputs else None
        source = producer(packed, "PackSpikes", DOMAIN)
        if source is None:
            continue
        if is_op(node, "UnpackSpikes", DOMAIN):
            _replace(graph, node.outputs[0], source.inputs[0])
            graph.remove(node, safe=True)
        elif is_op(node, "QConv", DOMAIN):
            node.replace_input_with(0, source.inputs[0])
    for node in list(graph):
        spare = is_op(node, "PackSpikes", DOMAIN)
        if spare and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)


def _replace(graph: ir.Graph, old: ir.Value, new: ir.Value | None) -> None:
    if new is None:
        return
    if old.is_graph_output():
        name, old.name = old.name, None
        new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _bytes_shape(shape: ir.Shape | None, channels: int) -> ir.Shape | None:
    if shape is None:
        return None
    return ir.Shape([shape[0], channels, shape[1], shape[2]])


def _relay(model: ir.Model, changed: set[str]) -> None:
    """Write the new layouts into the metadata."""
    artifact = read_artifact(model)
    if artifact is None:
        return
    channels = {layer.name: layer.channels for layer in artifact.layers}
    states = tuple(
        _channels_first(state, channels[state.layer]) if state.input in changed else state
        for state in artifact.states
    )
    write_artifact(model, replace(artifact, states=states))


def _channels_first(state: State, channels: int) -> State:
    batch, height, width = state.shape[:3]
    dtype = "uint8" if state.role == "spike" else state.dtype
    return replace(state, layout="NCHW", dtype=dtype, shape=(batch, channels, height, width))

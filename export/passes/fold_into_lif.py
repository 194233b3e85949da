"""Gains, shifts and batch norms in front of a neuron move into its constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.passes.affine import AffineChain, affine_chain, per_channel
from export.passes.artifact import read_artifact
from export.passes.base import (
    GraphPass,
    PassError,
    constant,
    is_op,
    only_user,
    producer,
)
from export.passes.convolution_constants import change_convolution, dequantized_constant
from export.passes.rewiring import new_constant, register, remove_unread
from lif_op.spec import DOMAIN

Float64 = npt.NDArray[np.float64]

_GRID_SLACK = 2.0**-20
_BEFORE = "move it in front of the convolution's own bias, or behind no quantizer"


class FoldIntoLif(GraphPass):
    """Let the neuron receive the convolution's result as it is.

    Before, g and b constants, one per channel or one for all::

        Conv(W, bias) -> y -> Mul(g) -> Add(b)          -> snn::LIF(mem, beta, threshold)
        Conv(W, bias) -> y -> BatchNormalization        -> snn::LIF(mem, beta, threshold)
        acc i32 -> Cast(float) -> Mul(s)                -> snn::LIF(mem, beta, threshold)

    After::

        Conv(W, bias + b / g) -> y                      -> snn::LIF(mem / g, beta, threshold / g)
        acc i32 -> DequantizeLinear(s, axis 1)          -> snn::LIF(mem, beta, threshold)

    A spiking neuron is positively homogeneous: current, membrane and threshold divided by the same
    g > 0 give the same spikes. A negative g first changes the sign of its channel's weights and
    bias. The scale of a quantized membrane is divided by g, so its integers stay what they were; a
    membrane that is a float32 state changes its unit to g times the old one, which nobody sees
    because it starts at 0. Where the convolution has an integer bias, b / g is rounded to its unit.

    ``Mul``, ``Div``, ``Add``, ``Sub`` and ``BatchNormalization`` (inference) fold in any order and
    number. A gain alone folds whatever computes the current; a shift or a negative gain needs a
    convolution (or the sum of two) that only this neuron reads.
    """

    name = "fold_into_lif"
    summary = "batch norm, gain and shift of a current move into weights, bias and threshold"

    def rewrite(self, model: ir.Model) -> int:
        """See the class.

        Raises:
            PassError: a gain of 0, or one that is not finite; a shift or a negative gain on
                something that is no convolution; a membrane that does not start at 0.
        """
        artifact = read_artifact(model)
        initial = {s.input: s.init for s in artifact.states} if artifact is not None else {}
        changes = 0
        for node in list(model.graph):
            if not is_op(node, "LIF", DOMAIN):
                continue
            changes += _standalone_scale(model.graph, node)
            current = node.inputs[0]
            if current is None:
                continue
            chain = affine_chain(current, _channels(node))
            if not chain.nodes:
                continue
            _fold(model.graph, node, chain, initial)
            changes += 1
        return changes


def _channels(node: ir.Node) -> int:
    threshold = constant(node.inputs[3])
    return 0 if threshold is None else threshold.size


def _standalone_scale(graph: ir.Graph, node: ir.Node) -> int:
    """``Mul(Cast(acc i32), s)`` is a dequantization; write it as one."""
    multiply = producer(node.inputs[0], "Mul")
    cast = None if multiply is None else producer(multiply.inputs[0], "Cast")
    if multiply is None or cast is None or (acc := cast.inputs[0]) is None:
        return 0
    known = producer(acc, "QConv", DOMAIN) or producer(acc, "ConvInteger")
    scale = per_channel(multiply.inputs[1], _channels(node))
    if scale is None or not bool((scale > 0).all() and np.isfinite(scale).all()):
        return 0
    if known is None and acc.dtype != ir.DataType.INT32:
        return 0
    layer = node.name or "neuron"
    constants = [
        new_constant(f"{layer}.scale", scale.astype(np.float32)),
        new_constant(f"{layer}.zero", np.zeros(scale.shape, np.int32)),
    ]
    attributes = {"axis": 1} if scale.ndim else {}
    whole = ir.node("DequantizeLinear", [acc, *constants], attributes, name=f"{layer}.current")
    graph.insert_before(node, whole)
    node.replace_input_with(0, whole.outputs[0])
    _remove_chain(graph, [multiply, cast])
    register(graph, constants)
    return 1


def _fold(graph: ir.Graph, node: ir.Node, chain: AffineChain, initial: dict[str, float]) -> None:
    threshold = constant(node.inputs[3])
    if threshold is None:
        raise PassError(node, "its threshold is computed in the graph", "make it an initializer")
    gain = chain.gain
    if bool((gain < 0).any() or chain.shift.any()):
        convolutions = _convolutions(chain)
        sign = np.where(gain < 0, -1.0, 1.0)
        gain = np.abs(gain)
        for number, conv in enumerate(convolutions):
            shift = chain.shift / gain if number == 0 else np.zeros(())
            change_convolution(graph, conv, sign, shift)
    constants = [
        new_constant(
            (node.inputs[3].name if node.inputs[3] else None) or "threshold",
            (threshold.astype(np.float64) / gain).astype(np.float32),
        )
    ]
    _change_membrane(graph, node, chain, gain, initial)
    old = node.inputs[3]
    node.replace_input_with(0, chain.source)
    node.replace_input_with(3, constants[0])
    _remove_chain(graph, chain.nodes)
    remove_unread(graph, [old])
    register(graph, constants)


def _convolutions(chain: AffineChain) -> list[ir.Node]:
    """The convolutions that add up to the current; nobody else reads them or the chain."""
    lowest = chain.nodes[-1]
    for part in chain.nodes:
        if only_user(part.outputs[0]) is None:
            raise PassError(
                part, "others read it too, so its shift or sign cannot move", "give it one reader"
            )
    if only_user(chain.source) is not lowest:
        raise PassError(
            lowest, "others read what it shifts or negates", "give the convolution one reader"
        )
    add = producer(chain.source, "Add")
    sources = [chain.source] if add is None else list(add.inputs)
    found = [producer(value, "Conv") for value in sources]
    if add is not None and any(value is None or only_user(value) is not add for value in sources):
        found = [None]
    convs = [conv for conv in found if conv is not None]
    if len(convs) != len(sources):
        raise PassError(
            lowest, "a shift or a negative gain of something that is no convolution", _BEFORE
        )
    return convs


def _change_membrane(
    graph: ir.Graph, node: ir.Node, chain: AffineChain, gain: Float64, initial: dict[str, float]
) -> None:
    """Divide the membrane's unit by the gain."""
    mem, mem_out = node.inputs[1], node.outputs[1]
    state = mem
    dequantize = producer(mem, "DequantizeLinear")
    if dequantize is not None:
        state = dequantize.inputs[0]
        quantizers = [user for user, _ in mem_out.uses()]
        if mem_out.is_graph_output() or not all(is_op(q, "QuantizeLinear") for q in quantizers):
            raise PassError(
                node, "its new membrane is read as float32", "quantize it with the old one's scale"
            )
        unit = _current_unit(chain.source)
        for quantizer in (dequantize, *quantizers):
            _rescale(graph, quantizer, gain, unit)
    elif mem_out.uses():
        raise PassError(node, "others read its new membrane", "let it be a state and nothing else")
    if state is None or not state.is_graph_input():
        raise PassError(node, "its membrane is no state", "make it a graph input that starts at 0")
    if initial.get(state.name or "", 0):
        raise PassError(node, f"its membrane {state.name} does not start at 0", "start it at 0")


def _current_unit(source: ir.Value) -> Float64 | None:
    """Real value of one unit of a current whose integers are known."""
    dequantize = producer(source, "DequantizeLinear")
    conv = producer(source, "Conv")
    if dequantize is None and conv is not None:
        dequantize = dequantized_constant(conv.inputs[1])
    scale = None if dequantize is None else constant(dequantize.inputs[1])
    return None if scale is None else scale.astype(np.float64).reshape(-1)


def _rescale(graph: ir.Graph, quantizer: ir.Node, gain: Float64, unit: Float64 | None) -> None:
    """Divide a membrane's scale by the gain, onto the current's grid if it is that close to it."""
    source, zero_source = quantizer.inputs[1], quantizer.inputs[2]
    scale, zero = constant(source), constant(zero_source)
    if scale is None or zero is None or zero.any():
        raise PassError(
            quantizer, "no constant symmetric scale", "quantize membranes symmetrically"
        )
    new = scale.astype(np.float64) / gain
    if unit is not None and new.size in (1, unit.size):
        wide = np.broadcast_to(unit, np.broadcast_shapes(unit.shape, np.atleast_1d(new).shape))
        exact = wide / 2.0 ** np.rint(np.log2(wide / new))
        close = bool((np.abs(new / exact - 1) < _GRID_SLACK).all())
        new = (exact.reshape(()) if exact.size == 1 else exact) if close else new
    constants = [
        new_constant((source.name if source else None) or "mem_scale", new.astype(np.float32)),
        new_constant(
            (zero_source.name if zero_source else None) or "mem_zero",
            np.zeros(new.shape, zero.dtype),
        ),
    ]
    for position, value in enumerate(constants, 1):
        quantizer.replace_input_with(position, value)
    if new.ndim:
        quantizer.attributes["axis"] = ir.AttrInt64("axis", 1)
    remove_unread(graph, [source, zero_source])
    register(graph, constants)


def _remove_chain(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Remove nodes that nobody reads any more, from the neuron upwards."""
    for part in nodes:
        if any(value.uses() or value.is_graph_output() for value in part.outputs):
            return
        inputs = list(part.inputs)
        graph.remove(part, safe=True)
        remove_unread(graph, inputs)

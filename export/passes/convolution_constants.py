"""Weights and biases of convolutions, changed where they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.passes.base import Array, PassError, constant, producer
from export.passes.rewiring import new_constant, register, remove_unread
from quant.errors import QuantError
from quant.spec import derive_bias

Float64 = npt.NDArray[np.float64]


def change_convolution(graph: ir.Graph, conv: ir.Node, sign: Float64, shift: Float64) -> None:
    """Let a convolution return ``sign * y + shift`` where it returned y.

    Args:
        graph: that holds it.
        conv: a ``Conv`` with constant weights and bias, dequantized or not.
        sign: 1 or -1, a scalar or [Cout].
        shift: real, a scalar or [Cout]; rounded to the bias' unit where that is an integer.

    Raises:
        PassError: constants that are computed, or integers that do not hold the result.
    """
    if bool((sign < 0).any()):
        _replace(graph, *_flip(conv, 1, sign))
        if len(conv.inputs) > 2 and conv.inputs[2] is not None:
            _replace(graph, *_flip(conv, 2, sign))
    if shift.any():
        _replace(graph, *_shift(conv, shift))


def _replace(graph: ir.Graph, old: ir.Value | None, new: ir.Value) -> None:
    remove_unread(graph, [old])
    register(graph, [new])


def dequantized_constant(value: ir.Value | None) -> ir.Node | None:
    """The dequantizer of a constant, if the value comes from one."""
    node = producer(value, "DequantizeLinear")
    return node if node is not None and constant(node.inputs[0]) is not None else None


def _holder(conv: ir.Node, index: int) -> tuple[ir.Node, int]:
    """The node and input that hold a convolution's constant; its own copy of a shared quantizer."""
    dequantize = dequantized_constant(conv.inputs[index])
    if dequantize is None:
        return conv, index
    if len(list(dequantize.outputs[0].uses())) > 1:
        attributes = {key: entry.value for key, entry in dequantize.attributes.items()}
        copy = ir.node("DequantizeLinear", list(dequantize.inputs), attributes)
        graph = conv.graph
        if graph is not None:
            graph.insert_before(conv, copy)
        conv.replace_input_with(index, copy.outputs[0])
        return copy, 0
    return dequantize, 0


def _flip(conv: ir.Node, index: int, sign: Float64) -> tuple[ir.Value | None, ir.Value]:
    """Change signs per output channel; returns the old constant and the new one."""
    node, position = _holder(conv, index)
    source = node.inputs[position]
    values = constant(source)
    if values is None:
        raise PassError(conv, "its weight or bias is computed in the graph", "run fold_weights")
    shape = (-1,) + (1,) * (values.ndim - 1)
    factor = np.broadcast_to(sign, values.shape[:1]).reshape(shape)
    if np.issubdtype(values.dtype, np.integer):
        lowest = np.iinfo(values.dtype).min
        if bool(((values == lowest) & (factor < 0)).any()):
            raise PassError(
                conv, f"a constant of {lowest} has no negative", "quantize with a narrow range"
            )
    return _put(node, position, values * factor.astype(values.dtype))


def _put(node: ir.Node, position: int, values: Array) -> tuple[ir.Value | None, ir.Value]:
    source = node.inputs[position]
    new = new_constant((source.name if source is not None else None) or "constant", values)
    node.replace_input_with(position, new)
    return source, new


def _shift(conv: ir.Node, shift: Float64) -> tuple[ir.Value | None, ir.Value]:
    """Add to the bias, in its unit where it is an integer; returns the old one and the new one."""
    channels = _output_channels(conv)
    real = np.broadcast_to(shift, (channels,))
    if len(conv.inputs) < 3 or conv.inputs[2] is None:
        conv.resize_inputs(3)
        name = f"{(conv.name or 'conv').removesuffix('.conv')}.bias"
        new = new_constant(name, real.astype(np.float32))
        conv.replace_input_with(2, new)
        return None, new
    node, position = _holder(conv, 2)
    values = constant(node.inputs[position])
    if values is None:
        raise PassError(conv, "its bias is computed in the graph", "make it an initializer")
    if node is conv:
        return _put(node, position, (values + real).astype(np.float32))
    scale = constant(node.inputs[1])
    if scale is None:
        raise PassError(conv, "the scale of its bias is no constant", "make it an initializer")
    unit = np.broadcast_to(scale.astype(np.float64), (channels,))
    try:
        total = derive_bias(values.astype(np.float64) * unit + real, unit)
    except QuantError as error:
        raise PassError(conv, str(error), "use a larger weight scale") from error
    return _put(node, position, total)


def _output_channels(conv: ir.Node) -> int:
    dequantize = dequantized_constant(conv.inputs[1])
    weight = constant(conv.inputs[1] if dequantize is None else dequantize.inputs[0])
    if weight is None:
        raise PassError(conv, "its weight is computed in the graph", "run fold_weights")
    return int(weight.shape[0])

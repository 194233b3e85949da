"""Requantization without quantizers, for runtimes that round a QuantizeLinear in their own way."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.passes.base import Array, GraphPass, add_constant, attribute, constant, is_op, producer
from export.passes.base import replace as replace_nodes


class SpellRequantize(GraphPass):
    """Write the defined rounding out in elementary operators.

    Before, as ``fuse_qlinear`` leaves it::

        acc i32 -> DequantizeLinear(m, 0) -> QuantizeLinear(1, z) -> q

    After::

        acc -> Cast -> Mul(m) -> Round -> Clip(lo - z, hi - z) -> Cast i32 -> Add(z) -> Cast -> q

    Both are ``saturate(rint(float32(acc) * m) + z)``. OpenVINO turns a QuantizeLinear into a
    division of the range into levels, which flips values at ties; these it computes as written.
    A factor per channel needs a known rank: that of the tensor, or of the convolution behind it.
    """

    name = "spell_requantize"
    summary = "requantization of int32 written as Mul, Round, Clip and Add"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        quantizers = [node for node in model.graph if is_op(node, "QuantizeLinear")]
        changes = sum(_spell(model.graph, node) for node in quantizers)
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


def _spell(graph: ir.Graph, node: ir.Node) -> int:
    dequantize = producer(node.inputs[0], "DequantizeLinear")
    scale, zero = (
        constant(node.inputs[1]),
        constant(node.inputs[2] if len(node.inputs) > 2 else None),
    )
    if dequantize is None or scale is None or zero is None or scale.size != 1 or scale.item() != 1:
        return 0
    factor, offset = (constant(dequantize.inputs[position]) for position in (1, 2))
    rank = _rank(node.outputs[0], node.inputs[0], dequantize.inputs[0])
    column = _column(factor, attribute(dequantize, "axis", 1), rank)
    if (
        offset is None
        or offset.dtype != np.int32
        or offset.any()
        or zero.size != 1
        or column is None
    ):
        return 0
    _replace(graph, node, dequantize.inputs[0], column, int(zero.item()), zero.dtype)
    return 1


def _rank(*values: ir.Value | None) -> int | None:
    """The rank of one of these tensors of the same shape, which the first known one tells."""
    for value in values:
        if value is not None and value.shape is not None:
            return len(value.shape)
    node = None if values[-1] is None else values[-1].producer()
    if is_op(node, "Add") and node is not None:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.op_type not in ("QConv", "ConvInteger"):
        return None
    weight = constant(node.inputs[1])
    return None if weight is None else weight.ndim


def _column(factor: Array | None, axis: int, rank: int | None) -> Array | None:
    """The factor, shaped to broadcast along its axis."""
    if factor is None or factor.ndim == 0:
        return factor
    if rank is None:
        return None
    return factor.reshape([-1 if position == axis % rank else 1 for position in range(rank)])


def _replace(
    graph: ir.Graph,
    node: ir.Node,
    acc: ir.Value | None,
    factor: Array,
    zero: int,
    kind: np.dtype[Any],
) -> None:
    name, info = node.outputs[0].name or node.name or "requantized", np.iinfo(kind)
    constants = {
        "factor": factor,
        "low": np.array(info.min - zero, np.float32),
        "high": np.array(info.max - zero, np.float32),
        "zero": np.array(zero, np.int32),
    }
    given = {what: add_constant(graph, f"{name}.{what}", a) for what, a in constants.items()}
    element = ir.DataType.from_numpy(np.dtype(kind))
    real = ir.node("Cast", [acc], {"to": int(ir.DataType.FLOAT)}, name=f"{name}.real")
    scaled = ir.node("Mul", [real.outputs[0], given["factor"]], name=f"{name}.scaled")
    rounded = ir.node("Round", [scaled.outputs[0]], name=f"{name}.rounded")
    inputs = [rounded.outputs[0], given["low"], given["high"]]
    clipped = ir.node("Clip", inputs, name=f"{name}.clipped")
    whole = ir.node("Cast", clipped.outputs, {"to": int(ir.DataType.INT32)}, name=f"{name}.whole")
    shifted = ir.node("Add", [whole.outputs[0], given["zero"]], name=f"{name}.shifted")
    result = ir.node("Cast", shifted.outputs, {"to": int(element)}, name=name)
    nodes = [real, scaled, rounded, clipped, whole, shifted, result]
    for entry in nodes[:-1]:
        entry.outputs[0].name = entry.name
    replace_nodes(graph, [node], nodes)

"""One spelling of every QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.passes.base import Array, GraphPass, add_constant, attribute, constant, is_op
from export.passes.quantizers import (
    QUANTIZE,
    is_quantizer,
    is_standard_integer,
    parameters,
    rank_of,
)


class ExplicitZeroPoints(GraphPass):
    """Give every Q and DQ three inputs, in one shape.

    Before: absent zero points (or ``output_dtype``), scales of shape [1], a scalar zero point
    beside a scale per channel, an axis that is negative, unwritten, or written without use.

    After: per tensor, scale and zero point are scalars of rank 0 and there is no axis; per channel
    both are [C] and ``axis`` is written, counted from the front where the rank is known. Values
    do not change. Quantizers whose scale is computed, and blocked ones, are left alone.
    """

    name = "explicit_zero_points"
    summary = "three inputs on every Q and DQ, scalars per tensor, [C] and axis per channel"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        changes = sum(_rewrite(model.graph, node) for node in model.graph if is_quantizer(node))
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


def _rewrite(graph: ir.Graph, node: ir.Node) -> int:
    given = parameters(node)
    if given is None or not is_standard_integer(given.zero.dtype):
        return 0
    name = node.outputs[0].name or "quantized"
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    changes = _put(graph, node, 1, given.scale, f"{name}_scale")
    changes += _put(graph, node, 2, given.zero, f"{name}_zero_point")
    changes += _write_axis(node, given.per_tensor, given.axis)
    if is_op(node, QUANTIZE) and "output_dtype" in node.attributes:
        del node.attributes["output_dtype"]
        changes += 1
    return int(changes > 0)


def _put(graph: ir.Graph, node: ir.Node, position: int, array: Array, name: str) -> int:
    value = node.inputs[position]
    held = constant(value)
    if held is not None and held.shape == array.shape:
        return 0
    label = name if value is None or value.name is None else value.name
    node.replace_input_with(position, add_constant(graph, label, np.array(array)))
    return 1


def _write_axis(node: ir.Node, per_tensor: bool, axis: int) -> int:
    written = attribute(node, "axis")
    if per_tensor:
        return int(node.attributes.pop("axis", None) is not None)
    rank = rank_of(node.inputs[0])
    wanted = axis % rank if rank else axis
    if written == wanted:
        return 0
    node.attributes["axis"] = ir.AttrInt64("axis", wanted)
    return 1

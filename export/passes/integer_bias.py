"""Biases in the unit of the accumulator they are added to."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.arithmetic import along
from export.passes.base import (
    Array,
    GraphPass,
    PassError,
    add_constant,
    attribute,
    constant,
    is_op,
    only_user,
    producer,
    replace,
)
from export.passes.quantizers import DEQUANTIZE, Parameters, parameters, rank_of, scale_of

_LIMIT = 2**31 - 1


class IntegerBias(GraphPass):
    """Express biases as int32 with the scale of the sums they are added to.

    Before: ``Conv | Gemm(DQ x, DQ w, float32 initializer)``, or a bias dequantized from another
    scale, or ``MatMul(DQ x, DQ w) -> Add(constant [N])``.

    After: ``Conv | Gemm(DQ x, DQ w, DQ(int32 [C], float32(s_x * s_w), 0))``; a MatMul of matrices
    with its Add becomes a Gemm. The integers are ``rint(b / (s_x * s_w))`` in float64. A bias that
    lies on that grid keeps its value, any other moves by at most half a unit of the accumulator,
    that is by ``s_x * s_w / 2``. A bias that already has the right scale is left alone, as are
    nodes whose operands are not both dequantized with one scale for x and one per output channel.
    """

    name = "integer_bias"
    summary = "biases become int32 with scale s_x * s_w"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        graph, changes = model.graph, 0
        for node in list(graph):
            if is_op(node, "MatMul"):
                changes += _bias_of_matmul(graph, node)
        for node in list(graph):
            if is_op(node, "Conv") or is_op(node, "Gemm"):
                changes += _rewrite_bias(graph, node)
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


def _weight_scale(node: ir.Node) -> tuple[Array, int] | None:
    """The scale of a node's weight, rank 0 or [C], and C; None unless it is per output channel."""
    weight = producer(node.inputs[1], DEQUANTIZE)
    given = parameters(weight)
    array = None if weight is None else constant(weight.inputs[0])
    if given is None or array is None or array.ndim < 2:
        return None
    transposed = is_op(node, "Conv") or attribute(node, "transB", 0) == 1
    channel_axis = 0 if transposed else array.ndim - 1
    if not given.per_tensor and given.axis % array.ndim != channel_axis:
        return None
    return given.scale, array.shape[channel_axis]


def _bias_value(value: ir.Value | None) -> tuple[Array, Parameters | None, Array | None] | None:
    """Real values of a constant bias (float64), and of a dequantized one parameters, integers."""
    array = constant(value)
    if array is not None:
        return (array.astype(np.float64), None, None) if array.dtype.kind == "f" else None
    node = producer(value, DEQUANTIZE)
    given = parameters(node)
    integers = None if node is None else constant(node.inputs[0])
    if node is None or given is None or integers is None:
        return None
    axis = given.axis % max(integers.ndim, 1)
    steps = integers.astype(np.int64) - along(given.zero.astype(np.int64), axis, integers.ndim)
    real = steps.astype(np.float64) * along(given.scale.astype(np.float64), axis, integers.ndim)
    return real, given, integers


def _rewrite_bias(graph: ir.Graph, node: ir.Node) -> int:
    factors = [attribute(node, name, 1.0) for name in ("alpha", "beta")]
    if len(node.inputs) < 3 or factors != [1, 1]:
        return 0
    x_scale, weight, bias = scale_of(node.inputs[0]), _weight_scale(node), node.inputs[2]
    found = _bias_value(bias)
    if x_scale is None or weight is None or found is None or bias is None:
        return 0
    w_scale, channels = weight
    real, given, integers = found
    if real.size not in (1, channels):
        return 0
    unit = (x_scale * w_scale).astype(np.float32)
    if integers is not None and integers.shape == (channels,) and _has_unit(given, integers, unit):
        return 0
    spread = np.broadcast_to(real.reshape(-1), (channels,))
    name = bias.name or f"{node.name}.bias"
    node.replace_input_with(2, _dequantized(graph, node, spread, x_scale, w_scale, name))
    return 1


def _has_unit(given: Parameters | None, integers: Array, unit: Array) -> bool:
    """Whether a bias is int32 with that scale and no zero point."""
    if given is None or integers.dtype != np.int32 or given.zero.any():
        return False
    return np.array_equal(given.scale, unit)


def _dequantized(
    graph: ir.Graph, node: ir.Node, real: Array, x_scale: Array, w_scale: Array, name: str
) -> ir.Value:
    """A new DQ of ``rint(real / (x_scale * w_scale))`` in front of a node."""
    exact = np.float64(x_scale) * w_scale.astype(np.float64)
    unit = (x_scale * w_scale).astype(np.float32)
    if not (np.isfinite(real).all() and (unit > 0).all()):
        raise PassError(
            node,
            "its bias or a scale is not a finite positive number in float32",
            "supported are finite biases and scales whose product is not zero",
        )
    levels = np.rint(real / exact)
    worst = int(np.abs(levels).argmax())
    if abs(levels[worst]) > _LIMIT:
        raise PassError(
            node,
            f"bias {float(real[worst])!r} of channel {worst} is {abs(levels[worst]):.3g} units of "
            f"s_x * s_w, and int32 ends at {_LIMIT}",
            "supported are biases that fit: a larger weight scale, or the bias kept in float",
        )
    dequantize = ir.node(
        DEQUANTIZE,
        [
            add_constant(graph, f"{name}_int32", levels.astype(np.int32)),
            add_constant(graph, f"{name}_scale", unit),
            add_constant(graph, f"{name}_zero_point", np.zeros(unit.shape, np.int32)),
        ],
        attributes={} if unit.ndim == 0 else {"axis": 0},
        name=f"{name}_dequantize",
    )
    dequantize.outputs[0].name = f"{name}_dequantized"
    graph.insert_before(node, dequantize)
    return dequantize.outputs[0]


def _bias_of_matmul(graph: ir.Graph, node: ir.Node) -> int:
    """``MatMul -> Add(constant)``: to Gemm for matrices, else only the constant changes."""
    add, weight = only_user(node.outputs[0]), _weight_scale(node)
    x_scale = scale_of(node.inputs[0])
    if add is None or not is_op(add, "Add") or weight is None or x_scale is None:
        return 0
    position = 1 if add.inputs[0] is node.outputs[0] else 0
    found = _bias_value(add.inputs[position])
    bias = add.inputs[position]
    if found is None or bias is None or not found[0].ndim:
        return 0
    if found[0].shape[-1] != found[0].size or found[0].size != weight[1]:
        return 0
    if found[0].ndim > 1 and found[0].ndim > (rank_of(node.inputs[0]) or 0):
        return 0
    w_scale, _ = weight
    unit = (x_scale * w_scale).astype(np.float32)
    real, given, integers = found
    right = integers is not None and integers.ndim == 1 and _has_unit(given, integers, unit)
    value: ir.Value = bias
    if not right:
        name = bias.name or f"{node.name}.bias"
        value = _dequantized(graph, add, real.reshape(-1), x_scale, w_scale, name)
        add.replace_input_with(position, value)
    if rank_of(node.inputs[0]) != 2:
        return 0 if right else 1
    gemm = ir.node(
        "Gemm",
        [node.inputs[0], node.inputs[1], value],
        name=node.name,
    )
    replace(graph, [node, add], [gemm])
    return 1

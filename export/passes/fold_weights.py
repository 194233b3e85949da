"""Weights as integers: what a DequantizeLinear reads is an initializer, not a computation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.passes.base import (
    Array,
    GraphPass,
    add_constant,
    attribute,
    constant,
    is_op,
    producer,
    replace,
)
from export.passes.constants import computed, evaluate
from export.passes.quantizers import DEQUANTIZE, QUANTIZE, parameters, rank_of


class FoldWeights(GraphPass):
    """Compute ahead whatever constant a quantized weight is made from.

    Before::

        float32 initializer -> QuantizeLinear [-> Clip] -> DequantizeLinear
        int8 initializer -> Clip -> DequantizeLinear
        DequantizeLinear(int8 initializer) -> Transpose -> MatMul(x of rank 2)

    After: ``int8 initializer -> DequantizeLinear`` with the same real values, for any chain of
    constants in front of it (Reshape, Transpose, Cast ...), and for computed scales and zero
    points. A Transpose behind it moves onto the initializer, with the axis of its scales; where
    the MatMul is a plain linear layer it becomes ``Gemm(transB=1)`` on the untransposed weight,
    which is how exporters spell the same layer with a bias. uint8 weights stay uint8. A level of
    -128 stays as well: changing it would change the network.
    """

    name = "fold_weights"
    summary = "quantized weights become integer initializers in front of their DequantizeLinear"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        graph, changes = model.graph, 0
        for node in list(graph):
            if is_op(node, DEQUANTIZE):
                changes += _fold_inputs(graph, node, (0, 1, 2))
            elif is_op(node, QUANTIZE):
                changes += _fold_inputs(graph, node, (1, 2))
        for node in list(graph):
            if is_op(node, "Transpose"):
                changes += _to_gemm(graph, node) or _fold_transpose(graph, node)
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


def _fold_inputs(graph: ir.Graph, node: ir.Node, positions: tuple[int, ...]) -> int:
    changes = 0
    for position in positions:
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is None or value.producer() is None:
            continue
        array = computed(value)
        if array is not None:
            name = f"{_source_name(value)}_quantized" if position == 0 else value.name or "constant"
            node.replace_input_with(position, add_constant(graph, name, array))
            changes += 1
    return changes


def _source_name(value: ir.Value) -> str:
    """The name of the initializer that a constant is made from."""
    node = value.producer()
    while node is not None and node.inputs and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value.name or "weight"


def _weight(value: ir.Value | None) -> ir.Node | None:
    """The DQ of an integer initializer that computes a value."""
    node = producer(value, DEQUANTIZE)
    if node is None or parameters(node) is None or constant(node.inputs[0]) is None:
        return None
    return node


def _to_gemm(graph: ir.Graph, transpose: ir.Node) -> int:
    """``MatMul(x, Transpose(weight))`` of matrices to ``Gemm``."""
    weight = _weight(transpose.inputs[0])
    if weight is None or rank_of(weight.outputs[0]) not in (None, 2):
        return 0
    array = constant(weight.inputs[0])
    if array is None or array.ndim != 2 or list(attribute(transpose, "perm", [1, 0])) != [1, 0]:
        return 0
    changes = 0
    for use in list(transpose.outputs[0].uses()):
        node = use.node
        if is_op(node, "MatMul") and use.idx == 1 and rank_of(node.inputs[0]) == 2:
            gemm = ir.node(
                "Gemm",
                [node.inputs[0], weight.outputs[0]],
                attributes={"transB": 1},
                name=node.name,
            )
            replace(graph, [node], [gemm])
            changes += 1
    return changes


def _fold_transpose(graph: ir.Graph, transpose: ir.Node) -> int:
    """``Transpose(DQ(initializer))`` to the DQ of a transposed initializer."""
    weight = _weight(transpose.inputs[0])
    if weight is None or not list(transpose.outputs[0].uses()):
        return 0
    array, given = constant(weight.inputs[0]), parameters(weight)
    results = None if array is None else evaluate(transpose, [array])
    if array is None or given is None or results is None:
        return 0
    order = attribute(transpose, "perm", list(reversed(range(array.ndim))))
    turned = results[0]
    name = f"{weight.inputs[0].name}_transposed" if weight.inputs[0] is not None else "weight"
    new = ir.node(
        DEQUANTIZE,
        [add_constant(graph, name, turned), *weight.inputs[1:]],
        attributes={} if given.per_tensor else {"axis": _new_axis(order, given.axis, array)},
        name=weight.name,
    )
    replace(graph, [transpose], [new])
    return 1


def _new_axis(order: list[int], axis: int, array: Array) -> int:
    return int(np.argwhere(np.array(order) == axis % array.ndim)[0, 0])

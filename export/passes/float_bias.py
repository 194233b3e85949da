"""Biases for readers that dequantize no int32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.arithmetic import dequantize
from export.passes.base import GraphPass, add_constant, constant, is_op
from export.passes.quantizers import DEQUANTIZE, parameters


class FloatBias(GraphPass):
    """Replace dequantized int32 constants by their real values.

    Before: ``DequantizeLinear(int32 initializer, s_x * s_w, 0) -> Conv``. After: the float32
    initializer that this DequantizeLinear computes, bit for bit. TensorRT wants it so: its
    DequantizeLinear takes 8-bit tensors only.
    """

    name = "float_bias"
    summary = "int32 biases become float32 initializers with the same values"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        changes = sum(_fold(model.graph, node) for node in list(model.graph))
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


def _fold(graph: ir.Graph, node: ir.Node) -> int:
    given, output = parameters(node) if is_op(node, DEQUANTIZE) else None, node.outputs[0]
    array = constant(node.inputs[0]) if given is not None else None
    if given is None or array is None or array.dtype != np.int32 or output.is_graph_output():
        return 0
    axis = given.axis % max(array.ndim, 1)
    real = dequantize(array, given.scale, given.zero, axis)
    name = output.name or "bias"
    output.name = None
    output.replace_all_uses_with(add_constant(graph, name, real))
    return 1

"""Per-channel quantizers whose channels all agree become per-tensor ones."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from export.passes.base import GraphPass, add_constant, constant, is_op


class ScalarScales(GraphPass):
    """Write one scale where every channel has the same.

    Before: ``DequantizeLinear(w, s[C], z[C]; axis 0)`` with equal entries. After: scale and zero
    point are scalars and there is no axis. Values do not change; some readers, QONNX's for one,
    take integer weights per tensor only.
    """

    name = "scalar_scales"
    summary = "per-channel scales that are all equal become one scalar"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        quantizers = [
            node
            for node in model.graph
            if is_op(node, "QuantizeLinear") or is_op(node, "DequantizeLinear")
        ]
        changes = sum(_merge(model.graph, node) for node in quantizers)
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


def _merge(graph: ir.Graph, node: ir.Node) -> int:
    if len(node.inputs) != 3 or "block_size" in node.attributes:
        return 0
    arrays = [constant(node.inputs[position]) for position in (1, 2)]
    for array in arrays:
        if array is None or array.ndim != 1 or not array.size or (array != array[0]).any():
            return 0
    for position, array in enumerate(arrays, 1):
        value = node.inputs[position]
        if array is not None and value is not None:
            scalar = add_constant(graph, f"{value.name}.scalar", array[0].reshape(()))
            node.replace_input_with(position, scalar)
    node.attributes.pop("axis", None)
    return 1

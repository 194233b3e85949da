"""Concatenation on integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.passes.base import GraphPass, constant, is_op, producer, replace


class ConcatQuantized(GraphPass):
    """Concatenate before dequantizing, so that what follows has a DequantizeLinear in front.

    Before::

        a -> DequantizeLinear(s, z) \\
        b -> DequantizeLinear(s, z) -- Concat -> Conv

    After::

        a, b -> Concat -> DequantizeLinear(s, z) -> Conv

    Only where every input has the same type, scale and zero point, per tensor. ONNX Runtime fuses
    a convolution only if its own input is dequantized.
    """

    name = "concat_quantized"
    summary = "Concat of dequantized tensors of one grid becomes a Concat of integers"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        return sum(_join(model.graph, node) for node in list(model.graph) if is_op(node, "Concat"))


def _join(graph: ir.Graph, node: ir.Node) -> int:
    sources = [producer(value, "DequantizeLinear") for value in node.inputs]
    found = [source for source in sources if source is not None]
    if len(found) < len(sources) or not all(_same_grid(source, found[0]) for source in found):
        return 0
    name = node.name or node.outputs[0].name or "concat"
    joined = ir.node(
        "Concat", [source.inputs[0] for source in found], dict(node.attributes), name=name
    )
    dequantized = ir.node(
        "DequantizeLinear",
        [joined.outputs[0], *found[0].inputs[1:]],
        dict(found[0].attributes),
        name=f"{name}.dequantized",
    )
    joined.outputs[0].name = f"{name}.integers"
    first = found[0].inputs[0]
    if first is not None and first.type is not None:
        joined.outputs[0].type = first.type
    joined.outputs[0].shape = node.outputs[0].shape
    replace(graph, [node], [joined, dequantized])
    for source in dict.fromkeys(found):
        if not source.outputs[0].uses() and not source.outputs[0].is_graph_output():
            graph.remove(source, safe=True)
    return 1


def _same_grid(one: ir.Node, other: ir.Node) -> bool:
    """One type, scale and zero point, per tensor."""
    if len(one.inputs) != 3 or len(other.inputs) != 3:
        return False
    for position in (1, 2):
        a, b = constant(one.inputs[position]), constant(other.inputs[position])
        if a is None or b is None or a.size != 1 or a.dtype != b.dtype:
            return False
        if not np.array_equal(a.reshape(-1), b.reshape(-1)):
            return False
    return True

"""Dequantization moves toward the outputs until it meets a quantizer."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
import onnx_ir.passes.common as common

import lif_op.spec
from export.passes.base import GraphPass, is_op
from export.passes.dequantized import Emitter, Facts, Quantized, dequantized, infer, quantizer
from export.passes.legality import lower
from export.passes.moves.site import Illegal, Site


class SinkDequantize(GraphPass):
    """Compute on integers, and dequantize what they add up to.

    Before::

        x u8 -> DQ(s_x) --\\
        w s8 -> DQ(s_w) -- Conv -> Relu -> Q(s_y)
        b s32 -> DQ(s_x*s_w) /

    After::

        x u8 --\\
        w s8 -- snn::QConv -> Relu (int32) -> DQ(s_x*s_w, axis 1) -> Q(s_y)
        b s32 -/

    :mod:`export.passes.legality` is the table of operators with the condition and reason of every
    move. Where none applies, the DequantizeLinear stays. A quantizer that maps integers to
    themselves disappears together with the DequantizeLinear before it.

    Args:
        through: operators of the standard domain to move through; None for every one of the table.
    """

    name = "sink_dequantize"
    summary = "DequantizeLinear moves through every operator that commutes with it"

    def __init__(self, *, through: Collection[str] | None = None) -> None:
        self._through = None if through is None else frozenset(through)

    def rewrite(self, model: ir.Model) -> int:
        """See the class.

        Raises:
            PassError: a node whose integer result may not fit in 32 bits.
        """
        graph, facts, emit = model.graph, infer(model), Emitter(model.graph)
        bounds: dict[ir.Value, int] = {}
        changes = 0
        for node in list(graph):
            if is_op(node, "QuantizeLinear"):
                changes += _cancel(node)
            elif not is_op(node, "DequantizeLinear") and self._may_pass(node):
                changes += _move(Site(node, facts, bounds, emit))
        if changes:
            model.opset_imports.setdefault(lif_op.spec.DOMAIN, lif_op.spec.DOMAIN_VERSION)
            common.RemoveUnusedNodesPass()(model)
        return changes

    def _may_pass(self, node: ir.Node) -> bool:
        return self._through is None or (not node.domain and node.op_type in self._through)


def _move(site: Site) -> bool:
    try:
        results = lower(site)
    except Illegal:
        return False
    outputs = [
        site.emit.dequantize(result, output.name or site.name)
        for result, output in zip(results, site.node.outputs, strict=True)
    ]
    _keep_facts(site.facts, site.node, results, outputs)
    site.emit.place(site.node, outputs)
    return True


def _keep_facts(
    facts: Facts,
    node: ir.Node,
    results: list[Quantized],
    outputs: list[ir.Value],
) -> None:
    """Shapes of the replaced outputs hold for what replaces them."""
    for old, result, new in zip(node.outputs, results, outputs, strict=True):
        facts.inherit(new, old)
        if old in facts.shapes:
            facts.shapes.setdefault(result.value, facts.shapes[old])


def _cancel(node: ir.Node) -> bool:
    """DequantizeLinear then QuantizeLinear on the same grid is nothing."""
    result, source = quantizer(node), dequantized(node.inputs[0])
    if result is None or source is None or not result.same_grid(source):
        return False
    output, integers = node.outputs[0], source.value
    if output.is_graph_output():
        if integers.producer() is None or integers.is_graph_output():
            return False
        name, output.name = output.name, None
        integers.name = name
        integers.type, integers.shape = output.type, output.shape
    output.replace_all_uses_with(integers, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True

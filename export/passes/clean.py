"""Inputs and metadata as every other pass expects them."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from export.passes.base import GraphPass
from runtime.metadata import METADATA_KEY


class Clean(GraphPass):
    """Leave only what computes: inputs that are inputs, constants that are initializers.

    Before: initializers among the graph inputs, ``Constant`` and ``Identity`` nodes, stack traces
    in metadata, nodes nobody reads. After: none of these; the artifact's own metadata stays.
    """

    name = "clean"
    summary = "initializers off the inputs, constants to initializers, stray metadata removed"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        kept = model.metadata_props.get(METADATA_KEY)
        steps: tuple[ir.passes.PassBase, ...] = (
            common.RemoveInitializersFromInputsPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            *(() if _has_branches(model) else (common.IdentityEliminationPass(),)),
            common.RemoveUnusedNodesPass(),
            common.ClearMetadataAndDocStringPass(),
        )
        changed = sum(step(model).modified for step in steps)
        if kept is not None:
            model.metadata_props[METADATA_KEY] = kept
        return changed


def _has_branches(model: ir.Model) -> bool:
    """Whether a node holds a graph, whose outputs may need an Identity of a value outside of it."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(a.type in graphs for node in model.graph for a in node.attributes.values())

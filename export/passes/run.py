"""Apply passes to an ONNX model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
import onnx_ir as ir

import lif_op.spec
from export.errors import ExportError
from export.passes.base import GraphPass

_LIBRARY_DOMAINS = (lif_op.spec.DOMAIN, lif_op.spec.FOREIGN_DOMAIN)


@dataclass(frozen=True)
class PassReport:
    """What one pass did. changes: places rewritten. nodes: in the graph afterwards."""

    name: str
    changes: int
    nodes: int


def run_passes(
    model: onnx.ModelProto, passes: Iterable[GraphPass]
) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Apply passes in order to a copy of the model.

    Function bodies of the library's domains go around the passes as they are: loading compares
    them with the library's own, and a round trip through the intermediate form respells them.

    Args:
        model: stays as it is.
        passes: instances, in order.

    Returns:
        the rewritten model, checked, and one report per pass.

    Raises:
        PassError: a node that a pass has to rewrite and cannot.
        ExportError: the model is not valid ONNX before or after.
    """
    _check(model, "the model given to the passes")
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bodies = [f for f in model.functions if f.domain in _LIBRARY_DOMAINS]
    kept = [f for f in model.functions if f.domain not in _LIBRARY_DOMAINS]
    del bare.functions[:]
    bare.functions.extend(kept)
    graph, reports, last = ir.from_proto(bare), [], "no pass"
    for entry in passes:
        changes = entry.rewrite(graph)
        reports.append(PassReport(entry.name, changes, graph.graph.num_nodes()))
        last = entry.name
    result = ir.to_proto(graph)
    result.functions.extend(bodies)
    _check(result, f"the model after {last}")
    return result, reports


def _check(model: onnx.ModelProto, what: str) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ExportError(f"{what} is not valid ONNX ({first})") from error

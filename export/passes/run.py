"""Apply passes to an ONNX model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from export.errors import ExportError
from export.passes.base import FunctionPass, GraphPass
from export.passes.signatures import check_library_calls
from export.passes.validity import check_constants, check_types, check_valid
from lif_op.spec import DOMAIN
from runtime.body_checks import check_functions
from runtime.errors import ArtifactError
from runtime.graph import LIBRARY_DOMAINS


@dataclass(frozen=True)
class PassReport:
    """What one pass did. changes: places rewritten. nodes: in the graph afterwards."""

    name: str
    changes: int
    nodes: int


def run_passes(
    model: onnx.ModelProto, passes: Iterable[GraphPass | FunctionPass]
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
        ExportError: the model is not valid ONNX before or after, calls an op of the library in
            another way than its definition, or brings another definition to a pass that counts on
            this version's.
    """
    given = "the model given to the passes"
    check_valid(model, given)
    check_constants(model)
    check_library_calls(model)
    check_types(model, given)
    graph, bodies = _parse(model)
    reports, last = [], "no pass"
    for entry in passes:
        if isinstance(entry, FunctionPass):
            proto = _serialize(graph, bodies)
            changes = entry.rewrite_model(proto)
            graph, bodies = _parse(proto)
        else:
            changes = entry.rewrite(graph)
            if changes and entry.counts_on_bodies:
                _check_bodies(bodies, entry.name)
        reports.append(PassReport(entry.name, changes, graph.graph.num_nodes()))
        last = entry.name
    result = _serialize(graph, bodies)
    check_valid(result, f"the model after {last}")
    return result, reports


def _parse(model: onnx.ModelProto) -> tuple[ir.Model, list[onnx.FunctionProto]]:
    """The model for passes, and the library's bodies that go around them."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bodies = [f for f in model.functions if f.domain in LIBRARY_DOMAINS]
    kept = [f for f in model.functions if f.domain not in LIBRARY_DOMAINS]
    del bare.functions[:]
    bare.functions.extend(kept)
    return ir.from_proto(bare), bodies


def _check_bodies(bodies: list[onnx.FunctionProto], name: str) -> None:
    """Refuse definitions of ops of domain snn that are not this version's."""
    own = onnx.ModelProto(functions=[body for body in bodies if body.domain == DOMAIN])
    try:
        check_functions(own, f"pass {name}")
    except ArtifactError as error:
        raise ExportError(str(error)) from error


def _serialize(graph: ir.Model, bodies: list[onnx.FunctionProto]) -> onnx.ModelProto:
    model = ir.to_proto(graph)
    model.functions.extend(bodies)
    return model

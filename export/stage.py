"""What the stages of every export share: the way through the passes, and the error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import onnx

from export.errors import ExportError
from export.passes import run_passes
from export.passes.base import FunctionPass, GraphPass


class StageError(ExportError):
    """A stage that changes more than it may."""


class Recorder(Protocol):
    """Compares the graph of every stage with that of the stage before it."""

    def add(self, name: str, model: onnx.ModelProto, changes: int = 0) -> Any:
        """Compare a graph with the one before; the first has none.

        Raises:
            StageError: a difference beyond its bound.
        """


def run_staged(
    model: onnx.ModelProto, passes: Iterable[GraphPass | FunctionPass], stages: Recorder
) -> onnx.ModelProto:
    """Run passes in order, each of them recorded as a stage; those that change nothing are none.

    Args:
        model: the graph that ``stages`` has seen last.
        passes: in order.
        stages: compares.

    Raises:
        PassError: a node that a pass has to rewrite and cannot.
        StageError: a stage changes more than it may.
    """
    for entry in passes:
        model, (report,) = run_passes(model, [entry])
        if report.changes:
            stages.add(entry.name, model, report.changes)
    return model

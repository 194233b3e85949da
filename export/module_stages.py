"""Stages of a network without neurons: what each pass changes, layer by layer, and its bound.

Two neighbouring graphs get the same sample. Where both are integer graphs, every tensor they have
in common has to be equal over the whole run. Otherwise each layer is compared by itself, on the
earlier graph's inputs (:mod:`export.local`):

* an integer may move by one step of its grid, and only where the real value that was rounded is a
  tie to within what float32 sums in another order can move it (``REAL_TOLERANCE`` of the tensor's
  largest value);
* a real value may differ by ``REAL_TOLERANCE`` of its tensor's largest value;
* ``integer_bias`` may move a sum by half the unit of its bias besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from export.difference import REAL_TOLERANCE, Array, Arrays
from export.gap import Computed, Gap, gap
from export.local import Graph, counterparts, run_dictated
from export.match import Pairs
from export.module_census import island_nodes
from export.stage import StageError

_HALF_A_BIAS_UNIT = ("integer_bias",)
"""Passes that move sums by at most half a unit of their bias."""

_STORED_BITS = 8
_EXACT = 2**24
"""float32 holds every smaller integer."""

_CHOOSING = frozenset(
    {"Concat", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class Departure:
    """The first tensor that differs from the stage before.

    tensor, before: its name now and before. count: values that differ. largest: in steps of the
    grid. step: of that grid, real. tie: largest distance of the real value from a tie, in steps.
    """

    tensor: str
    before: str
    count: int
    largest: float
    step: float
    tie: float


@dataclass(frozen=True)
class ModuleStage:
    """One stage against the one before.

    name: of the pass. changes: places rewritten. nodes: afterwards. relation: "equal" (integers,
    the whole run bit for bit) or "bounded" (each layer on equal inputs). tensors, values: compared.
    differing: integers that differ, all by rounding ties. largest, bound: of their differences, in
    steps of the grid. tie, tie_bound: largest distance of a real value from its tie, in steps, and
    the largest accepted. real, real_bound: largest real difference, relative to its tensor's
    largest value, and the largest accepted. first: the first tensor that departs. unforced: the
    largest difference of 8-bit integers, in steps, and their number where differences are carried
    on from layer to layer; for information.
    """

    name: str
    changes: int
    nodes: int
    relation: str
    tensors: int
    values: int
    differing: int
    largest: float
    bound: float
    tie: float
    tie_bound: float
    real: float
    real_bound: float
    first: Departure | None
    unforced: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The stage as JSON values."""
        return asdict(self)


class ModuleStages:
    """Collects the stages of one graph.

    Args:
        feed: one sample, an array per graph input.
    """

    def __init__(self, feed: Arrays) -> None:
        self.stages: list[ModuleStage] = []
        self._feed = feed
        self._last: Graph | None = None

    def branch(self) -> ModuleStages:
        """Stages of another graph that comes of the last one here."""
        other = ModuleStages(self._feed)
        other._last = self._last
        return other

    def add_first(
        self, name: str, model: onnx.ModelProto, trace: Callable[[Graph], tuple[Computed, Pairs]]
    ) -> ModuleStage:
        """Compare a graph with the network it was exported from.

        Args:
            name: of the exporter.
            model: the exported graph.
            trace: gives what the network computes, and which tensors of the graph that is.

        Raises:
            StageError: as :meth:`add`.
        """
        graph = Graph(model, self._feed)
        before, pairs = trace(graph)
        gaps = _gaps(before, run_dictated(before, graph, pairs), pairs)
        stage = _stage(name, 0, graph, False, gaps, _gaps(before, graph, pairs))
        self.stages.append(stage)
        self._last = graph
        return stage

    def add(self, name: str, model: onnx.ModelProto, changes: int = 0) -> ModuleStage | None:
        """Compare a graph with the stage before it; the first one has none.

        Raises:
            StageError: a difference beyond its bound, by stage, tensor and size.
        """
        graph = Graph(model, self._feed)
        before, self._last = self._last, graph
        if before is None:
            return None
        pairs = counterparts(before, graph)
        _check_outputs(name, graph, pairs)
        exact = is_exact(before) and is_exact(graph)
        free = _gaps(before, graph, pairs)
        gaps = free if exact else _dictated_gaps(name, before, graph, pairs)
        stage = _stage(name, changes, graph, exact, gaps, free)
        self.stages.append(stage)
        return stage


def is_exact(graph: Graph) -> bool:
    """Whether all of a graph is integer arithmetic with one defined result.

    Only the graph's inputs are quantized, 8-bit integers that were dequantized, and accumulators in
    one float32 multiplication (scale 1); and no operator is left whose float result depends on the
    runtime, but for sums of integers that float32 holds exactly.
    """
    if not all(_sums_integers(node, graph) for node in island_nodes(graph.model)):
        return False
    makers = {name: node for node in graph.model.graph.node for name in node.output}
    return all(
        _one_rounding(node, graph, makers)
        for node in graph.model.graph.node
        if node.op_type == "QuantizeLinear"
    )


def _sums_integers(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a sum of products computes on integers in float32, as inlined functions do."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return False
    arrays = [graph.array(name) for name in (*node.input, node.output[0]) if name]
    return all(np.abs(a).max(initial=0) < _EXACT and bool((a == np.rint(a)).all()) for a in arrays)


def _one_rounding(node: onnx.NodeProto, graph: Graph, makers: dict[str, onnx.NodeProto]) -> bool:
    _, entry = graph.roundings.get(node.output[0], ("", None))
    if entry is not None and bool((entry.scale == 1).all()):
        return True
    source = makers.get(node.input[0])
    while source is not None and source.op_type in _CHOOSING:
        source = makers.get(source.input[0])
    if source is None:
        return True
    eight_bit = graph.values[source.input[0]].dtype.itemsize == 1
    return source.op_type == "DequantizeLinear" and eight_bit


def _check_outputs(stage: str, graph: Graph, pairs: Pairs) -> None:
    lost = sorted(set(graph.outputs) - {after for _, after in pairs})
    if lost:
        raise StageError(
            f"stage {stage}: output {lost[0]!r} has no counterpart in the stage before"
        )


def _gaps(
    before: Computed, after: Computed, pairs: Pairs, extra: dict[str, Array] | None = None
) -> list[Gap]:
    found = (gap(pair, before, after, (extra or {}).get(pair[1], 0.0)) for pair in pairs)
    return [entry for entry in found if entry is not None]


def _dictated_gaps(stage: str, before: Graph, after: Graph, pairs: Pairs) -> list[Gap]:
    units = after.accumulator_units() if stage in _HALF_A_BIAS_UNIT else {}
    extra = {name: unit / 2 for name, unit in units.items()}
    return _gaps(before, run_dictated(before, after, pairs), pairs, extra)


def _stage(
    name: str, changes: int, graph: Graph, exact: bool, gaps: Sequence[Gap], free: Sequence[Gap]
) -> ModuleStage:
    for entry in gaps:
        _check(name, entry, exact)
    reals = [entry for entry in gaps if not entry.integer]
    departed = [entry for entry in gaps if entry.integer and entry.count]
    carried = [entry for entry in free if entry.integer and entry.bits == _STORED_BITS]
    return ModuleStage(
        name=name,
        changes=changes,
        nodes=len(graph.model.graph.node),
        relation="equal" if exact else "bounded",
        tensors=len(gaps),
        values=sum(entry.values for entry in gaps),
        differing=sum(entry.count for entry in departed),
        largest=max((entry.largest for entry in departed), default=0.0),
        bound=0.0 if exact else 1.0,
        tie=max((entry.tie.distance for entry in departed), default=0.0),
        tie_bound=max((entry.tie.allowed for entry in departed), default=0.0),
        real=max((entry.relative for entry in reals), default=0.0),
        real_bound=max((entry.relative_allowed for entry in reals), default=REAL_TOLERANCE),
        first=_departure(departed[0]) if departed else None,
        unforced={
            "largest": max((entry.largest for entry in carried), default=0.0),
            "differing": sum(entry.count for entry in carried),
        },
    )


def _departure(entry: Gap) -> Departure:
    step = 0.0 if entry.step is None else entry.step
    return Departure(
        entry.after, entry.before, entry.count, entry.largest, step, entry.tie.distance
    )


def _check(stage: str, entry: Gap, exact: bool) -> None:
    """Raises StageError for a tensor outside its bound."""
    if not entry.count or (entry.integer and entry.is_tie and not exact):
        return
    what = f"stage {stage}: tensor {entry.after!r} differs in {entry.count} values, by up to "
    if entry.step is None:
        raise StageError(
            f"{what}{entry.largest:.3g}, and may by {entry.allowed:.3g}; {entry.where}"
        )
    raise StageError(
        f"{what}{entry.largest:g} steps of {entry.step:.3g}; {_reason(entry, exact)}; {entry.where}"
    )


def _reason(entry: Gap, exact: bool) -> str:
    if exact:
        return "both stages are integer graphs and have to be equal"
    if not np.isfinite(entry.tie.distance):
        return "nothing was rounded there, so it has to be equal"
    if entry.largest > 1:
        return "it may by one step, at rounding ties"
    return (
        f"at {entry.tie.distance:.3g} steps from a rounding tie, and may within "
        f"{entry.tie.allowed:.2g}"
    )

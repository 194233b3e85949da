"""Layer by layer through two graphs: the first tensor at which they part.

Both graphs make a step from equal states on equal inputs; every tensor that has a counterpart is
compared, and the second step starts from the first graph's states again. Two integer tensors of
equal scale are compared in units of the last place; where one side is integer and the other real,
or the scales differ, both are compared as the real values that they stand for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from export.deeploy import DialectTracer, is_dialect
from export.errors import ExportError
from export.files import read_model
from export.grids import Grid, artifact_of, find_grids
from export.match import match, roles, unmatched
from export.passes import run_passes
from export.passes.split_conv_lif import FUSED, SplitConvLif
from export.trace import Tracer
from lif_op.spec import DOMAIN
from runtime.metadata import Artifact

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Float64 = npt.NDArray[np.float64]

REAL_TOLERANCE = 1e-5
"""Of real values, relative to the tensor's largest magnitude."""


class DiffError(ExportError):
    """Two graphs that cannot be compared."""


class _Runs(Protocol):
    names: tuple[str, ...]

    def run(self, inputs: Mapping[str, Array]) -> Arrays: ...


@dataclass
class Side:
    """One of the two graphs, ready to run.

    grids: what its integers stand for. inputs: element type of every graph input.
    """

    label: str
    model: onnx.ModelProto
    artifact: Artifact | None
    tracer: _Runs
    grids: dict[str, Grid]
    inputs: dict[str, np.dtype[Any]]

    @staticmethod
    def of(model: onnx.ModelProto, label: str) -> Side:
        """Prepare a model; raises ExportError if it cannot run.

        Fused layers are taken apart, so that accumulators and spikes can be compared.
        """
        if any(node.op_type in FUSED and node.domain == DOMAIN for node in model.graph.node):
            model, _ = run_passes(model, [SplitConvLif()])
        fixed = {tensor.name for tensor in model.graph.initializer}
        kinds = {
            value.name: np.dtype(
                onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            )
            for value in model.graph.input
            if value.name not in fixed
        }
        tracer: _Runs = DialectTracer(model) if is_dialect(model) else Tracer(model)
        return Side(label, model, artifact_of(model), tracer, find_grids(model), kinds)

    @staticmethod
    def load(path: Path) -> Side:
        """Read and prepare a file; raises ExportError or OSError with its name."""
        model = read_model(path)
        try:
            return Side.of(model, str(path))
        except ExportError as error:
            raise DiffError(f"{path}: {error}") from error


@dataclass
class Row:
    """One pair of tensors over all steps.

    a, b: names. kind: "integer" or "real". largest: largest difference, in units of the last place
    for integer pairs, in real values otherwise. allowed: the tolerance in the same unit at the
    step of the largest excess. count: values that differ by more. step: the first step at which
    some do, or None.
    """

    a: str
    b: str
    role: str
    kind: str
    largest: float = 0.0
    allowed: float = 0.0
    count: int = 0
    step: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return dict(vars(self))


@dataclass
class DiffResult:
    """What a comparison found: a row per pair, and the tensors without counterpart."""

    rows: list[Row]
    alone_a: list[str]
    alone_b: list[str]
    steps: int = 0

    @property
    def first(self) -> Row | None:
        """The first tensor to depart: at the earliest step, in the order of the first graph."""
        departed = [row for row in self.rows if row.step is not None]
        return min(departed, key=lambda row: row.step or 0) if departed else None

    @property
    def equal(self) -> bool:
        """Whether no tensor departed."""
        return self.first is None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        first = self.first
        return {
            "equal": self.equal,
            "steps": self.steps,
            "first": None if first is None else first.to_dict(),
            "tensors": [row.to_dict() for row in self.rows],
            "only_a": self.alone_a,
            "only_b": self.alone_b,
        }


def check_comparable(a: Side, b: Side) -> None:
    """Raise DiffError unless both graphs take the same inputs."""
    odd = sorted(set(a.inputs) ^ set(b.inputs))
    if odd:
        raise DiffError(
            f"graph inputs differ ({', '.join(odd)} on one side only), so no equal run exists; "
            "compare graphs of one network"
        )
    for name, kind in a.inputs.items():
        other = b.inputs[name]
        bytes_only = {kind.itemsize, other.itemsize} == {1}
        if kind.kind in "iu" and other.kind in "iu" and kind != other and not bytes_only:
            raise DiffError(
                f"input {name!r} is {kind} in {a.label} and {other} in {b.label}; these are "
                "different networks: compare their errors with runtime.evaluate"
            )
    if (a.artifact is None) is not (b.artifact is None):
        lacking = a.label if a.artifact is None else b.label
        raise DiffError(f"{lacking} has no artifact metadata and the other file has; use --random")


def convert(value: Array, name: str, source: Side, target: Side) -> Array:
    """The same value as another graph's input of that name takes it.

    Raises:
        DiffError: integer and real sides, and no grid in the graph says how they relate.
    """
    wanted = target.inputs[name]
    if value.dtype == wanted:
        return value
    if value.dtype.kind in "iu" and wanted.kind in "iu":
        return value.astype(wanted)
    integer = source if value.dtype.kind in "iu" else target
    entry = integer.grids.get(name)
    if entry is None:
        raise DiffError(f"input {name!r} is integer in {integer.label}, whose graph has no scale")
    if value.dtype.kind in "iu":
        return entry.real(value).astype(wanted)
    limits = np.iinfo(wanted)
    units = np.rint(value / entry.spread(value.ndim)) + entry.zero
    return np.clip(units, limits.min, limits.max).astype(wanted)


def integer_first(name: str, a: Side, b: Side) -> tuple[Side, Side]:
    """The two sides, that with the integer input of this name in front."""
    real = a.inputs[name].kind == "f" and b.inputs[name].kind in "iu"
    return (b, a) if real else (a, b)


def diff(
    a: Side,
    b: Side,
    steps: Iterable[tuple[Arrays, Arrays]],
    states: Mapping[str, str],
    tolerance: float | None = None,
) -> DiffResult:
    """Run two graphs side by side and compare every pair of tensors.

    Args:
        a, b: the graphs.
        steps: the inputs of every step for ``a`` and for ``b``; states that are given overwrite
            those of the step before.
        states: output by input of every recurrent tensor; they start where the first step says.
        tolerance: largest accepted difference, in units of the last place for integer pairs and
            in real values otherwise; None accepts 0 and ``REAL_TOLERANCE``.

    Raises:
        DiffError: no steps, or nothing to compare. ExportError: a graph cannot run.
    """
    result: DiffResult | None = None
    kept: tuple[Arrays, Arrays] = ({}, {})
    for number, (given_a, given_b) in enumerate(steps):
        values_a = a.tracer.run({**kept[0], **given_a})
        values_b = b.tracer.run({**kept[1], **given_b})
        if result is None:
            result = _pair(a, b, values_a, values_b)
        for row in result.rows:
            _compare(row, values_a[row.a], values_b[row.b], a, b, number, tolerance)
        kept = _next_states(a, b, values_a, values_b, states)
        result.steps = number + 1
    if result is None:
        raise DiffError("no steps to compare; the data is too short")
    if not result.rows:
        raise DiffError("no tensor of one graph has a counterpart in the other")
    return result


def _pair(a: Side, b: Side, values_a: Arrays, values_b: Arrays) -> DiffResult:
    roles_a, roles_b = roles(a.model), roles(b.model)
    ranks = [{n: v.ndim for n, v in values.items()} for values in (values_a, values_b)]
    pairs = [
        (one, other)
        for one, other in match(roles_a, roles_b, ranks)
        if values_a[one].shape == values_b[other].shape
    ]
    rows = []
    for one, other in pairs:
        kind = (
            "integer"
            if _is_integer_pair(values_a[one], values_b[other], one, other, a, b)
            else "real"
        )
        rows.append(Row(one, other, roles_a[one], kind))
    return DiffResult(rows, unmatched(roles_a, pairs, 0), unmatched(roles_b, pairs, 1))


def _is_integer_pair(x: Array, y: Array, one: str, other: str, a: Side, b: Side) -> bool:
    if x.dtype.kind not in "iub" or y.dtype.kind not in "iub":
        return False
    grid_x, grid_y = a.grids.get(one), b.grids.get(other)
    return grid_x is None or grid_y is None or grid_x.same_scale(grid_y)


def _compare(
    row: Row, x: Array, y: Array, a: Side, b: Side, step: int, tolerance: float | None
) -> None:
    grids = a.grids.get(row.a), b.grids.get(row.b)
    if row.kind == "integer":
        difference = _integer_difference(x, y, *grids)
        allowed = 0.0 if tolerance is None else tolerance
    else:
        left, right = real_values(x, grids[0]), real_values(y, grids[1])
        difference = real_difference(left, right)
        finite = np.abs(left[np.isfinite(left)])
        relative = REAL_TOLERANCE * max(float(finite.max(initial=0.0)), REAL_TOLERANCE)
        allowed = relative if tolerance is None else tolerance
    excess = int((difference > allowed).sum())
    row.largest = max(row.largest, float(difference.max(initial=0.0)))
    row.allowed = max(row.allowed, allowed)
    row.count += excess
    if excess and row.step is None:
        row.step = step


def _integer_difference(x: Array, y: Array, grid_x: Grid | None, grid_y: Grid | None) -> Float64:
    """In units of the last place, relative to the zero points where both are known."""
    if grid_x is None or grid_y is None:
        return np.abs(x.astype(np.int64) - y.astype(np.int64)).astype(np.float64)
    return np.abs(grid_x.units(x) - grid_y.units(y)).astype(np.float64)


def real_difference(left: Float64, right: Float64) -> Float64:
    """Equal infinities and two NaN do not differ; one NaN differs infinitely."""
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(left - right))
    return np.where(np.isnan(difference), np.inf, difference)


def real_values(values: Array, entry: Grid | None) -> Float64:
    """Integers on their grid; anything else as it is."""
    if entry is None or values.dtype.kind == "f":
        return values.astype(np.float64)
    return entry.real(values)


def _next_states(
    a: Side, b: Side, values_a: Arrays, values_b: Arrays, states: Mapping[str, str]
) -> tuple[Arrays, Arrays]:
    """States of the next step: those of the integer side, or of the first, for both."""
    next_a: Arrays = {}
    next_b: Arrays = {}
    for name, output in states.items():
        first, second = integer_first(name, a, b)
        value = (values_a if first is a else values_b)[output]
        other = convert(value, name, first, second)
        next_a[name], next_b[name] = (value, other) if first is a else (other, value)
    return next_a, next_b

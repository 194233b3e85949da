"""How far one tensor is from its counterpart in the stage before: in steps of its grid, or in real
values, and whether an integer that differs is a rounding tie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from export.difference import (
    REAL_TOLERANCE,
    Array,
    Arrays,
    Float64,
    real_difference,
    real_values,
)
from export.grids import Grid

Names = tuple[str, str]
Grids = tuple[Grid | None, Grid | None]


@dataclass
class Computed:
    """What a stage computes on one sample.

    values: by tensor. grids: of the integers among them. roundings: of each quantized tensor, the
    tensor it was rounded from and the grid it was rounded to.
    """

    values: Arrays
    grids: Mapping[str, Grid] = field(default_factory=dict)
    roundings: Mapping[str, tuple[str, Grid]] = field(default_factory=dict)

    def steps(self, name: str) -> Float64 | None:
        """The real values that a tensor was rounded from, in steps of its grid, zero point
        included; None where no tensor holds them."""
        source, entry = self.roundings.get(name, ("", None))
        value = self.values.get(source)
        if entry is None or value is None or value.dtype.kind != "f":
            return None
        return value.astype(np.float64) / entry.spread(value.ndim) + entry.offset(value.ndim)


@dataclass(frozen=True)
class Tie:
    """How far the real values are from the tie between two steps where a rounding differs.

    distance: the largest, in steps; infinite where nothing was rounded. allowed: what float32 sums
    in another order can move them, ``REAL_TOLERANCE`` of the largest of them.
    """

    distance: float = 0.0
    allowed: float = 0.0


@dataclass(frozen=True)
class Gap:
    """The difference of one tensor from its counterpart.

    before, after: names. step: of the grid, in real values; None for a real tensor. bits: of an
    integer. largest: in steps, or in real values. allowed: largest accepted difference of a real
    tensor. count: values that differ (real ones: by more than allowed). tie: of the integers that
    differ. size: largest magnitude. where: the place of the largest difference and both values.
    """

    before: str
    after: str
    step: float | None
    bits: int
    largest: float
    allowed: float
    count: int
    values: int
    tie: Tie
    size: float
    where: str

    @property
    def integer(self) -> bool:
        """Whether both are integers of one grid."""
        return self.step is not None

    @property
    def relative(self) -> float:
        """The largest difference of a real tensor as a share of its largest magnitude."""
        return self.largest / max(self.size, REAL_TOLERANCE)

    @property
    def relative_allowed(self) -> float:
        """What is allowed, likewise."""
        return self.allowed / max(self.size, REAL_TOLERANCE)

    @property
    def is_tie(self) -> bool:
        """Whether integers differ by one step at most, at ties only."""
        return self.largest <= 1 and self.tie.distance <= self.tie.allowed


def gap(names: Names, before: Computed, after: Computed, extra: Array | float = 0.0) -> Gap | None:
    """Compare a tensor with its counterpart.

    Args:
        names: in ``before`` and in ``after``.
        extra: accepted real difference beside that of float32 sums in another order, broadcast.

    Returns:
        None where an integer tensor of unknown scale stands against another grid or real values.
    """
    x, y = before.values[names[0]], after.values[names[1]]
    grids = before.grids.get(names[0]), after.grids.get(names[1])
    difference = _integer_difference(x, y, grids)
    if difference is None:
        return _real_gap(names, x, y, grids, extra)
    entry = grids[1] if grids[0] is None else grids[0]
    return Gap(
        *names,
        step=1.0 if entry is None else float(np.max(entry.scale)),
        bits=8 * y.dtype.itemsize,
        largest=float(difference.max(initial=0.0)),
        allowed=0.0,
        count=int((difference > 0).sum()),
        values=difference.size,
        tie=_tie(names, before, after, difference > 0),
        size=float(np.abs(x.astype(np.float64)).max(initial=0.0)),
        where=_where(difference, x, y),
    )


def same_integers(x: Array, grid: Grid | None, y: Array, other: Grid | None) -> bool:
    """Whether two integer tensors are compared as they are.

    No pass changes what is stored and keeps its type, but some read it in another unit: a
    requantization of one factor reads its accumulator in steps of its result.
    """
    if x.dtype != y.dtype:
        return False
    return grid is None or other is None or not grid.same_scale(other)


def _integer_difference(x: Array, y: Array, grids: Grids) -> Float64 | None:
    """In steps; None unless both are integers of one grid."""
    if x.dtype.kind not in "iub" or y.dtype.kind not in "iub":
        return None
    if same_integers(x, grids[0], y, grids[1]):
        return np.abs(x.astype(np.int64) - y.astype(np.int64)).astype(np.float64)
    if grids[0] is None or grids[1] is None or not grids[0].same_scale(grids[1]):
        return None
    return np.abs(grids[0].units(x) - grids[1].units(y)).astype(np.float64)


def _tie(names: Names, before: Computed, after: Computed, differs: Array) -> Tie:
    if not differs.any():
        return Tie()
    steps = before.steps(names[0])
    steps = after.steps(names[1]) if steps is None else steps
    if steps is None:
        return Tie(float("inf"))
    finite = np.abs(steps[np.isfinite(steps)])
    distance = np.abs(steps - np.floor(steps) - 0.5)[differs]
    return Tie(float(distance.max()), REAL_TOLERANCE * float(finite.max(initial=0.0)))


def _real_gap(names: Names, x: Array, y: Array, grids: Grids, extra: Array | float) -> Gap | None:
    for value, entry in zip((x, y), grids, strict=True):
        if value.dtype.kind in "iub" and entry is None:
            return None
    left, right = real_values(x, grids[0]), real_values(y, grids[1])
    difference = real_difference(left, right)
    size = float(np.abs(left[np.isfinite(left)]).max(initial=0.0))
    allowed = REAL_TOLERANCE * max(size, REAL_TOLERANCE) + np.asarray(extra)
    return Gap(
        *names,
        step=None,
        bits=0,
        largest=float(difference.max(initial=0.0)),
        allowed=float(allowed.max()),
        count=int((difference > allowed).sum()),
        values=difference.size,
        tie=Tie(),
        size=size,
        where=_where(difference - allowed, left, right),
    )


def _where(excess: Float64, x: Array, y: Array) -> str:
    if not excess.size:
        return "it is empty"
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
    return f"most at {list(place)}: {x[place]:g} before, {y[place]:g} now"

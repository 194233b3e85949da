"""Statistics of sequences of any length in constant memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")
Floats = npt.NDArray[np.float64]

_BINS = 1 << 14
_SMALLEST_TOP = 2.0**-20
_LARGEST_TOP = 2.0**60


@dataclass(frozen=True)
class HistogramView:
    """Bins chosen for a drawing. edges: [B + 1]. shares: [B], of all values. below, above: the
    shares left out on either side."""

    edges: Floats
    shares: Floats
    below: float
    above: float


class Histogram:
    """Counts of values over equal bins whose range doubles whenever a value lies outside.

    The range is 0 to a power of two, or symmetric about 0. Bin edges are dyadic, so the counts are
    exactly those of a histogram made at the end, whatever the order of the values.
    """

    def __init__(self, *, signed: bool = False) -> None:
        """``signed``: whether values may be negative; else they are refused."""
        self._signed = signed
        self.top = _SMALLEST_TOP
        self.counts: npt.NDArray[np.int64] = np.zeros(_BINS, np.int64)

    @property
    def total(self) -> int:
        """How many values were added."""
        return int(self.counts.sum())

    @property
    def edges(self) -> Floats:
        """Edges of the bins, [B + 1]; each bin holds its lower edge."""
        return np.linspace(-self.top if self._signed else 0.0, self.top, _BINS + 1)

    def add(self, values: npt.ArrayLike) -> None:
        """Count values of any shape; those that are not finite or beyond 2**60 are left out.

        Raises ValueError for a negative value unless signed.
        """
        every = np.asarray(values, np.float64).ravel()
        with np.errstate(invalid="ignore"):
            every = every[np.abs(every) < _LARGEST_TOP]
        if not every.size:
            return
        if not self._signed and every.min() < 0:
            raise ValueError(f"value {every.min():g}: expected none below 0")
        while every.max() >= self.top or every.min() < -self.top:
            self._double()
        low = -self.top if self._signed else 0.0
        width = (self.top - low) / _BINS
        places = np.floor((every - low) / width).astype(np.int64)
        np.add.at(self.counts, np.minimum(places, _BINS - 1), 1)

    def _double(self) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        start = _BINS // 4 if self._signed else 0
        self.counts = np.zeros(_BINS, np.int64)
        self.counts[start : start + len(pairs)] = pairs
        self.top *= 2

    def percentile(self, percent: float) -> float:
        """The smallest value that this many percent do not exceed, off by at most half a bin; NaN
        without values.
        """
        if not self.total:
            return math.nan
        place = np.searchsorted(np.cumsum(self.counts), percent / 100 * self.total)
        return float(self.edges[place : place + 2].mean())

    def view(self, bins: int = 60, tail: float = 0.001) -> HistogramView:
        """About ``bins`` bins between the percentiles that leave the share ``tail`` on each side.

        Raises ValueError without values.
        """
        if not self.total:
            raise ValueError("a histogram without values cannot be drawn")
        sums = np.cumsum(self.counts) / self.total
        first = int(np.searchsorted(sums, tail, side="right"))
        last = int(np.searchsorted(sums, 1 - tail))
        width = max(1, math.ceil((last - first + 1) / bins))
        # Aligned to the joined bins, so that the counts are kept whole.
        first = first // width * width
        count = math.ceil((last - first + 1) / width)
        padded = np.zeros(first + count * width, np.int64)
        part = self.counts[: len(padded)]
        padded[: len(part)] = part
        joined = padded[first:].reshape(count, width).sum(axis=1) / self.total
        step = self.edges[1] - self.edges[0]
        edges = self.edges[0] + step * (first + width * np.arange(count + 1))
        below = float(self.counts[:first].sum()) / self.total
        return HistogramView(edges, joined, below, max(0.0, 1.0 - below - float(joined.sum())))


class RunningSum:
    """A sum that does not drift: Neumaier's compensated summation."""

    def __init__(self) -> None:
        self._total = 0.0
        self._lost = 0.0

    def add(self, value: float) -> None:
        """Add a value; what is not finite stays in the sum."""
        joined = self._total + value
        if math.isfinite(joined):
            larger, smaller = sorted((self._total, value), key=abs, reverse=True)
            self._lost += (larger - joined) + smaller
        self._total = joined

    @property
    def value(self) -> float:
        """The sum so far."""
        return self._total + self._lost


class Timeline:
    """Named values over time: where there are more than ``limit`` points, neighbours are averaged.

    Every point stands for the same number of values, except the last.
    """

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._stride = 1
        self._points: list[tuple[int, float, dict[str, float]]] = []

    @property
    def values_per_point(self) -> int:
        """How many values a point is the mean of."""
        return self._stride

    def add(self, seconds: float, values: Mapping[str, float]) -> None:
        """Take the values at one time; the same names every time."""
        point = (1, seconds, dict(values))
        if self._points and self._points[-1][0] < self._stride:
            self._points[-1] = _joined(self._points[-1], point)
            return
        if len(self._points) == self._limit:
            pairs = zip(self._points[::2], self._points[1::2], strict=False)
            odd = self._points[-1:] if self._limit % 2 else []
            self._points = [_joined(a, b) for a, b in pairs] + odd
            self._stride *= 2
            self.add(seconds, values)
            return
        self._points.append(point)

    def series(self) -> tuple[list[float], dict[str, list[float]]]:
        """Mean times of the points, and by name the mean values."""
        times = [seconds / count for count, seconds, _ in self._points]
        names = self._points[0][2] if self._points else {}
        return times, {n: [sums[n] / count for count, _, sums in self._points] for n in names}


def _joined(
    first: tuple[int, float, dict[str, float]], second: tuple[int, float, dict[str, float]]
) -> tuple[int, float, dict[str, float]]:
    sums = {name: first[2][name] + second[2][name] for name in first[2]}
    return first[0] + second[0], first[1] + second[1], sums


class Spread(Generic[Item]):
    """Keeps some of a stream's items, evenly spread, without knowing how many will come.

    Every ``stride``-th item is kept; when twice the wanted number is held, every other one goes and
    the stride doubles.
    """

    def __init__(self, wanted: int) -> None:
        """``wanted``: at least this many are held once as many have come, at most twice that."""
        self._wanted = wanted
        self._seen = 0
        self.stride = 1
        self.items: list[Item] = []

    def due(self) -> bool:
        """Whether the next item will be kept; ask before work on one that will not."""
        return self._seen % self.stride == 0

    def skip(self) -> None:
        """Let an item pass that is not due."""
        self._seen += 1

    def add(self, item: Item) -> None:
        """Take an item; it is dropped unless due."""
        if self.due():
            if len(self.items) == 2 * self._wanted:
                self.items = self.items[::2]
                self.stride *= 2
            if self.due():
                self.items.append(item)
        self._seen += 1

    def chosen(self) -> list[Item]:
        """At most the wanted number of the items held, evenly spread, in order."""
        held = len(self.items)
        if held <= self._wanted:
            return list(self.items)
        return [self.items[(2 * k + 1) * held // (2 * self._wanted)] for k in range(self._wanted)]


class MeanMap:
    """Mean per pixel over the frames in which the pixel counts."""

    def __init__(self, shape: tuple[int, int]) -> None:
        """``shape``: (H, W)."""
        self._sum = np.zeros(shape)
        self.frames: npt.NDArray[np.int64] = np.zeros(shape, np.int64)

    def add(self, values: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> None:
        """Add a frame: values [H, W] where mask [H, W]."""
        self._sum[mask] += values[mask]
        self.frames += mask

    def mean(self) -> Floats:
        """Float64 [H, W]; 0 where no frame counted."""
        return self._sum / np.maximum(self.frames, 1)

"""What a recording's events say about it, gathered block by block: rate, polarity, hot pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError

HOT_WINDOW_S = 0.05
"""Length of the windows in which a pixel is active or not, seconds."""

HOT_RATE = 0.8
"""A pixel active in a larger share of the windows is hot, as in ``HotPixelFilter``."""

MIN_HOT_WINDOWS = 6
"""In fewer windows no pixel is called hot, as in ``HotPixelFilter``."""

GAP_S = 0.01
"""Successive events further apart than this are counted as a gap, seconds."""

_LATEST = 1e15
"""Further from 0 no event is believed to be, seconds."""

MAX_SLOTS = 1_000_000
"""Windows that the rate over time is kept for; one wild timestamp must not fill the memory."""


class EventStatistics:
    """Running totals over blocks of events; memory depends on the sensor's size only.

    resolution: (H, W). hot_window_s: see ``HOT_WINDOW_S``. gap_s: see ``GAP_S``. Only windows in
    which anything fired count; events out of order are counted and otherwise taken as they come.
    """

    def __init__(
        self,
        resolution: tuple[int, int],
        *,
        hot_window_s: float = HOT_WINDOW_S,
        gap_s: float = GAP_S,
    ) -> None:
        if not hot_window_s > 0 or not gap_s > 0:
            raise DataError(f"windows and gaps last longer than 0 s, got {hot_window_s}, {gap_s}")
        self.resolution = resolution
        self.hot_window_s = hot_window_s
        self.gap_s = gap_s
        self.num_events = 0
        self.positive = 0
        self.first = self.last = float("nan")
        self.num_gaps = 0
        self.longest_gap = (0.0, float("nan"))
        self.num_back = 0
        self.largest_back = 0.0
        self.outside = 0
        self.impossible_times = self.odd_polarity = 0
        self._earliest = np.inf
        self.counts = np.zeros(resolution, np.int64)
        self._active = np.zeros(resolution[0] * resolution[1], np.int64)
        self._windows = 0
        self._window = -1
        self._seen = np.zeros(resolution[0] * resolution[1], np.bool_)
        self._latest = -np.inf
        self._bins: list[NDArray[np.int64]] = []

    def add(
        self,
        xs: NDArray[Any],
        ys: NDArray[Any],
        ts: NDArray[np.float64],
        ps: NDArray[Any],
    ) -> None:
        """Take in the next events: columns, rows, seconds (one clock throughout), polarities.

        A polarity above 0 is a brighter pixel; others than -1, 0 and 1 are counted as odd. Events
        outside the sensor are counted as such and left out of everything that is per pixel, those
        at no possible time (NaN, infinite, or 30 million years away) out of everything.
        """
        possible = np.abs(ts) < _LATEST
        if not possible.all():
            self.impossible_times += int((~possible).sum())
            xs, ys, ts, ps = xs[possible], ys[possible], ts[possible], ps[possible]
        if not len(ts):
            return
        self.odd_polarity += int((~np.isin(ps, (-1, 0, 1))).sum())
        if not self.num_events:
            self.first = float(ts[0])
        self._add_times(ts)
        self.num_events += len(ts)
        self.positive += int((ps > 0).sum())
        height, width = self.resolution
        columns, rows = xs.astype(np.int64), ys.astype(np.int64)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        self.outside += int((~inside).sum())
        pixels = (rows * width + columns)[inside]
        self.counts.ravel()[:] += np.bincount(pixels, minlength=height * width)
        windows = np.floor((ts[inside] - self.first) / self.hot_window_s).astype(np.int64)
        # A window that time has left is not taken up again for an event that comes late.
        self._add_windows(np.maximum(np.maximum.accumulate(windows), self._window), pixels)

    @property
    def duration(self) -> float:
        """Seconds from the earliest to the latest event; 0 when there are none."""
        return self.last - self._earliest if self.num_events else 0.0

    @property
    def rate(self) -> float:
        """Events per second over the duration; 0 for a recording without one."""
        return self.num_events / self.duration if self.duration > 0 else 0.0

    @property
    def positive_share(self) -> float:
        """Share of the events that made a pixel brighter; NaN when there are none."""
        return self.positive / self.num_events if self.num_events else float("nan")

    def rate_over_time(self) -> NDArray[np.int64]:
        """Events in every ``hot_window_s`` since the first event: int64 [windows].

        What comes after ``MAX_SLOTS`` windows is counted in the last one.
        """
        if not self._bins:
            return np.zeros(0, np.int64)
        total = np.zeros(max(len(part) for part in self._bins), np.int64)
        for part in self._bins:
            total[: len(part)] += part
        self._bins = [total]
        return total

    def hot_pixels(self) -> list[tuple[int, int, float]]:
        """Hot pixels as (x, y, share of the windows active), most active first."""
        active, windows = self._totals()
        if windows < MIN_HOT_WINDOWS:
            return []
        rates = active / windows
        hot = np.flatnonzero(rates > HOT_RATE)
        order = hot[np.argsort(-rates[hot], kind="stable")]
        width = self.resolution[1]
        return [(int(at % width), int(at // width), float(rates[at])) for at in order]

    def _add_times(self, ts: NDArray[np.float64]) -> None:
        before = self._latest if np.isfinite(self._latest) else float(ts[0])
        steps = np.diff(ts, prepend=before)
        latest = np.maximum.accumulate(np.concatenate([[before], ts]))
        back = latest[:-1] - ts
        self.num_back += int((back > 0).sum())
        self.largest_back = max(self.largest_back, float(back.max()))
        self.num_gaps += int((steps > self.gap_s).sum())
        at = int(steps.argmax())
        if steps[at] > self.longest_gap[0]:
            self.longest_gap = (float(steps[at]), float(ts[at] - steps[at] - self.first))
        self._earliest = min(self._earliest, float(ts.min()))
        self._latest = float(latest[-1])
        self.last = self._latest
        slots = np.floor((ts - self.first) / self.hot_window_s).clip(0, MAX_SLOTS - 1)
        self._bins.append(np.bincount(slots.astype(np.int64)))
        self.rate_over_time()

    def _add_windows(self, windows: NDArray[np.int64], pixels: NDArray[np.int64]) -> None:
        """Count, for every pixel, the windows it was active in; windows never decrease."""
        for window in np.unique(windows):
            if window != self._window:
                self._close_window()
                self._window = int(window)
            first, last = np.searchsorted(windows, [window, window + 1])
            self._seen[pixels[first:last]] = True

    def _close_window(self) -> None:
        if self._window >= 0:
            self._active += self._seen
            self._windows += 1
            self._seen[:] = False

    def _totals(self) -> tuple[NDArray[np.int64], int]:
        """Windows active per pixel and windows in all, the open window included."""
        return self._active + self._seen, self._windows + (self._window >= 0)

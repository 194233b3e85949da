"""A part of a recording between two times, with the interface of a whole one."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from calib_data.events import Events, EventSource


class Cut:
    """Events, maps and images of a recording with start <= time < stop; maps also at stop.

    Times stay those of the whole recording: seconds since its t0. Nothing is copied.
    """

    def __init__(self, whole: EventSource, start: float, stop: float) -> None:
        """``start``, ``stop``: seconds since t0; ``stop`` may be infinite."""
        self._whole = whole
        self.start = start
        self._stop = stop
        self.path = whole.path
        self.resolution = whole.resolution
        self.t0 = whole.t0
        self.duration = min(stop, whole.duration)
        self._first = whole.index_at(start)
        self._last = whole.num_events if math.isinf(stop) else whole.index_at(stop)
        self.num_events = self._last - self._first

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the whole recording."""
        self._whole.close()

    def read(self, start: int, stop: int) -> Events:
        """Events start..stop-1 of the part."""
        return self._whole.read(start + self._first, stop + self._first)

    def index_at(self, seconds: float) -> int:
        """Number of the part's first event at or after ``seconds``; num_events if none."""
        found = self._whole.index_at(seconds) - self._first
        return min(max(found, 0), self.num_events)

    def flow_times(self, dt: str) -> NDArray[np.float64]:
        """Stamps of the part's flow maps, seconds since t0."""
        times = self._whole.flow_times(dt)
        return times[self._part(times)]

    def read_flow(self, dt: str, index: int) -> NDArray[np.float32]:
        """Flow map ``index`` of the part."""
        return self._whole.read_flow(dt, index + self._part(self._whole.flow_times(dt)).start)

    def image_times(self) -> NDArray[np.float64]:
        """Stamps of the part's images, seconds since t0."""
        times = self._whole.image_times()
        return times[self._part(times)]

    def read_image(self, index: int) -> NDArray[np.uint8]:
        """Image ``index`` of the part."""
        return self._whole.read_image(index + self._part(self._whole.image_times()).start)

    def _part(self, times: NDArray[np.float64]) -> slice:
        first = int(np.searchsorted(times, self.start, side="left"))
        return slice(first, int(np.searchsorted(times, self._stop, side="right")))

"""Recordings as consecutive windows: what the network sees, the true flow, and the events."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from calib_data.encodings import COUNT_LIMIT, event_counts, event_mask, voxel_grid
from calib_data.events import Events, EventSource
from calib_data.hot_pixels import HotPixelFilter
from calib_data.npz import open_events
from calib_data.windows import Window, count_windows, iterate_windows
from training.config import ConfigError

QUIET_EVENTS = 10
"""event_flow's loader empties windows of so many events or fewer."""

OPEN_FILES = 64
BYTES_PER_EVENT = 9

Mask = npt.NDArray[np.bool_]
Keep = Callable[[int], Mask]
"""Number of a window to the pixels of it that are kept, bool [H, W]."""


@dataclass(frozen=True)
class HotPixels:
    """Options of :class:`calib_data.hot_pixels.HotPixelFilter`, with the defaults of event_flow."""

    max_pixels: int = 100
    min_observations: int = 5
    max_rate: float = 0.8


@dataclass(frozen=True)
class WindowFormat:
    """How a recording is cut and encoded.

    mode, window: see :mod:`calib_data.windows`.
    encoding: "cnt" (event counts, always two channels) or "voxel" (``num_bins`` time bins, times
        rounded to whole bins with ``round_encoding``); see :mod:`calib_data.encodings`.
    quiet_events: a window of so many events or fewer counts as one without any, as in event_flow.
    hot_pixels: pixels left out of counts, voxel grids and events alike (event_flow leaves them in
        the events that its loss sees); None keeps all.
    with_events: keep single events, which the contrast loss needs.
    """

    mode: str = "gtflow_dt1"
    window: float = 1.0
    encoding: Literal["cnt", "voxel"] = "cnt"
    num_bins: int = 2
    round_encoding: bool = False
    quiet_events: int = QUIET_EVENTS
    hot_pixels: HotPixels | None = None
    with_events: bool = False

    @property
    def bins(self) -> int:
        """Channels of what the network sees."""
        return 2 if self.encoding == "cnt" else self.num_bins


class WindowEvents(NamedTuple):
    """The events of T consecutive windows, one after the other, 9 bytes each.

    xs, ys: int16 [N], column and row.
    ts: float32 [N], time within the event's own window: 0 at its first event, 1 at its last; 0
        where all have one time.
    ps: int8 [N], +1 (ON) or -1 (OFF).
    offsets: int64 [T + 1], where each window begins; the last is N.
    """

    xs: npt.NDArray[np.int16]
    ys: npt.NDArray[np.int16]
    ts: npt.NDArray[np.float32]
    ps: npt.NDArray[np.int8]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, windows: list[Events]) -> WindowEvents:
        """Put windows of events together, whose times are within the window already."""
        return cls(
            np.concatenate([np.zeros(0, np.int16), *(window.xs for window in windows)]),
            np.concatenate([np.zeros(0, np.int16), *(window.ys for window in windows)]),
            np.concatenate([np.zeros(0), *(window.ts for window in windows)]).astype(np.float32),
            np.concatenate([np.zeros(0, np.int8), *(window.ps for window in windows)]),
            np.cumsum([0, *(len(window) for window in windows)], dtype=np.int64),
        )

    def cut(self, start: int, stop: int) -> WindowEvents:
        """Windows start..stop-1, sharing this one's memory."""
        span = slice(int(self.offsets[start]), int(self.offsets[stop]))
        offsets = self.offsets[start : stop + 1] - self.offsets[start]
        return WindowEvents(self.xs[span], self.ys[span], self.ts[span], self.ps[span], offsets)


class Sequence:
    """One recording as T consecutive windows, in memory.

    Without ground truth all of ``flow`` may be one NaN, read-only.
    A window takes H * W * (2 + 8 with ground truth + 4 * bins with voxel grids) bytes, and 9 for
    each of its events where they are kept.

    Args:
        counts: uint8 [T, 2, H, W], events per pixel and polarity, saturated at 127.
        flow: float32 [T, 2, H, W], ground truth in pixels per window, x right and y down; NaN where
            there is none.
        events: the same windows' events, where they are kept.
        voxels: float32 [T, bins, H, W], what the network sees where that is not the counts.
        name: for messages.
    """

    def __init__(
        self,
        counts: npt.NDArray[np.uint8],
        flow: npt.NDArray[np.float32],
        events: WindowEvents | None = None,
        voxels: npt.NDArray[np.float32] | None = None,
        name: str = "",
    ) -> None:
        self._counts, self._flow, self._events, self._voxels = counts, flow, events, voxels
        self.name = name

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def resolution(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self._counts.shape[2:]
        return height, width

    @property
    def has_events(self) -> bool:
        """Whether single events are kept."""
        return self._events is not None

    @property
    def counts(self) -> npt.NDArray[np.uint8]:
        """Event counts, uint8 [T, 2, H, W]."""
        return self._counts

    @property
    def flow(self) -> npt.NDArray[np.float32]:
        """Ground truth, float32 [T, 2, H, W], pixels per window, NaN where there is none."""
        return self._flow

    @property
    def events(self) -> WindowEvents | None:
        """The events, where they are kept."""
        return self._events

    @property
    def inputs(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
        """What the network sees: counts, or voxel grids float32 [T, bins, H, W]."""
        return self._counts if self._voxels is None else self._voxels

    @property
    def signed(self) -> bool:
        """Whether inputs have the polarity as their sign, rather than as their channel."""
        return self._voxels is not None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        arrays = [self._counts, *(() if self._events is None else self._events)]
        arrays += [] if self._voxels is None else [self._voxels]
        # Without ground truth all windows share one NaN.
        arrays += [self._flow] if any(self._flow.strides) else []
        return sum(array.nbytes for array in arrays)

    def cut(self, start: int, stop: int) -> Sequence:
        """Windows start..stop-1, sharing this one's memory."""
        span = slice(start, stop)
        return Sequence(
            self._counts[span],
            self._flow[span],
            None if self._events is None else self._events.cut(start, stop),
            None if self._voxels is None else self._voxels[span],
            self.name,
        )


class StreamedSequence(Sequence):
    """A recording that stays in its file; :meth:`cut` reads the windows it is asked for.

    counts, flow, events and inputs read the whole recording every time they are asked for. With
    hot pixels to filter, the file is read once at the start, and each window's hot pixels are kept.

    Args:
        path: the recording.
        form: how it is cut and encoded.
        resolution: (H, W), for a file that does not tell its own.

    Raises:
        DataError: an unusable file, or one without what the mode needs.
        FileNotFoundError: there is none.
    """

    def __init__(
        self, path: Path, form: WindowFormat, resolution: tuple[int, int] | None = None
    ) -> None:
        self._path, self._form, self._given = path, form, resolution
        self.name = str(path)
        file = self._file()
        self._length = count_windows(file, form.mode, form.window)
        self._resolution = file.resolution
        self._hot = _hot_pixels(file, form, self._length)

    def _file(self) -> EventSource:
        return _opened(self._path, self._given, self._path.stat().st_mtime_ns)

    def __len__(self) -> int:
        return self._length

    @property
    def resolution(self) -> tuple[int, int]:
        """(H, W)."""
        return self._resolution

    @property
    def has_events(self) -> bool:
        """Whether single events are read."""
        return self._form.with_events

    @property
    def counts(self) -> npt.NDArray[np.uint8]:
        """Event counts of the whole recording, read anew."""
        return self.load().counts

    @property
    def flow(self) -> npt.NDArray[np.float32]:
        """Ground truth of the whole recording, read anew."""
        return self.load().flow

    @property
    def events(self) -> WindowEvents | None:
        """Events of the whole recording, read anew."""
        return self.load().events

    @property
    def inputs(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
        """What the network sees of the whole recording, read anew."""
        return self.load().inputs

    @property
    def signed(self) -> bool:
        """Whether inputs have the polarity as their sign, rather than as their channel."""
        return self._form.encoding == "voxel"

    def load(self) -> Sequence:
        """The whole recording in memory."""
        return self.cut(0, self._length)

    def cut(self, start: int, stop: int) -> Sequence:
        """Windows start..stop-1, read into memory; DataError for what is wrong in them."""
        return read_windows(self._file(), self._form, start, stop, self._keep)

    def _keep(self, index: int) -> Mask:
        keep = np.ones(self._resolution, np.bool_)
        if self._hot is not None:
            keep.ravel()[self._hot[index]] = False
        return keep

    @property
    def nbytes(self) -> int:
        """Bytes it would take in memory, about."""
        file, form = self._file(), self._form
        truth = 8 * form.mode.startswith("gtflow")
        voxels = 4 * form.num_bins * (form.encoding == "voxel")
        pixels = self._resolution[0] * self._resolution[1]
        events = BYTES_PER_EVENT * file.num_events * form.with_events
        return self._length * pixels * (2 + truth + voxels) + events


@functools.lru_cache(maxsize=OPEN_FILES)
def _opened(path: Path, resolution: tuple[int, int] | None, written: int) -> EventSource:
    """The file, kept open while it is among those used last: opening costs more than reading.

    written: when it was, in nanoseconds, so that another file of that name is opened anew.
    """
    return open_events(path, resolution)


def close_files() -> None:
    """Close the recordings that are open; what is streamed opens its file again when it reads."""
    _opened.cache_clear()


def _hot_pixels(
    file: EventSource, form: WindowFormat, length: int
) -> list[npt.NDArray[np.intp]] | None:
    """The row-major numbers of each window's hot pixels, from one pass through the file."""
    if form.hot_pixels is None:
        return None
    options = form.hot_pixels
    keep = HotPixelFilter(
        file.resolution, options.max_pixels, options.min_observations, options.max_rate
    )
    hot = []
    for window in iterate_windows(file, form.mode, form.window, limit=length):
        mask = event_mask(_awake(window, form), file.resolution)
        hot.append(np.flatnonzero(~keep.update(mask)))
    return hot


def read_windows(
    file: EventSource, form: WindowFormat, start: int, stop: int, keep: Keep
) -> Sequence:
    """Read and encode windows start..stop-1.

    Args:
        file: the open recording.
        form: how it is cut and encoded.
        start, stop: numbers of windows.
        keep: which pixels to keep.

    Raises:
        DataError: something is wrong with the part of the file that is read.
    """
    counts, voxels, flow, events = [], [], [], []
    for window in iterate_windows(file, form.mode, form.window, first=start, limit=stop - start):
        awake = _awake(window, form)
        kept = keep(window.index)
        counts.append(event_counts(awake, file.resolution, np.uint8, COUNT_LIMIT) * kept)
        if form.encoding == "voxel":
            grid = voxel_grid(awake, form.num_bins, file.resolution, round_time=form.round_encoding)
            voxels.append(grid * kept)
        if window.flow is not None:
            flow.append(flow_per_window(window, form))
        if form.with_events:
            events.append(_kept_events(awake, kept))
    shape = (len(counts), 2, *file.resolution)
    nothing = np.broadcast_to(np.float32(np.nan), shape)
    return Sequence(
        np.stack(counts) if counts else np.zeros(shape, np.uint8),
        np.stack(flow) if flow else nothing,
        WindowEvents.of(events) if form.with_events else None,
        np.stack(voxels) if voxels else None,
        str(file.path),
    )


def _awake(window: Window, form: WindowFormat) -> Events:
    """The window's events, or none if there are too few."""
    return window.events if len(window.events) > form.quiet_events else Events.empty()


def _kept_events(events: Events, kept: Mask) -> Events:
    """The events on kept pixels, times scaled to 0..1 over all events of the window."""
    if not len(events):
        return events
    first, last = events.ts[0], events.ts[-1]
    ts = (events.ts - first) / (last - first) if last > first else np.zeros(len(events))
    inside = kept[events.ys, events.xs]
    return Events(events.xs[inside], events.ys[inside], ts[inside], events.ps[inside])


def flow_per_window(window: Window, form: WindowFormat) -> npt.NDArray[np.float32]:
    """The ground truth of a window, pixels per window: float32 [2, H, W], NaN where there is none.

    The map's flow, which is over the interval of length ``dt_gt`` that it ends, times the window's
    share of it: from first to last event (``dt_input / dt_gt``) for a slice of an interval, the
    slice's share of events if it counts as empty, and the quotient of the lengths (1 for whole
    intervals) otherwise. A pixel whose two components are 0 has no ground truth.
    """
    if window.flow is None:
        raise ValueError("a window without ground truth")
    share = (window.t_stop - window.t_start) / window.dt_gt
    if form.window < 1 and not len(_awake(window, form)):
        share = form.window
    missing = (window.flow == 0).all(0)
    flow = window.flow * np.float32(share)
    flow[:, missing] = np.nan
    return flow


def load_sequence(path: Path, form: WindowFormat | None = None) -> Sequence:
    """Read a whole recording into memory.

    Args:
        path: the recording.
        form: how it is cut and encoded; None for what scenes have: dt1 flow intervals, event
            counts, no window emptied.

    Raises:
        ConfigError: it has no whole window.
        DataError: an unusable file.
    """
    form = WindowFormat(quiet_events=0) if form is None else form
    try:
        sequence = StreamedSequence(path, form).load()
    finally:
        close_files()
    if not len(sequence):
        raise ConfigError(f"{path}: no whole window; raise data.duration or lower data.window")
    return sequence

"""Cutting a recording into the windows a network sees, one per step.

Window k starts at k times the window's length, in the unit of the mode:

======================== =========================== ==========================================
mode                     unit of the length          events of window k, of length w
======================== =========================== ==========================================
events                   events (a whole number)     numbers k*w to (k+1)*w
time                     seconds                     ts in [k*w, (k+1)*w)
frames                   images                      between images floor(k*w), ceil((k+1)*w)
gtflow_dt1, gtflow_dt4   ground-truth flow maps      between maps floor(k*w), ceil((k+1)*w)
======================== =========================== ==========================================

In the last three, a length below 1 cuts each interval into slices of equal numbers of events (not
of equal time): 0.25 gives four. The ground truth of a window is the map at its end, so the slices
of one interval share it, and only the last of them has ``interval_end``.

These are the windows of event_flow's loader with two differences, on purpose: where
that loader would start over (``events``: fewer than w left; ``time``: (k+1)*w at or after the last
event; else: no map or image number ceil((k+1)*w)), the sequence ends here; and windows of ten
events or fewer are returned as they are, not emptied. Lengths are taken as fractions, so that
thirds or tenths of an interval meet its end exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.events import Events, EventSource

MODES = ("events", "time", "frames", "gtflow_dt1", "gtflow_dt4")

MAX_EMPTY, MAX_EMPTY_PER_EVENT = 1_000_000, 1000
"""A recording with more windows than this is a clock that jumped, not a scene at rest."""

_LARGEST_DENOMINATOR = 10_000
_FRACTION_SLACK = 1e-12


@dataclass(frozen=True)
class Window:
    """One step's input.

    index: number of the window.
    start, stop: its events' numbers in the recording.
    t_start, t_stop: its bounds in seconds since t0: the nominal ones, or the times of its first and
        last event where it is cut by numbers of events (the interval's bounds if it has none).
    flow: float32 [2, H, W], ground truth of the interval it lies in or ends with, in pixels over
        that interval; None outside the gtflow modes.
    dt_gt: length of that interval (of maps or images) in seconds, else 0.
    dt_input: seconds from the first to the last event.
    interval_end: whether the ground-truth interval ends with this window.
    """

    index: int
    start: int
    stop: int
    t_start: float
    t_stop: float
    events: Events
    flow: NDArray[np.float32] | None
    dt_gt: float
    dt_input: float
    interval_end: bool


@dataclass(frozen=True)
class _Span:
    """Where a window lies: events, bounds in seconds, and the number of the map at its end.

    by_count: whether it is cut by numbers of events, so that its events tell its true bounds.
    """

    start: int
    stop: int
    t_start: float
    t_stop: float
    by_count: bool = False
    gt: int | None = None
    dt_gt: float = 0.0
    interval_end: bool = True


def default_window(mode: str, resolution: tuple[int, int]) -> float:
    """Length of a window where none is given, in the unit of the mode.

    One image or flow map; a thirtieth of a second; or 1000 events at 128 x 128 pixels, and as many
    per pixel at other sizes, which is what event_flow trains on.
    """
    if mode == "events":
        return max(1, round(1000 / 128**2 * resolution[0] * resolution[1]))
    return 1 / 30 if mode == "time" else 1.0


def count_windows(file: EventSource, mode: str, window: float) -> int:
    """Number of windows of the recording.

    Raises:
        DataError: an unknown mode, an unusable length, or a clock that jumps so far ahead that
            nearly all windows would be empty.
    """
    length = _length(mode, window)
    if mode == "events":
        return file.num_events // int(length)
    if mode == "time":
        last = Fraction(_last_time(file))
        windows = max(math.ceil(last / length) - 1, 0)
        if windows > MAX_EMPTY + MAX_EMPTY_PER_EVENT * file.num_events:
            raise DataError(
                f"{file.path}: {windows:,} windows of {window:g} s for {file.num_events:,} events, "
                f"{float(last):g} s apart: its clock jumps (python -m calib_data.inspect shows "
                "where), or the window is too short"
            )
        return windows
    return max(math.floor((len(_stamps(file, mode)) - 1) / length), 0)


def iterate_windows(
    file: EventSource,
    mode: str,
    window: float,
    *,
    first: int = 0,
    limit: int | None = None,
) -> Iterator[Window]:
    """Yield the windows of a recording in order, reading only the events of one at a time.

    mode: one of MODES. window: length in the mode's unit. first: windows to skip. limit: most
    windows to yield. An empty window has no events and is yielded like any other. Raises DataError
    as ``count_windows`` does, and for whatever is wrong in the part of the file that is read.
    """
    if first < 0 or (limit is not None and limit < 0):
        raise DataError(f"first and limit must not be negative, got {first} and {limit}")
    length = _length(mode, window)
    stop = count_windows(file, mode, window)
    if limit is not None:
        stop = min(stop, first + limit)
    stamps = _stamps(file, mode) if mode not in ("events", "time") else np.zeros(0)
    for index in range(first, stop):
        if mode == "events":
            count = int(length)
            span = _Span(index * count, (index + 1) * count, 0.0, 0.0, by_count=True)
        elif mode == "time":
            span = _time_span(file, float(index * length), float((index + 1) * length))
        else:
            span = _stamp_span(file, stamps, index, length)
        yield _window(file, mode, index, span)


def _length(mode: str, window: float) -> Fraction:
    """The window's length as a fraction; DataError unless mode and length make sense."""
    if mode not in MODES:
        raise DataError(f"unknown window mode '{mode}'; choose one of {', '.join(MODES)}")
    if not math.isfinite(window) or window <= 0:
        raise DataError(f"a window must be longer than 0, got {window}")
    if mode == "events" and window != int(window):
        raise DataError(f"a window in mode 'events' is a whole number of events, got {window}")
    exact = Fraction(window)
    near = exact.limit_denominator(_LARGEST_DENOMINATOR)
    # 0.1 means a tenth here, not the binary number next to it; other values are taken as they are.
    return near if near and abs(near - exact) <= _FRACTION_SLACK * exact else exact


def _last_time(file: EventSource) -> float:
    """Time of the last event in seconds since t0, 0 where there is none."""
    if not file.num_events:
        return 0.0
    return float(file.read(file.num_events - 1, file.num_events).ts[0])


def _stamps(file: EventSource, mode: str) -> NDArray[np.float64]:
    return file.image_times() if mode == "frames" else file.flow_times(mode.removeprefix("gtflow_"))


def _time_span(file: EventSource, start: float, stop: float) -> _Span:
    return _Span(file.index_at(start), file.index_at(stop), start, stop)


def _stamp_span(
    file: EventSource, stamps: NDArray[np.float64], index: int, length: Fraction
) -> _Span:
    """Window ``index`` between stamps (flow maps or images)."""
    row, end = index * length, (index + 1) * length
    low, high = math.floor(row), math.ceil(end)
    if length < 1 and high - low > 1:
        low = high - 1
    start, stop = file.index_at(float(stamps[low])), file.index_at(float(stamps[high]))
    dt_gt = float(stamps[high] - stamps[high - 1])
    bounds = float(stamps[low]), float(stamps[high])
    if length >= 1:
        return _Span(start, stop, *bounds, gt=high, dt_gt=dt_gt)
    events = stop - start
    # A slice that begins in the interval before reaches back by that interval's share, as in the
    # original; it cannot reach back beyond the first event.
    first = max(math.trunc(start + (row - low) * events), 0)
    last = math.trunc(start + (end - low) * events)
    ends = math.ceil(end + length) != high
    return _Span(first, last, *bounds, by_count=True, gt=high, dt_gt=dt_gt, interval_end=ends)


def _window(file: EventSource, mode: str, index: int, span: _Span) -> Window:
    events = file.read(span.start, span.stop)
    first, last = span.t_start, span.t_stop
    if len(events):
        first, last = float(events.ts[0]), float(events.ts[-1])
    flow = None
    if mode.startswith("gtflow") and span.gt is not None:
        flow = file.read_flow(mode.removeprefix("gtflow_"), span.gt)
    return Window(
        index=index,
        start=span.start,
        stop=span.stop,
        t_start=first if span.by_count else span.t_start,
        t_stop=last if span.by_count else span.t_stop,
        events=events,
        flow=flow,
        dt_gt=span.dt_gt,
        dt_input=last - first if len(events) else 0.0,
        interval_end=span.interval_end,
    )

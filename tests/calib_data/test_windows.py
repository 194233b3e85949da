"""Windows against a plain transcription of the original loader's rules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.events import Events
from calib_data.hdf5 import EventFile, EventFileWriter
from calib_data.windows import MODES, count_windows, iterate_windows


@pytest.fixture
def file(recording: Path) -> Iterator[EventFile]:
    with EventFile(recording) as opened:
        yield opened


def _original(
    mode: str, window: float, ts: NDArray[np.float64], stamps: NDArray[np.float64]
) -> list[tuple[int, int]]:
    """Event ranges as event_flow's loader finds them, until it would start over."""
    ranges: list[tuple[int, int]] = []
    row = 0.0
    while True:
        if mode == "events":
            if len(ts) - row < window:
                return ranges
            ranges.append((int(row), int(row + window)))
        elif mode == "time":
            if row + window >= ts[-1]:
                return ranges
            ranges.append((int(np.searchsorted(ts, row)), int(np.searchsorted(ts, row + window))))
        else:
            low, high = math.floor(row), math.ceil(row + window)
            if high >= len(stamps):
                return ranges
            if window < 1 and high - low > 1:
                low += high - low - 1
            start, stop = (int(np.searchsorted(ts, stamps[i])) for i in (low, high))
            if window < 1:
                delta = stop - start
                start, stop = (
                    int(start + (row - low) * delta),
                    int(start + (row + window - low) * delta),
                )
            ranges.append((start, stop))
        row += window


# Lengths whose multiples are exact in binary, so that the transcription's `row += window` is exact.
@pytest.mark.parametrize(
    ("mode", "window"),
    [
        *[("events", n) for n in (1000, 1001, 333, 250, 128)],
        *[("time", s) for s in (0.5, 0.125, 1.5, 4.0)],
        *[(m, w) for m in MODES[2:4] for w in (0.125, 0.25, 0.5, 0.375, 0.75, 1, 1.5, 2, 3, 4, 5)],
        *[("gtflow_dt4", w) for w in (0.25, 0.5, 1, 2)],
    ],
)
def test_event_ranges_are_the_originals(file: EventFile, mode: str, window: float) -> None:
    ts = file.read(0, file.num_events).ts
    stamps = file.flow_times("dt4" if mode == "gtflow_dt4" else "dt1")
    expected = _original(mode, window, ts, stamps)
    windows = list(iterate_windows(file, mode, window))
    assert [(w.start, w.stop) for w in windows] == expected
    assert count_windows(file, mode, window) == len(expected)
    assert [w.index for w in windows] == list(range(len(expected)))
    for window_ in windows:
        assert len(window_.events) == window_.stop - window_.start


def test_whole_intervals(file: EventFile) -> None:
    windows = list(iterate_windows(file, "gtflow_dt1", 1))
    assert len(windows) == 4
    for number, window in enumerate(windows):
        assert (window.t_start, window.t_stop) == pytest.approx(
            (0.2 + 0.4 * number, 0.6 + 0.4 * number)
        )
        assert window.dt_gt == pytest.approx(0.4)
        assert window.flow is not None
        assert (window.flow == number + 1).all()
        assert ((window.events.ts >= window.t_start) & (window.events.ts < window.t_stop)).all()
        assert window.dt_input == window.events.ts[-1] - window.events.ts[0]
        assert window.interval_end


@pytest.mark.parametrize(("window", "slices"), [(0.25, 4), (0.1, 10), (1 / 3, 3), (0.2, 5)])
def test_slices_of_an_interval(file: EventFile, window: float, slices: int) -> None:
    whole = list(iterate_windows(file, "gtflow_dt1", 1))
    parts = list(iterate_windows(file, "gtflow_dt1", window))
    assert len(parts) == slices * len(whole)
    for number, interval in enumerate(whole):
        group = parts[slices * number : slices * (number + 1)]
        assert (group[0].start, group[-1].stop) == (interval.start, interval.stop)
        assert all(a.stop == b.start for a, b in pairwise(group))
        lengths = [len(part.events) for part in group]
        assert max(lengths) - min(lengths) <= 1
        assert [part.interval_end for part in group] == [False] * (slices - 1) + [True]
        assert all(part.flow is not None and (part.flow == number + 1).all() for part in group)
        assert all(part.dt_gt == interval.dt_gt for part in group)
        assert group[0].t_start == group[0].events.ts[0]
        assert group[0].t_stop == group[0].events.ts[-1]


def test_slices_that_do_not_divide_the_interval(file: EventFile) -> None:
    # 0.4, 0.8 | 1.2, 1.6, 2.0 | 2.4, 2.8 | 3.2, 3.6, 4.0
    ends = [w.interval_end for w in iterate_windows(file, "gtflow_dt1", 0.4)]
    assert ends == [False, True, False, False, True, False, True, False, False, True]


def test_other_modes_have_no_flow(file: EventFile) -> None:
    for mode, window in (("events", 100), ("time", 0.3), ("frames", 1)):
        for found in iterate_windows(file, mode, window):
            assert found.flow is None
            assert found.interval_end
            assert found.dt_gt == (pytest.approx(0.4) if mode == "frames" else 0)


def test_time_bounds(file: EventFile) -> None:
    windows = list(iterate_windows(file, "time", 0.1))
    np.testing.assert_allclose([w.t_start for w in windows], np.arange(len(windows)) * 0.1)
    assert len(windows) == 19
    assert all((w.events.ts < w.t_stop).all() for w in windows)


def test_time_window_that_ends_with_the_last_event_is_left_out(tmp_path: Path) -> None:
    xs = np.zeros(3, np.int16)
    with EventFileWriter(tmp_path / "x.h5", (8, 8)) as writer:
        writer.append(Events(xs, xs, np.array([0.0, 0.5, 1.0]), np.ones(3, np.int8)))
    with EventFile(tmp_path / "x.h5") as file:
        assert [(w.start, w.stop) for w in iterate_windows(file, "time", 0.5)] == [(0, 1)]
        assert count_windows(file, "time", 0.49) == 2


def test_first_and_limit(file: EventFile) -> None:
    everything = list(iterate_windows(file, "events", 100))
    some = list(iterate_windows(file, "events", 100, first=3, limit=4))
    assert [(w.index, w.start) for w in some] == [(w.index, w.start) for w in everything[3:7]]
    assert list(iterate_windows(file, "events", 100, first=10)) == []
    assert len(list(iterate_windows(file, "events", 100, first=8, limit=9))) == 2
    with pytest.raises(DataError, match="must not be negative"):
        next(iterate_windows(file, "events", 100, first=-1))


def test_quiet_windows_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "quiet.h5"
    xs = np.zeros(2, np.int16)
    with EventFileWriter(path, (8, 8)) as writer:
        writer.append(Events(xs, xs, np.array([0.05, 0.95]), np.ones(2, np.int8)))
        for number in range(11):
            writer.add_flow("dt1", number / 10, np.ones((2, 8, 8)))
    with EventFile(path) as file:
        counts = [len(w.events) for w in iterate_windows(file, "gtflow_dt1", 1)]
        assert counts == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        halves = list(iterate_windows(file, "gtflow_dt1", 0.5))
        assert sum(len(w.events) for w in halves) == 2
        assert (halves[10].t_start, halves[10].t_stop) == pytest.approx((0.5, 0.6))
        assert halves[10].dt_input == 0
        assert [len(w.events) for w in iterate_windows(file, "time", 0.3)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("mode", "window", "message"),
    [
        ("gtflow", 1, "unknown window mode 'gtflow'"),
        ("events", 0, "longer than 0"),
        ("events", 2.5, "whole number"),
        ("time", math.nan, "longer than 0"),
        ("time", math.inf, "longer than 0"),
        ("frames", -1, "longer than 0"),
    ],
)
def test_unusable_settings(file: EventFile, mode: str, window: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        count_windows(file, mode, window)
    with pytest.raises(DataError, match=message):
        next(iterate_windows(file, mode, window))


def test_missing_maps(tmp_path: Path, events: Events) -> None:
    with EventFileWriter(tmp_path / "x.h5", (12, 16)) as writer:
        writer.append(events)
    with EventFile(tmp_path / "x.h5") as file:
        for mode, group in (("frames", "images"), ("gtflow_dt4", "flow_dt4")):
            with pytest.raises(DataError, match=f"no group '{group}'"):
                next(iterate_windows(file, mode, 1))

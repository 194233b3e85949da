"""Clips in .npz files, and opening recordings by suffix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data.errors import DataError
from calib_data.events import Events
from calib_data.hdf5 import EventFile
from calib_data.npz import NpzEvents, open_events
from calib_data.windows import iterate_windows


def _write(path: Path, events: Events, **changes: Any) -> Path:
    arrays = {
        "xs": events.xs.astype(np.uint16),
        "ys": events.ys.astype(np.uint16),
        "ts": events.ts,
        "ps": events.ps > 0,
        "sensor_size": np.array([12, 16]),
        "t0": np.float64(77.5),
    }
    arrays.update(changes)
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_same_windows_as_hdf5(tmp_path: Path, recording: Path, events: Events) -> None:
    clip = _write(tmp_path / "clip.npz", events)
    with open_events(clip) as small, open_events(recording) as large:
        assert isinstance(small, NpzEvents)
        assert isinstance(large, EventFile)
        assert (small.resolution, small.t0, small.num_events) == ((12, 16), 77.5, 1000)
        assert small.duration == pytest.approx(large.duration)
        for mode, length in (("events", 300), ("time", 0.30005)):
            pairs = zip(
                iterate_windows(small, mode, length),
                iterate_windows(large, mode, length),
                strict=True,
            )
            for a, b in pairs:
                assert (a.start, a.stop) == (b.start, b.stop)
                np.testing.assert_array_equal(a.events.ps, b.events.ps)
                assert a.events.xs.dtype == b.events.xs.dtype


def test_clips_have_no_flow_or_images(tmp_path: Path, events: Events) -> None:
    clip = NpzEvents(_write(tmp_path / "clip.npz", events))
    for call in (
        lambda: clip.flow_times("dt1"),
        lambda: clip.read_flow("dt1", 0),
        clip.image_times,
        lambda: clip.read_image(0),
    ):
        with pytest.raises(DataError, match="use mode 'events' or 'time'"):
            call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ts": None}, "no array 'ts'"),
        ({"sensor_size": None}, "pass the resolution"),
        ({"sensor_size": np.array([12])}, "sensor_size is not"),
        ({"sensor_size": np.array([12, 10])}, "outside the sensor of 10 x 12"),
        ({"ts": np.zeros(3)}, "differ in length"),
        ({"ts": np.arange(1000)[::-1] * 1.0}, "timestamps go back at event 1 "),
        ({"ts": np.full(1000, np.nan)}, "event 0 has timestamp nan"),
        ({"xs": np.zeros(1000)}, "expected integers"),
        ({"t0": np.array("noon")}, "t0 is not a number of"),
        ({"xs": np.array([None] * 1000)}, "no readable .npz archive"),
    ],
)
def test_unusable_clips(
    tmp_path: Path, events: Events, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        NpzEvents(_write(tmp_path / "clip.npz", events, **changes))


def test_given_resolution(tmp_path: Path, events: Events) -> None:
    clip = _write(tmp_path / "clip.npz", events, sensor_size=None, t0=None)
    with open_events(clip, (20, 20)) as file:
        assert (file.resolution, file.t0) == ((20, 20), 0.0)
        with pytest.raises(DataError, match="asked for"):
            file.read(0, 1001)


def test_unreadable_files(tmp_path: Path, events: Events) -> None:
    clip = _write(tmp_path / "clip.npz", events)
    clip.write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"clip\.npz: no readable .npz archive"):
        open_events(clip)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_events(tmp_path / "absent.npz")
    with pytest.raises(DataError, match=r"expected \.h5, \.hdf5 or \.npz"):
        open_events(tmp_path / "events.txt")

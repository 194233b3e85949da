"""Figures of recordings against counts made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from calib_data.console import run
from calib_data.inspect import main
from calib_data.statistics import EventStatistics


def figures(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    assert run(main, [str(path), "--json", *more]) == 0
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    return told


def test_a_recording_in_figures(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(recording) as file:
        ts, ps = file["events/ts"][:], file["events/ps"][:]
        pixels = set(zip(file["events/xs"][:], file["events/ys"][:], strict=True))
    told = figures(recording, capsys, "--gap-ms", "5")
    assert told["events"] == 1000 and told["resolution"] == [12, 16]
    assert told["duration_s"] == pytest.approx(ts[-1] - ts[0])
    assert told["positive_share"] == pytest.approx(ps.mean())
    assert told["gaps"] == int((np.diff(ts) > 0.005).sum()) > 0
    assert told["longest_gap_s"] == pytest.approx(np.diff(ts).max())
    assert told["active_pixels"] == len(pixels)
    assert (told["out_of_order"], told["outside_sensor"], told["hot_pixels"]) == (0, 0, [])
    assert (told["flow_maps_dt1"], told["flow_maps_dt4"], told["images"]) == (5, 2, 5)


def test_disorder_and_events_outside_are_counted(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(recording, "r+") as file:
        file["events/ts"][500] -= 0.25
        file["events/xs"][10] = 16
    told = figures(recording, capsys)
    assert told["out_of_order"] == 1 and told["outside_sensor"] == 1
    assert 0.24 < float(str(told["largest_step_back_s"])) <= 0.25


def test_impossible_times_and_polarities_are_counted(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(recording, "r+") as file:
        for at, value in ((500, np.nan), (501, np.inf), (700, 1e300)):
            file["events/ts"][at] = value
        ps = file["events/ps"][()].astype("i1")
        ps[[3, 4]] = 7
        del file["events/ps"]
        file["events/ps"] = ps
    told = figures(recording, capsys)
    assert (told["events"], told["impossible_times"], told["odd_polarity"]) == (997, 3, 2)
    assert run(main, [str(recording)]) == 0
    text = capsys.readouterr().out
    assert "3 impossible times, 2 polarities" in text


def test_backwards_recordings_have_their_duration_and_short_ones_their_peak(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(recording, "r+") as file:
        file["events/ts"][...] = file["events/ts"][()][::-1]
        ts = file["events/ts"][()]
    told = figures(recording, capsys)
    assert told["duration_s"] == pytest.approx(ts[0] - ts[-1])
    with h5py.File(recording, "r+") as file:
        file["events/ts"][...] = 1000.25 + np.linspace(0, 0.01, 1000)
    told = figures(recording, capsys)
    assert told["peak_rate_hz"] == told["rate_hz"] == pytest.approx(100_000)


def test_maps_that_cannot_be_used_are_a_problem(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(recording, "r+") as file:
        del file["flow_dt1/flow000000001"].attrs["timestamp"]
        del file["flow_dt4"]
    told = figures(recording, capsys)
    assert (told["flow_maps_dt1"], told["flow_maps_dt4"], told["images"]) == (0, 0, 5)
    (problem,) = told["problems"]  # type: ignore[misc]
    assert "flow_dt1/flow000000001 has no attribute 'timestamp'" in problem


def test_a_sensor_that_cannot_be_is_refused(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in ([32767, 32767], [0, 4], [np.nan, 4.0], [1, 2, 3]):
        with h5py.File(recording, "r+") as file:
            file.attrs["sensor_resolution"] = np.array(size)
        assert run(main, [str(recording)]) == 2
        assert "resolution" in capsys.readouterr().err


@pytest.mark.parametrize("cuts", [[], [7], [10, 11, 20]])
def test_hot_pixels_however_the_events_are_cut(cuts: list[int]) -> None:
    # Pixel (3, 2) fires in 9 of 10 windows, pixel (1, 0) in 8 of 10, which is not above the limit.
    windows = np.arange(10)
    hot, edge = windows[windows != 4], windows[2:]
    xs = np.concatenate([np.full(9, 3), np.full(8, 1), windows % 5 + 5])
    ys = np.concatenate([np.full(9, 2), np.full(8, 0), windows // 5])
    ts = (np.concatenate([hot, edge, windows]) + 0.5) * 0.1
    order = np.argsort(ts, kind="stable")
    statistics = EventStatistics((8, 10), hot_window_s=0.1)
    statistics.add(np.array([9]), np.array([7]), np.array([0.0]), np.array([1]))
    for part in np.split(order, cuts):
        statistics.add(xs[part], ys[part], ts[part], np.ones(len(part)))
    assert statistics.hot_pixels() == [(3, 2, 0.9)]
    assert statistics.rate_over_time().sum() == 28 and statistics.counts[2, 3] == 9


def test_the_picture_is_a_png(recording: Path, tmp_path: Path) -> None:
    assert run(main, [str(recording), "--plot", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_recording_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.h5").write_bytes(b"nothing")
    assert run(main, [str(tmp_path / "a.h5")]) == 2
    assert "a.h5" in capsys.readouterr().err

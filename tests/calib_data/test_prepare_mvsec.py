"""MVSEC's files to the event_flow layout: events unchanged, flow as the motion's closed form."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from calib_data import EventFile
from calib_data.console import run
from calib_data.motion import CameraMotion, SmoothPath
from calib_data.prepare import main
from tests.calib_data import mvsec_files
from tests.calib_data.mvsec_files import FRAME_S, MAP_S, SENSOR, START

CROP = (32, 48)
TOP, LEFT = (SENSOR[0] - CROP[0]) // 2, (SENSOR[1] - CROP[1]) // 2
AREA = (slice(TOP, TOP + CROP[0]), slice(LEFT, LEFT + CROP[1]))


def prepare(root: Path, out: Path, *more: str) -> int:
    return run(main, ["mvsec", str(root), str(out), "--crop", "32", "48", *more])


def same_content(first: Path, second: Path) -> None:
    """Every dataset and attribute is equal but for what names the source files."""

    def content(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def take(name: str, node: h5py.Group | h5py.Dataset) -> None:
            found[name] = [node.attrs.get("timestamp")]
            if isinstance(node, h5py.Dataset):
                found[name] += [node.dtype, node[()].tolist()]

        with h5py.File(path) as file:
            file.visititems(take)
            found |= {k: np.asarray(v).tolist() for k, v in file.attrs.items()}
        del found["prepared_from"]
        return found

    assert content(first) == content(second)


@pytest.mark.parametrize("form", ["hdf5", "npz"])
def test_events_and_images_are_those_of_the_source(tmp_path: Path, form: str) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera(), form=form)
    assert prepare(files.root, tmp_path / "out", "--verify") == 0
    x, y, t, p = files.events.T
    inside = (x >= LEFT) & (x < LEFT + CROP[1]) & (y >= TOP) & (y < TOP + CROP[0])
    with EventFile(tmp_path / "out/indoor.h5") as file:
        events = file.read(0, file.num_events)
        assert file.resolution == CROP
        assert np.array_equal(events.xs, x[inside] - LEFT)
        assert np.array_equal(events.ys, y[inside] - TOP)
        assert np.array_equal(events.ts, t[inside] - START)
        assert np.array_equal(events.ps, p[inside])
        assert np.array_equal(file.image_times(), files.frames - START)
        for number in range(len(files.frames)):
            assert np.array_equal(file.read_image(number), files.images[number][AREA])


@pytest.mark.parametrize(("dt", "step"), [("dt1", 1), ("dt4", 4)])
@pytest.mark.parametrize("form", ["hdf5", "npz"])
def test_flow_is_the_closed_form_within_the_stated_bound(
    tmp_path: Path, form: str, dt: str, step: int
) -> None:
    speed, rotation, sway, frequency = 47.2, abs(0.1 + 0.3j), 4.0, 0.7
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera(), form=form)
    assert prepare(files.root, tmp_path / "out") == 0
    # The largest speed and acceleration of a visible point; the corner is 50 px from the middle,
    # and the middle itself moves at most `speed` * 0.5 s plus the sway.
    reach = 50 + speed * 0.5 + sway
    waves = sway * 2 * np.pi * frequency
    fastest = speed + waves + rotation * reach
    hardest = waves * 2 * np.pi * frequency + rotation * (rotation * reach + speed + waves)
    change = rotation * MAP_S * 1.1
    long = step * FRAME_S
    bound = (
        1.5 * hardest * MAP_S * long + 1.1 * rotation * fastest * long * MAP_S
        if long < MAP_S
        else 2 * hardest * MAP_S**2 / 8 + change / np.sqrt(2) * np.ceil(long / MAP_S) * 1.1
    )
    with EventFile(tmp_path / "out/indoor.h5") as file:
        times = file.flow_times(dt)
        assert np.array_equal(times, files.frames[::step] - START)
        assert not file.read_flow(dt, 0).any()
        for number in range(1, len(times)):
            exact = mvsec_files.forward_flow(files.motion, times[number - 1], times[number])
            flow = file.read_flow(dt, number)
            known = flow.any(axis=0)
            assert known.mean() > 0.9
            error = np.hypot(*(flow - exact[:, *AREA]))[known].max()
            assert error < bound, (dt, number)
            assert bound < 0.25 * np.hypot(*exact).max()


@pytest.mark.parametrize("dt", ["dt1", "dt4"])
def test_steady_motion_is_reproduced_to_rounding(tmp_path: Path, dt: str) -> None:
    motion = CameraMotion(0j, SmoothPath(drift=30 - 20j))
    files = mvsec_files.write(tmp_path / "in", "pan", motion)
    assert prepare(files.root, tmp_path / "out") == 0
    with EventFile(tmp_path / "out/pan.h5") as file:
        times = file.flow_times(dt)
        for number in range(1, len(times)):
            exact = np.array([30, -20]) * (times[number] - times[number - 1])
            assert np.abs(file.read_flow(dt, number) - exact[:, None, None]).max() < 1e-4


@pytest.mark.parametrize("ros2", [None, "sqlite3", "mcap"])
def test_bags_give_what_hdf5_gives(
    tmp_path: Path, ros2: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera(), form="npz")
    assert prepare(files.root, tmp_path / "hdf5") == 0
    mvsec_files.write_bags(files, "indoor", ros2)
    (files.root / "indoor_data.hdf5").unlink()
    assert prepare(files.root, tmp_path / "bag", "--verify") == 0
    assert "read back and found equal" in capsys.readouterr().out
    same_content(tmp_path / "hdf5/indoor.h5", tmp_path / "bag/indoor.h5")
    for changed in (False, True):
        if changed:
            part = next((files.root / ("indoor_data" if ros2 else ".")).glob("indoor_data*.*"))
            os.utime(part, (1, 1))
        assert prepare(files.root, tmp_path / "bag", "--resume") == 0
        assert ("finished before" in capsys.readouterr().out) is not changed
    (files.root / "indoor_gt_flow_dist.npz").unlink()
    assert prepare(files.root, tmp_path / "without") == 0
    told = capsys.readouterr().out
    assert "written without flow" in told
    assert ros2 or "indoor_gt.bag holds depth and poses, not flow" in told


def test_ros2_bags_without_message_definitions(tmp_path: Path) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    assert prepare(files.root, tmp_path / "hdf5") == 0
    mvsec_files.write_bags(files, "indoor", "sqlite3")
    (files.root / "indoor_data.hdf5").unlink()
    with contextlib.closing(sqlite3.connect(files.root / "indoor_data/indoor_data.db3")) as base:
        base.execute("DELETE FROM message_definitions")
        base.commit()
    assert prepare(files.root, tmp_path / "bag") == 0
    same_content(tmp_path / "hdf5/indoor.h5", tmp_path / "bag/indoor.h5")


def test_points_that_meet_unknown_pixels_have_no_ground_truth(tmp_path: Path) -> None:
    motion = CameraMotion(0j, SmoothPath(drift=100 + 0j))
    files = mvsec_files.write(tmp_path / "in", "pan", motion)
    with h5py.File(files.root / "pan_gt.hdf5", "r+") as file:
        file["davis/left/flow_dist"][:, :, :, 40:44] = np.nan
    assert prepare(files.root, tmp_path / "out") == 0
    with EventFile(tmp_path / "out/pan.h5") as file:
        known = file.read_flow("dt4", 1).any(axis=0)
    # Maps are looked up 3.7, 8.7 and 13.7... px on; what lies so far before the hole falls into it.
    columns = np.flatnonzero(~known.any(axis=0)) + LEFT
    assert {40, 41, 42, 43} <= set(columns.tolist())
    assert columns.min() < 37
    assert known[:, : columns.min() - LEFT].all()


def test_a_damaged_sequence_is_told_and_the_others_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mvsec_files.write(tmp_path / "in", "good", mvsec_files.camera())
    bad = mvsec_files.write(tmp_path / "in", "bad", mvsec_files.camera())
    with h5py.File(bad.root / "bad_data.hdf5", "r+") as file:
        file["davis/left/events"][1000, 0] = 900
    assert prepare(bad.root, tmp_path / "out", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [summary["name"] for summary in told["written"]] == ["good"]
    assert "x = 900" in told["failed"]["bad"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.h5"]


def test_resuming_redoes_only_what_is_missing_or_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        mvsec_files.write(tmp_path / "in", name, mvsec_files.camera())
    for wanted, more in ((["one", "two"], []), ([], []), (["one", "two"], ["--stop", "0.2"])):
        assert prepare(tmp_path / "in", tmp_path / "out", "--resume", "--json", *more) == 0
        told = json.loads(capsys.readouterr().out)
        assert [summary["name"] for summary in told["written"]] == wanted
    (tmp_path / "out/two.h5").unlink()
    arguments = ("--resume", "--json", "--stop", "0.2")
    assert prepare(tmp_path / "in", tmp_path / "out", *arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["skipped"] == ["one"] and [s["name"] for s in told["written"]] == ["two"]

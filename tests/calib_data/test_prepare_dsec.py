"""DSEC's files to the event_flow layout: rectified events and flow maps as in the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from calib_data import EventFile, Events
from calib_data.console import run
from calib_data.prepare import main
from calib_data.prepare.dsec import KNOWN_ZERO
from calib_data.windows import iterate_windows
from tests.calib_data.recording_files import write_dsec, write_png16

SIZE = (24, 32)
OFFSET = 55_609_000_000
# The second begins where the first ends, the third after a pause; the last ends after the events.
INTERVALS = np.array(
    [[30_000, 130_002], [130_002, 230_001], [330_000, 430_004], [430_004, 990_000]]
)


class Sequence:
    """A generated sequence: its folder and what is in it."""

    def __init__(self, root: Path, flow: str = "flow") -> None:
        rng = np.random.default_rng(1)
        self.folder = root / "thun_00_a"
        place = self.folder / "events/left"
        self.flow_folder = self.folder / flow
        place.mkdir(parents=True)
        (self.flow_folder / "forward").mkdir(parents=True)
        self.events = Events(
            rng.integers(0, SIZE[1], 3000).astype(np.int16),
            rng.integers(0, SIZE[0], 3000).astype(np.int16),
            np.sort(rng.integers(OFFSET, OFFSET + 600_000, 3000)) / 1e6,
            rng.choice(np.array([-1, 1], np.int8), 3000),
        )
        write_dsec(place / "events.h5", self.events, OFFSET)
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
        with h5py.File(place / "rectify_map.h5", "w") as file:
            file["rectify_map"] = np.stack([columns + 3.3, rows - 2.2], axis=-1)
        lines = [f"{start + OFFSET}, {end + OFFSET}\n" for start, end in INTERVALS]
        self.stamps = self.flow_folder / "forward_timestamps.txt"
        self.stamps.write_text("# from_timestamp_us, to_timestamp_us\n" + "".join(lines))
        self.maps = [self._map(rng, number) for number in range(len(INTERVALS))]

    def _map(self, rng: np.random.Generator, number: int) -> NDArray[np.float64]:
        """Write a picture; its flow with NaN where it is not valid."""
        picture = rng.integers(0, 65536, (*SIZE, 3)).astype(np.uint16)
        picture[0, :3, :2] = [[2**15, 2**15], [2**15, 2**15 + 1], [2**15 - 1, 2**15]]
        picture[..., 2] = rng.random(SIZE) < 0.6
        picture[0, :3, 2] = 1
        write_png16(self.flow_folder / f"forward/{2 * number + 134:06d}.png", picture)
        flow = np.moveaxis(picture[..., :2].astype(np.float64) - 2**15, -1, 0) / 128
        flow[:, picture[..., 2] == 0] = np.nan
        return flow


def prepare(root: Path, out: Path, *more: str) -> int:
    size = ("--resolution", *map(str, SIZE))
    return run(main, ["dsec", str(root), str(out), "--verify", *size, *more])


@pytest.fixture
def sequence(tmp_path: Path) -> Sequence:
    pytest.importorskip("cv2")
    return Sequence(tmp_path / "in")


def test_flow_maps_and_windows_are_those_of_the_pictures(
    tmp_path: Path, sequence: Sequence, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path / "in", tmp_path / "out", "--rectify") == 0
    told = capsys.readouterr().out
    assert "events are rectified" in told and "1 flow maps left out" in told
    made = sequence.events
    xs, ys = made.xs + 3, made.ys - 2
    inside = (xs < SIZE[1]) & (ys >= 0)
    micros = np.rint(made.ts[inside] * 1e6).astype(np.int64) - OFFSET
    # Empty windows mark the beginning and the pause.
    wanted = [(*INTERVALS[0], 0), (*INTERVALS[1], 1), (230_001, 330_000, None), (*INTERVALS[2], 2)]
    with EventFile(tmp_path / "out/thun_00_a.h5") as file:
        assert file.num_events == inside.sum()
        windows = list(iterate_windows(file, "gtflow_dt1", 1))
        assert len(windows) == len(wanted)
        for window, (start, end, number) in zip(windows, wanted, strict=True):
            part = (micros >= start) & (micros < end)
            assert np.array_equal(window.events.xs, xs[inside][part])
            assert np.array_equal(window.events.ys, ys[inside][part])
            assert window.dt_gt == pytest.approx((end - start) / 1e6, abs=1e-6)
            assert window.flow is not None
            if number is None:
                assert not window.flow.any()
            else:
                same_flow(window.flow, sequence.maps[number])
    with h5py.File(tmp_path / "out/thun_00_a.h5") as written:
        assert written.attrs["rectified"]


def same_flow(found: NDArray[np.float32], wanted: NDArray[np.float64]) -> None:
    known = np.isfinite(wanted[0])
    assert np.array_equal(found.any(axis=0), known)
    still = known & ~np.nan_to_num(wanted).any(axis=0)
    assert still[0, 0] and np.array_equal(found[:, 0, 0], np.float32([KNOWN_ZERO, 0]))
    exact = known & ~still
    assert np.array_equal(found[:, exact], wanted[:, exact].astype(np.float32))


def test_flow_is_left_out_of_events_that_are_not_rectified(
    tmp_path: Path, sequence: Sequence, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path / "in", tmp_path / "out", "--json") == 0
    (summary,) = json.loads(capsys.readouterr().out)["written"]
    assert summary["flow_maps_dt1"] == 0 and "pass --rectify" in summary["notes"][0]
    with EventFile(tmp_path / "out/thun_00_a.h5") as file:
        assert np.array_equal(file.read(0, file.num_events).xs, sequence.events.xs)


def test_flow_where_the_archives_unpack_to(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    flow = "../../train_optical_flow/thun_00_a/flow"
    Sequence(tmp_path / "in/train_events", flow)
    assert prepare(tmp_path / "in", tmp_path / "out", "--rectify") == 0
    with EventFile(tmp_path / "out/thun_00_a.h5") as file:
        assert len(file.flow_times("dt1")) == 5


@pytest.mark.parametrize("damage", ["cut", "missing", "8 bit", "overlap", "text", "empty"])
def test_damaged_ground_truth_is_one_error(
    tmp_path: Path, sequence: Sequence, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = sequence.flow_folder / "forward/000136.png"
    if damage == "cut":
        picture.write_bytes(picture.read_bytes()[:900])
    elif damage == "empty":
        picture.write_bytes(b"")
    elif damage == "missing":
        picture.unlink()
    elif damage == "8 bit":
        cv2 = pytest.importorskip("cv2")
        cv2.imwrite(str(picture), np.zeros((*SIZE, 3), np.uint8))
    elif damage == "overlap":
        sequence.stamps.write_text("1, 5\n4, 9\n9, 12\n12, 14\n")
    else:
        sequence.stamps.write_text("one, two\n")
    assert prepare(tmp_path / "in", tmp_path / "out", "--rectify") == 1
    told = capsys.readouterr().err
    assert told.count("error:") == 1 and ("000136.png" in told or "forward_timestamps" in told)
    assert not list((tmp_path / "out").glob("*"))

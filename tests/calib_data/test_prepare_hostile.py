"""Damaged sources, interrupted runs, full disks: one clear error or a repair, never less data."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from calib_data import EventFile, Events
from calib_data.console import run
from calib_data.files import held
from calib_data.prepare import main
from tests.calib_data import mvsec_files
from tests.calib_data.recording_files import lines, write_aedat4, write_dat, write_evt2

Array = NDArray[Any]
EVENTS, STAMPS = "davis/left/events", "davis/left/flow_dist_ts"


def prepare(root: Path, out: Path, *more: str) -> int:
    return run(main, ["mvsec", str(root), str(out), "--crop", "32", "48", *more])


def replaced(path: Path, name: str, change: Callable[[Array], Array]) -> None:
    with h5py.File(path, "r+") as file:
        values = change(file[name][()])
        del file[name]
        file[name] = values


def with_value(column: int, value: float) -> Callable[[Array], Array]:
    def change(values: Array) -> Array:
        values[500, column] = value
        return values

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_value(2, np.nan), "event 500 has timestamp nan"),
        (with_value(2, np.inf), "event 500 has timestamp inf"),
        (with_value(0, np.nan), "row 500 of davis/left/events is (nan,"),
        (with_value(0, 1e300), "row 500 of davis/left/events is (1e+300,"),
        (with_value(0, 3.5), "row 500 of davis/left/events is (3.5,"),
        (with_value(1, -1), "has y = -1, outside the sensor"),
        (with_value(3, 7), "has polarity 7"),
        (lambda values: values[::-1], "earlier than one before it"),
        (lambda values: values[:0], "no events"),
        (lambda values: values[values[:, 0] < 10], "no events inside the crop"),
        (lambda values: values[:, :3], "expected float [N, 4]"),
    ],
)
def test_events_that_cannot_be_are_one_error(
    tmp_path: Path,
    change: Callable[[Array], Array],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    replaced(files.root / "indoor_data.hdf5", EVENTS, change)
    assert prepare(files.root, tmp_path / "out") != 0
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (STAMPS, lambda values: np.where(np.arange(len(values)) == 3, np.nan, values), "stamp nan"),
        (STAMPS, lambda values: np.append(values[:-1], np.inf), "stamp inf"),
        (STAMPS, lambda values: values[::-1], "stamps must increase"),
        (STAMPS, lambda values: values[:-1], "one stamp each"),
        (STAMPS, lambda values: values.astype("S20"), "expected float64 seconds"),
        ("davis/left/flow_dist", lambda values: values[..., :-1], "a map or image of (60, 79)"),
    ],
)
def test_ground_truth_that_cannot_be_is_one_error(
    tmp_path: Path,
    name: str,
    change: Callable[[Array], Array],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    replaced(files.root / "indoor_gt.hdf5", name, change)
    assert prepare(files.root, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


def test_ground_truth_of_another_time_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    replaced(files.root / "indoor_gt.hdf5", STAMPS, lambda values: values + 1e4)
    assert prepare(files.root, tmp_path / "out", "--json") == 0
    (summary,) = json.loads(capsys.readouterr().out)["written"]
    assert summary["flow_maps_dt1"] == 0 and "flow maps left out: they cover" in summary["notes"][0]


def test_flow_beyond_all_bounds_leaves_the_image(tmp_path: Path) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    replaced(files.root / "indoor_gt.hdf5", "davis/left/flow_dist", lambda values: values * 1e30)
    assert prepare(files.root, tmp_path / "out") == 0
    with EventFile(tmp_path / "out/indoor.h5") as file:
        assert not file.read_flow("dt4", 1).any()


def test_archives_with_wrong_checksums_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera(), form="npz")
    flow = files.root / "indoor_gt_flow_dist.npz"
    data = bytearray(flow.read_bytes())
    data[len(data) // 2] ^= 255
    flow.write_bytes(data)
    assert prepare(files.root, tmp_path / "out") == 1
    assert "_flow_dist is damaged (Bad CRC-32" in capsys.readouterr().err
    packed = tmp_path / "text.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("events.txt", lines(some_events()))
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 255
    packed.write_bytes(data)
    arguments = ["text", str(packed), str(tmp_path / "out"), "--resolution", "480", "640"]
    assert run(main, arguments) == 1
    assert "text.zip" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def some_events() -> Events:
    rng = np.random.default_rng(0)
    return Events(
        rng.integers(0, 640, 300).astype(np.int16),
        rng.integers(0, 480, 300).astype(np.int16),
        np.sort(rng.integers(0, 1_000_000, 300)) / 1e6,
        rng.choice(np.array([-1, 1], np.int8), 300),
    )


@pytest.mark.parametrize(("name", "write"), [("a.raw", write_evt2), ("a.dat", write_dat)])
def test_a_recording_cut_within_an_event_keeps_those_before(
    tmp_path: Path,
    name: str,
    write: Callable[[Path, Events], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = some_events()
    write(tmp_path / name, made)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    assert run(main, ["prophesee", str(tmp_path / name), str(tmp_path / "out")]) == 0
    assert "the recording was cut off" in capsys.readouterr().out
    with EventFile(tmp_path / "out/a.h5") as file:
        assert np.array_equal(file.read(0, file.num_events).xs, made.xs[:-1])


def test_evt21_is_not_taken_for_evt2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = b"% evt 2.1\n% format EVT21;height=480;width=640\n% end\n"
    (tmp_path / "a.raw").write_bytes(header + bytes(64))
    assert run(main, ["prophesee", str(tmp_path / "a.raw"), str(tmp_path / "out")]) == 2
    assert "neither EVT2 nor EVT3" in capsys.readouterr().err


def test_damaged_aedat4_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("aedat")
    path = tmp_path / "a.aedat4"
    write_aedat4(path, some_events(), "lz4")
    whole = path.read_bytes()
    packets = 18 + int.from_bytes(whole[14:18], "little")
    damages = {
        "no AEDAT 4.0 header": b"#!AER-DAT3.1\r\n" + whole[14:],
        "cut off": whole[:600],
        "utf-8": whole.replace(b"typeIdentifier", b"type\xffdentifier"),
        "mismatched tag": whole.replace(b"</dv>", b"</dw>"),
        "missing sizeX": whole.replace(b"sizeX", b"sizeZ"),
        "to its end": whole[:-5],
        # A packet of no bytes, on which the package panics.
        "to its end (": whole[:packets] + bytes(4) + (4).to_bytes(4, "little") + bytes(40),
    }
    for told, data in damages.items():
        path.write_bytes(data)
        assert run(main, ["aedat4", str(path), str(tmp_path / "out")]) != 0
        error = capsys.readouterr().err
        assert told in error and error.startswith("error: ") and error.count("\n") == 1
        assert not list((tmp_path / "out").glob("*"))


def test_a_file_that_cannot_be_opened_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        mvsec_files.write(tmp_path / "in", name, mvsec_files.camera())
    for path in (tmp_path / "in/a_data.hdf5", tmp_path / "in/b_gt.hdf5"):
        path.write_bytes(path.read_bytes()[:20_000])
    assert prepare(tmp_path / "in", tmp_path / "out", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [summary["name"] for summary in told["written"]] == ["c"]
    assert {name: "damaged or cut off" in why for name, why in told["failed"].items()} == {
        "a": True,
        "b": True,
    }


# --- interrupted runs -----------------------------------------------------------------------------

_INTERRUPTED = """
import os, signal, sys
from calib_data.console import run
from calib_data.hdf5 import EventFileWriter
from calib_data.prepare import main

number, *arguments = sys.argv[1:]
write = EventFileWriter.add_image

def interrupted(self, seconds, image):
    if self._counts.get("images") == 5:
        os.kill(os.getpid(), int(number))
    write(self, seconds, image)

EventFileWriter.add_image = interrupted
sys.exit(run(main, arguments))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_an_interrupted_run_leaves_no_part_and_resumes_to_the_same_file(
    tmp_path: Path, name: str
) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    assert prepare(files.root, tmp_path / "whole") == 0
    arguments = ("mvsec", str(files.root), str(tmp_path / "out"), "--crop", "32", "48")
    number = str(int(signal.Signals[name]))
    command = [sys.executable, "-c", _INTERRUPTED, number, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (130 if name == "SIGINT" else -signal.SIGKILL)
    assert done.stderr == ("interrupted\n" if name == "SIGINT" else "")
    assert not (tmp_path / "out/indoor.h5").exists()
    assert prepare(files.root, tmp_path / "out", "--resume") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["indoor.h5"]
    assert (tmp_path / "out/indoor.h5").read_bytes() == (tmp_path / "whole/indoor.h5").read_bytes()


@pytest.mark.parametrize(("compression", "size"), [("none", 200_000), ("gzip", 1_000)])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    tmp_path: Path, compression: str, size: int
) -> None:
    """Whether it is found while events are written, or only when the file is closed."""
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    arguments = ["mvsec", str(files.root), str(tmp_path / "out"), "--compression", compression]
    if compression == "gzip":
        arguments += ["--no-images", "--stop", "0.02"]
    done = subprocess.run(
        [sys.executable, "-m", "calib_data.prepare", *arguments, "--crop", "32", "48"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == f"error: indoor: {tmp_path}/out/indoor.h5: File too large\n"
    assert not list((tmp_path / "out").glob("*"))


def test_one_process_at_a_time_writes_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    other = tmp_path / "out/.outdoor.abcd1234.h5"
    with held(tmp_path / "out/indoor.h5"):
        other.write_bytes(b"of a run that goes on")
        assert prepare(files.root, tmp_path / "out") == 1
        assert "another process is writing it" in capsys.readouterr().err
    assert prepare(files.root, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [other.name, "indoor.h5"]


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    (tmp_path / "file").write_text("")
    for out in (Path("/proc/prepared"), tmp_path / "file", tmp_path / "file/below"):
        assert prepare(files.root, out) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1

"""Other formats to the event_flow layout: what was put in is what comes out."""

from __future__ import annotations

import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from calib_data import EventFile, Events
from calib_data.console import run
from calib_data.prepare import main
from calib_data.prepare.evt3 import Decoder
from calib_data.prepare.prophesee import DatDecoder
from tests.calib_data.recording_files import (
    SIZE,
    lines,
    write_aedat4,
    write_bag,
    write_dat,
    write_dsec,
    write_evt2,
    write_evt3,
    write_text,
)

FORMATS = {
    "text": ("text", "hall.txt", write_text),
    "dsec": ("dsec", "hall.h5", write_dsec),
    "evt2": ("prophesee", "hall.raw", write_evt2),
    "evt3": ("prophesee", "hall.raw", write_evt3),
    "dat": ("prophesee", "hall.dat", write_dat),
    "aedat4": ("aedat4", "hall.aedat4", write_aedat4),
    "ros1": ("rosbag", "hall.bag", lambda path, made: write_bag(path, {TOPIC: made}, {})),
    "ros2": ("rosbag", "hall", lambda path, made: write_bag(path, {TOPIC: made}, {}, ros2="mcap")),
}
TOPIC = "/dvs/events"


@pytest.fixture
def made() -> Events:
    """2000 events over 40 s on microseconds, so that 24-bit times begin again twice."""
    rng = np.random.default_rng(3)
    ts = np.sort(rng.integers(2_000_000, 42_000_000, 2000)) / 1e6
    return Events(
        rng.integers(0, SIZE[1], 2000).astype(np.int16),
        rng.integers(0, SIZE[0], 2000).astype(np.int16),
        ts,
        rng.choice(np.array([-1, 1], np.int8), 2000),
    )


def check(path: Path, made: Events) -> None:
    with EventFile(path) as file:
        found = file.read(0, file.num_events)
        assert file.resolution == SIZE
    for name in ("xs", "ys", "ps"):
        assert np.array_equal(getattr(found, name), getattr(made, name)), name
    assert np.abs(found.ts - (made.ts - made.ts[0])).max() < 1e-9


def written(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of events as they stand in a file."""
    with h5py.File(path) as file:
        if "blosc" in path.parts:
            hdf5plugin = pytest.importorskip("hdf5plugin")
            assert str(hdf5plugin.Blosc.filter_id) in file["events/ts"]._filters
        return {name: file[f"events/{name}"][()] for name in ("xs", "ys", "ts", "ps")}


def prepare(kind: str, source: Path, out: Path, *more: str) -> int:
    return run(main, [kind, str(source), str(out), "--verify", *more])


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_and_compression_gives_the_same_file(
    tmp_path: Path, made: Events, form: str
) -> None:
    pytest.importorskip("hdf5plugin")
    kind, name, write = FORMATS[form]
    write(tmp_path / name, made)
    for compression in ("gzip", "blosc", "lzf", "none") if form == "text" else ("gzip", "blosc"):
        more = ("--resolution", "480", "640", "--compression", compression)
        assert prepare(kind, tmp_path / name, tmp_path / compression, *more) == 0
        check(tmp_path / compression / "hall.h5", made)
        found = written(tmp_path / compression / "hall.h5")
        assert np.array_equal(found["xs"], made.xs) and np.array_equal(found["ys"], made.ys)
        assert np.array_equal(found["ps"], made.ps > 0)
        # Seconds on the source's clock; a subtraction and an addition of the start may round.
        assert np.abs(found["ts"] - made.ts).max() <= np.spacing(42.0)
        assert all(
            np.array_equal(found[k], v) for k, v in written(tmp_path / "gzip/hall.h5").items()
        )


@pytest.mark.parametrize("compression", ["lz4", "lz4-high", "zstd", "zstd-high"])
def test_compressed_aedat4_with_images(tmp_path: Path, made: Events, compression: str) -> None:
    rng = np.random.default_rng(0)
    images = [(3_000_000 + 10_000 * k, rng.integers(0, 256, SIZE).astype("u1")) for k in range(2)]
    write_aedat4(tmp_path / "hall.aedat4", made, compression, tuple(images))
    assert prepare("aedat4", tmp_path, tmp_path / "out") == 0
    check(tmp_path / "out/hall.h5", made)
    with EventFile(tmp_path / "out/hall.h5") as file:
        assert np.allclose(file.image_times(), [t / 1e6 - made.ts[0] for t, _ in images], atol=1e-9)
        for number, (_, image) in enumerate(images):
            assert np.array_equal(file.read_image(number), image)


def test_text_in_a_folder_and_in_a_zip(
    tmp_path: Path, made: Events, capsys: pytest.CaptureFixture[str]
) -> None:
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", SIZE[1], SIZE[0])
    folder = tmp_path / "in/shapes"
    (folder / "images").mkdir(parents=True)
    (folder / "events.txt").write_text(lines(made))
    (folder / "images/frame_0.png").write_bytes(png)
    with zipfile.ZipFile(tmp_path / "in/indoor.zip", "w") as archive:
        # As in UZH-FPV's archives.
        archive.writestr("events.txt", lines(made))
        archive.writestr("groundtruth.txt", "# timestamp tx ty tz qx qy qz qw\n2.0 0 0 1 0 0 0 1\n")
        archive.writestr("imu.txt", "# timestamp wx wy wz ax ay az\n2.0 0 0 0 0 0 9.8\n")
        archive.writestr("images.txt", "# id timestamp image_name\n0 2.0 img/image_0_0.png\n")
        archive.writestr("img/image_0_0.png", png)
    assert prepare("text", tmp_path / "in", tmp_path / "out") == 0
    note = "groundtruth.txt holds poses of the camera, not flow: written without flow"
    assert capsys.readouterr().out.count(note) == 1
    check(tmp_path / "out/shapes.h5", made)
    check(tmp_path / "out/indoor.h5", made)


def test_text_that_is_none_names_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.txt").write_text("0.1 3 4 1\n0.2 3 x 1\n")
    arguments = (tmp_path / "events.txt", tmp_path / "out", "--resolution", "48", "64")
    assert prepare("text", *arguments) == 1
    assert "from line 1 on" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def test_a_sensor_of_unknown_size_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.txt").write_text("0.1 3 4 1\n")
    assert prepare("text", tmp_path, tmp_path / "out") == 2
    assert "--resolution" in capsys.readouterr().err


def test_dsec(tmp_path: Path, made: Events) -> None:
    folder = tmp_path / "in/zurich/events/left"
    folder.mkdir(parents=True)
    write_dsec(folder / "events.h5", made)
    assert prepare("dsec", tmp_path / "in", tmp_path / "out") == 0
    check(tmp_path / "out/zurich.h5", made)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    with h5py.File(folder / "rectify_map.h5", "w") as file:
        file["rectify_map"] = np.stack([columns + 10.3, rows - 5.2], axis=-1)
    assert prepare("dsec", tmp_path / "in", tmp_path / "out", "--rectify") == 0
    inside = (made.xs < SIZE[1] - 10) & (made.ys >= 5)
    with EventFile(tmp_path / "out/zurich.h5") as file:
        found = file.read(0, file.num_events)
    assert np.array_equal(found.xs, made.xs[inside] + 10)
    assert np.array_equal(found.ys, made.ys[inside] - 5)


def test_evt3_vectors_and_pieces() -> None:
    words = [0x0005, 0x2001, 0x8001, 0x6002, 0x0007, 0x3800 | 30, 0x4805, 0x5081, 0x6003, 0x200A]
    data = np.array(words, "<u2").tobytes()
    # The event before the first time is dropped; bits 0, 2, 11 from 30 on, then 0, 7 from 42 on.
    wanted = ([30, 32, 41, 42, 49, 10], [1, 1, 1, 1, 1, 0], [4098] * 5 + [4099])
    for size in (1, 2, 3, 6, len(data)):
        decoder = Decoder()
        parts = [decoder.decode(data[at : at + size]) for at in range(0, len(data), size)]
        xs, ys, ts, ps = (np.concatenate(column) for column in zip(*parts, strict=True))
        assert (xs.tolist(), ps.tolist()) == (wanted[0], [bool(p) for p in wanted[1]]), size
        assert np.rint(ts * 1e6).tolist() == wanted[2] and set(ys) == {7}


@pytest.mark.parametrize("form", ["evt2", "evt3", "dat"])
def test_prophesee_files_are_read_in_pieces(
    tmp_path: Path, made: Events, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib_data.prepare.prophesee._PIECE", 1001)
    kind, name, write = FORMATS[form]
    write(tmp_path / name, made)
    assert prepare(kind, tmp_path / name, tmp_path / "out") == 0
    check(tmp_path / "out/hall.h5", made)


def test_dat_times_begin_again() -> None:
    words = np.array([[2**32 - 5, 7], [3, 7], [2**32 - 1, 7], [0, 7 | 1 << 28]], "<u4").tobytes()
    decoder = DatDecoder()
    blocks = [decoder.decode(words[:16]), decoder.decode(words[16:])]
    ts = np.concatenate([block.ts for block in blocks])
    assert np.rint(ts * 1e6).tolist() == [2**32 - 5, 2**32 + 3, 2**33 - 1, 2**33]
    assert [p for block in blocks for p in block.ps] == [False, False, False, True]


def test_a_package_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "aedat", None)
    (tmp_path / "a.aedat4").write_bytes(b"")
    assert prepare("aedat4", tmp_path, tmp_path / "out") == 2
    assert "spikedeploy[io]" in capsys.readouterr().err


def test_late_events_are_sorted_in_refused_or_dropped(tmp_path: Path, made: Events) -> None:
    ts = made.ts.copy()
    near = 100 + int(np.argmax((steps := np.diff(ts[100:1000])) < 0.005))
    assert 0 < steps[near - 100] < 0.005
    ts[[near, near + 1]] = ts[[near + 1, near]]
    ts[1500] -= 20.0
    text = lines(Events(made.xs, made.ys, ts, made.ps))
    (tmp_path / "events.txt").write_text(text)
    wide = ("--resolution", "480", "640", "--reorder-ms", "30000")
    assert prepare("text", tmp_path / "events.txt", tmp_path / "out", *wide) == 0
    order = np.argsort(np.round(ts, 6), kind="stable")
    with EventFile(next((tmp_path / "out").glob("*.h5"))) as file:
        assert np.array_equal(file.read(0, file.num_events).xs, made.xs[order])
    assert prepare("text", tmp_path / "events.txt", tmp_path / "out", *wide[:3]) == 1
    assert prepare("text", tmp_path / "events.txt", tmp_path / "out", *wide[:3], "--drop-late") == 0
    with EventFile(next((tmp_path / "out").glob("*.h5"))) as file:
        kept = order[order != 1500]
        assert np.array_equal(file.read(0, file.num_events).xs, made.xs[kept])

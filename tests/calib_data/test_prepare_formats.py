"""Other formats to the event_flow layout: what was put in is what comes out."""

from __future__ import annotations

import struct
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from calib_data import EventFile, Events
from calib_data.console import run
from calib_data.prepare import main
from calib_data.prepare.evt3 import Decoder

SIZE = (480, 640)


@pytest.fixture
def made() -> Events:
    """5000 events over 40 s on microseconds, so that 24-bit times begin again twice."""
    rng = np.random.default_rng(3)
    ts = np.sort(rng.integers(2_000_000, 42_000_000, 5000)) * 1e-6
    return Events(
        rng.integers(0, SIZE[1], 5000).astype(np.int16),
        rng.integers(0, SIZE[0], 5000).astype(np.int16),
        ts,
        rng.choice(np.array([-1, 1], np.int8), 5000),
    )


def check(path: Path, made: Events) -> None:
    with EventFile(path) as file:
        found = file.read(0, file.num_events)
        assert file.resolution == SIZE
    for name in ("xs", "ys", "ps"):
        assert np.array_equal(getattr(found, name), getattr(made, name)), name
    assert np.abs(found.ts - (made.ts - made.ts[0])).max() < 1e-9


def prepare(kind: str, source: Path, out: Path, *more: str) -> int:
    return run(main, [kind, str(source), str(out), "--verify", *more])


def lines(made: Events) -> str:
    rows = zip(made.ts, made.xs, made.ys, made.ps, strict=True)
    return "# t x y p\n" + "".join(f"{t:.6f} {x} {y} {int(p > 0)}\n" for t, x, y, p in rows)


def test_text_in_a_folder_and_in_a_zip(tmp_path: Path, made: Events) -> None:
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", SIZE[1], SIZE[0])
    folder = tmp_path / "in/shapes"
    (folder / "images").mkdir(parents=True)
    (folder / "events.txt").write_text(lines(made))
    (folder / "images/frame_0.png").write_bytes(png)
    with zipfile.ZipFile(tmp_path / "in/indoor.zip", "w") as archive:
        archive.writestr("events.txt", lines(made))
        archive.writestr("img/image_0_0.png", png)
    assert prepare("text", tmp_path / "in", tmp_path / "out") == 0
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
    with h5py.File(folder / "events.h5", "w") as file:
        file["events/x"], file["events/y"] = made.xs.astype("u2"), made.ys.astype("u2")
        file["events/p"] = (made.ps > 0).astype("u1")
        file["events/t"] = np.rint(made.ts * 1e6 - 2_000_000).astype("u4")
        file["t_offset"] = np.int64(2_000_000)
        file["ms_to_idx"] = np.zeros(4, "u8")
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


def evt3_words(made: Events) -> bytes:
    """The stream of a camera: time words where the time changes, triggers in between."""
    words, high = [], -1
    for x, y, t, p in zip(made.xs, made.ys, made.ts, made.ps, strict=True):
        micros = round(t * 1e6) & 0xFFFFFF
        if high != micros >> 12:
            high = micros >> 12
            words += [0x8000 | high, 0xA001]
        words += [0x6000 | (micros & 0xFFF), int(y), 0x2000 | ((p > 0) << 11) | int(x)]
    return np.array(words, "<u2").tobytes()


def test_evt3(tmp_path: Path, made: Events) -> None:
    header = b"% evt 3.0\n% format EVT3;height=480;width=640\n% end\n"
    (tmp_path / "hall.raw").write_bytes(header + evt3_words(made))
    assert prepare("prophesee", tmp_path, tmp_path / "out") == 0
    check(tmp_path / "out/hall.h5", made)


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


@pytest.mark.parametrize("kind", ["dat", "evt2"])
def test_dat_and_evt2(tmp_path: Path, made: Events, kind: str) -> None:
    expelliarmus = pytest.importorskip("expelliarmus")
    rows = np.zeros(len(made), [("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "u1")])
    rows["t"], rows["x"], rows["y"] = np.rint(made.ts * 1e6), made.xs, made.ys
    rows["p"] = made.ps > 0
    name = f"hall.{'dat' if kind == 'dat' else 'raw'}"
    expelliarmus.Wizard(encoding=kind).save(tmp_path / name, rows)
    assert prepare("prophesee", tmp_path, tmp_path / "out", "--resolution", "480", "640") == 0
    check(tmp_path / "out/hall.h5", made)


def test_a_package_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "aedat", None)
    (tmp_path / "a.aedat4").write_bytes(b"")
    assert prepare("aedat4", tmp_path, tmp_path / "out") == 2
    assert "spikedeploy[io]" in capsys.readouterr().err


def test_a_bag_of_event_arrays(tmp_path: Path, made: Events) -> None:
    rosbag1 = pytest.importorskip("rosbags.rosbag1")
    definition = (
        "std_msgs/Header header\nuint32 height\nuint32 width\ndvs_msgs/Event[] events\n"
        + "=" * 80
        + "\nMSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id\n"
        + "=" * 80
        + "\nMSG: dvs_msgs/Event\nuint16 x\nuint16 y\ntime ts\nbool polarity\n"
    )
    kind = np.dtype([("x", "<u2"), ("y", "<u2"), ("s", "<u4"), ("ns", "<u4"), ("p", "u1")])
    rows = np.zeros(len(made), kind)
    micros = np.rint(made.ts * 1e6).astype(np.int64)
    rows["x"], rows["y"], rows["p"] = made.xs, made.ys, made.ps > 0
    rows["s"], rows["ns"] = micros // 1_000_000, micros % 1_000_000 * 1000
    with rosbag1.Writer(tmp_path / "hall.bag") as bag:
        topic = bag.add_connection(
            "/davis/left/events",
            "dvs_msgs/msg/EventArray",
            msgdef=definition,
            md5sum="5e8beee5a6c107e504c2e78903c224b8",
        )
        for number, part in enumerate(np.array_split(rows, 7)):
            head = struct.pack("<IIII3sIII", 0, 0, 0, 3, b"cam", *SIZE, len(part))
            bag.write(topic, number, head + part.tobytes())
    assert prepare("rosbag", tmp_path, tmp_path / "out") == 0
    check(tmp_path / "out/hall.h5", made)


def test_late_events_are_sorted_in_refused_or_dropped(tmp_path: Path, made: Events) -> None:
    ts = made.ts.copy()
    ts[[100, 101]] = ts[[101, 100]]
    ts[3000] -= 20.0
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
        kept = order[order != 3000]
        assert np.array_equal(file.read(0, file.num_events).xs, made.xs[kept])

"""Reading and writing recordings: what comes back, what is refused, how much memory it takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from calib_data.errors import DataError
from calib_data.events import Events
from calib_data.hdf5 import EventFile, EventFileWriter
from calib_data.windows import iterate_windows

Spoil = Callable[[Callable[[h5py.File], None]], Path]
RESOLUTION = (12, 16)


def _replace(name: str, values: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return edit


def _set(name: str, index: int, value: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[name][index] = value

    return edit


def test_what_is_written_is_read(recording: Path, events: Events) -> None:
    with EventFile(recording) as file:
        got = file.read(0, file.num_events)
        assert file.resolution == RESOLUTION
        assert file.t0 == 1000.25
        assert file.duration == pytest.approx(events.ts[-1])
        np.testing.assert_array_equal(got.xs, events.xs)
        np.testing.assert_array_equal(got.ys, events.ys)
        np.testing.assert_array_equal(got.ps, events.ps)
        np.testing.assert_allclose(got.ts, events.ts, atol=1e-12)
        assert [a.dtype for a in (got.xs, got.ys, got.ts, got.ps)] == ["i2", "i2", "f8", "i1"]
        np.testing.assert_allclose(file.flow_times("dt1"), [0.2, 0.6, 1.0, 1.4, 1.8], atol=1e-12)
        np.testing.assert_allclose(file.flow_times("dt4"), [0.2, 1.8], atol=1e-12)
        assert (file.read_flow("dt4", 1) == 14).all()
        assert file.read_flow("dt1", 3).dtype == np.float32
        np.testing.assert_allclose(file.image_times(), [0.2, 0.6, 1.0, 1.4, 1.8], atol=1e-12)
        assert (file.read_image(2) == 2).all()


def test_layout_is_that_of_event_flow(recording: Path) -> None:
    with h5py.File(recording) as file:
        kinds = {name: file[f"events/{name}"].dtype for name in file["events"]}
        assert kinds == {"xs": "i2", "ys": "i2", "ts": "f8", "ps": "?"}
        assert file["events/ts"][0] >= 1000.25
        assert list(file["flow_dt1"]) == [f"flow{number:09d}" for number in range(5)]
        assert list(file["images"]) == [f"image{number:09d}" for number in range(5)]
        assert file["flow_dt1/flow000000001"].attrs["timestamp"] == pytest.approx(1000.85)
        assert list(file.attrs["sensor_resolution"]) == list(RESOLUTION)
        assert file.attrs["num_events"] == 1000
        assert file.attrs["num_pos"] + file.attrs["num_neg"] == 1000


def test_a_part_equals_the_slice(recording: Path, events: Events) -> None:
    with EventFile(recording) as file:
        np.testing.assert_array_equal(file.read(37, 411).xs, events.xs[37:411])
        assert len(file.read(5, 5)) == 0
        with pytest.raises(DataError, match=r"990\.\.1001 asked for"):
            file.read(990, 1001)


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_index_at_is_a_search(recording: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("calib_data.hdf5.SEARCH_BLOCK", block)
    with EventFile(recording) as file:
        ts = file.read(0, file.num_events).ts
        rng = np.random.default_rng(1)
        for seconds in [-1.0, 0.0, 3.0, *rng.uniform(0, 2, 50), *rng.choice(ts, 50)]:
            assert file.index_at(float(seconds)) == np.searchsorted(ts, seconds, side="left")


def test_event_at_a_stamp_belongs_to_the_next_interval(spoil: Spoil) -> None:
    # A stamp and an event with the same absolute time compare equal, also where taking t0 off a
    # time and adding it back gives a later one.
    t0, times = 0.7, np.arange(22, 200) * 0.033
    stamps = times[times - t0 + t0 > times][:5]
    assert len(stamps) == 5

    def edit(file: h5py.File) -> None:
        file.attrs["t0"] = t0
        file["events/ts"][:] = np.repeat(stamps, N // 5)
        for node, stamp in zip(file["images"].values(), stamps, strict=True):
            node.attrs["timestamp"] = stamp

    with EventFile(spoil(edit)) as file:
        found = [file.index_at(float(seconds)) for seconds in file.image_times()]
    assert found == [0, 200, 400, 600, 800]


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        ((), RESOLUTION),
        (("attr",), RESOLUTION),
        (("attr", "flow_dt1", "flow_dt4"), RESOLUTION),
        (("attr", "flow_dt1", "flow_dt4", "images"), (20, 30)),
    ],
)
def test_resolution_is_found(spoil: Spoil, drop: tuple[str, ...], expected: Any) -> None:
    def edit(file: h5py.File) -> None:
        for name in drop:
            if name == "attr":
                del file.attrs["sensor_resolution"]
            else:
                del file[name]

    with EventFile(spoil(edit), resolution=(20, 30)) as file:
        assert file.resolution == expected


def test_unknown_resolution_asks_for_it(spoil: Spoil) -> None:
    def edit(file: h5py.File) -> None:
        del file.attrs["sensor_resolution"], file["flow_dt1"], file["flow_dt4"], file["images"]

    with pytest.raises(DataError, match="pass the resolution"):
        EventFile(spoil(edit))


def test_times_already_relative_to_t0_are_kept(spoil: Spoil, events: Events) -> None:
    def edit(file: h5py.File) -> None:
        file["events/ts"][:] -= 1000.25
        for node in file["flow_dt1"].values():
            node.attrs["timestamp"] -= 1000.25

    with EventFile(spoil(edit)) as file:
        np.testing.assert_allclose(file.read(0, 10).ts, events.ts[:10], atol=1e-9)
        np.testing.assert_allclose(file.flow_times("dt1")[:2], [0.2, 0.6], atol=1e-9)


def test_file_without_clock_attributes(spoil: Spoil, events: Events) -> None:
    def edit(file: h5py.File) -> None:
        del file.attrs["t0"], file.attrs["duration"]

    with EventFile(spoil(edit)) as file:
        assert file.read(0, 1).ts[0] == 0
        assert file.duration == pytest.approx(events.ts[-1] - events.ts[0])


@pytest.mark.parametrize("signed", [True, False])
def test_integer_polarities(spoil: Spoil, events: Events, signed: bool) -> None:
    ps = events.ps if signed else (events.ps > 0).astype(np.uint8)
    with EventFile(spoil(_replace("events/ps", ps))) as file:
        np.testing.assert_array_equal(file.read(0, 1000).ps, events.ps)


# --- what is refused --------------------------------------------------------------------------

N = 1000
RISING = np.linspace(1000.5, 1002, N)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f.pop("events/ps"), "no dataset 'events/ps'"),
        (lambda f: f.pop("events"), "no dataset 'events/xs'"),
        (_replace("events/xs", np.zeros(N - 1, np.int16)), r"differ in length \(xs 999, ys 1000"),
        (_replace("events/xs", np.zeros(N)), "events/xs is float64, expected integers"),
        (_replace("events/ts", np.arange(N)), "events/ts is int64, expected float64 seconds"),
        (_replace("events/ps", np.zeros(N)), "events/ps is float64, expected bool"),
        (_replace("events/ys", np.zeros((N, 1), np.int16)), r"events/ys has shape \(1000, 1\)"),
        (_set("events/ts", 0, np.nan), "first or last timestamp is not finite"),
        (lambda f: f.attrs.modify("sensor_resolution", [0, 5]), "not a resolution"),
        (lambda f: f.attrs.create("sensor_resolution", "big"), "sensor_resolution is not"),
        (lambda f: f.attrs.modify("t0", np.nan), "attribute 't0' of the file is not a finite"),
        (lambda f: f.attrs.create("duration", "long"), "attribute 'duration'"),
    ],
)
def test_unusable_structure(spoil: Spoil, edit: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        EventFile(spoil(edit))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("events/ts", 500, 1.0), "timestamps go back at event 500 "),
        (_set("events/ts", 300, np.nan), "event 300 has timestamp nan"),
        (_set("events/ts", 300, np.inf), "event 300 has timestamp inf"),
        (_set("events/xs", 7, 16), "event 7 has x = 16, outside the sensor of 16 x 12"),
        (_set("events/xs", 7, -1), "event 7 has x = -1"),
        (_set("events/ys", 999, 12), "event 999 has y = 12"),
        (_replace("events/ps", np.full(N, 2, np.uint8)), "event 0 has polarity 2"),
        (_replace("events/ps", np.full(N, -2, np.int8)), "event 0 has polarity -2"),
        (_replace("events/xs", np.full(N, 70000, np.int32)), "event 0 has x = 70000"),
    ],
)
def test_unusable_events(spoil: Spoil, edit: Any, message: str) -> None:
    with EventFile(spoil(edit)) as file, pytest.raises(DataError, match=message):
        file.read(0, N)


def test_time_going_back_between_two_reads(spoil: Spoil) -> None:
    with EventFile(spoil(_replace("events/ts", np.r_[RISING[500:], RISING[:500]]))) as file:
        assert len(file.read(0, 500)) == 500
        with pytest.raises(DataError, match="timestamps go back at event 500 "):
            file.read(500, N)


def test_bad_event_is_named_by_its_number_in_the_file(spoil: Spoil) -> None:
    with EventFile(spoil(_set("events/xs", 700, 99))) as file:
        with pytest.raises(DataError, match="event 700 has x = 99"):
            file.read(650, 800)
        assert len(file.read(0, 700)) == 700


@pytest.mark.parametrize(
    ("edit", "call", "message"),
    [
        (lambda f: f.pop("flow_dt1"), lambda f: f.flow_times("dt1"), "no group 'flow_dt1'"),
        (lambda f: f.pop("images"), lambda f: f.image_times(), "no group 'images'"),
        (lambda f: None, lambda f: f.flow_times("dt2"), "unknown flow interval 'dt2'"),
        (lambda f: None, lambda f: f.read_flow("dt1", 5), r"members 0\.\.4, 5 asked for"),
        (
            lambda f: f["flow_dt1/flow000000002"].attrs.pop("timestamp"),
            lambda f: f.flow_times("dt1"),
            "flow_dt1/flow000000002 has no attribute 'timestamp'",
        ),
        (
            lambda f: f["flow_dt1/flow000000002"].attrs.modify("timestamp", 1.0),
            lambda f: f.flow_times("dt1"),
            "flow_dt1/flow000000002 is not later",
        ),
        (
            _replace("flow_dt4/flow000000000", np.zeros((2, 4, 4))),
            lambda f: f.flow_times("dt4"),
            "has no attribute 'timestamp'",
        ),
        (
            lambda f: f["flow_dt1/flow000000001"].write_direct(np.full((2, 12, 16), np.nan, "f4")),
            lambda f: f.read_flow("dt1", 1),
            "map 1 holds NaN",
        ),
    ],
)
def test_unusable_members(spoil: Spoil, edit: Any, call: Any, message: str) -> None:
    with EventFile(spoil(edit)) as file, pytest.raises(DataError, match=message):
        call(file)


def test_wrong_map_and_image_shapes(spoil: Spoil) -> None:
    def edit(file: h5py.File) -> None:
        for name, values in {
            "flow_dt1/flow000000001": np.zeros((2, 4, 4), np.float32),
            "flow_dt1/flow000000002": np.zeros((2, 12, 16), np.int32),
            "images/image000000001": np.zeros((4, 4), np.uint8),
        }.items():
            stamp = file[name].attrs["timestamp"]
            _replace(name, values)(file)
            file[name].attrs["timestamp"] = stamp

    with EventFile(spoil(edit)) as file:
        with pytest.raises(DataError, match=r"flow000000001 has shape \(2, 4, 4\)"):
            file.read_flow("dt1", 1)
        with pytest.raises(DataError, match="flow000000002 is not a floating-point array"):
            file.read_flow("dt1", 2)
        with pytest.raises(DataError, match=r"image000000001 has shape \(4, 4\)"):
            file.read_image(1)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        EventFile(tmp_path / "absent.h5")
    with pytest.raises(DataError, match="is a folder"):
        EventFile(tmp_path)
    text = tmp_path / "text.h5"
    text.write_text("no recording")
    with pytest.raises(DataError, match=r"text\.h5: no readable HDF5 file"):
        EventFile(text)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_file_cut_off(recording: Path, share: float) -> None:
    whole = recording.read_bytes()
    recording.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="cut off"):
        EventFile(recording)


def test_damaged_chunk(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "damaged.h5"
    with EventFileWriter(path, RESOLUTION, compression="gzip") as writer:
        writer.append(events)
    with h5py.File(path, "r+") as file:
        file["events/xs"].id.write_direct_chunk((0,), b"not gzip")
    with EventFile(path) as opened, pytest.raises(DataError, match="events cannot be read"):
        opened.read(0, 10)


def test_missing_filter_names_the_remedy(spoil: Spoil) -> None:
    def edit(file: h5py.File) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((64,))
        plist.set_filter(40000, h5py.h5z.FLAG_OPTIONAL, (1,))  # in the range kept for experiments
        del file["events/xs"]
        space = h5py.h5s.create_simple((N,))
        h5py.h5d.create(file["events"].id, b"xs", h5py.h5t.NATIVE_INT16, space, dcpl=plist)

    with pytest.raises(DataError, match=r"HDF5 filter 40000 .* pip install hdf5plugin"):
        EventFile(spoil(edit))


def test_closed_file(recording: Path) -> None:
    file = EventFile(recording)
    file.close()
    with pytest.raises(DataError, match="was closed"):
        file.read(0, 10)


def test_reading_streams(tmp_path: Path) -> None:
    path, count = tmp_path / "long.h5", 2_000_000
    block = 100_000
    same = np.zeros(block, np.int16)
    with EventFileWriter(path, (8, 8)) as writer:
        for number in range(count // block):
            ts = number + np.arange(block) / block
            writer.append(Events(same, same, ts, np.ones(block, np.int8)))
    tracemalloc.start()
    with EventFile(path) as file:
        seen = sum(len(window.events) for window in iterate_windows(file, "events", 20_000))
        assert file.index_at(7.5) == 750_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == count
    assert peak < 4e6 < path.stat().st_size / 5


# --- writing ----------------------------------------------------------------------------------


def test_failed_writing_leaves_the_old_file(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "kept.h5"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="midway"), EventFileWriter(path, RESOLUTION) as writer:
        writer.append(events)
        raise RuntimeError("midway")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unusable_attribute_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        EventFileWriter(tmp_path / "bad.h5", RESOLUTION, attributes={"thing": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, e: (w.append(e.slice(500, 600)), w.append(e.slice(0, 9))), "out of time order"),
        (lambda w, e: w.append(Events(e.xs + 9, e.ys, e.ts, e.ps)), "outside the sensor"),
        (lambda w, e: w.append(Events(e.xs, e.ys, e.ts[::-1], e.ps)), "go back"),
        (lambda w, e: w.add_flow("dt1", 0.0, np.zeros((2, 3, 3))), "flow map of shape"),
        (lambda w, e: w.add_flow("dt3", 0.0, np.zeros((2, 12, 16))), "unknown flow interval"),
        (lambda w, e: w.add_image(0.0, np.zeros((12, 16))), "image is float64"),
        (
            lambda w, e: [w.add_image(t, np.zeros((12, 16), np.uint8)) for t in (1.0, 1.0)],
            "stamps must increase",
        ),
    ],
)
def test_writer_refuses(tmp_path: Path, events: Events, call: Any, message: str) -> None:
    with pytest.raises(DataError, match=message), EventFileWriter(tmp_path / "x.h5", (12, 16)) as w:
        call(w, events)


def test_compressed_files_hold_the_same(tmp_path: Path, events: Events) -> None:
    for compression in ("gzip", "lzf"):
        path = tmp_path / f"{compression}.h5"
        with EventFileWriter(path, RESOLUTION, compression=compression) as writer:
            writer.append(events)
        with EventFile(path) as file:
            np.testing.assert_array_equal(file.read(0, 1000).ts, events.ts)
    with pytest.raises(DataError, match="compression must be"):
        EventFileWriter(tmp_path / "x.h5", RESOLUTION, compression="zip")


def test_recording_without_events(tmp_path: Path) -> None:
    with EventFileWriter(tmp_path / "none.h5", RESOLUTION) as writer:
        writer.append(Events.empty())
    with EventFile(tmp_path / "none.h5") as file:
        assert (file.num_events, file.duration, file.index_at(1.0)) == (0, 0.0, 0)
        assert len(file.read(0, 0)) == 0

"""Where sequences come from: folders, splits, scenes, the bound on memory, and what goes wrong."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from calib_data.errors import DataError
from calib_data.events import Events
from calib_data.hdf5 import EventFileWriter
from training.data import (
    VALIDATION_SEED_OFFSET,
    SceneSet,
    Sequence,
    SlotSampler,
    StreamedSequence,
    WindowFormat,
    find_recordings,
    load_recordings,
    load_sequence,
    load_sources,
    split_recordings,
)

FORM = WindowFormat("events", 50)


def write(path: Path, number: int = 400, size: tuple[int, int] = (8, 10)) -> Path:
    """A recording without ground truth, HDF5 or NumPy by its suffix."""
    rng = np.random.default_rng(number)
    ts = np.sort(rng.uniform(0, 1, number))
    xs = rng.integers(0, size[1], number).astype(np.int16)
    ys = rng.integers(0, size[0], number).astype(np.int16)
    ps = rng.choice(np.array([-1, 1], np.int8), number)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, xs=xs, ys=ys, ts=ts, ps=ps > 0, sensor_size=np.array(size))
        return path
    with EventFileWriter(path, size) as writer:
        writer.append(Events(xs, ys, ts, ps))
    return path


def names(sequences: list[Sequence], root: Path) -> list[str]:
    return [str(Path(sequence.name).relative_to(root)) for sequence in sequences]


def test_folders_are_walked_in_order(tmp_path: Path) -> None:
    for name in ("b.h5", "a/z.npz", "a/c.hdf5", "c.H5"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no recording")
    (tmp_path / "folder.h5").mkdir()
    found = find_recordings(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in found] == ["a/c.hdf5", "a/z.npz", "b.h5", "c.H5"]
    assert find_recordings(found[1]) == [found[1]]
    sequences = load_recordings(found, FORM)
    assert names(sequences, tmp_path) == ["a/c.hdf5", "a/z.npz", "b.h5", "c.H5"]
    assert [len(sequence) for sequence in sequences] == [8] * 4
    assert all(np.array_equal(sequences[0].counts, other.counts) for other in sequences)
    assert not any(sequence.flow.strides[0] for sequence in sequences)


def test_what_cannot_be_used_is_left_out_by_name(tmp_path: Path) -> None:
    write(tmp_path / "good.h5")
    write(tmp_path / "short.h5", 20)
    whole = write(tmp_path / "cut.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.warns(UserWarning, match="left out") as caught:
        sequences = load_recordings(find_recordings(tmp_path), FORM)
    assert names(sequences, tmp_path) == ["good.h5"]
    told = [str(warning.message) for warning in caught]
    assert len(told) == 3
    for name, text in zip(("cut.h5", "short.h5", "text.npz"), told, strict=True):
        assert name in text


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        load_sources(tmp_path / "absent", None, FORM)
    with pytest.raises(
        ValueError, match=r"no recording in this folder; expected \.h5, \.hdf5, \.npz"
    ):
        load_sources(tmp_path, None, FORM)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"none of 1 training recordings can be used; .*text\.npz"):
        load_sources(tmp_path, None, FORM)
    (tmp_path / "text.npz").unlink()
    write(tmp_path / "x.h5")
    with pytest.raises(ValueError, match=r"x\.h5: no group 'flow_dt1'"):
        load_sources(tmp_path, None, WindowFormat("gtflow_dt1", 1))
    with pytest.raises(ValueError, match="unknown window mode 'evnts'"):
        load_sources(tmp_path, None, WindowFormat("evnts", 1))


def test_a_share_is_held_out_by_seed() -> None:
    paths = [Path(f"{index}.h5") for index in range(10)]
    train, held = split_recordings(paths, 0.3, 1)
    assert len(held) == 3 and sorted(train + held) == paths
    assert train == sorted(train) and held == sorted(held)
    assert split_recordings(paths, 0.3, 1) == (train, held)
    assert len({tuple(split_recordings(paths, 0.3, seed)[1]) for seed in range(20)}) > 10
    assert [len(part) for part in split_recordings(paths, 0.001, 0)] == [9, 1]
    assert [len(part) for part in split_recordings(paths[:2], 0.99, 0)] == [1, 1]
    with pytest.raises(ValueError, match="one recording cannot be shared"):
        split_recordings(paths[:1], 0.5, 0)
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="lies between 0 and 1"):
            split_recordings(paths, share, 0)


def test_held_out_recordings(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5", "held/c.h5", "held/d.npz"):
        write(tmp_path / name)
    train, held = load_sources(tmp_path, tmp_path / "held", FORM, validation_windows=3)
    assert names(train, tmp_path) == ["a.h5", "b.h5"]
    assert names(held, tmp_path) == ["held/c.h5", "held/d.npz"]
    assert [len(sequence) for sequence in [*train, *held]] == [8, 8, 3, 3]
    train, held = load_sources(tmp_path, 0.25, FORM, seed=3)
    assert len(train) == 3 and len(held) == 1
    assert not set(names(train, tmp_path)) & set(names(held, tmp_path))
    train, held = load_sources(tmp_path, None, FORM)
    assert len(train) == 4 and held == []
    longer = WindowFormat("events", 100)
    train, held = load_sources(tmp_path / "a.h5", tmp_path / "b.h5", FORM, validation_form=longer)
    assert [len(sequence) for sequence in [*train, *held]] == [8, 4]
    with pytest.raises(ValueError, match="every recording is held out"):
        load_sources(tmp_path / "held", tmp_path, FORM)


def test_scenes_for_training_and_validation(tmp_path: Path) -> None:
    write(tmp_path / "own" / "x.h5")
    scenes = SceneSet(tmp_path / "cache", 2, seed=3, resolution=(16, 24), duration=0.3)
    held_out = scenes.held_out(1)
    assert held_out.seed == 3 + VALIDATION_SEED_OFFSET
    # Whatever the format says of recordings, scenes are cut at flow intervals.
    form = WindowFormat("events", 50, "voxel", 4, with_events=True)
    train, held = load_sources(scenes, held_out, form)
    assert [path.name.split("_")[1] for path in sorted((tmp_path / "cache").iterdir())] == [
        "100003",
        "3",
        "4",
    ]
    assert len(train) == 2 and len(held) == 1
    for sequence in train + held:
        assert len(sequence) == 9 and sequence.inputs.shape[1:] == (4, 16, 24)
        assert sequence.has_events and np.isfinite(sequence.flow).all((1, 2, 3)).any()
    train, held = load_sources(scenes, tmp_path / "own", form)
    assert len(train) == 2 and names(held, tmp_path) == ["own/x.h5"] and len(held[0]) == 8
    with pytest.raises(ValueError, match="scenes take a number"):
        load_sources(scenes, 0.5, form)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """What does not fit is read as it is used, and gives the same chunks."""
    for name in "abc":
        write(tmp_path / f"{name}.h5", 400 + ord(name))
    form = WindowFormat("events", 50, "voxel", 3, with_events=True)
    whole, _ = load_sources(tmp_path, None, form)
    assert [type(sequence) for sequence in whole] == [Sequence] * 3
    room = whole[0].nbytes + whole[1].nbytes + 1000
    partly, _ = load_sources(tmp_path, None, form, memory=room)
    assert [type(sequence) for sequence in partly] == [Sequence, Sequence, StreamedSequence]
    first, second = (SlotSampler(s, 5, 3, 6, 0, with_events=True) for s in (whole, partly))
    for _ in range(4):
        one, two = first.next_chunk(), second.next_chunk()
        assert np.array_equal(one.inputs, two.inputs)
        assert one.events is not None and two.events is not None
        assert all(np.array_equal(a, b) for a, b in zip(one.events, two.events, strict=True))
    with pytest.raises(ValueError, match=r"held-out sequences need .*data\.validation_windows"):
        load_sources(tmp_path / "a.h5", tmp_path / "b.h5", form, memory=1000)
    _, held = load_sources(
        tmp_path / "a.h5", tmp_path / "b.h5", form, validation_windows=1, memory=4000
    )
    assert len(held) == 1 and len(held[0]) == 1


def test_no_warning_without_reason(tmp_path: Path) -> None:
    write(tmp_path / "x.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_sources(tmp_path, None, FORM)


def test_files_are_closed_once_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    other = write(tmp_path / "y.h5")
    load_sources(path, other, FORM)
    for file in (path, other):
        with h5py.File(file, "r+") as opened:
            del opened["events/xs"]
    with pytest.raises(ValueError, match=r"x\.h5: no dataset 'events/xs'"):
        load_sequence(path, FORM)


def test_damage_inside_a_recording(tmp_path: Path) -> None:
    """It costs the recording if that is read at the start, and ends the run later."""
    write(tmp_path / "a.h5")
    path = write(tmp_path / "b.h5")
    with h5py.File(path, "r+") as opened:
        opened["events/ts"][200] = np.nan
    with pytest.warns(UserWarning, match=r"left out: .*b\.h5: event 200 has timestamp nan"):
        train, _ = load_sources(tmp_path, None, FORM)
    assert names(train, tmp_path) == ["a.h5"]
    streamed, _ = load_sources(path, None, FORM, memory=0)
    sampler = SlotSampler(streamed, 1, 8, 6, 0)
    with pytest.raises(DataError, match=r"b\.h5: event 200 has timestamp nan"):
        sampler.next_chunk()
    with pytest.raises(DataError, match=r"b\.h5: event 200 has timestamp nan"):
        load_sources(tmp_path / "a.h5", path, FORM)

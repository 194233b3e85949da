"""Recordings driven at once give what each gives alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_recordings import write_recording

from calib_data import EventFileWriter, console
from runtime import SessionError, StatefulSession, evaluate
from runtime.batch import Batch
from runtime.evaluate_batch import Job
from runtime.session import Stream

SIZES = (6, 1, 3, 5, 2)
"""Ground-truth intervals of the recordings: slots fall free at different times."""


def run(*arguments: object) -> int:
    return console.run(evaluate.main, [str(argument) for argument in arguments])


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "many"
    folder.mkdir()
    return [
        write_recording(folder / f"r{number}.h5", maps=maps, seed=number)
        for number, maps in enumerate(SIZES)
    ]


def timeless(value: Any) -> Any:
    """A JSON result without what differs from run to run."""
    if isinstance(value, dict):
        left_out = {"profile", "overall", "latency_ms", "native"}
        return {key: timeless(item) for key, item in value.items() if key not in left_out}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def assert_close(first: Any, second: Any) -> None:
    """Equal but for floats, which may differ in the last digits of float32."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_close(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_close(one, other)
    elif isinstance(first, float):
        assert second == pytest.approx(first, rel=1e-5, abs=1e-6)
    else:
        assert first == second


@pytest.mark.parametrize("batch", [2, 3, 8])
@pytest.mark.parametrize("kind", ["int8", "float"])
def test_results_are_those_of_one_at_a_time(
    kind: str, batch: int, make_file: Any, recordings: list[Path], tmp_path: Path
) -> None:
    model = make_file(f"model.{kind}.onnx", kind=kind, resolution=None)
    results = []
    for size in (1, batch):
        out, table = tmp_path / f"{size}.json", tmp_path / f"{size}.csv"
        options = ("--metrics", "aae,aee_published,rsat", "--fwl", 150, "--warmup", 1)
        given = ("--batch", size, "--json", out, "--csv", table, *options)
        assert run(model, "--data", recordings[0].parent, *given) == 0
        rows = [{**row, "latency_ms": ""} for row in csv.DictReader(table.open())]
        results.append((json.loads(out.read_text()), rows))
    (alone, rows), (together, rows_together) = results
    assert together["overall"]["batch"] == batch and together["overall"]["events_per_second"] > 0
    assert [s["windows"] for s in together["sequences"]] == list(SIZES)
    if kind == "int8":
        assert timeless(together) == timeless(alone) and rows_together == rows
    else:
        assert_close(timeless(alone), timeless(together))


def test_two_networks_pictures_and_pooling(
    make_file: Any, recordings: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("PIL")
    small = make_file("small.int8.onnx", resolution=None)
    real = make_file("model.float.onnx", kind="float", resolution=None)
    report = tmp_path / "report.html"
    out = {}
    for size in (1, 3):
        path = tmp_path / f"{size}.json"
        given = ("--input-resolution", 6, 8, "--batch", size, "--json", path, "--report", report)
        assert run(small, "--against", real, "--data", recordings[0].parent, *given) == 0
        values = json.loads(path.read_text())
        out[size] = [s["networks"]["small.int8.onnx"] for s in values["sequences"]]
    assert timeless(out[1]) == timeless(out[3])
    assert all(f">r{number}<" in report.read_text() for number in range(len(SIZES)))


def test_resolutions_are_driven_apart_and_bad_files_skipped(
    make_file: Any, recordings: list[Path], tmp_path: Path, capsys: Any
) -> None:
    folder = recordings[0].parent
    write_recording(folder / "other.h5", (8, 8), maps=4)
    (folder / "r1b.h5").write_bytes(recordings[0].read_bytes()[:900])
    with EventFileWriter(folder / "empty.h5", (12, 16)) as writer:
        writer.add_flow("dt1", 0.0, np.ones((2, 12, 16), np.float32))
    out = tmp_path / "r.json"
    model = make_file(resolution=None)
    assert run(model, "--data", folder, "--batch", 4, "--json", out) == 1
    values = json.loads(out.read_text())
    assert [Path(s["data"]).stem for s in values["sequences"]] == [
        "other", "r0", "r1", "r2", "r3", "r4"
    ]  # fmt: skip
    assert values["sequences"][0]["resolution"] == [8, 8]
    assert [s["windows"] for s in values["sequences"]] == [4, *SIZES]
    errors = {Path(s["data"]).stem: s["error"] for s in values["skipped"]}
    assert errors.keys() == {"r1b", "empty"} and "shorter than one window" in errors["empty"]
    assert not values["partial"]


def test_a_recording_that_breaks_midway_leaves_the_others_alone(
    make_file: Any, recordings: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    import h5py

    with h5py.File(recordings[0], "r+") as file:
        times = file["events/ts"][()]
        times[len(times) // 2] = 0.0
        file["events/ts"][...] = times
    out, table = tmp_path / "r.json", tmp_path / "r.csv"
    model = make_file(resolution=None)
    given = ("--batch", 2, "--json", out, "--csv", table)
    assert run(model, "--data", recordings[0].parent, *given) == 1
    values = json.loads(out.read_text())
    assert [s["windows"] for s in values["sequences"]] == list(SIZES[1:])
    assert {row["sequence"] for row in csv.DictReader(table.open())} == {"r1", "r2", "r3", "r4"}


def test_what_fails_is_skipped_and_the_rest_is_kept(
    make_file: Any, recordings: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """A recording whose picture fails; then a network that fails in the sixth step."""
    out, model = tmp_path / "r.json", make_file(resolution=None)
    given = (model, "--data", recordings[0].parent, "--batch", 2, "--json", out)
    taken = Job.take

    def refused(self: Job, *arguments: Any) -> None:
        if self.path.stem == "r2":
            raise OSError("disk full")
        taken(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "take", refused)
        assert run(*given) == 1
    values = json.loads(out.read_text())
    assert [s["windows"] for s in values["sequences"]] == [6, 1, 5, 2]
    step, calls = Stream.step, iter(range(100))

    def fails(self: Stream, events: Any) -> Any:
        if next(calls) == 5:
            raise SessionError("out of order")
        return step(self, events)

    monkeypatch.setattr(Stream, "step", fails)
    assert run(*given) == 1
    values = json.loads(out.read_text())
    assert [Path(s["data"]).stem for s in values["sequences"]] == ["r1", "r2"]
    assert {s["error"] for s in values["skipped"]} == {"out of order"}


def test_a_size_that_the_network_does_not_take_is_skipped(
    make_file: Any, recordings: list[Path], tmp_path: Path
) -> None:
    """The artifact is made for one size, so the batch holds one recording at a time."""
    folder, out = recordings[0].parent, tmp_path / "r.json"
    for path in recordings[1:]:
        path.unlink()
    write_recording(folder / "other.h5", (8, 8), maps=4)
    assert run(make_file(), "--data", folder, "--batch", 4, "--json", out) == 1
    values = json.loads(out.read_text())
    assert [s["windows"] for s in values["sequences"]] == [6]
    assert Path(values["skipped"][0]["data"]).stem == "other"


def test_interrupted_before_the_first_window(
    make_file: Any, recordings: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    def interrupted(self: Stream, events: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "step", interrupted)
    out, table = tmp_path / "r.json", tmp_path / "r.csv"
    model = make_file(resolution=None)
    given = ("--batch", 3, "--json", out, "--csv", table, "--report", tmp_path / "r.html")
    assert run(model, "--data", *recordings, *given) == 130
    values = json.loads(out.read_text())
    assert [(s["windows"], s["partial"], s["span"]) for s in values["sequences"]] == [
        (0, True, None)
    ] * 3
    assert len(table.read_text().splitlines()) == 1


def test_ctrl_c_keeps_every_recording_so_far(
    make_file: Any, recordings: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    step, calls = Stream.step, iter(range(100))

    def interrupted(self: Stream, events: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return step(self, events)

    monkeypatch.setattr(Stream, "step", interrupted)
    out = tmp_path / "r.json"
    model = make_file(resolution=None)
    assert run(model, "--data", *recordings, "--batch", 3, "--json", out) == 130
    values = json.loads(out.read_text())
    assert values["partial"] is True and not values["skipped"]
    state = {Path(s["data"]).stem: (s["windows"], s["partial"]) for s in values["sequences"]}
    # r1 had one window and r2 three, so r3 and r4 had begun when the fifth step was broken off.
    assert state == {"r0": (4, True), "r1": (1, False), "r2": (3, False), "r3": (3, True),
                     "r4": (1, True)}  # fmt: skip


def test_files_made_for_one_sequence_are_refused(
    make_file: Any, recordings: list[Path], capsys: Any
) -> None:
    assert run(make_file(), "--data", *recordings, "--batch", 2) == 2
    assert "takes a batch of 1, not 2; export it without a resolution" in capsys.readouterr().err


def test_slots_keep_their_states_apart(make_file: Any, counts: Callable[..., Any]) -> None:
    session = StatefulSession(make_file(resolution=None), resolution=(12, 16), library="never")
    shown = session.diagnostic()
    batch = Batch(shown.resized, 3)
    alone = [shown.resized(1) for _ in range(3)]
    windows = counts(9, rate=1.0)
    for step in range(3):
        flow = batch.step(windows[3 * step : 3 * step + 3])
        for at, stream in enumerate(alone):
            assert np.array_equal(flow[at : at + 1], stream.step(windows[3 * step + at]))
    first, second, third = batch.slots
    second.reset()
    batch.remove(first)
    alone[1].reset()
    for slot, stream in ((second, alone[1]), (third, alone[2])):
        for name, array in stream.states().items():
            assert np.array_equal(slot.states()[name], array)
    flow = batch.step(windows[:2])
    assert np.array_equal(flow[0:1], alone[1].step(windows[0]))
    assert np.array_equal(flow[1:2], alone[2].step(windows[1]))
    third.set_states(second.states())
    assert all(np.array_equal(a, third.states()[n]) for n, a in second.states().items())
    assert third.spikes().keys() == {"head", "G1"} and third.outputs()["flow"].shape[0] == 1
    with pytest.raises(SessionError, match="cannot step alone"):
        third.step(windows[0])

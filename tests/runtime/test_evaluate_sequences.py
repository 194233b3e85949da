"""Several recordings at once, pooled input, partial results, and what goes to JSON and CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import EventFile, EventFileWriter, Events, console, event_counts
from runtime import EvaluationError, StatefulSession, evaluate
from runtime.pooling import PooledRunner, enlarge, pool
from runtime.sequence import Drive, drive
from runtime.session import Stream


def run(*arguments: object) -> int:
    return console.run(evaluate.main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, recording: Path) -> Path:
    """A folder of two recordings with a broken one between."""
    inside = tmp_path / "recordings" / "deeper"
    inside.mkdir(parents=True)
    content = recording.read_bytes()
    (inside.parent / "a.h5").write_bytes(content)
    (inside.parent / "b.h5").write_bytes(content[:900])
    (inside / "c.h5").write_bytes(content)
    return inside.parent


def test_a_corrupt_recording_among_several_is_skipped(
    make_file: Any, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    out, table = tmp_path / "r.json", tmp_path / "r.csv"
    assert run(make_file(), "--data", folder, "--json", out, "--csv", table) == 1
    printed = capsys.readouterr()
    assert "skipped" in printed.err and "b.h5" in printed.err and "protocol custom" in printed.out
    values = json.loads(out.read_text())
    assert [Path(s["data"]).name for s in values["sequences"]] == ["a.h5", "c.h5"]
    assert len(values["skipped"]) == 1 and values["partial"] is False
    assert len(values["protocol"]["hash"]) == 12 and values["comparison"] == []
    first = values["sequences"][0]
    means = values["means"]["model.int8.onnx"]
    score = first["networks"]["model.int8.onnx"]["score"]
    assert means["sequences"] == 2
    assert means["aee_by_pixels"] == pytest.approx(score["by_pixels"]["aee"])
    assert means["aee_by_sequences"] == pytest.approx(score["by_frames"]["aee"])
    profile = first["profile"]
    names = ("loading", "encoding", "stepping", "scoring", "pictures", "rest")
    parts = sum(profile[name] for name in names)
    assert parts == pytest.approx(profile["total"]) and profile["events_per_second"] > 0
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 12 and {row["sequence"] for row in rows} == {"a", "c"}
    window = first["per_window"][2]
    assert float(rows[2]["aee"]) == pytest.approx(window["networks"]["model.int8.onnx"]["aee"])
    assert int(rows[2]["events"]) == window["events"] > 0


def test_nothing_usable_is_an_error(make_file: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run(make_file(), "--data", folder / "b.h5", tmp_path / "absent.h5") == 2
    assert run(make_file(), "--data", tmp_path / "empty") == 2
    assert run(make_file()) == 2


def test_ctrl_c_keeps_what_was_computed(
    make_file: Any, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    step, calls = Stream.step, iter(range(100))

    def interrupted(self: Stream, events: Any) -> Any:
        if next(calls) == 8:
            raise KeyboardInterrupt
        return step(self, events)

    monkeypatch.setattr(Stream, "step", interrupted)
    out = tmp_path / "r.json"
    data = folder / "a.h5", folder / "deeper", folder / "b.h5"
    assert run(make_file(), "--data", *data, "--json", out) == 130
    values = json.loads(out.read_text())
    assert values["partial"] is True and not values["skipped"]
    assert [s["windows"] for s in values["sequences"]] == [6, 2]
    assert [s["partial"] for s in values["sequences"]] == [False, True]


def test_a_protocol_fixes_mode_and_resolution(make_file: Any, recording: Path, capsys: Any) -> None:
    model = make_file()
    assert run(model, "--data", recording, "--protocol", "mvsec_dt1", "--mode", "events") == 2
    assert run(model, "--data", recording, "--protocol", "mvsec_dt1") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "fixes --mode itself" in first and "wants 256 x 256" in second


def test_published_numbers_stand_beside_ours(make_file: Any, tmp_path: Path, capsys: Any) -> None:
    path, shape = tmp_path / "indoor_flying2_data.h5", (256, 256)
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 0.2, 4000))
    xs, ys = rng.integers(0, 256, (2, 4000)).astype(np.int16)
    with EventFileWriter(path, shape) as writer:
        writer.append(Events(xs, ys, times, np.ones(4000, np.int8)))
        for number in range(3):
            writer.add_flow("dt1", number * 0.1, np.full((2, *shape), 1.5, np.float32))
    out, model = tmp_path / "r.json", make_file(resolution=None)
    assert run(model, "--data", path, "--protocol", "mvsec_dt1", "--json", out) == 0
    assert "published numbers under the same protocol" in capsys.readouterr().out
    values = json.loads(out.read_text())
    ours, *theirs = values["comparison"]
    network = values["networks"]["model.int8.onnx"]
    assert ours["aee"] == pytest.approx(network["score"]["by_frames"]["aee"], rel=1e-6)
    assert {row["prediction"]: row["aee"] for row in theirs}["LIF-FireNet"] == 1.77
    pooled = ("--input-resolution", 128, 128)
    assert run(model, "--data", path, "--protocol", "mvsec_dt1", *pooled, "--json", out) == 0
    values = json.loads(out.read_text())
    assert values["comparison"] == [] and values["protocol"]["name"] == "mvsec_dt1 at 128 x 128"


def test_a_file_said_to_be_cut_already(make_file: Any, tmp_path: Path, capsys: Any) -> None:
    path, shape = tmp_path / "outdoor_day1_data.h5", (256, 256)
    times = np.sort(np.random.default_rng(0).uniform(0, 0.2, 4000))
    xs, ys = np.random.default_rng(0).integers(0, 256, (2, 4000)).astype(np.int16)
    with EventFileWriter(path, shape) as writer:
        writer.append(Events(xs, ys, times, np.ones(4000, np.int8)))
        for number in range(3):
            writer.add_flow("dt1", number * 0.1, np.full((2, *shape), 1.5, np.float32))
    out, model = tmp_path / "r.json", make_file(resolution=None)
    given = (model, "--data", path, "--protocol", "mvsec_dt1", "--json", out)
    assert run(*given) == 2
    assert "scores from 222.4 s on" in capsys.readouterr().err
    assert run(*given, "--already-cut") == 0
    assert "driven: 0.000 to 0.200 s since t0; all 0.2 s, said to be" in capsys.readouterr().out
    values = json.loads(out.read_text())
    assert values["span"] == pytest.approx([0, 0.2]) and "said to be" in values["scored"]


def test_pooling_and_enlarging() -> None:
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert pool(image, (2, 2), "sum").tolist() == [[[10, 18], [42, 50]]]
    assert pool(image, (2, 2), "average").tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
    flow = np.array([[[[1.0, 2.0]], [[3.0, 4.0]]]], np.float32)
    full = enlarge(flow, (3, 2))
    assert full.shape == (1, 2, 3, 4)
    assert full[0, 0, 0].tolist() == [2, 2, 4, 4] and full[0, 1, 2].tolist() == [9, 9, 12, 12]


def test_pooled_networks_see_counts_and_answer_in_sensor_pixels(
    make_file: Any, recording: Path
) -> None:
    model = make_file(resolution=(6, 8))
    pooled = PooledRunner(StatefulSession(model, library="never").diagnostic(), (12, 16), "sum")
    plain = StatefulSession(model, library="never").diagnostic()
    with EventFile(recording) as file:
        for record in drive(file, {"net": pooled}, Drive()):
            counts = event_counts(record.window.events, (12, 16)).reshape(2, 6, 2, 8, 2)
            flow = plain.step(counts.sum(axis=(2, 4)).astype(np.uint8)[np.newaxis])[0]
            step = record.networks["net"]
            assert np.array_equal(step.flow[:, ::2, ::2], 2 * flow)
            assert np.array_equal(step.flow[:, 1::2, 1::2], 2 * flow)
            assert step.score is not None


def test_pooling_that_cannot_be_done(make_file: Any) -> None:
    stream = StatefulSession(make_file(resolution=(6, 8)), library="never").diagnostic()
    with pytest.raises(EvaluationError, match="whole divisors"):
        PooledRunner(stream, (13, 16), "sum")
    with pytest.raises(EvaluationError, match="pool with sum"):
        PooledRunner(stream, (12, 16), "average")


def test_rows_hot_pixels_and_few_events(make_file: Any, recording: Path) -> None:
    def records(**options: Any) -> Any:
        runner = StatefulSession(make_file(), library="never").diagnostic()
        with EventFile(recording) as file:
            return list(drive(file, {"net": runner}, Drive(**options)))

    plain, rows = records(), records(rows=5)
    for whole, upper in zip(plain, rows, strict=True):
        assert upper.networks["net"].score.pixels < whole.networks["net"].score.pixels
    emptied = records(few_events=10**6)
    assert all(len(r.window.events) == 0 and r.networks["net"].score is None for r in emptied)
    filtered = records(hot_pixels=True)
    sizes = [
        len(r.window.events) - len(f.window.events) for r, f in zip(plain, filtered, strict=True)
    ]
    assert sizes[:5] == [0] * 5
    assert [r.window.index for r in records(first=2)] == [2, 3, 4, 5]

"""Driving a recording through networks: what is scored, what is counted, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import EventFile, console, event_mask
from runtime import EvaluationError, StatefulSession, evaluate
from runtime.metadata import Artifact
from runtime.metrics import METRICS, valid_ground_truth
from runtime.runner import Array, Flow
from runtime.sequence import Drive, default_window, drive


class Constant:
    """A runner that predicts one flow everywhere, and fires in every other neuron."""

    def __init__(self, artifact: Artifact, x: float, y: float) -> None:
        self.artifact = artifact
        self.resolution: tuple[int, int] | None = (12, 16)
        self.flow = np.zeros((1, 2, 12, 16), np.float32)
        self.flow[0, 0], self.flow[0, 1] = x, y
        self.resets = 0
        self.seen: list[Array] = []

    def step(self, events: Array) -> Flow:
        self.seen.append(events)
        return self.flow

    def reset(self) -> None:
        self.resets += 1

    def states(self) -> dict[str, Array]:
        return {}

    def set_states(self, states: Mapping[str, Array]) -> None:
        assert not states

    def outputs(self) -> dict[str, Array]:
        return {"flow": self.flow}

    def spikes(self) -> dict[str, Array]:
        head = np.array([[0, 1, 0, 1]], np.uint8)
        return {"head": head, "G1": np.array([[0, 0, 0, 1, 0, 0, 0, 0]])}

    def diagnostic(self) -> Constant:
        return self


@pytest.fixture
def artifact(make_model: Any) -> Artifact:
    return replace(Artifact.from_model(make_model(kind="float")), flow_scaling=10.0)


def test_scores_are_those_of_the_protocol(recording: Path, artifact: Artifact) -> None:
    runner = Constant(artifact, 0.2, -0.1)
    with EventFile(recording) as file:
        records = list(drive(file, {"net": runner}, Drive()))
        assert len(records) == 6 and runner.resets == 1
        for record in records:
            step, window = record.networks["net"], record.window
            assert window.flow is not None and step.score is not None and step.pixels is not None
            mask = event_mask(window.events, file.resolution) & valid_ground_truth(window.flow)
            assert step.score.pixels == mask.sum() > 0
            factor = 10.0 * window.dt_gt / window.dt_input
            error = np.hypot(0.2 * factor - 2.0, -0.1 * factor + 1.0)
            assert step.score.aee == pytest.approx(error, rel=1e-4)
            assert step.score.zero_aee == pytest.approx(np.hypot(2, 1))
            assert step.score.aae == pytest.approx(0, abs=1e-4)


def test_warmup_and_limit(recording: Path, artifact: Artifact) -> None:
    runner = Constant(artifact, 0, 0)
    with EventFile(recording) as file:
        records = list(drive(file, {"net": runner}, Drive(warmup=2, limit=4)))
    assert [record.networks["net"].score is not None for record in records] == [False] * 2 + [
        True
    ] * 2


def test_slices_of_an_interval_are_scored_once(recording: Path, artifact: Artifact) -> None:
    runner = Constant(artifact, 0.05, -0.025)
    with EventFile(recording) as file:
        records = list(drive(file, {"net": runner}, Drive(window=0.25)))
    scored = [record.networks["net"].score is not None for record in records]
    assert scored == [False, False, False, True] * 6
    # A quarter of the interval's motion per slice is the whole motion over the interval.
    last = records[3]
    assert last.networks["net"].score is not None
    stretch = last.window.dt_gt / last.window.dt_input
    assert stretch == pytest.approx(4, rel=0.4)


def test_evaluation_gathers(recording: Path, artifact: Artifact) -> None:
    seen = []
    runners = {"zero": Constant(artifact, 0, 0), "right": Constant(artifact, 0.2, -0.1)}
    with EventFile(recording) as file:
        result = evaluate.evaluate(
            file, runners, Drive(fwl_events=250), observe=seen.append, quiet=True
        )
    assert result.windows == len(seen) == 6
    assert result.events_per_pixel == pytest.approx(result.events / 6 / 192)
    zero, right = result.networks["zero"], result.networks["right"]
    assert zero.score.by_pixels()["aee"] == pytest.approx(np.hypot(2, 1))
    assert right.score.by_pixels()["aee"] < 0.2
    assert zero.spike_rates() == {"head": 0.5, "G1": 0.125}
    assert zero.spike_rate() == pytest.approx(3 / 12)
    assert zero.mean_fwl() == pytest.approx(1.0) and zero.fwl_values == 2
    assert result.yardsticks()["zero_aee"] == pytest.approx(np.hypot(2, 1))
    assert result.yardsticks()["mean_aee"] == pytest.approx(0, abs=1e-6)
    assert result.zero_timeline() == pytest.approx([np.hypot(2, 1)] * 6)
    assert len(right.times) == 6 and right.times[0] == pytest.approx(0.1, abs=0.02)
    json.dumps(result.to_dict(), allow_nan=False)


def test_modes_without_ground_truth(recording: Path, artifact: Artifact) -> None:
    with EventFile(recording) as file:
        result = evaluate.evaluate(
            file, {"net": Constant(artifact, 0, 0)}, Drive("events", 100, fwl_events=1), quiet=True
        )
    assert not result.networks["net"].score.frames and result.networks["net"].fwl_values
    assert result.yardsticks() == {"zero_aee": None, "mean_aee": None}
    json.dumps(result.to_dict(), allow_nan=False)


def test_refusals(recording: Path, artifact: Artifact, make_file: Any) -> None:
    runner = Constant(artifact, 0, 0)
    with EventFile(recording) as file:
        with pytest.raises(EvaluationError, match="shorter than one window"):
            list(drive(file, {"net": runner}, Drive("events", 10**6)))
        with pytest.raises(EvaluationError, match="warmup = -1"):
            list(drive(file, {"net": runner}, Drive(warmup=-1)))
        with pytest.raises(EvaluationError, match="limit = 0"):
            list(drive(file, {"net": runner}, Drive(limit=0)))
        small = StatefulSession(make_file(resolution=(8, 8)))
        with pytest.raises(EvaluationError, match=r"12 x 16 pixels, the network .* takes 8 x 8"):
            list(drive(file, {"net": small}, Drive()))


def run(*arguments: object) -> int:
    return console.run(evaluate.main, [str(argument) for argument in arguments])


def test_command(make_file: Any, recording: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "result.json"
    integer, real = make_file(), make_file("model.float.onnx", kind="float", resolution=None)
    status = run(
        integer, "--data", recording, "--against", real, "--json", out, "--fwl", 200, "--no-library"
    )
    printed = capsys.readouterr().out
    assert status == 0
    for text in ("model.int8.onnx", "model.float.onnx", "zero flow", "mean true flow", "G1"):
        assert text in printed
    values = json.loads(out.read_text())
    networks = values["networks"]
    assert list(networks) == ["model.int8.onnx", "model.float.onnx"]
    first = networks["model.int8.onnx"]
    assert first["native"] is False and first["artifact"]["kind"] == "int8"
    assert set(first["spike_rates"]) == {"head", "G1"} and 0 < first["spike_rate"] < 1
    assert first["score"]["frames"] == 6 and first["score"]["by_pixels"]["aee"] > 0
    assert values["windows"] == 6 and first["fwl"] is not None


def test_command_on_one_file_twice(make_file: Any, recording: Path, capsys: Any) -> None:
    path = make_file()
    assert run(path, "--data", recording, "--against", path, "--limit", 2) == 0
    assert "(1)" in capsys.readouterr().out


def test_command_without_ground_truth(make_file: Any, recording: Path, capsys: Any) -> None:
    assert (
        run(make_file(), "--data", recording, "--mode", "events", "--window", 100, "--fwl", 300)
        == 0
    )
    assert "FWL" in capsys.readouterr().out


def test_metrics_asked_for(make_file: Any, recording: Path, tmp_path: Path, capsys: Any) -> None:
    out, path = tmp_path / "result.json", make_file()
    names = "aee, aee_published,aae_filtered,rsat,fwl"
    status = run(
        path, "--data", recording, "--warmup", 1, "--fwl", 200, "--metrics", names, "--json", out
    )
    assert status == 0
    printed = capsys.readouterr().out
    assert "metrics asked for" in printed and "aee_published" in printed
    network = json.loads(out.read_text())["networks"]["model.int8.onnx"]
    chosen = network["metrics"]
    assert list(chosen) == ["aee", "aee_published", "aae_filtered", "rsat", "fwl"]
    assert chosen["aee"]["by_pixels"] == pytest.approx(network["score"]["by_pixels"]["aee"])
    assert chosen["aee"]["by_frames"] == pytest.approx(network["score"]["by_frames"]["aee"])
    assert chosen["aee_published"]["by_frames"] == pytest.approx(chosen["aee"]["by_frames"])
    assert chosen["aee"]["values"] == 5 and chosen["aee"]["unit"] == "px"
    assert chosen["fwl"]["by_frames"] == pytest.approx(network["fwl"])
    assert chosen["rsat"]["values"] == chosen["fwl"]["values"] > 0


def test_output_without_metrics_asked_for_has_no_place_for_them(
    recording: Path, artifact: Artifact
) -> None:
    with EventFile(recording) as file:
        result = evaluate.evaluate(file, {"net": Constant(artifact, 0, 0)}, Drive(), quiet=True)
    assert "metrics" not in result.networks["net"].to_dict()


def test_metrics_leave_out_the_rows_that_are_not_scored(
    recording: Path, artifact: Artifact
) -> None:
    names = ["aee", "aee_published", "aae_outliers"]
    with EventFile(recording) as file:
        found = [
            evaluate.evaluate(
                file, {"net": Constant(artifact, 0, 0)}, Drive(rows=rows), metrics=names, quiet=True
            ).networks["net"]
            for rows in (None, 5)
        ]
    whole, upper = (network.metrics.values() for network in found)
    frames = found[1].score.by_frames()
    assert upper["aee"].by_frames == pytest.approx(frames["aee"], rel=1e-12)
    assert upper["aee_published"].by_frames == pytest.approx(frames["aee"], rel=1e-6)
    assert found[1].score.pixels < found[0].score.pixels
    assert whole["aae_outliers"].values == upper["aae_outliers"].values == 6


def test_metrics_are_listed(capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        evaluate.main(["--list-metrics"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(f" {name} " in printed for name in METRICS)


def test_unknown_metric_is_refused(make_file: Any, recording: Path, capsys: Any) -> None:
    assert run(make_file(), "--data", recording, "--metrics", "aee,fwll") == 2
    assert capsys.readouterr().err == "error: no metric is called 'fwll'; nearest: 'fwl'\n"


def test_command_errors_are_one_line(
    make_file: Any, recording: Path, tmp_path: Path, capsys: Any
) -> None:
    broken = tmp_path / "broken.h5"
    broken.write_bytes(recording.read_bytes()[:700])
    assert run(make_file(), "--data", broken) == 2
    assert run(make_file(), "--data", tmp_path / "absent.h5") == 2
    assert run(recording, "--data", recording) == 2
    assert run(make_file(), "--data", recording, "--mode", "gtflow_dt4") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("error: ") for line in lines)


def test_windows_have_a_sensible_default_in_every_mode() -> None:
    assert default_window("events", (128, 128)) == 1000
    assert default_window("events", (256, 256)) == 4000
    assert default_window("time", (128, 128)) == pytest.approx(1 / 30)
    assert default_window("gtflow_dt1", (128, 128)) == 1

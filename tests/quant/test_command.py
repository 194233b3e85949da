"""The command quant.ptq, what it measures, and its searches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calib_data import console
from calib_data.synthetic import SceneConfig, write_scene
from models import load_checkpoint, save_checkpoint
from quant import IntegerNetwork, LayerOptions, QuantOptions, load_spec, ptq, quantize
from quant.prepared import Calibrated, prepare
from quant.recordings import Plan, Recording, Truth, read_recordings
from quant.scoring import FLOAT_FLOW, GROUND_TRUTH, Scorer
from quant.search import Memo, Tuned, membrane_candidates, sensitivity, sensitivity_trials, tune

Make = Callable[..., Any]
NAME = "LIFFireNet_short"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.h5"
    return write_scene(SceneConfig.random(5, (24, 32), 0.5), path)


@pytest.fixture(scope="module")
def checkpoint(active_network: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "float.safetensors"
    return save_checkpoint(active_network(NAME, channels=4), path)


@pytest.fixture(scope="module")
def ready(active_network: Make, moving_counts: Make) -> Calibrated:
    recording = Recording(
        "moving", [torch.from_numpy(c) for c in moving_counts(6, (10, 12))], [None] * 6
    )
    return prepare(active_network(NAME, channels=4), [recording], weigh_inputs=True)


def run(capsys: Any, *arguments: Any) -> dict[str, Any]:
    assert console.run(ptq.main, [str(a) for a in arguments] + ["--json"]) == 0
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


def test_it_quantizes_and_reports(
    checkpoint: Path, scene: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "new" / "q.safetensors"
    arguments = ["--checkpoint", checkpoint, "--data", scene, "--out", out]
    values = run(capsys, *arguments, "--weight-bits", 4, "--report", tmp_path / "report")
    spec = load_spec(out)
    assert spec.weight_bits == 4 and values["measure"] == GROUND_TRUTH
    assert [row["name"] for row in values["layers"]] == [layer.name for layer in spec.layers]
    assert all(row["scale_gain"] > 0 and row["spikes"] > 0 for row in values["layers"])
    with (tmp_path / "report" / "report.json").open() as file:
        assert json.load(file)["error"] == values["error"]
    assert (tmp_path / "report" / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert np.isfinite([values["error"], values["float_error"], values["zero_flow_error"]]).all()
    # The default output for people names the same numbers.
    assert console.run(ptq.main, [str(a) for a in arguments] + ["--scale-search", "none"]) == 0
    assert "AEE against ground truth" in capsys.readouterr().out


def test_uint8_currents_and_events_without_truth(
    checkpoint: Path, scene: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "q.safetensors"
    data = ["--data", scene, "--mode", "time", "--window", 0.05, "--limit", 8]
    values = run(capsys, "--checkpoint", checkpoint, *data, "--out", out, "--current", "uint8")
    assert values["measure"] == FLOAT_FLOW and values["float_error"] == 0 < values["error"]
    assert {layer.current for layer in load_spec(out).layers} == {"uint8"}


def test_sensitivity_of_every_layer(
    checkpoint: Path, scene: Path, tmp_path: Path, capsys: Any
) -> None:
    values = run(
        capsys,
        "--checkpoint",
        checkpoint,
        "--data",
        scene,
        "--limit",
        6,
        "--sensitivity",
        "--report",
        tmp_path,
    )
    rows = values["sensitivity"]
    assert (
        len(rows)
        == sensitivity_trials(5)
        == len({(r["layer"], r["weight_bits"], r["mem_bits"]) for r in rows})
    )
    assert (tmp_path / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "sensitivity.json").read_text())["sensitivity"] == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out tells where the quantized checkpoint goes"),
        (["--out", "q.safetensors", "--limit", "0"], "--limit must be at least 1, got 0"),
        (["--tune", "--sensitivity"], "--sensitivity and --tune exclude each other"),
        (["--out", "q.safetensors", "--weight-bits", "9"], "weight bits must be 2 to 8, got 9"),
        (
            ["--out", "q.safetensors", "--neuron", "float", "--mem-bits", "8"],
            "leave mem_bits at 16",
        ),
        (["--out", "q.safetensors", "--neuron", "float", "--tune"], "--neuron float has none"),
        (["--out", "q.safetensors", "--data", "absent.h5"], "absent.h5"),
    ],
)
def test_refusals(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments if "--data" in arguments else ["--data", str(scene), *arguments]
    assert console.run(ptq.main, ["--checkpoint", str(checkpoint), *given]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "folder"], "folder: is a folder; name a file"),
        (["--out", "file/q.safetensors"], "file: is no folder; name another"),
        (["--out", "/proc/self/q.safetensors"], "/proc/self: nothing can be written here"),
        (["--out", "q.safetensors", "--tune"], "q.tuning.json: is a folder; name a file"),
        (["--out", "q.safetensors", "--report", "file"], "file: is no folder; name another"),
        (["--sensitivity", "--report", "file"], "file: is no folder; name another"),
        (["--out", "q.safetensors", "--report", "."], "report.png: is a folder; name a file"),
    ],
)
def test_outputs_are_checked_before_the_work(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ptq, "read_recordings", lambda *_: pytest.fail("work has begun"))
    for name in ("folder", "q.tuning.json", "report.png"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("x")
    assert console.run(ptq.main, ["--checkpoint", str(checkpoint), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 4


def test_float_neurons(checkpoint: Path, scene: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "q.safetensors"
    given = ["--checkpoint", checkpoint, "--data", scene, "--neuron", "float", "--limit", 8]
    values = run(capsys, *given, "--out", out, "--report", tmp_path)
    spec = load_spec(out)
    assert values["neuron"] == spec.neuron == "float"
    assert all(row["mem_bits"] is None and row["saturated_mem"] == 0 for row in values["layers"])
    ready = prepare(
        load_checkpoint(checkpoint), read_recordings([scene], Plan(limit=8)), weigh_inputs=False
    )
    assert (
        values["error"]
        == ready.scorer.error(spec)
        != ready.scorer.error(replace(spec, neuron="integer"))
    )
    rows = run(capsys, *given, "--sensitivity", "--report", tmp_path)["sensitivity"]
    assert {row["mem_bits"] for row in rows} == {16, 0}
    assert len(rows) == sensitivity_trials(5, "float")
    assert (tmp_path / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    assert console.run(ptq.main, [str(a) for a in given] + ["--sensitivity"]) == 0
    text = capsys.readouterr().out
    assert "8-bit weights, float neurons" in text and "membrane" not in text


def test_a_quantized_checkpoint_is_not_quantized_again(
    checkpoint: Path, scene: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "q.safetensors"
    run(capsys, "--checkpoint", checkpoint, "--data", scene, "--out", out, "--limit", 5)
    assert console.run(ptq.main, ["--checkpoint", str(out), "--out", str(tmp_path / "r")]) == 2
    assert "is a quantized checkpoint already" in capsys.readouterr().err


# --- scores --------------------------------------------------------------------------------------


def test_the_score_by_hand(active_network: Make, moving_counts: Make) -> None:
    """Mean distance over the masked pixels of all windows after the third, stretched."""
    model = active_network(NAME, channels=4)
    counts = [torch.from_numpy(window) for window in moving_counts(6, (7, 9))]
    rng = np.random.default_rng(0)
    truths = [
        Truth(rng.normal(size=(2, 7, 9)).astype(np.float32), rng.random((7, 9)) < 0.5, 1.5)
        for _ in counts
    ]
    spec = quantize(model)
    scorer = Scorer(model, [Recording("a", counts, [*truths[:5], None])])
    network, states, distances = IntegerNetwork(spec), None, []
    for index, (events, truth) in enumerate(zip(counts[:5], truths, strict=False)):
        result = network.step(events, states)
        states = result.states
        if index >= 3:
            difference = result.flow[0].numpy() * 128 * 1.5 - truth.flow
            distances.append(np.linalg.norm(difference, axis=0)[truth.mask])
    assert scorer.measure == GROUND_TRUTH
    assert scorer.error(spec) == pytest.approx(float(np.concatenate(distances).mean()), rel=1e-5)
    inputs = scorer.advance(spec, scorer.inputs(), 0, 2)
    assert scorer.error(spec, inputs, 2) == scorer.error(spec)


def test_recordings_with_truth_are_the_ones_scored(
    active_network: Make, moving_counts: Make, scene: Path
) -> None:
    (known,) = read_recordings([scene], Plan(limit=6))
    plain = Recording("plain", [torch.from_numpy(c) for c in moving_counts(6, (7, 9))], [None] * 6)
    scorer = Scorer(active_network(NAME, channels=4), [plain, known])
    assert [recording.name for recording in scorer.recordings] == ["scene.h5"]


# --- searches ------------------------------------------------------------------------------------


def tuned(ready: Calibrated, options: QuantOptions, memo: Memo) -> Tuned:
    *_, last = tune(ready.derive, options, ready.scorer, memo)
    assert isinstance(last, Tuned)
    return last


@pytest.mark.parametrize("options", [QuantOptions(4, 8), QuantOptions(4)])
def test_tuning_finds_what_it_says(options: QuantOptions, ready: Calibrated) -> None:
    result = tuned(ready, options, Memo(None, {}))
    assert result.error_before == ready.scorer.error(ready.derive(options))
    assert result.error == ready.scorer.error(ready.derive(result.options))
    assert result.error < result.error_before and result.options.layers
    assert all(layer.frac_bits is not None for layer in result.options.layers.values())


def test_candidates(ready: Calibrated) -> None:
    bits = [tuple(m) for m in membrane_candidates(ready.derive, QuantOptions(), 0)]
    assert bits[:5] == [(16, 0), (16, -1), (16, 1), (16, -2), (16, 2)]
    assert len(bits) == 6 and bits[5][0] == 8 and bits[5][1] <= 0
    edge = [tuple(m) for m in membrane_candidates(ready.derive, QuantOptions(7, 8, 6), 1)]
    assert edge == [(8, 6), (8, 5), (8, 4)]


def test_an_interrupted_tuning_goes_on(ready: Calibrated, tmp_path: Path) -> None:
    """To the same result, without measuring again what it knows."""
    options, path = QuantOptions(4, 8), tmp_path / "tuning.json"
    whole = tuned(ready, options, Memo(None, {}))
    steps = tune(ready.derive, options, ready.scorer, Memo(path, {"a": 1}))
    for _ in range(7):
        next(steps)
    known = Memo(path, {"a": 1})
    assert 0 < len(known) < whole.trials
    calls = []
    error = ready.scorer.error
    ready.scorer.error = lambda *a: (calls.append(a), error(*a))[1]  # type: ignore[method-assign]
    try:
        before = len(known)
        assert tuned(ready, options, known) == whole
    finally:
        del ready.scorer.error
    assert len(calls) == whole.trials - before
    assert len(Memo(path, {"a": 2})) == 0


def test_layers_of_their_own(ready: Calibrated) -> None:
    options = QuantOptions(7, layers={"G1": LayerOptions(3, 8, -2), "pred": LayerOptions(8)})
    spec = ready.derive(options)
    assert spec.weight_bits == 8
    g1 = spec.layers[1]
    assert (np.abs(g1.conv.weight).max(), g1.mem_bits, g1.frac_bits) == (3, 8, -2)
    assert np.abs(spec.layers[0].conv.weight).max() == 63
    with pytest.raises(ValueError, match="no layer 'G9'; layers: head, G1"):
        ready.derive(QuantOptions(layers={"G9": LayerOptions()}))


def test_sensitivity_is_that_of_the_whole_network(ready: Calibrated) -> None:
    """Computed from the layer on; equal to running everything."""
    rows = list(sensitivity(ready.derive, QuantOptions(), ready.scorer))
    (row,) = [r for r in rows if (r.layer, r.weight_bits) == ("G2", 2)]
    spec = ready.derive(QuantOptions(8, layers={"G2": LayerOptions(2)}))
    assert row.error == ready.scorer.error(spec)
    assert row.error != rows[0].error

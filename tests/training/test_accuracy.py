"""The table's figures against an independent computation, and its command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from calib_data.console import run
from models import CheckpointError, save_checkpoint, shipped_checkpoints, untrained
from quant import QuantOptions, calibrate, quantize, save_spec
from training import accuracy
from training.clips import Clip, data_folder, load_clips, score_clip
from training.config import ConfigError
from training.heldout import (
    Interval,
    Prediction,
    SceneScore,
    float_predictor,
    integer_predictor,
    load_scenes,
    mean_score,
    paired_ratio,
    score_scenes,
)
from training.membranes import watch_membranes

SEEDS = range(400_000, 400_003)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return untrained("LIFFireNet_short", channels=4)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, model):
    return load_scenes(tmp_path_factory.mktemp("s"), SEEDS, model.config, (20, 24), 0.3)


@pytest.fixture(scope="module")
def specs(model, scenes):
    windows = [torch.from_numpy(counts)[None].float() for counts in scenes[0].counts]
    calibration = calibrate(model, windows)
    return [quantize(model, QuantOptions(8, bits), calibration) for bits in (16, 8)]


def by_hand(flows, scene):
    """Mean over frames of (error, zero error, outliers) without the library's scoring."""
    frames = []
    for index in range(3, len(scene)):
        truth = scene.flow[index].astype(np.float64)
        there = scene.counts[index].sum(0) > 0
        there &= np.isfinite(truth).all(0) & (np.abs(truth).sum(0) > 0)
        if there.any():
            error = np.hypot(*(flows[index] - truth))[there]
            length = np.hypot(*truth)[there]
            outlier = (error > 3) & (error > 0.05 * length)
            frames.append((error.mean(), length.mean(), outlier.mean()))
    return np.mean(frames, axis=0)


def test_float_scores_are_those_computed_by_hand(model, scenes) -> None:
    scores = score_scenes(float_predictor(model), scenes, "", quiet=True)
    for score, scene in zip(scores, scenes, strict=True):
        states, flows, rates = None, [], []
        for counts in scene.counts:
            with torch.no_grad():
                flow, states = model.step(torch.from_numpy(counts)[None].float(), states)
            flows.append(flow[0].numpy() * model.config.flow_scaling)
            rates.append(np.mean([state.spike.mean() for state in states.values()]))
        expected = by_hand(flows, scene)
        # Convolutions of a batch may sum in another order.
        assert (score.aee, score.zero_aee, score.outliers) == pytest.approx(expected, rel=1e-3)
        assert score.spike_rate == pytest.approx(np.mean(rates[3:]), rel=1e-3)


def test_integer_scores_do_not_depend_on_neighbours(specs, scenes) -> None:
    together = score_scenes(integer_predictor(specs[0]), scenes, "", quiet=True)
    alone = [score_scenes(integer_predictor(specs[0]), [s], "", quiet=True)[0] for s in scenes]
    assert together == alone


def test_scenes_of_different_length_are_scored_to_their_own_end(specs, scenes) -> None:
    short = [scenes[0].cut(0, 5), scenes[1]]
    together = score_scenes(integer_predictor(specs[0]), short, "", quiet=True)
    assert together == [
        score_scenes(integer_predictor(specs[0]), [s], "", quiet=True)[0] for s in short
    ]


def scored(*errors: float) -> list[SceneScore]:
    return [SceneScore(error, 2.0, 0.1, 10.0, 0.2) for error in errors]


def test_ratio_of_means_and_its_interval() -> None:
    assert paired_ratio(scored(2, 4), scored(1, 3)).ratio == 6 / 4
    # A common factor cancels in every resample.
    assert paired_ratio(scored(2, 6, 8), scored(1, 3, 4)) == Interval(2, 2, 2)
    ratio = paired_ratio(scored(1, 1, 5), scored(1, 1, 1))
    # Of 27 equal draws one is all fives and eight are all ones.
    assert (ratio.low, ratio.high) == (1.0, 5.0)
    assert np.isnan(paired_ratio(scored(1), scored(1)).low)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.9, 1.02, "yes"),
        (1.021, 1.2, "no"),
        (1.0, 1.03, "undecided"),
        (np.nan,) * 2 + ("undecided",),
    ],
)
def test_verdict_needs_the_whole_interval(low: float, high: float, word: str) -> None:
    assert accuracy.verdict(Interval(1.0, low, high)) == word


def test_means_weigh_scenes_equally() -> None:
    assert mean_score(scored(1, 2, 6)).aee == 3


def test_membranes_of_eight_bits_round_away_what_sixteen_hold(specs, scenes) -> None:
    wide, narrow = (watch_membranes(spec, scenes[0]) for spec in specs)
    assert all(report.rounded_away == 0 for report in wide)
    assert sum(report.rounded_away for report in narrow) > 0
    for report, spec in zip(narrow, specs[1].layers, strict=True):
        assert report.threshold == np.median(spec.threshold) < 128


def test_clip_error_and_warp_loss_by_hand(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "flow").mkdir()
    rng = np.random.default_rng(0)
    count, side = 16_500, 128
    events = {
        "xs": rng.integers(0, side, count), "ys": rng.integers(0, side, count),
        "ts": np.arange(count) * 1e-5, "ps": rng.choice([-1, 1], count),
    }  # fmt: skip
    np.savez(tmp_path / "events" / "a.npz", sensor_size=[side, side], **events)
    np.save(tmp_path / "flow" / "a_rotflow_px_per_s.npy", np.full((2, side, side), 300.0))
    (clip,) = load_clips(tmp_path, 30)

    def still(inputs, states):
        return Prediction(np.zeros((1, 2, side, side), np.float32), [0.0], None)

    score = score_clip(still, clip)
    # Nothing moves: warped and unwarped image are one; the window lasts 999 intervals.
    assert isinstance(clip, Clip) and len(clip.events) == 16
    assert np.isnan(score.fwl)  # 13 scored windows are 13,000 events
    assert score.error == score.zero_error == pytest.approx(np.hypot(300, 300) * 999e-5, rel=1e-5)


def test_folder_of_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNN_DATA", str(tmp_path))
    assert data_folder() is None
    (tmp_path / "events").mkdir()
    assert data_folder() == tmp_path


def test_page_keeps_its_prose() -> None:
    page = "a <!-- t -->old<!-- /t --> b"
    filled = accuracy.fill(page, {"t": "new"})
    assert filled == "a <!-- t -->\nnew\n<!-- /t --> b"
    assert accuracy.fill(filled, {"t": "new"}) == filled
    with pytest.raises(ConfigError, match="lacks <!-- u -->"):
        accuracy.fill(page, {"u": ""})


def test_command_measures_a_network_and_its_quantized_sibling(
    model, specs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_checkpoint(model, tmp_path / "tiny.safetensors")
    save_spec(specs[1], tmp_path / "tiny.quantized.safetensors")
    page = tmp_path / "page.md"
    argv = ["--no-shipped", "--checkpoint", str(path), "--scenes", "2", "--seconds", "0.3"]
    argv += ["--resolution", "20", "24", "--no-recordings", "--cache", str(tmp_path / "scenes")]
    assert accuracy.main([*argv, "--json", "--out", str(page)]) == 0
    result = json.loads(capsys.readouterr().out)
    forms = [row["form"] for row in result["rows"]]
    assert forms == ["float", *accuracy.PTQ, "QAT 8-bit, 8-bit membranes"]
    assert result["seeds"] == [400_000, 400_001]
    first = page.read_text()
    assert accuracy.main([*argv, "--out", str(page)]) == 0
    assert page.read_text() == first


def test_one_network_is_measured_again_and_the_others_rows_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("a", "b")]
    errors = {"a": 1.0, "b": 2.0}

    def measure(path: Path, *_: object) -> list[accuracy.Row]:
        error = errors[path.stem]
        return [accuracy.Row(path.stem, form, scored(error, error)) for form in ("float", "PTQ")]

    monkeypatch.setattr(accuracy, "shipped_checkpoints", lambda: paths)
    monkeypatch.setattr(accuracy, "read_recordings", lambda *_: [])
    monkeypatch.setattr(accuracy, "measure", measure)
    page = tmp_path / "page.md"
    argv = ["--scenes", "2", "--no-recordings", "--out", str(page)]
    assert accuracy.main(argv) == 0
    before = page.read_text()
    errors.update(a=1.5, b=9.0)
    assert accuracy.main([*argv, "--only", "a"]) == 0
    changed = before.replace("| a | float | 1.000 | 0.500 |", "| a | float | 1.500 | 0.750 |")
    changed = changed.replace("| a | PTQ | 1.000 | 0.500 |", "| a | PTQ | 1.500 | 0.750 |")
    assert accuracy.fill(page.read_text(), {"scenes": ""}) == accuracy.fill(changed, {"scenes": ""})
    assert page.read_text().count("| b | ") == before.count("| b | ")
    assert run(accuracy.main, [*argv, "--only", "c"]) == 2
    assert run(accuracy.main, [*argv, "--only", "a", "--scenes", "1"]) == 2


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(accuracy.main, ["--no-shipped"]) == 2
    assert run(accuracy.main, ["--scenes", "-1"]) == 2
    (tmp_path / "page.md").write_text("no marker")
    assert run(accuracy.main, ["--out", str(tmp_path / "page.md")]) == 2
    assert [line[:6] for line in capsys.readouterr().err.splitlines()] == ["error:"] * 3
    with pytest.raises((CheckpointError, OSError)):
        accuracy.forms_of(tmp_path / "missing.safetensors", [])


def test_shipped_weights_are_small_and_have_cards() -> None:
    shipped = shipped_checkpoints()
    assert shipped
    files = list(shipped[0].parent.iterdir())
    assert sum(file.stat().st_size for file in files) < 3_000_000
    for path in shipped:
        assert path.with_suffix(".md").exists()
    names = {path.stem for path in shipped}
    for file in files:
        if file.name.endswith(".quantized.safetensors"):
            assert file.name.split(".")[0] in names

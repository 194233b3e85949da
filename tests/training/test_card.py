"""Model cards: what is copied, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from calib_data.console import run
from models import load_checkpoint, save_checkpoint, untrained
from quant import QuantOptions, load_spec, quantize, save_spec
from training import card
from training.config import ConfigError, load_config


@pytest.fixture
def finished(tmp_path: Path, write_config) -> tuple[Path, Path]:
    """(run folder, configuration) as training leaves them, with a network of two channels."""
    config = write_config()
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    model = untrained("LIFFireNet_short", channels=2)
    for _, layer in model.named_layers():
        layer.threshold.data.fill_(0.05)  # so that every layer fires
    save_checkpoint(model, folder / "best.safetensors")
    summary = {
        "updates": 2, "wall_seconds": 60, "machine": "machine", "torch": "2",
        "best_validation_aee": 1.5, "config": load_config(config).to_dict(),
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    log = [{"update": 1, "loss": 3.0}, {"update": 2, "loss": 2.0, "error": 1.5}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder, config


def arguments(finished: tuple[Path, Path], out: Path) -> list[str]:
    run_folder, config = finished
    return ["--run", str(run_folder), "--config", str(config), "--out", str(out), "--scenes", "1"]


def quantized_run(folder: Path, finished: tuple[Path, Path], digest: str | None = None) -> Path:
    folder.mkdir()
    model = load_checkpoint(finished[0] / "best.safetensors")
    if digest is not None:
        model.checkpoint_sha256 = digest
    save_spec(quantize(model, QuantOptions(8)), folder / "best.quantized.safetensors")
    summary = json.loads((finished[0] / "summary.json").read_text())
    summary["config"]["quant"] = {"weight_bits": 8}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_card_with_integers_trained_on_the_grid(finished, tmp_path: Path) -> None:
    qat = quantized_run(tmp_path / "qat", finished)
    out = tmp_path / "out"
    assert card.main([*arguments(finished, out), "--qat-run", str(qat)]) == 0
    name = "LIFFireNet_short-2"
    assert {path.name for path in out.iterdir()} == {
        f"{name}.md", f"{name}.png", f"{name}.safetensors", f"{name}.quantized.safetensors",
    }  # fmt: skip
    text = (out / f"{name}.md").read_text()
    for part in ("QAT 8-bit", "PTQ 4-bit", f"]({name}.png)", "| 2 | 1.500 |", "seeds\n400000"):
        assert part in text
    written = load_checkpoint(out / f"{name}.safetensors")
    integers = load_spec(out / f"{name}.quantized.safetensors")
    assert integers.checkpoint_sha256 == written.checkpoint_sha256


def test_integers_of_another_network_are_refused(finished, tmp_path: Path, capsys) -> None:
    qat = quantized_run(tmp_path / "qat", finished, "0" * 64)
    out = tmp_path / "out"
    assert run(card.main, [*arguments(finished, out), "--qat-run", str(qat)]) == 2
    assert "was not trained from" in capsys.readouterr().err
    assert not out.exists()


def test_another_configuration_is_refused(finished, write_config, tmp_path: Path) -> None:
    write_config(updates=3)
    with pytest.raises(ConfigError, match="was not made with"):
        card.main(arguments(finished, tmp_path / "out"))


def test_damaged_summary_and_log_are_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "log.jsonl").write_text("[1]\n")
    with pytest.raises(ConfigError, match=r"summary\.json: not a run's summary"):
        card.read_summary(tmp_path)
    with pytest.raises(ConfigError, match=r"log\.jsonl: not a run's log"):
        card.learning_curve(tmp_path)


def test_learning_curve_is_thinned_to_its_ends(tmp_path: Path) -> None:
    assert card.learning_curve(tmp_path) == []
    assert card.thinned([]) == []
    points = [(k, 1.0 / k) for k in range(1, 101)]
    kept = card.thinned(points)
    assert (len(kept), kept[0], kept[-1]) == (8, points[0], points[-1])
    assert card.thinned(points[:3]) == points[:3]

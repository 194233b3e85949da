"""Ship a trained network: its weights beside a model card with metrics on held-out scenes.

python -m training.card --run runs/first --out models/weights
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from calib_data.console import progress, run
from calib_data.files import atomic_path
from models import SpikingFireNet, load_checkpoint
from quant import IntegerNetwork, IntegerState, QuantOptions, quantize
from training.config import ConfigError, load_config
from training.data import Sequence, load_sequence, scene_path
from training.validation import FlowErrors, evaluate, evaluate_steps

TEST_SEEDS = range(400_000, 400_006)
TEST_SECONDS = 2.0


def integer_errors(model: SpikingFireNet, sequence: Sequence) -> FlowErrors:
    """Errors of the network after post-training quantization with default options."""
    network = IntegerNetwork(quantize(model, QuantOptions()))
    states: dict[str, IntegerState] = {}

    def step(counts: torch.Tensor) -> tuple[torch.Tensor, float]:
        nonlocal states
        result = network.step(counts, states)
        states = result.states
        rates = torch.stack([state.spike.float().mean() for state in states.values()])
        return result.flow * model.config.flow_scaling, float(rates.mean())

    return evaluate_steps(step, sequence)


def test_rows(model: SpikingFireNet, cache: Path, resolution: tuple[int, int]) -> list[Any]:
    """(seed, float errors, integer errors) per test scene; no other step uses these scenes."""
    rows = []
    for seed in progress(TEST_SEEDS, "test scenes", total=len(TEST_SEEDS)):
        sequence = load_sequence(scene_path(cache, seed, resolution, TEST_SECONDS))
        rows.append((seed, evaluate(model, sequence), integer_errors(model, sequence)))
    return rows


_HEADINGS = (
    "scene (seed)",
    "float AEE",
    "integer AEE",
    "zero flow",
    "sequence mean",
    "window mean",
    "float spikes",
    "integer spikes",
)


def _table(rows: list[Any]) -> str:
    cells = [
        [f.aee, i.aee, f.zero, f.sequence_mean, f.mean, f.spike_rate, i.spike_rate]
        for _, f, i in rows
    ]
    names = [str(seed) for seed, _, _ in rows] + ["mean"]
    cells.append([sum(column) / len(column) for column in zip(*cells, strict=True)])
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|" + " --- |" * len(_HEADINGS)]
    for name, row in zip(names, cells, strict=True):
        errors = [f"{value:.3f}" for value in row[:5]]
        rates = [f"{100 * value:.1f} %" for value in row[5:]]
        lines.append("| " + " | ".join([name, *errors, *rates]) + " |")
    return "\n".join(lines)


def card(
    name: str, model: SpikingFireNet, summary: dict[str, Any], config_path: Path, rows: list[Any]
) -> str:
    """The model card, Markdown."""
    config = summary["config"]
    data, loss = config["data"], config["loss"]
    height, width = data["resolution"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"""# {name}

{model.config.model}, {model.config.channels} channels, event counts (ON, OFF) in, optical flow out.
{parameters} parameters in canonical form, hard reset. Flow in pixels per window is the output
times {model.config.flow_scaling:g}; x points right, y down.

**Data.** {data["train_scenes"]} synthetic scenes of `calib_data.synthetic` (seeds
{data["seed"]} to {data["seed"] + data["train_scenes"] - 1}, {height} x {width} pixels,
{data["duration"]:g} s, 30 flow maps per second), random crops of {data["crop"]} pixels, flips and
polarity swaps; one window is one flow interval. No recorded data.

**Training.** Supervised relative endpoint error, {summary["updates"]} updates (of a schedule of
{config["updates"]}) of {config["batch_size"]} sequences of {loss["window_loss"]} windows with the
state carried along, Adam at {config["optimizer"]["lr"]:g} with cosine decay, batch norm folded
afterwards, seed {config["seed"]}. {summary["wall_seconds"] / 60:.0f} minutes on
a shared {summary["machine"]}, torch {summary["torch"]}. Kept is the network with the
lowest error, {summary["best_validation_aee"]:.3f} pixels, on {data["validation_scenes"]}
validation scenes.

**Test.** Six further scenes; mean endpoint error in pixels per window on pixels with events, the
first three windows not scored. *Integer* is the network after post-training quantization with
default options. *Sequence mean* and *window mean* predict the mean true flow of the whole sequence
and of each window, which no predictor without the ground truth knows.

{_table(rows)}

**Limits.** Trained on similarity motions of flat textures with a generic sensor model, for
displacements up to about ten pixels per window; not evaluated on MVSEC.

**Reproduce.**

    python -m training.fit --config {config_path} --out runs/{name} --threads 1 \\
        --stop-after {summary["updates"]}
    python -m training.card --run runs/{name} --config {config_path} \\
        --out models/weights
"""


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m training.card",
        description="Copy a run's best weights and write their model card.",
        epilog="example: python -m training.card --run runs/first "
        "--config configs/train_snn.yml --out models/weights",
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--config", type=Path, required=True, help="the run's configuration")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and card")
    arguments = parser.parse_args(argv)
    source = arguments.run / "best.safetensors"
    try:
        summary = json.loads((arguments.run / "summary.json").read_text())
        data = summary["config"]["data"]
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{arguments.run}/summary.json: not a run's summary ({error})") from None
    if load_config(arguments.config).to_dict() != summary["config"]:
        raise ConfigError(f"{arguments.run} was not made with {arguments.config}")
    model = load_checkpoint(source)
    name = f"{model.config.model}-{model.config.channels}"
    rows = test_rows(model, Path(data["cache"]), tuple(data["resolution"]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(arguments.out / f"{name}.safetensors") as path:
        shutil.copyfile(source, path)
    with atomic_path(arguments.out / f"{name}.md") as path:
        path.write_text(card(name, model, summary, arguments.config, rows))
    print(arguments.out / f"{name}.md")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))

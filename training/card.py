"""Ship a trained network: its weights beside a model card with metrics on held-out scenes.

python -m training.card --run runs/first --config configs/train_snn.yml --out models/weights
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib_data.console import MissingExtra, run
from calib_data.files import atomic_path
from models import AnalogFireNet, SpikingFireNet, load_network
from quant import load_spec
from quant.recordings import Plan, read_recordings
from training.accuracy import Measurement, Row, main_table, markdown_table, measure
from training.config import ConfigError, load_config
from training.heldout import QUICK_SCENES, TEST_SCENES
from training.run_folder import LOG, SUMMARY

FLOAT_FILE = "best.safetensors"
INTEGER_FILE = "best.quantized.safetensors"
CURVE_POINTS = 8


def learning_curve(run_folder: Path) -> list[tuple[int, float]]:
    """(update, validation error) of every validation in a run's log; empty without a log.

    Raises:
        ConfigError: the log is damaged.
    """
    path = run_folder / LOG
    points = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            error = record.get("error", record.get("aee"))
            if error is not None:
                points.append((int(record["update"]), float(error)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: not a run's log ({error})") from None
    return points


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most eight points, evenly spaced, the first and the last among them."""
    count = min(len(points), CURVE_POINTS)
    places = [round(i * (len(points) - 1) / max(count - 1, 1)) for i in range(count)]
    return [points[place] for place in places]


def draw_curve(points: Sequence[tuple[int, float]], path: Path) -> None:
    """Write the learning curve as a PNG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        figure = importlib.import_module("matplotlib.figure").Figure(figsize=(5, 3), dpi=100)
        canvas = importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
    except ImportError:
        raise MissingExtra(
            "the learning curve needs matplotlib; pip install 'spikedeploy[report]'"
        ) from None
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True))
    axes.set(xlabel="update", ylabel="validation error")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        # Without the library's version in it the file is the same everywhere.
        canvas(figure).print_png(temporary, metadata={"Software": None})


def curve_text(name: str, points: Sequence[tuple[int, float]]) -> str:
    """Picture and table of the learning curve."""
    if not points:
        return "Not recorded."
    rows = [[str(update), f"{error:.3f}"] for update, error in thinned(points)]
    table = markdown_table(("update", "validation error"), rows)
    return f"Error on the validation scenes.\n\n![learning curve]({name}.png)\n\n{table}"


def per_scene(rows: Sequence[Row], seeds: range) -> str:
    """AEE over zero flow's, a line per scene and a column per arithmetic."""
    lines = [
        [str(seed), *(f"{row.scores[k].aee / row.scores[k].zero_aee:.3f}" for row in rows)]
        for k, seed in enumerate(seeds)
    ]
    return markdown_table(("scene (seed)", *(row.form for row in rows)), lines)


def card(
    name: str,
    model: SpikingFireNet | AnalogFireNet,
    summary: dict[str, Any],
    config_path: Path,
    rows: Sequence[Row],
    measurement: Measurement,
    curve: str,
    qat_run: dict[str, Any] | None = None,
    history: str = "",
) -> str:
    """The model card, Markdown.

    Args:
        name: of the files.
        model: the float network.
        summary: the run's.
        config_path: its configuration.
        rows: what :func:`training.accuracy.measure` gives.
        measurement: on what.
        curve: text on the learning curve.
        qat_run: summary of the run on the integer grid, if there was one.
        history: how the network came about before this run, Markdown.
    """
    config = summary["config"]
    data, loss = config["data"], config["loss"]
    height, width = data["resolution"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    qat = "" if qat_run is None else _qat_text(qat_run)
    return f"""# {name}

{model.config.model}, {model.config.channels} channels, event counts (ON, OFF) in, optical flow out.
{parameters} parameters in canonical form, hard reset. Flow in pixels per window is the output
times {model.config.flow_scaling:g}; x points right, y down.

**Data.** {data["train_scenes"]} synthetic scenes of `calib_data.synthetic` (seeds
{data["seed"]} to {data["seed"] + data["train_scenes"] - 1}, {height} x {width} pixels,
{data["duration"]:g} s, 30 flow maps per second), random crops of {data["crop"]} pixels, flips and
polarity swaps; one window is one flow interval. No recorded data.

**Training.** Supervised endpoint error over (true speed + 1)^{loss["magnitude_exponent"]:g},
{summary["updates"]} updates (of a schedule of {config["updates"]}) of {config["batch_size"]}
sequences of {loss["window_loss"]} windows with the state carried along, Adam at
{config["optimizer"]["lr"]:g} with cosine decay, {_start_text(config)}, {config["precision"]},
seed {config["seed"]}. {summary["wall_seconds"] / 60:.0f} minutes on a shared {summary["machine"]},
torch {summary["torch"]}. Kept is the network with the lowest error,
{summary["best_validation_aee"]:.3f} pixels, on {data["validation_scenes"]} validation scenes.
{history}
**Learning curve.** {curve}

**Test.** {measurement.count} further scenes of {measurement.seconds:g} s (seeds
{measurement.seeds[0]} to {measurement.seeds[-1]}), the first three windows of each not scored.
Columns are explained in docs/accuracy.md.

{main_table(rows)}

AEE over that of zero flow, by scene:

{per_scene(rows, measurement.seeds)}

**Limits.** Trained on similarity motions of flat textures with a generic sensor model, for
displacements up to about ten pixels per window; not evaluated on MVSEC.

**Reproduce.**

    python -m training.fit --config {config_path} --out runs/{name} --threads 1 \\
        --stop-after {summary["updates"]}
    python -m training.card --run runs/{name} --config {config_path} \\
        --out models/weights
{qat}"""


def _start_text(config: dict[str, Any]) -> str:
    """What the weights were at first, and whether a norm helped."""
    model = config["model"]
    norm = model["norm"] or ("none" if model["init"] else "batch")
    start = f"starting from `{model['init']}`" if model["init"] else "starting afresh"
    return start if norm == "none" else f"{start}, {norm} norm folded afterwards"


def _qat_text(summary: dict[str, Any]) -> str:
    return f"""
**Integers.** `QAT` rows: {summary["updates"]} updates on the integer grid,
{summary["wall_seconds"] / 60:.0f} minutes, seed {summary["config"]["seed"]}, with

    {json.dumps(summary["config"]["quant"])}
"""


def read_summary(folder: Path) -> dict[str, Any]:
    """A run's summary.

    Raises:
        ConfigError: not a run's summary.
        OSError: there is none.
    """
    path = folder / SUMMARY
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
        summary["config"]["data"], summary["updates"], summary["wall_seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a run's summary ({error})") from None
    return summary


def _check_child(integers: Path, source: Path, model: SpikingFireNet | AnalogFireNet) -> None:
    """Refuse an integer network that did not start from the float one.

    Raises:
        ConfigError: it did not.
    """
    if load_spec(integers).checkpoint_sha256 != model.checkpoint_sha256:
        raise ConfigError(f"{integers} was not trained from {source}; set quant.init to that file")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.card",
        description="Copy a run's best weights and write their model card.",
        epilog="example: python -m training.card --run runs/first "
        "--config configs/train_snn.yml --out models/weights",
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--config", type=Path, required=True, help="the run's configuration")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and card")
    parser.add_argument("--qat-run", type=Path, help="run on the integer grid that began with it")
    parser.add_argument("--history", type=Path, help="Markdown on what came before the run")
    parser.add_argument("--scenes", type=int, metavar="N", help=f"default: {TEST_SCENES}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SCENES} scenes")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    arguments = _parser().parse_args(argv)
    source = arguments.run / FLOAT_FILE
    summary = read_summary(arguments.run)
    if load_config(arguments.config).to_dict() != summary["config"]:
        raise ConfigError(f"{arguments.run} was not made with {arguments.config}")
    data = summary["config"]["data"]
    count = arguments.scenes or (QUICK_SCENES if arguments.quick else TEST_SCENES)
    if count < 1:
        raise ConfigError("--scenes must be positive")
    measurement = Measurement(
        Path(data["cache"]), count, tuple(data["resolution"]), quiet=arguments.json
    )
    model = load_network(source)
    name = f"{model.config.model}-{model.config.channels}"
    files = {f"{name}.safetensors": source}
    if arguments.qat_run is not None:
        files[f"{name}.quantized.safetensors"] = arguments.qat_run / INTEGER_FILE
        _check_child(arguments.qat_run / INTEGER_FILE, source, model)
    qat_run = None if arguments.qat_run is None else read_summary(arguments.qat_run)
    history = "" if arguments.history is None else f"\n{arguments.history.read_text().strip()}\n"
    windows = [recording.floats() for recording in read_recordings([], Plan())]
    with tempfile.TemporaryDirectory(prefix="spikedeploy-") as folder:
        for file, path in files.items():
            shutil.copyfile(path, Path(folder) / file)
        rows = list(measure(Path(folder) / f"{name}.safetensors", measurement, windows, []))
    points = learning_curve(arguments.run)
    if points:
        draw_curve(points, arguments.out / f"{name}.png")
    curve = curve_text(name, points)
    text = card(name, model, summary, arguments.config, rows, measurement, curve, qat_run, history)
    for file, path in files.items():
        with atomic_path(arguments.out / file) as temporary:
            shutil.copyfile(path, temporary)
    with atomic_path(arguments.out / f"{name}.md") as temporary:
        temporary.write_text(text)
    print(
        json.dumps([row.to_dict() for row in rows])
        if arguments.json
        else arguments.out / f"{name}.md"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))

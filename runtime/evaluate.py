"""Drive artifacts over a recording, score their flow and count their spikes.

    python -m runtime.evaluate model.int8.onnx --data F.h5 --mode gtflow_dt1 \
        [--window W] [--against model.float.onnx] [--json F] [--no-library] [--metrics aee,rsat]
    python -m runtime.evaluate --list-metrics

Spikes of layers without recurrence are no outputs of an artifact, so a copy of the graph runs in
which every layer's spikes are outputs too. Nothing it computes changes by that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calib_data import console
from calib_data.encodings import event_mask
from calib_data.events import EventSource
from calib_data.files import atomic_path
from calib_data.npz import open_events
from runtime.arguments import add_recording_arguments, positive
from runtime.artifact import LoadedModel, load_model
from runtime.house import start_command
from runtime.metrics import METRICS, ChosenMetrics, SequenceScore, find_metrics
from runtime.picture_outputs import PictureOutputs, add_picture_arguments
from runtime.runner import Runner
from runtime.sequence import Drive, StepRecord, default_window, drive
from runtime.session import StatefulSession, Stream
from runtime.warping import EVENTS_PER_VALUE

_WIDTH = 140
_PROTOCOL = ("data", "resolution", "mode", "window", "warmup", "fwl_events", "windows", "events")

Observer = Callable[[StepRecord], None]


@dataclass
class NetworkResult:
    """What one network did over a recording.

    score: errors of the scored windows. fired, neurons: spikes and chances to spike by layer, over
    all windows. fwl: values of the flow warp loss. times, aee: per scored frame, the end of its
    window in seconds and its AEE in pixels. flow_scaling: pixels per window for an output of 1.
    metrics: those asked for by name.
    """

    score: SequenceScore = field(default_factory=SequenceScore)
    fired: dict[str, int] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    fwl: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    aee: list[float] = field(default_factory=list)
    flow_scaling: float = 1.0
    metrics: ChosenMetrics = field(default_factory=lambda: ChosenMetrics(()))

    def spike_rates(self) -> dict[str, float]:
        """Share of neurons that fired per step, by layer."""
        return {layer: self.fired[layer] / total for layer, total in self.neurons.items() if total}

    def spike_rate(self) -> float | None:
        """The share over all layers, every neuron weighing the same; None if unknown."""
        total = sum(self.neurons.values())
        return sum(self.fired.values()) / total if total else None

    def mean_fwl(self) -> float | None:
        """Mean flow warp loss, None if it was not computed."""
        return float(np.mean(self.fwl)) if self.fwl else None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; ``metrics`` only where some were asked for."""
        chosen = {"metrics": self.metrics.to_dict()} if self.metrics.metrics else {}
        return {
            "score": self.score.to_dict(),
            "spike_rate": self.spike_rate(),
            "spike_rates": self.spike_rates(),
            "fwl": self.mean_fwl(),
            "timeline": {"seconds": self.times, "aee": self.aee},
            **chosen,
        }


@dataclass
class Evaluation:
    """Networks driven side by side over one recording.

    windows, events: driven windows and the events in them. pixels: of one image.
    """

    data: Path
    resolution: tuple[int, int]
    plan: Drive
    networks: dict[str, NetworkResult]
    windows: int = 0
    events: int = 0

    @property
    def events_per_pixel(self) -> float:
        """Input density: events per pixel and window."""
        pixels = self.resolution[0] * self.resolution[1]
        return self.events / (self.windows * pixels) if self.windows else 0.0

    def add(self, record: StepRecord) -> None:
        """Take the record of one window in."""
        self._add_to_metrics(record)
        self.windows += 1
        self.events += len(record.window.events)
        for name, step in record.networks.items():
            result = self.networks[name]
            for layer, fired in step.fired.items():
                result.fired[layer] = result.fired.get(layer, 0) + fired
                result.neurons[layer] = result.neurons.get(layer, 0) + step.neurons[layer]
            if step.fwl is not None:
                result.fwl.append(step.fwl)
            if step.score is not None and step.score.pixels:
                result.score.add(step.score)
                result.times.append(record.window.t_stop)
                result.aee.append(step.score.aee)

    def _add_to_metrics(self, record: StepRecord) -> None:
        window = record.window
        asked = any(result.metrics.metrics for result in self.networks.values())
        if not asked or self.windows < self.plan.warmup:
            return
        events = event_mask(window.events, self.resolution)
        for name, step in record.networks.items():
            result = self.networks[name]
            pixels_per_window = step.flow * np.float32(result.flow_scaling)
            result.metrics.add_window(window.events, pixels_per_window)
            if step.pixels is not None and window.flow is not None:
                result.metrics.add_frame(step.pixels, window.flow, events)

    def yardsticks(self) -> dict[str, float | None]:
        """AEE over pixels of predicting zero, and each frame's mean ground truth."""
        score = next(iter(self.networks.values())).score
        if not score.frames:
            return {"zero_aee": None, "mean_aee": None}
        means = score.by_pixels()
        return {"zero_aee": means["zero_aee"], "mean_aee": means["mean_aee"]}

    def zero_timeline(self) -> list[float]:
        """AEE of predicting zero, per scored frame."""
        return [frame.zero_aee for frame in next(iter(self.networks.values())).score.frames]

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON values."""
        return {
            "data": str(self.data),
            "resolution": list(self.resolution),
            "mode": self.plan.mode,
            "window": self.plan.window,
            "warmup": self.plan.warmup,
            "fwl_events": self.plan.fwl_events,
            "windows": self.windows,
            "events": self.events,
            "events_per_pixel": self.events_per_pixel,
            "networks": {name: result.to_dict() for name, result in self.networks.items()},
            "yardsticks": self.yardsticks(),
        }


def evaluate(
    file: EventSource,
    runners: Mapping[str, Runner],
    plan: Drive,
    *,
    observe: Observer | None = None,
    quiet: bool = False,
    metrics: Iterable[str] = (),
) -> Evaluation:
    """Drive networks over a recording and gather their scores.

    Args:
        file: the recording.
        runners: networks by name; spike rates need diagnostic ones (``runner.diagnostic()``).
        plan: windows and scoring.
        observe: called with every record, for pictures.
        quiet: no progress bar.
        metrics: names of ``runtime.metrics.METRICS`` to gather besides.

    Raises:
        EvaluationError, DataError: as ``runtime.sequence.drive``.
        MetricError: an unknown metric.
    """
    wanted = [metric.name for metric in find_metrics(metrics)]
    networks = {
        name: NetworkResult(
            flow_scaling=runner.artifact.flow_scaling,
            metrics=ChosenMetrics(wanted, plan.fwl_events or EVENTS_PER_VALUE),
        )
        for name, runner in runners.items()
    }
    result = Evaluation(Path(file.path), file.resolution, plan, networks)
    plan.check()
    records = drive(file, runners, plan)
    for record in console.progress(records, "evaluating", plan.count(file), quiet=quiet):
        result.add(record)
        if observe is not None:
            observe(record)
    return result


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    metrics = [metric.name for metric in find_metrics(arguments.metrics)]
    loaded = [load_model(path) for path in (arguments.model, arguments.against) if path]
    pictures = PictureOutputs(arguments, dict(zip(_names(loaded), loaded, strict=True)))
    with open_events(arguments.data, arguments.resolution) as file:
        plan = Drive(
            mode=arguments.mode,
            window=arguments.window or default_window(arguments.mode, file.resolution),
            warmup=arguments.warmup,
            limit=arguments.limit,
            fwl_events=_fwl_events(arguments),
        )
        runners = {
            name: _runner(model, file.resolution, arguments)
            for name, model in zip(_names(loaded), loaded, strict=True)
        }
        with pictures.sequence(arguments.data.stem, file.resolution, runners, plan.mode) as observe:
            result = evaluate(file, runners, plan, metrics=metrics, observe=observe)
            observe.finish(result)
    output = result.to_dict()
    for (name, runner), model in zip(runners.items(), loaded, strict=True):
        output["networks"][name]["file"] = str(model.path)
        output["networks"][name]["native"] = runner.native
        output["networks"][name]["artifact"] = model.artifact.to_dict()
    if arguments.json is not None:
        with atomic_path(arguments.json) as path:
            path.write_text(json.dumps(output, indent=2, allow_nan=False) + "\n")
    pictures.finish(protocol={key: output[key] for key in _PROTOCOL})
    print_tables(result, table_console())
    return 0


def _fwl_events(arguments: argparse.Namespace) -> int | None:
    """Events per value of the flow warp loss; recordings without ground truth always get one."""
    if arguments.fwl is None and not arguments.mode.startswith("gtflow"):
        return EVENTS_PER_VALUE
    events: int | None = arguments.fwl
    return events


def table_console() -> Console:
    """Standard output for tables; wide enough for them where it is no terminal."""
    out = Console()
    return out if out.is_terminal else Console(width=_WIDTH)


def _names(loaded: list[LoadedModel]) -> list[str]:
    """Names for the table: file names, with the folder where two are the same."""
    names = [model.path.name for model in loaded]
    if len(set(names)) < len(names):
        names = [str(model.path) for model in loaded]
    return names if len(set(names)) == len(names) else [f"{n} ({i})" for i, n in enumerate(names)]


def _runner(
    loaded: LoadedModel, resolution: tuple[int, int], arguments: argparse.Namespace
) -> Stream:
    session = StatefulSession(
        loaded,
        resolution=resolution if loaded.artifact.spatial_free else None,
        threads=arguments.threads,
        library="never" if arguments.no_library else "auto",
    )
    return session.diagnostic()


def print_tables(result: Evaluation, out: Console) -> None:
    """Print scores, yardsticks and spike rates."""
    out.print(
        f"{result.data.name}: {result.windows} windows ({result.plan.mode}, length "
        f"{result.plan.window:g}), {result.resolution[0]} x {result.resolution[1]} pixels, "
        f"{result.events_per_pixel:.3f} events per pixel and window",
        highlight=False,
    )
    out.print(_score_table(result))
    if any(network.metrics.metrics for network in result.networks.values()):
        out.print(_metric_table(result))
    if any(network.neurons for network in result.networks.values()):
        out.print(_rate_table(result))


def _score_table(result: Evaluation) -> Table:
    frames = max(len(network.score.frames) for network in result.networks.values())
    table = Table(title=f"errors on {frames} scored frames, every pixel weighing the same")
    table.add_column("prediction", overflow="fold")
    for heading in ("AEE px", "AEE by frames", "outliers", "AAE deg", "NEE", "spikes", "FWL"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, network in result.networks.items():
        pixels, frame_means = network.score.by_pixels(), network.score.by_frames()
        table.add_row(
            name,
            _text(pixels["aee"]),
            _text(frame_means["aee"]),
            _percent(pixels["outliers"]),
            _text(pixels["aae"], 1),
            _text(pixels["nee"]),
            _percent(network.spike_rate(), 2),
            _text(network.mean_fwl()),
        )
    if frames:
        means = next(iter(result.networks.values())).score
        for label, key in (("zero flow", "zero_aee"), ("mean true flow of the frame", "mean_aee")):
            row = (_text(means.by_pixels()[key]), _text(means.by_frames()[key]))
            table.add_row(label, *row, style="dim")
    return table


def _metric_table(result: Evaluation) -> Table:
    """The metrics asked for: one row per network and metric."""
    table = Table(title="metrics asked for")
    table.add_column("prediction", overflow="fold")
    table.add_column("metric", no_wrap=True)
    for heading in ("by frames", "by pixels", "values", "unit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, network in result.networks.items():
        for metric, value in network.metrics.values().items():
            numbers = (_text(value.by_frames, 4), _text(value.by_pixels, 4), str(value.values))
            table.add_row(name, metric, *numbers, METRICS[metric].unit)
    return table


def list_metrics(out: Console) -> None:
    """Print every metric with its unit, definition and source."""
    table = Table(title="metrics; F is the prediction, G ground truth; see docs/metrics.md")
    table.add_column("name", no_wrap=True)
    for heading in ("unit", "better", "definition", "source"):
        table.add_column(heading, overflow="fold")
    for metric in METRICS.values():
        cells = (metric.unit, metric.better, escape(metric.definition), escape(metric.source))
        table.add_row(metric.name, *cells)
    out.print(table)


class _ListMetrics(argparse.Action):
    """Prints the metrics and ends the command, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        list_metrics(table_console())
        parser.exit()


def _names_of_metrics(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _rate_table(result: Evaluation) -> Table:
    table = Table(title="neurons that fire per step")
    table.add_column("network")
    layers = list(
        dict.fromkeys(layer for n in result.networks.values() for layer in n.spike_rates())
    )
    for layer in [*layers, "all"]:
        table.add_column(layer, justify="right")
    for name, network in result.networks.items():
        rates = network.spike_rates()
        cells = [_percent(rates.get(layer), 2) for layer in layers]
        table.add_row(name, *cells, _percent(network.spike_rate(), 2))
    return table


def _text(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or np.isnan(value) else f"{100 * value:.{digits}f} %"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.evaluate",
        description="Drive artifacts over a recording, score their flow, count their spikes.",
        epilog="example: python -m runtime.evaluate model.int8.onnx --data recording.h5 "
        "--against model.float.onnx",
    )
    parser.add_argument("model", metavar="model.onnx", type=Path)
    add_recording_arguments(parser)
    parser.add_argument("--against", type=Path, metavar="other.onnx", help="a second artifact")
    parser.add_argument(
        "--warmup", type=int, default=0, metavar="N", help="windows at the start not to score"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="run at most N windows")
    parser.add_argument("--threads", type=positive, default=1, metavar="N")
    parser.add_argument(
        "--fwl",
        type=positive,
        nargs="?",
        const=EVENTS_PER_VALUE,
        metavar="N",
        help="flow warp loss over windows that hold N events together (default: "
        f"{EVENTS_PER_VALUE}; always on where the mode has no ground truth)",
    )
    parser.add_argument(
        "--metrics",
        type=_names_of_metrics,
        default=[],
        metavar="NAME,...",
        help="metrics besides those always shown; fwl and rsat span as many events as --fwl",
    )
    parser.add_argument(
        "--list-metrics", action=_ListMetrics, nargs=0, help="print every metric and exit"
    )
    parser.add_argument("--no-library", action="store_true", help="do not use the op library")
    parser.add_argument("--json", type=Path, metavar="F", help="write the result there")
    add_picture_arguments(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

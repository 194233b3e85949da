"""Drive artifacts over a recording, score their flow and count their spikes.

    python -m runtime.evaluate model.int8.onnx --data F.h5 --mode gtflow_dt1 \
        [--window W] [--against model.float.onnx] [--json F] [--no-library] [--metrics aee,rsat]
    python -m runtime.evaluate --list-metrics

Spikes of layers without recurrence are no outputs of an artifact, so a copy of the graph runs in
which every layer's spikes are outputs too. Nothing it computes changes by that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from calib_data import console
from calib_data.encodings import event_mask
from calib_data.events import EventSource
from calib_data.npz import open_events
from runtime.arguments import add_recording_arguments, positive
from runtime.artifact import LoadedModel, load_model
from runtime.errors import EvaluationError
from runtime.evaluate_output import outcome_values, write_csv, write_json
from runtime.evaluate_sequences import Outcome, evaluate_all, find_recordings
from runtime.evaluate_tables import list_metrics, print_means, print_profile, print_tables
from runtime.evaluate_tables import table_console as table_console
from runtime.house import start_command
from runtime.metrics import ChosenMetrics, SequenceScore, find_metrics
from runtime.picture_outputs import PictureOutputs, add_picture_arguments
from runtime.pooling import POOLINGS, PooledRunner
from runtime.protocol import CUSTOM, Protocol, find_protocol, named_protocols
from runtime.published_results import METRICS as PUBLISHED_METRICS
from runtime.published_results import compare, print_comparison, published_results
from runtime.research_config import read_research_config
from runtime.runner import Runner
from runtime.sequence import Drive, StepRecord, drive
from runtime.session import StatefulSession
from runtime.warping import EVENTS_PER_VALUE

Observer = Callable[[StepRecord], None]


@dataclass(frozen=True)
class WindowStep:
    """One network in one window. aee, zero_aee: pixels, None where it is not scored. pixels:
    scored. latency_ms: of the step, without encoding."""

    aee: float | None
    zero_aee: float | None
    pixels: int
    latency_ms: float


@dataclass(frozen=True)
class WindowResult:
    """One window: its number, the end of its time in seconds since t0, its events."""

    index: int
    seconds: float
    events: int
    networks: Mapping[str, WindowStep]


@dataclass
class Profile:
    """Wall seconds: reading windows, encoding and stepping them (all networks), and everything."""

    loading: float = 0.0
    encoding: float = 0.0
    stepping: float = 0.0
    total: float = 0.0

    def to_dict(self, events: int) -> dict[str, float | None]:
        """JSON values; rest is scoring and pictures, the rate is over everything."""
        return {
            "loading": self.loading,
            "encoding": self.encoding,
            "stepping": self.stepping,
            "rest": max(self.total - self.loading - self.encoding - self.stepping, 0.0),
            "total": self.total,
            "events_per_second": events / self.total if self.total else None,
        }


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

    windows, events: driven windows and the events in them. per_window: each of them. partial:
    whether it was interrupted before the end.
    """

    data: Path
    resolution: tuple[int, int]
    plan: Drive
    networks: dict[str, NetworkResult]
    windows: int = 0
    events: int = 0
    per_window: list[WindowResult] = field(default_factory=list)
    profile: Profile = field(default_factory=Profile)
    partial: bool = False

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
        self.profile.loading += record.loading
        self.profile.encoding += sum(step.encoding for step in record.networks.values())
        self.profile.stepping += sum(step.seconds for step in record.networks.values())
        self.per_window.append(_window_result(record))
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
            "partial": self.partial,
            "profile": self.profile.to_dict(self.events),
            "per_window": [asdict(window) for window in self.per_window],
        }


def _window_result(record: StepRecord) -> WindowResult:
    steps = {}
    for name, step in record.networks.items():
        score = step.score if step.score is not None and step.score.pixels else None
        steps[name] = WindowStep(
            aee=score.aee if score and np.isfinite(score.aee) else None,
            zero_aee=score.zero_aee if score else None,
            pixels=score.pixels if score else 0,
            latency_ms=step.seconds * 1000,
        )
    window = record.window
    return WindowResult(window.index, window.t_stop, len(window.events), steps)


def evaluate(
    file: EventSource,
    runners: Mapping[str, Runner],
    plan: Drive,
    *,
    observe: Observer | None = None,
    quiet: bool = False,
    metrics: Iterable[str] = (),
    keep_interrupted: bool = False,
) -> Evaluation:
    """Drive networks over a recording and gather their scores.

    Args:
        file: the recording.
        runners: networks by name; spike rates need diagnostic ones (``runner.diagnostic()``).
        plan: windows and scoring.
        observe: called with every record, for pictures.
        quiet: no progress bar.
        metrics: names of ``runtime.metrics.METRICS`` to gather besides.
        keep_interrupted: on Ctrl-C return what was computed, marked as partial.

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
    start = time.perf_counter()
    try:
        for record in console.progress(records, "evaluating", plan.count(file), quiet=quiet):
            result.add(record)
            if observe is not None:
                observe(record)
    except KeyboardInterrupt:
        if not keep_interrupted:
            raise
        result.partial = True
    result.profile.total = time.perf_counter() - start
    return result


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 where a recording was skipped, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    start_command()
    protocol = _protocol(arguments)
    metrics = [metric.name for metric in find_metrics(arguments.metrics)]
    if published_results(protocol):
        metrics = list(dict.fromkeys([*metrics, *PUBLISHED_METRICS]))
    recordings = find_recordings(arguments.data or ())
    if not recordings:
        raise EvaluationError("no recording; name one with --data")
    loaded = [load_model(path) for path in (arguments.model, arguments.against) if path]
    for model in loaded:
        _check_scaling(protocol, model)
    names = _names(loaded)
    pictures = PictureOutputs(
        arguments, dict(zip(names, loaded, strict=True)), several=len(recordings) > 1
    )
    native: dict[str, bool] = {}

    def one(path: Path) -> Evaluation:
        with open_events(path, arguments.resolution) as whole:
            file = protocol.source_of(whole)
            sessions = {
                name: _session(model, protocol.input_resolution or file.resolution, arguments)
                for name, model in zip(names, loaded, strict=True)
            }
            native.update({name: session.native for name, session in sessions.items()})
            runners = {
                name: _runner(session, file.resolution, protocol)
                for name, session in sessions.items()
            }
            plan = protocol.plan(file, _fwl_events(arguments, protocol.mode))
            with pictures.sequence(path.stem, file.resolution, runners, plan.mode) as observe:
                result = evaluate(
                    file, runners, plan, metrics=metrics, observe=observe, keep_interrupted=True
                )
                observe.finish(result)
        return result

    outcome = evaluate_all(recordings, one)
    facts = {
        name: {
            "file": str(model.path),
            "native": native.get(name),
            "artifact": model.artifact.to_dict(),
        }
        for name, model in zip(names, loaded, strict=True)
    }
    if arguments.json is not None:
        values = outcome_values(outcome, protocol, facts)
        values["comparison"] = compare(outcome.evaluations, protocol)
        write_json(arguments.json, values)
    if arguments.csv is not None:
        write_csv(arguments.csv, outcome)
    if outcome.evaluations:
        pictures.finish(protocol=protocol.to_dict(), warnings=_warnings(outcome))
    _print(outcome, protocol)
    if outcome.interrupted:
        return console.EXIT_INTERRUPTED
    return 1 if outcome.skipped else 0


def _print(outcome: Outcome, protocol: Protocol) -> None:
    out = table_console()
    out.print(f"protocol {protocol.name}, hash {protocol.hash}", highlight=False)
    for evaluation in outcome.evaluations.values():
        print_tables(evaluation, out)
    print_means(outcome.evaluations, out)
    print_comparison(compare(outcome.evaluations, protocol), out)
    print_profile(outcome.evaluations, out)


def _warnings(outcome: Outcome) -> list[str]:
    skipped = [f"{path} was skipped: {text}" for path, text in outcome.skipped.items()]
    return [*skipped, "the run was interrupted"] if outcome.interrupted else skipped


def _protocol(arguments: argparse.Namespace) -> Protocol:
    """The protocol of the command line, and what a configuration file adds to the arguments."""
    protocol = _chosen_protocol(arguments)
    if arguments.input_resolution is None:
        return protocol
    height, width = arguments.input_resolution
    pooling = arguments.pool or protocol.pooling or "sum"
    return replace(
        protocol,
        name=f"{protocol.name} at {height} x {width}",
        input_resolution=(height, width),
        pooling=pooling,
    )


def _chosen_protocol(arguments: argparse.Namespace) -> Protocol:
    """A named one, a file's, or one of the given options."""
    if arguments.config is not None:
        _refuse_fixed(arguments, f"--config {arguments.config}")
        return _configured(arguments)
    if arguments.protocol is not None:
        _refuse_fixed(arguments, f"--protocol {arguments.protocol}")
        return find_protocol(arguments.protocol)
    mode = arguments.mode or "gtflow_dt1"
    stamped = mode not in ("events", "time")
    return Protocol(
        CUSTOM,
        mode,
        arguments.window or (1.0 if stamped else None),
        warmup=arguments.warmup,
        limit=arguments.limit,
    )


def _refuse_fixed(arguments: argparse.Namespace, chosen: str) -> None:
    given = [name for name in ("mode", "window") if getattr(arguments, name) is not None]
    given += [name for name in ("warmup", "limit") if getattr(arguments, name)]
    if given:
        raise EvaluationError(f"{chosen} fixes --{given[0]} itself; leave one of them out")


def _configured(arguments: argparse.Namespace) -> Protocol:
    """The protocol of --config; its other settings fill arguments that were not given."""
    config = read_research_config(arguments.config)
    if config.ignored:
        print(f"{arguments.config}: without effect here: {', '.join(config.ignored)}")
    if arguments.data is None and config.data is not None:
        arguments.data = [config.data]
    arguments.metrics = arguments.metrics or list(config.metrics)
    arguments.fwl = arguments.fwl or config.fwl_events
    if arguments.pool is not None and config.protocol.pooling is not None:
        return replace(config.protocol, pooling=arguments.pool)
    return config.protocol


def _check_scaling(protocol: Protocol, model: LoadedModel) -> None:
    wanted, stated = protocol.flow_scaling, model.artifact.flow_scaling
    if wanted is not None and stated != wanted:
        raise EvaluationError(
            f"{model.path} states a flow scaling of {stated:g}, protocol {protocol.name} wants "
            f"{wanted:g}; leave --protocol out to score it as it is"
        )


def _fwl_events(arguments: argparse.Namespace, mode: str) -> int | None:
    """Events per value of the flow warp loss; recordings without ground truth always get one."""
    if arguments.fwl is None and not mode.startswith("gtflow"):
        return EVENTS_PER_VALUE
    events: int | None = arguments.fwl
    return events


def _names(loaded: list[LoadedModel]) -> list[str]:
    """Names for the table: file names, with the folder where two are the same."""
    names = [model.path.name for model in loaded]
    if len(set(names)) < len(names):
        names = [str(model.path) for model in loaded]
    return names if len(set(names)) == len(names) else [f"{n} ({i})" for i, n in enumerate(names)]


def _session(
    loaded: LoadedModel, resolution: tuple[int, int], arguments: argparse.Namespace
) -> StatefulSession:
    return StatefulSession(
        loaded,
        resolution=resolution if loaded.artifact.spatial_free else None,
        threads=arguments.threads,
        library="never" if arguments.no_library else "auto",
    )


def _runner(session: StatefulSession, resolution: tuple[int, int], protocol: Protocol) -> Runner:
    """The diagnostic runner, pooling events where the network is to run below the sensor's size."""
    stream = session.diagnostic()
    size = protocol.input_resolution
    if size is None or protocol.pooling is None:
        return stream
    if stream.resolution is not None and tuple(stream.resolution) != size:
        raise EvaluationError(
            f"input resolution {size[0]} x {size[1]}: the network takes {stream.resolution[0]} x "
            f"{stream.resolution[1]}; export it for that resolution or without one"
        )
    return PooledRunner(stream, resolution, protocol.pooling)


class _ListMetrics(argparse.Action):
    """Prints the metrics and ends the command, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        list_metrics(table_console())
        parser.exit()


def _names_of_metrics(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.evaluate",
        description="Drive artifacts over a recording, score their flow, count their spikes.",
        epilog="example: python -m runtime.evaluate model.int8.onnx --data recording.h5 "
        "--against model.float.onnx",
    )
    parser.add_argument("model", metavar="model.onnx", type=Path)
    add_recording_arguments(parser, several=True)
    parser.add_argument(
        "--protocol", metavar="NAME",
        help=f"a named protocol instead of --mode and --window: {', '.join(named_protocols())}",
    )  # fmt: skip
    parser.add_argument(
        "--config", type=Path, metavar="F.yml",
        help="take protocol, data and metrics from an evaluation file of the research code",
    )  # fmt: skip
    parser.add_argument(
        "--input-resolution", type=positive, nargs=2, metavar=("H", "W"),
        help="run networks at this size: events pooled, flow rescaled and enlarged to the sensor's",
    )  # fmt: skip
    parser.add_argument(
        "--pool", choices=POOLINGS,
        help="sum events over a block, which keeps whole counts (default), or average them",
    )  # fmt: skip
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
    parser.add_argument("--csv", type=Path, metavar="F", help="write a row per window there")
    add_picture_arguments(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

"""Drive artifacts over a recording, score their flow and count their spikes.

    python -m runtime.evaluate model.int8.onnx --data F.h5 --mode gtflow_dt1 \
        [--window W] [--against model.float.onnx] [--json F] [--no-library] [--metrics aee,rsat]
    python -m runtime.evaluate model.int8.onnx --data recordings/ --batch 4
    python -m runtime.evaluate --list-metrics

Spikes of layers without recurrence are no outputs of an artifact, so a copy of the graph runs in
which every layer's spikes are outputs too. Nothing it computes changes by that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from calib_data import console
from calib_data.events import EventSource
from calib_data.npz import open_events
from runtime.arguments import add_recording_arguments, positive
from runtime.artifact import LoadedModel, load_model
from runtime.batch import Batch, Slot
from runtime.errors import EvaluationError
from runtime.evaluate_batch import Job, evaluate_batch, make_job
from runtime.evaluate_output import CsvTable, outcome_values, write_json
from runtime.evaluate_sequences import Outcome, evaluate_all, find_recordings
from runtime.evaluate_tables import list_metrics, print_means, print_profile, print_tables
from runtime.evaluate_tables import table_console as table_console
from runtime.evaluation import Evaluation as Evaluation
from runtime.evaluation import NetworkResult as NetworkResult
from runtime.evaluation import Observer as Observer
from runtime.evaluation import WindowResult, begin
from runtime.evaluation import evaluate as evaluate
from runtime.house import start_command
from runtime.metrics import find_metrics
from runtime.picture_outputs import PictureOutputs, add_picture_arguments
from runtime.pooling import POOLINGS, PooledRunner
from runtime.protocol import CUSTOM, Part, Protocol, find_protocol, named_protocols
from runtime.published_results import METRICS as PUBLISHED_METRICS
from runtime.published_results import compare, print_comparison, published_results
from runtime.research_config import read_research_config
from runtime.runner import Runner
from runtime.sequence import Drive
from runtime.session import StatefulSession, Stream
from runtime.warping import EVENTS_PER_VALUE


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
    if arguments.live and arguments.batch > 1:
        raise EvaluationError("--live shows one recording at a time; leave --batch out")
    models = dict(zip(_names(loaded), loaded, strict=True))
    run = _Run(arguments, protocol, metrics, models, several=len(recordings) > 1)
    began = time.perf_counter()
    together = arguments.batch > 1
    outcome = run.together(recordings) if together else evaluate_all(recordings, run.one)
    outcome.seconds, outcome.batch = time.perf_counter() - began, arguments.batch
    facts = {
        name: {
            "file": str(model.path),
            "native": run.native.get(name),
            "artifact": model.artifact.to_dict(),
        }
        for name, model in models.items()
    }
    if arguments.json is not None:
        values = outcome_values(outcome, protocol, facts)
        values["comparison"] = compare(outcome.evaluations, protocol)
        write_json(arguments.json, values)
    if run.table is not None:
        run.table.write(outcome.evaluations)
    if outcome.evaluations:
        run.pictures.finish(protocol=protocol.to_dict(), warnings=_warnings(outcome))
    _print(outcome, protocol)
    if outcome.interrupted:
        return console.EXIT_INTERRUPTED
    return 1 if outcome.skipped else 0


class _Run:
    """What one run of the command evaluates recordings with."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        protocol: Protocol,
        metrics: Sequence[str],
        models: Mapping[str, LoadedModel],
        *,
        several: bool,
    ) -> None:
        self._arguments = arguments
        self._protocol = protocol
        self._metrics = metrics
        self._models = models
        self.pictures = PictureOutputs(arguments, models, several=several)
        self.table = CsvTable(arguments.csv) if arguments.csv is not None else None
        self.native: dict[str, bool] = {}

    def one(self, path: Path) -> Evaluation:
        """Evaluate a recording by itself."""
        with open_events(path, self._arguments.resolution) as whole:
            file, what = self._part(whole)
            runners = {
                name: _runner(session.diagnostic(), file.resolution, self._protocol)
                for name, session in self._sessions(file.resolution).items()
            }
            plan = self._plan(file)
            with self.pictures.sequence(path.stem, file.resolution, runners, plan.mode) as observe:
                result = evaluate(
                    file, runners, plan, metrics=self._metrics, observe=observe,
                    keep_interrupted=True, on_window=self._rows(path),
                )  # fmt: skip
                result.scored = what
                observe.finish(result)
        return result

    def together(self, paths: Sequence[Path]) -> Outcome:
        """Evaluate recordings of equal resolution at once, as many as the batch has room for."""
        outcome = Outcome()
        finished = self._finished(paths, outcome)
        try:
            for _ in console.progress(finished, "recordings", len(paths)):
                pass
        except KeyboardInterrupt:
            outcome.interrupted = True
            finished.close()
        outcome.finish(paths)
        return outcome

    def _finished(self, paths: Sequence[Path], outcome: Outcome) -> Generator[Path, None, None]:
        groups: dict[tuple[int, int], list[Path]] = {}
        for path in paths:
            try:
                with open_events(path, self._arguments.resolution) as file:
                    groups.setdefault(file.resolution, []).append(path)
            except Exception as error:
                outcome.skip(path, error)
                yield path
        for resolution, group in groups.items():
            if outcome.interrupted:
                return
            size = min(self._arguments.batch, len(group))
            try:
                batches = {
                    name: Batch(self._maker(session, resolution), size)
                    for name, session in self._sessions(resolution).items()
                }
            except Exception as error:
                for path in group:
                    outcome.skip(path, error)
                    yield path
                continue
            yield from evaluate_batch(group, batches, self._job, outcome)

    def _maker(
        self, session: StatefulSession, resolution: tuple[int, int]
    ) -> Callable[[int], Runner]:
        shown = session.diagnostic()
        return lambda size: _runner(shown.resized(size), resolution, self._protocol)

    def _job(self, path: Path, slots: Mapping[str, Slot], stack: ExitStack) -> Job:
        whole = stack.enter_context(open_events(path, self._arguments.resolution))
        file, what = self._part(whole)
        plan = self._plan(file)
        observe = stack.enter_context(
            self.pictures.sequence(path.stem, file.resolution, slots, plan.mode)
        )
        evaluation = begin(file, slots, plan, metrics=self._metrics)
        evaluation.on_window, evaluation.scored = self._rows(path), what
        return make_job(file, path, plan, evaluation, slots, observe, stack)

    def _sessions(self, resolution: tuple[int, int]) -> dict[str, StatefulSession]:
        size = self._protocol.input_resolution or resolution
        sessions = {n: _session(m, size, self._arguments) for n, m in self._models.items()}
        self.native.update({name: session.native for name, session in sessions.items()})
        return sessions

    def _part(self, whole: EventSource) -> Part:
        return self._protocol.part_of(whole, already_cut=self._arguments.already_cut)

    def _plan(self, file: EventSource) -> Drive:
        return self._protocol.plan(file, _fwl_events(self._arguments, self._protocol.mode))

    def _rows(self, path: Path) -> Callable[[WindowResult], None] | None:
        return None if self.table is None else self.table.sequence(path)


def _print(outcome: Outcome, protocol: Protocol) -> None:
    out = table_console()
    out.print(f"protocol {protocol.name}, hash {protocol.hash}", highlight=False)
    for evaluation in outcome.evaluations.values():
        print_tables(evaluation, out)
    print_means(outcome.evaluations, out)
    print_comparison(compare(outcome.evaluations, protocol), out)
    print_profile(outcome, out)


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


def _runner(stream: Stream, resolution: tuple[int, int], protocol: Protocol) -> Runner:
    """The stream, pooling events where the network is to run below the sensor's size."""
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
        "--against model.float.onnx; several at once: --data recordings/ --batch 4",
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
    parser.add_argument(
        "--already-cut", action="store_true",
        help="recordings too short for the protocol's range are that range, with its own clock",
    )  # fmt: skip
    parser.add_argument("--against", type=Path, metavar="other.onnx", help="a second artifact")
    parser.add_argument(
        "--warmup", type=int, default=0, metavar="N", help="windows at the start not to score"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="run at most N windows")
    parser.add_argument(
        "--batch", type=positive, default=1, metavar="N",
        help="drive N recordings of equal resolution at once through the networks' batch axis",
    )  # fmt: skip
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

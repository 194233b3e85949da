"""Time per step of an artifact, beside another one.

    python -m bench.latency model.int8.onnx [--against model.float.onnx] [--threads N] [--steps N]
        [--turn N] [--resolution H W] [--data F.h5 | --density D] [--no-library] [--no-baselines]
        [--json F]

Without ``--against`` an integer or QDQ file is measured beside the ``.float.onnx`` of the same
name, if there is one. Both run in one process in turn, after a warm-up; the ratio is the median of
the ratios of steps of the same turn, so a slow moment of the machine hits both. A turn is four
steps, of which the first is not timed: it pays for caches that the other network has emptied.
``--turn 1`` alternates step by step, A B A B, and so times every step with cold caches. An integer
file is also measured beside two baselines: *stock*, the float file in ONNX Runtime without the op
library, its neurons in primitive operators with the reset as a multiplication; and *8-bit
convolutions*, the best that ONNX Runtime makes of the same convolutions (see ``bench.qlinear``). A
float file is measured beside *stock* and *float convolutions*, itself without any neurons (see
``bench.float_convolutions``): how fast it could be if they cost nothing.

With several threads the pools do not spin between steps, or the waiting pool of one network would
take the cores of the other. The split by operator comes from a separate profiled run, memory from a
process per artifact. *driver* is the part of a step outside ONNX Runtime's run: Python, and the
check and the copy of the events.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import inputs, machine
from bench.driver import driver_ms
from bench.errors import BenchError
from bench.float_convolutions import FloatConvolutions, has_neurons
from bench.memory import measure_memory
from bench.operators import operator_times
from bench.qlinear import QlinearStream, channels_last
from calib_data import console
from calib_data.events import Events
from calib_data.files import atomic_path, check_writable
from calib_data.windows import MODES
from runtime.arguments import positive
from runtime.artifact import LoadedModel, load_model
from runtime.evaluate import table_console
from runtime.house import start_command
from runtime.runner import Array
from runtime.session import StatefulSession, Stream
from runtime.timing import Steps, Timing, time_interleaved, times_faster

_DISTINCT_WINDOWS = 64
_PROFILED_STEPS = 20
_SPIKE_STEPS = 10
_DRIVER_STEPS = 50
STOCK = "stock"
EIGHT_BIT = "8-bit convolutions"
FLOAT = "float convolutions"
_BASELINES = (STOCK, EIGHT_BIT, FLOAT)
_QUANTIZED = (".int8", ".qdq")


@dataclass(frozen=True)
class Options:
    """How to measure.

    library: "auto" or "never". memory, operators, baselines: whether to measure them too.
    """

    threads: int = 1
    steps: int = 100
    warmup: int = 10
    turn: int = 4
    library: str = "auto"
    memory: bool = True
    operators: bool = True
    baselines: bool = True


@dataclass
class Measurement:
    """One artifact, measured.

    native: whether the op library's kernels ran. operators: milliseconds per step by operator
    type. memory: see ``bench.memory``. spike_rate: share of neurons that fired per step.
    driver_ms: part of a step outside ONNX Runtime's run.
    """

    path: Path
    kind: str
    native: bool
    instruction_set: str
    timing: Timing
    spike_rate: float
    driver_ms: float
    operators: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The measurement as JSON values."""
        return {
            "file": str(self.path),
            "bytes": self.path.stat().st_size,
            "kind": self.kind,
            "native": self.native,
            "instruction_set": self.instruction_set,
            "latency": self.timing.to_dict(),
            "spike_rate": self.spike_rate,
            "driver_ms": self.driver_ms,
            "operators_ms": self.operators,
            "memory": self.memory,
        }


def measure(
    loaded: Sequence[LoadedModel],
    windows: Sequence[Events],
    resolution: tuple[int, int],
    options: Options,
) -> tuple[list[Measurement], dict[str, Timing]]:
    """Measure artifacts side by side on the same windows, and the baselines of the first.

    Args:
        loaded: the artifacts, in the order in which they take turns.
        windows: events, used round and round. resolution: (H, W).
        options: how to measure.

    Returns:
        A measurement per artifact, and the times of the baselines by name.

    Raises:
        SessionError: an artifact does not run at that resolution. BenchError: memory could not be
            measured.
    """
    tensors = [inputs.encode_windows(model.artifact, windows, resolution) for model in loaded]
    sessions = [
        StatefulSession(
            model, resolution=resolution, threads=options.threads, library=options.library
        )
        for model in loaded
    ]
    streams: dict[str, Steps] = {str(number): session for number, session in enumerate(sessions)}
    feeds: dict[str, Sequence[Array]] = {str(n): tensor for n, tensor in enumerate(tensors)}
    if options.baselines:
        baselines = _baselines(loaded, tensors, resolution, options.threads)
        for name, (stream, feed) in baselines.items():
            streams[name], feeds[name] = stream, feed
    timings = time_interleaved(
        streams, feeds, steps=options.steps, warmup=options.warmup, turn=options.turn
    )
    results = []
    for number, (model, session, tensor) in enumerate(zip(loaded, sessions, tensors, strict=True)):
        result = Measurement(
            path=model.path,
            kind=model.artifact.kind,
            native=session.native,
            instruction_set=machine.instruction_set(session.native),
            timing=timings[str(number)],
            spike_rate=_spike_rate(session, tensor),
            driver_ms=driver_ms(session, tensor, steps=min(options.steps, _DRIVER_STEPS)),
        )
        if options.operators:
            result.operators = operator_times(
                model,
                tensor,
                threads=options.threads,
                library=options.library,
                steps=min(options.steps, _PROFILED_STEPS),
            )
        if options.memory:
            result.memory = measure_memory(
                model.path, resolution, threads=options.threads, library=options.library
            )
        results.append(result)
    return results, {name: timings[name] for name in _BASELINES if name in timings}


def _baselines(
    loaded: Sequence[LoadedModel],
    tensors: Sequence[Sequence[Array]],
    resolution: tuple[int, int],
    threads: int,
) -> dict[str, tuple[Steps, Sequence[Array]]]:
    """What an artifact is compared with, and the tensors to feed it."""
    kind = loaded[0].artifact.kind
    if kind not in ("int8", "float"):
        return {}
    found: dict[str, tuple[Steps, Sequence[Array]]] = {}
    stock = _stock(loaded)
    if stock is not None:
        model = loaded[stock]
        session = StatefulSession(model, resolution=resolution, threads=threads, library="never")
        found[STOCK] = (session, tensors[stock])
    if kind == "int8":
        yardstick = QlinearStream(loaded[0], resolution, threads)
        found[EIGHT_BIT] = (yardstick, channels_last(tensors[0]))
    elif has_neurons(loaded[0].model):
        found[FLOAT] = (FloatConvolutions(loaded[0], resolution, threads), tensors[0])
    return found


def _stock(loaded: Sequence[LoadedModel]) -> int | None:
    """Which of the artifacts is run as stock: the last float one, if there is one."""
    kinds = [model.artifact.kind for model in loaded]
    return max((n for n, kind in enumerate(kinds) if kind == "float"), default=None)


def _spike_rate(session: Stream, tensors: Sequence[Array]) -> float:
    """Share of neurons that fire, over some steps that follow the timed ones."""
    watched = session.diagnostic()
    watched.set_states(session.states())
    fired = neurons = 0
    for number in range(min(_SPIKE_STEPS, len(tensors))):
        watched.step(tensors[number])
        for spikes in watched.spikes().values():
            fired += int((spikes != 0).sum())
            neurons += spikes.size
    return fired / neurons if neurons else 0.0


def float_sibling(path: Path) -> Path | None:
    """``model.float.onnx`` beside ``model.int8.onnx`` or ``model.qdq.onnx``, if it exists."""
    for kind in _QUANTIZED:
        if path.stem.endswith(kind):
            sibling = path.with_name(f"{path.stem.removesuffix(kind)}.float{path.suffix}")
            return sibling if sibling.is_file() else None
    return None


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    if arguments.json is not None:
        check_writable(arguments.json)
    against = arguments.against or float_sibling(arguments.model)
    loaded = [load_model(path) for path in (arguments.model, against) if path is not None]
    windows, resolution = _windows(arguments, loaded)
    options = Options(
        threads=arguments.threads,
        steps=arguments.steps,
        warmup=arguments.warmup,
        turn=arguments.turn,
        library="never" if arguments.no_library else "auto",
        memory=not arguments.no_memory,
        baselines=not arguments.no_baselines,
    )
    results, baselines = measure(loaded, windows, resolution, options)
    report = _report(results, windows, resolution, options, arguments.data)
    report["baselines"] = {
        name: timing.to_dict() | {"times_faster": times_faster(results[0].timing, timing)}
        for name, timing in baselines.items()
    }
    stock = _stock(loaded)
    if options.memory and stock is not None and STOCK in baselines:
        report["baselines"][STOCK]["memory"] = measure_memory(
            loaded[stock].path, resolution, threads=options.threads, library="never"
        )
    if arguments.json is not None:
        with atomic_path(arguments.json) as path:
            path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    print_tables(results, report, table_console())
    return 0


def _windows(
    arguments: argparse.Namespace, loaded: Sequence[LoadedModel]
) -> tuple[list[Events], tuple[int, int]]:
    """The windows to time with, and their size: the recording's, the one given, the artifact's."""
    if arguments.data is None:
        height, width = arguments.resolution or loaded[0].artifact.resolution
        if min(height, width) < 1:
            raise BenchError(f"resolution {height} x {width}: both sides must be at least 1")
        for model in loaded:
            inputs.check_size(model, (height, width))
        density = inputs.DEFAULT_DENSITY if arguments.density is None else arguments.density
        count = min(arguments.steps, _DISTINCT_WINDOWS)
        return inputs.random_windows((height, width), density, count), (height, width)
    if arguments.density is not None or arguments.resolution is not None:
        raise BenchError("--data brings its own resolution and density; leave those options out")
    count = min(arguments.steps, _DISTINCT_WINDOWS)
    return inputs.recorded_windows(arguments.data, arguments.mode, arguments.window, count)


def _report(
    results: Sequence[Measurement],
    windows: Sequence[Events],
    resolution: tuple[int, int],
    options: Options,
    data: Path | None,
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "machine": machine.describe(options.threads),
        "resolution": list(resolution),
        "input": {
            "data": "random" if data is None else str(data),
            "events_per_pixel": inputs.events_per_pixel(windows, resolution),
            "active_pixels": inputs.active_pixels(windows, resolution),
        },
        "spinning": False,
        "turn": options.turn,
        "models": [result.to_dict() for result in results],
    }
    if len(results) == 2:
        first, second = results[0].timing, results[1].timing
        report["times_faster"] = times_faster(first, second)
        report["times_faster_of_medians"] = second.median_ms / first.median_ms
    return report


def print_tables(results: Sequence[Measurement], report: dict[str, Any], out: Console) -> None:
    """Print what was measured."""
    host, source = report["machine"], report["input"]
    height, width = report["resolution"]
    waiting = "; idle threads do not spin" if host["threads"] > 1 else ""
    out.print(
        f"{host['cpu']}, {host['cores']} cores (load {host['load_average']:.1f}), "
        f"{host['threads']} thread(s) per step{waiting}, ONNX Runtime {host['onnxruntime']}\n"
        f"{height} x {width} pixels, {source['data']} events: "
        f"{source['events_per_pixel']:.3f} per pixel and step, "
        f"{100 * source['active_pixels']:.1f} % of pixels active; "
        f"turns of {report['turn']} step(s)",
        highlight=False,
    )
    out.print(_latency_table(results))
    if "times_faster" in report:
        out.print(_comparison(results, report), highlight=False)
    for name, values in report["baselines"].items():
        out.print(
            f"{name}: {values['p50_ms']:.2f} ms; {results[0].path.name} is "
            f"{_times(values['times_faster'])}",
            highlight=False,
        )
    for line in _memory_lines(results, report):
        out.print(line, highlight=False)
    for result in results:
        out.print(_driver(result), highlight=False)
    for result in results:
        if result.operators:
            out.print(_operator_table(result))


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times faster" if ratio >= 1 else f"{1 / ratio:.2f} times slower"


def _comparison(results: Sequence[Measurement], report: dict[str, Any]) -> str:
    ratio, of_medians = report["times_faster"], report["times_faster_of_medians"]
    word = "faster" if ratio >= 1 else "slower"
    pair, median = (r if ratio >= 1 else 1 / r for r in (ratio, of_medians))
    return (
        f"{results[0].path.name} is {pair:.2f} times {word} than {results[1].path.name} "
        f"(median over pairs of steps; ratio of the medians {median:.2f})"
    )


def _memory_lines(results: Sequence[Measurement], report: dict[str, Any]) -> list[str]:
    """Memory that stepping adds to an idle process, and its share of stock's."""
    stock = report["baselines"].get(STOCK, {}).get("memory")
    first = results[0].memory
    if not stock or not first:
        return []
    own, other = (_added(memory) for memory in (first, stock))
    share = f", {own / other:.2f} of stock's" if other > 0 else ""
    return [
        f"memory added by stepping: {results[0].path.name} {own / 2**20:.1f} MiB, "
        f"stock {other / 2**20:.1f} MiB{share}"
    ]


def _added(memory: dict[str, int]) -> int:
    return memory["stepping_bytes"] - memory["idle_bytes"]


def _driver(result: Measurement) -> str:
    share = result.driver_ms / result.timing.median_ms
    return (
        f"driver of {result.path.name}: {1e3 * result.driver_ms:.0f} µs per step outside ONNX "
        f"Runtime, {100 * share:.2f} % of the step"
    )


def _latency_table(results: Sequence[Measurement]) -> Table:
    table = Table(title=f"time per step over {len(results[0].timing.seconds)} steps, in turn")
    for heading in ("artifact", "kernels"):
        table.add_column(heading)
    for heading in ("p5 ms", "p50 ms", "p95 ms", "steps/s", "spikes", "added MiB", "peak MiB"):
        table.add_column(heading, justify="right")
    for result in results:
        memory = result.memory
        added = _added(memory) if memory else None
        table.add_row(
            result.path.name,
            f"library, {result.instruction_set}" if result.native else "ONNX Runtime only",
            *(f"{result.timing.percentile_ms(p):.3f}" for p in (5, 50, 95)),
            f"{result.timing.steps_per_second:.1f}",
            f"{100 * result.spike_rate:.2f} %",
            "-" if added is None else f"{added / 2**20:.0f}",
            f"{memory['peak_bytes'] / 2**20:.0f}" if memory else "-",
        )
    return table


def _operator_table(result: Measurement) -> Table:
    total = sum(result.operators.values())
    table = Table(title=f"{result.path.name}: split by operator (profiled apart)")
    table.add_column("operator")
    table.add_column("ms per step", justify="right")
    table.add_column("share", justify="right")
    for name, milliseconds in result.operators.items():
        share = milliseconds / total if total else 0.0
        if share >= 0.001:
            table.add_row(name, f"{milliseconds:.3f}", f"{100 * share:.1f} %")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.latency",
        description="Time per step of an artifact, beside another one, in turn.",
        epilog="example: python -m bench.latency model.int8.onnx --threads 2",
    )
    parser.add_argument("model", metavar="model.onnx", type=Path)
    parser.add_argument(
        "--against",
        type=Path,
        metavar="other.onnx",
        help="default: the .float.onnx beside an .int8.onnx or .qdq.onnx",
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N")
    parser.add_argument("--steps", type=positive, default=100, metavar="N")
    parser.add_argument("--warmup", type=positive, default=10, metavar="N")
    parser.add_argument(
        "--turn", type=positive, default=4, metavar="N", help="steps before the other's turn"
    )
    parser.add_argument("--resolution", type=positive, nargs=2, metavar=("H", "W"))
    parser.add_argument("--data", type=Path, metavar="F", help="recording; default: random events")
    parser.add_argument("--mode", choices=MODES, default="gtflow_dt1", help="windows of --data")
    parser.add_argument("--window", type=float, default=1.0, help="length of the windows of --data")
    parser.add_argument(
        "--density",
        type=float,
        metavar="D",
        help=f"random events per pixel and step (default: {inputs.DEFAULT_DENSITY})",
    )
    parser.add_argument("--no-library", action="store_true", help="do not use the op library")
    parser.add_argument("--no-baselines", action="store_true", help="measure the artifacts alone")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--json", type=Path, metavar="F", help="write the result there")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

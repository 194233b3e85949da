"""How the time of a step grows with the image, the threads and the spikes.

    python -m bench.scaling model.int8.onnx [--against model.float.onnx] [--sizes HxW ...]
        [--threads N ...] [--densities PERCENT ...] [--turns N] [--out DIR] [--json]

Sizes: the artifact on random events. Densities: copies of it whose every layer fires at a wanted
density (``bench.forced``), on events of that density, scattered and in clusters; the density that
was reached is measured and reported. Where a float file stands beside the artifact (or is named),
it takes turns with it as *stock*: ONNX Runtime without the op library, whose time does not depend
on spikes.

Everything of one sweep takes turns in one process (``bench.turns``), one sweep per number of
threads; idle threads do not spin. ``--out`` writes ``scaling.json``, ``sizes.csv``,
``densities.csv`` and, as PNG, a chart of each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from bench import inputs, machine
from bench.errors import BenchError
from bench.forced import Forcer, forced_events
from bench.latency import float_sibling
from bench.scaling_report import (
    density_verdict,
    print_report,
    require_charts,
    size_verdict,
    write_files,
)
from bench.spikes import PATTERNS
from bench.turns import time_turns
from calib_data import console
from calib_data.files import check_writable
from runtime.arguments import positive
from runtime.artifact import LoadedModel, load_model
from runtime.evaluate import table_console
from runtime.house import start_command
from runtime.runner import Array
from runtime.session import StatefulSession, Stream
from runtime.timing import Timing, times_faster

Row = dict[str, Any]
Size = tuple[int, int]

SIZES: tuple[Size, ...] = ((64, 64), (128, 128), (180, 240), (256, 256), (480, 640))
PERCENTS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_WINDOWS = 8
_SETTLE = 8
"""Steps before spikes are counted and times are taken."""
_SEED = 1


@dataclass(frozen=True)
class Plan:
    """How to measure. turns: see ``bench.turns``. quiet: no progress bar."""

    turns: int = 10
    quiet: bool = False


class _Moving:
    """A stream that goes through its windows round and round."""

    def __init__(self, stream: Stream, windows: Sequence[Array]) -> None:
        self.stream = stream
        self._windows = cycle(windows)

    def step(self) -> None:
        self.stream.step(next(self._windows), copy=False)

    def settle(self) -> None:
        for _ in range(_SETTLE):
            self.step()


def sweep_sizes(
    loaded: LoadedModel, stock: LoadedModel | None, sizes: Sequence[Size], threads: int, plan: Plan
) -> list[Row]:
    """Time the artifact, and stock, at every size. Returns JSON values, a row per size."""
    runs: dict[str, Callable[[], object]] = {}
    streams: dict[Size, Stream] = {}
    for size in sizes:
        windows = inputs.random_windows(size, inputs.DEFAULT_DENSITY, _WINDOWS)
        for name, model, library in _models(loaded, stock):
            stream = StatefulSession(model, resolution=size, threads=threads, library=library)
            moving = _Moving(stream, inputs.encode_windows(model.artifact, windows, size))
            moving.settle()
            runs[f"{name}{size}"] = moving.step
            streams.setdefault(size, stream)
    description = f"sizes, {threads} thread(s)"
    timings = time_turns(runs, turns=plan.turns, description=description, quiet=plan.quiet)
    return [
        {
            "threads": threads,
            "height": size[0],
            "width": size[1],
            "native": streams[size].native,
            **_times(timings[f"{size}"], timings.get(f"stock{size}")),
            "ns_per_pixel": timings[f"{size}"].median_ms * 1e6 / (size[0] * size[1]),
        }
        for size in sizes
    ]


def sweep_densities(
    loaded: LoadedModel,
    stock: LoadedModel | None,
    copies: dict[float, LoadedModel],
    pattern: str,
    size: Size,
    threads: int,
    plan: Plan,
) -> list[Row]:
    """Time forced copies of the artifact by their density, and stock, in turns.

    Returns JSON values, a row per density, with the densities that layers reached.
    """
    moving, rates = {}, {}
    for density, copy in copies.items():
        stream = StatefulSession(copy, resolution=size, threads=threads)
        events = forced_events(copy.artifact, size, density, pattern, _WINDOWS, _SEED)
        moving[f"{density}"] = _Moving(stream, events)
        moving[f"{density}"].settle()
        rates[density] = _rates(stream, events)
    if stock is not None:
        session = StatefulSession(stock, resolution=size, threads=threads, library="never")
        windows = inputs.random_windows(size, inputs.DEFAULT_DENSITY, _WINDOWS)
        encoded = inputs.encode_windows(stock.artifact, windows, size)
        moving["stock"] = _Moving(session, encoded)
    runs = {name: stream.step for name, stream in moving.items()}
    description = f"{pattern}, {threads} thread(s)"
    timings = time_turns(runs, turns=plan.turns, description=description, quiet=plan.quiet)
    densest = timings[f"{max(copies)}"]
    return [
        {
            "threads": threads,
            "pattern": pattern,
            "density": density,
            **rates[density],
            "native": moving[f"{density}"].stream.native,
            **_times(timings[f"{density}"], timings.get("stock")),
            "times_slower_than_densest": times_faster(densest, timings[f"{density}"]),
        }
        for density in copies
    ]


def _models(loaded: LoadedModel, stock: LoadedModel | None) -> list[tuple[str, LoadedModel, str]]:
    """Name, model and use of the library of what is timed."""
    own = [("", loaded, "auto")]
    return own if stock is None else [*own, ("stock", stock, "never")]


def _times(timing: Timing, stock: Timing | None) -> Row:
    row: Row = {"p50_ms": timing.median_ms, "p5_ms": timing.percentile_ms(5)}
    if stock is not None:
        row |= {"stock_p50_ms": stock.median_ms, "times_faster": times_faster(timing, stock)}
    return row


def _rates(stream: Stream, events: Sequence[Array]) -> Row:
    """Spikes over the steps that follow: of all neurons, by layer, and of pixels with any."""
    watched = stream.diagnostic()
    watched.set_states(stream.states())
    fired: dict[str, list[float]] = {}
    active = []
    for window in events:
        watched.step(window)
        for layer, spikes in watched.spikes().items():
            fired.setdefault(layer, []).append(float((spikes != 0).mean()))
            active.append(float((spikes != 0).any(axis=1).mean()))
    by_layer = {layer: float(np.mean(values)) for layer, values in fired.items()}
    neurons = {layer.name: layer.channels / layer.stride**2 for layer in stream.artifact.layers}
    total = sum(neurons[layer] for layer in by_layer)
    return {
        "reached": sum(rate * neurons[layer] for layer, rate in by_layer.items()) / total,
        "reached_by_layer": by_layer,
        "active_pixels": float(np.mean(active)),
    }


def scale(
    loaded: LoadedModel,
    stock: LoadedModel | None,
    sizes: Sequence[Size],
    threads: Sequence[int],
    densities: Sequence[float],
    plan: Plan,
) -> Row:
    """Make all sweeps.

    Args:
        loaded: an integer artifact. stock: a float one to compare with, or None.
        sizes: (H, W) each. threads: numbers of threads. densities: 0 to 1, ascending.
        plan: how to measure.

    Returns:
        JSON values: the machine, the rows of both sweeps, and what they say.

    Raises:
        BenchError: an artifact without thresholds to set. SessionError: it does not run at a size.
    """
    forcer, size = Forcer(loaded), loaded.artifact.resolution
    wanted = [(pattern, density) for pattern in PATTERNS for density in densities]
    copies: dict[str, dict[float, LoadedModel]] = {pattern: {} for pattern in PATTERNS}
    for pattern, density in console.progress(wanted, "forcing densities", quiet=plan.quiet):
        copies[pattern][density] = forcer.force(density, pattern)
    by_size = [row for count in threads for row in sweep_sizes(loaded, stock, sizes, count, plan)]
    by_density = [
        row
        for count in threads
        for pattern in PATTERNS
        for row in sweep_densities(loaded, stock, copies[pattern], pattern, size, count, plan)
    ]
    return {
        "machine": machine.describe(max(threads)),
        "file": str(loaded.path),
        "stock": None if stock is None else str(stock.path),
        "resolution": list(size),
        "turns": plan.turns,
        "sizes": by_size,
        "densities": by_density,
        "linear": size_verdict(by_size),
        "worst_density": density_verdict(by_density),
    }


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    if arguments.out is not None:
        check_writable(arguments.out / "scaling.json")
        require_charts()
    loaded = load_model(arguments.model)
    against = arguments.against or float_sibling(arguments.model)
    stock = None if against is None else load_model(against)
    if stock is not None and stock.artifact.kind != "float":
        raise BenchError(f"{against}: stock is a float artifact, this is {stock.artifact.kind}")
    default = SIZES if loaded.artifact.spatial_free else (loaded.artifact.resolution,)
    for size in arguments.sizes or default:
        inputs.check_size(loaded, size)
    densities = sorted({percent / 100 for percent in arguments.densities})
    values = scale(
        loaded,
        stock,
        arguments.sizes or default,
        arguments.threads,
        densities,
        Plan(arguments.turns),
    )
    if arguments.out is not None:
        write_files(values, arguments.out)
    if arguments.json:
        print(json.dumps(values, indent=2, allow_nan=False))
    else:
        print_report(values, table_console())
    return 0


def _size(text: str) -> Size:
    """Height and width from ``HxW``."""
    parts = text.lower().split("x")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size as 256x256, height first")
    return positive(parts[0]), positive(parts[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling",
        description="Time of a step against size, threads and spike density.",
        epilog="example: python -m bench.scaling model.int8.onnx --threads 1 --out build/scaling",
    )
    parser.add_argument("model", metavar="model.int8.onnx", type=Path)
    parser.add_argument(
        "--against",
        type=Path,
        metavar="float.onnx",
        help="stock; default: the .float.onnx beside an .int8.onnx",
    )
    parser.add_argument(
        "--sizes",
        type=_size,
        nargs="+",
        metavar="HxW",
        help=f"default: {' '.join(f'{h}x{w}' for h, w in SIZES)}, or the artifact's only one",
    )
    parser.add_argument("--threads", type=positive, nargs="+", default=(1, 2), metavar="N")
    parser.add_argument(
        "--densities",
        type=float,
        nargs="+",
        default=PERCENTS,
        metavar="PERCENT",
        help=f"default: {' '.join(f'{percent:g}' for percent in PERCENTS)}",
    )
    parser.add_argument("--turns", type=positive, default=10, metavar="N")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write numbers and charts there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

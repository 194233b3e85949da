"""Synaptic operations, membrane updates, memory traffic and energy of artifacts, layer by layer.

    python -m bench.synops model.int8.onnx [--data F.h5 | --density D] [--steps N]
    python -m bench.synops model.float.onnx model.int8.onnx --data F.h5 [--json] [--csv F]
        [--plot F]

What is counted, and by which rules, stands in ``bench.synops_count``; what the energy is estimated
from, in ``bench.energy``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import energy, inputs
from bench.errors import BenchError
from bench.synops_count import Synops, count
from bench.synops_report import PLOT_FORMATS, draw, print_report, write_csv
from calib_data import console
from calib_data.events import Events
from calib_data.files import atomic_path
from calib_data.npz import open_events
from calib_data.windows import MODES, default_window
from runtime.arguments import positive, positive_length
from runtime.artifact import LoadedModel, load_model
from runtime.evaluate import table_console
from runtime.house import start_command

DEFAULT_STEPS = 100
_DISTINCT_WINDOWS = 64


def report(
    results: Sequence[Synops],
    windows: Sequence[Events],
    resolution: tuple[int, int],
    data: Path | None,
    memory: str,
) -> dict[str, Any]:
    """The results as JSON values."""
    return {
        "resolution": list(resolution),
        "input": {
            "data": "random" if data is None else str(data),
            "events_per_pixel": inputs.events_per_pixel(windows, resolution),
            "active_pixels": inputs.active_pixels(windows, resolution),
        },
        "memory": memory,
        "constants": {
            name: {"picojoules": constant.picojoules, "source": constant.source}
            for name, constant in energy.used_constants(memory).items()
        },
        "models": [result.to_dict(memory) for result in results],
    }


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    if arguments.plot is not None and arguments.plot.suffix not in PLOT_FORMATS:
        raise BenchError(f"{arguments.plot}: pictures end in {', '.join(PLOT_FORMATS)}")
    if len(arguments.models) > 2:
        raise BenchError(f"{len(arguments.models)} files given; one, or two to compare")
    loaded = [load_model(path) for path in arguments.models]
    windows, resolution = _windows(arguments, loaded[0])
    results = count(
        loaded,
        windows,
        resolution,
        threads=arguments.threads,
        library="never" if arguments.no_library else "auto",
    )
    values = report(results, windows, resolution, arguments.data, arguments.memory)
    if arguments.csv is not None:
        with atomic_path(arguments.csv) as path:
            write_csv(values, path)
    if arguments.plot is not None:
        draw(values, arguments.plot)
    if arguments.json:
        print(json.dumps(values, indent=2, allow_nan=False))
    else:
        print_report(values, table_console())
    return 0


def _windows(
    arguments: argparse.Namespace, loaded: LoadedModel
) -> tuple[list[Events], tuple[int, int]]:
    """The windows to count on, and their size: the recording's, the one given, the artifact's."""
    if arguments.data is None:
        height, width = arguments.resolution or loaded.artifact.resolution
        inputs.check_size(loaded, (height, width))
        density = inputs.DEFAULT_DENSITY if arguments.density is None else arguments.density
        distinct = min(arguments.steps, _DISTINCT_WINDOWS)
        windows = inputs.random_windows((height, width), density, distinct)
        repeated = [windows[step % distinct] for step in range(arguments.steps)]
        return repeated, (height, width)
    if arguments.density is not None or arguments.resolution is not None:
        raise BenchError("--data brings its own resolution and density; leave those options out")
    window = arguments.window
    if window is None:
        with open_events(arguments.data) as file:
            window = default_window(arguments.mode, file.resolution)
    return inputs.recorded_windows(arguments.data, arguments.mode, window, arguments.steps)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.synops",
        description="Synaptic operations, membrane updates, memory traffic and estimated energy "
        "of artifacts, layer by layer, counted as NeuroBench does.",
        epilog="example: python -m bench.synops model.float.onnx model.int8.onnx "
        "--data recording.h5",
    )
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="model.onnx", help="one artifact, or two to compare"
    )
    parser.add_argument("--data", type=Path, metavar="F", help="recording; default: random events")
    parser.add_argument("--mode", choices=MODES, default="gtflow_dt1", help="windows of --data")
    parser.add_argument(
        "--window", type=positive_length, help="length of the windows of --data (as in evaluate)"
    )
    parser.add_argument(
        "--steps",
        type=positive,
        default=DEFAULT_STEPS,
        metavar="N",
        help=f"windows at most, from the start (default: {DEFAULT_STEPS})",
    )
    parser.add_argument(
        "--density",
        type=float,
        metavar="D",
        help=f"random events per pixel and step (default: {inputs.DEFAULT_DENSITY})",
    )
    parser.add_argument(
        "--resolution", type=positive, nargs=2, metavar=("H", "W"), help="size of random events"
    )
    parser.add_argument(
        "--memory",
        choices=tuple(energy.MEMORIES),
        default="sram-1m",
        help="memory whose accesses the energy of traffic is estimated with (default: sram-1m)",
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N")
    parser.add_argument("--no-library", action="store_true", help="do not use the op library")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--csv", type=Path, metavar="F", help="write a row per layer there")
    parser.add_argument(
        "--plot", type=Path, metavar="F", help=f"draw a chart ({', '.join(PLOT_FORMATS)})"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

"""Export a network to float, QDQ and integer ONNX artifacts, and drive them over a sequence."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from calib_data.console import run
from calib_data.files import atomic_path
from calib_data.npz import open_events
from calib_data.windows import MODES, count_windows
from export.drive import Driven, DriveOptions, default_sequence, drive_artifacts
from export.errors import ExportError
from export.float import NOMINAL_RESOLUTION
from export.graphs.builder import Dims
from export.module import add_module_arguments, module_command
from export.network import add_network_arguments, load_network, positive_pair
from export.pipeline import Exported, Windows, calibration_sequences, export_artifacts
from export.profile_command import (
    STAGES,
    add_profile_arguments,
    check_arguments,
    export_command,
    list_profiles,
    write_stages,
)
from models import SpikingFireNet
from quant import QuantOptions
from runtime.artifact import load_model
from runtime.evaluate import table_console
from runtime.house import check_house
from runtime.pictures import strip
from runtime.report import from_evaluation, write_report
from runtime.sequence import Drive

WARMUP_WINDOWS = 3


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    arguments = _parser().parse_args(argv)
    check_house()
    if arguments.list_profiles:
        return list_profiles()
    if arguments.module is not None:
        return module_command(arguments)
    check_arguments(arguments)
    if arguments.profile is not None:
        return export_command(arguments)
    if arguments.run:
        _check_recording(arguments)
    model = load_network(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    quiet = arguments.json
    exported = _export(model, arguments, quiet)
    stages = [stage.to_dict() for stage in exported.stages]
    write_stages({"stages": stages}, arguments.out)
    results: dict[str, Any] = {"artifacts": _files(exported), "layers": _layers(exported)}
    results["stages"] = stages
    if arguments.run:
        driven = _drive(exported, arguments, quiet)
        results |= _write_results(model, exported, driven, arguments.out)
        if not arguments.json:
            _print_table(driven, exported, arguments, table_console())
    elif not arguments.json:
        for path in exported.paths.values():
            print(f"{path}: {path.stat().st_size} bytes, checked against PyTorch")
        print(f"{arguments.out / STAGES}: from float to integers, stage by stage")
    if arguments.json:
        print(json.dumps(results))
    return 0


def _check_recording(arguments: argparse.Namespace) -> None:
    """A recording that cannot be scored is refused before anything is exported."""
    if not arguments.mode.startswith("gtflow"):
        raise ExportError(
            f"--run scores flow, which mode {arguments.mode} has no ground truth for; "
            "export without --run and use runtime.evaluate"
        )
    if arguments.data is not None:
        with open_events(arguments.data) as file:
            count_windows(file, arguments.mode, arguments.window)


def _export(model: SpikingFireNet, arguments: argparse.Namespace, quiet: bool) -> Exported:
    resolution = positive_pair(arguments.resolution, NOMINAL_RESOLUTION)
    plan = Windows(arguments.mode, arguments.window)
    sequences = calibration_sequences(arguments.calibration, plan)
    options = QuantOptions(arguments.weight_bits, arguments.mem_bits, arguments.frac_bits)
    dims = Dims(resolution, free=arguments.resolution is None)
    return export_artifacts(model, sequences, options, dims, arguments.out, quiet=quiet)


def _drive(exported: Exported, arguments: argparse.Namespace, quiet: bool) -> Driven:
    data = arguments.data
    if data is None:
        resolution = positive_pair(arguments.resolution, NOMINAL_RESOLUTION)
        data = default_sequence(arguments.out, resolution)
    plan = Drive(
        mode=arguments.mode,
        window=arguments.window,
        warmup=WARMUP_WINDOWS,
        limit=arguments.limit,
    )
    options = DriveOptions(plan, arguments.threads, arguments.parity_steps)
    with open_events(data) as file:
        driven = drive_artifacts(exported, file, options, quiet=quiet)
    if not driven.evaluation.networks["float"].score.frames:
        raise ExportError(
            f"{data}: no window could be scored in mode {arguments.mode}; "
            "use a recording with ground-truth flow and more than three windows"
        )
    return driven


def _files(exported: Exported) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "file": str(path), "bytes": path.stat().st_size}
        for kind, path in exported.paths.items()
    ]


def _layers(exported: Exported) -> dict[str, dict[str, float]]:
    return {
        name: {
            "spike_rate": layer.spike_rate,
            "clipped_current": layer.clipped_current,
            "saturated_mem": layer.saturated_mem,
        }
        for name, layer in exported.activity.items()
    }


def _write_results(
    model: SpikingFireNet, exported: Exported, driven: Driven, out: Path
) -> dict[str, Any]:
    """Write flow.png, report.html and report.json; returns what report.json holds."""
    evaluation = driven.evaluation
    name = f"{model.config.model}, {model.config.channels} channels"
    recording = evaluation.data.name
    picture = strip(out / "flow.png", driven.frames, title=f"{name}: {recording}")
    rows = driven.rows(exported)
    latency = {kind: timing.to_dict() for kind, timing in driven.timings.items()}
    artifact = load_model(exported.paths["int8"]).artifact
    write_report(
        out / "report.html",
        {
            "title": f"{name}: float, QDQ and integer artifacts",
            "subtitle": f"driven over {recording}, {evaluation.windows} windows of "
            f"{evaluation.resolution[0]} x {evaluation.resolution[1]} pixels",
            "artifacts": rows,
            "picture": picture,
            "picture_caption": "Events, exact flow, flow of the float and of the integer "
            "network where events fell, and the integer network's endpoint error.",
            "latency": latency,
            "metadata": {"model.int8.onnx": artifact.to_dict()},
            **from_evaluation(evaluation),
        },
    )
    results = {
        "artifacts": rows,
        "latency": latency,
        "layers": _layers(exported),
        "stages": [stage.to_dict() for stage in exported.stages],
        "native": driven.native,
        "evaluation": evaluation.to_dict(),
    }
    with atomic_path(out / "report.json") as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    return results


def _print_table(
    driven: Driven, exported: Exported, arguments: argparse.Namespace, out: Console
) -> None:
    evaluation = driven.evaluation
    table = Table(
        title=f"{evaluation.data.name}: {evaluation.windows} windows, "
        f"{evaluation.resolution[0]} x {evaluation.resolution[1]} pixels, "
        f"{evaluation.events_per_pixel:.3f} events per pixel and window, "
        f"{arguments.threads} thread(s)"
    )
    table.add_column("artifact")
    headings = ("AEE px", "outliers", "spikes", "size kB", "ms per step", "times float")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in driven.rows(exported):
        table.add_row(
            row["file"],
            f"{row['aee']:.3f}",
            f"{100 * row['outliers']:.1f} %",
            f"{100 * row['spike_rate']:.2f} %",
            f"{row['bytes'] / 1000:.0f}",
            f"{row['latency_ms']:.2f}",
            f"{row['times_faster']:.2f}",
        )
    yardsticks = evaluation.yardsticks()
    for label, key in (("zero flow", "zero_aee"), ("mean true flow", "mean_aee")):
        table.add_row(label, f"{yardsticks[key]:.3f}", style="dim")
    out.print(table)
    out.print(f"integer parity with ONNX Runtime's own kernels: {driven.parity}")
    if not driven.native:
        out.print("the op library is not installed: times are those of the function bodies")
    out.print(f"{arguments.out}: " + ", ".join(_written(exported)), highlight=False)


def _written(exported: Exported) -> list[str]:
    names = [path.name for path in exported.paths.values()]
    return [*names, STAGES, "report.json", "report.html", "flow.png"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.qdq",
        description=__doc__,
        epilog="example: python -m export.qdq --run --out build/demo; "
        "python -m export.qdq --profile ort-x86 portable --resolution 128 128",
    )
    add_network_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("build/export"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_profile_arguments(parser)
    add_module_arguments(parser)
    size = parser.add_argument_group("artifacts")
    size.add_argument(
        "--resolution",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="fix batch 1 and this size; without it batch, height and width stay free",
    )
    size.add_argument("--weight-bits", type=int, default=7, metavar="2..8")
    size.add_argument("--mem-bits", type=int, default=16, choices=(8, 16))
    size.add_argument(
        "--frac-bits", type=int, metavar="N", help="of every membrane; default: calibrated"
    )
    size.add_argument(
        "--calibration",
        type=Path,
        metavar="F",
        help="recording to calibrate on (default: two synthetic scenes)",
    )
    drive = parser.add_argument_group("sequence")
    drive.add_argument("--run", action="store_true", help="drive the artifacts over a sequence")
    drive.add_argument(
        "--data",
        type=Path,
        metavar="F",
        help="recording with ground-truth flow (default: a synthetic scene)",
    )
    drive.add_argument("--mode", choices=MODES, default="gtflow_dt1")
    drive.add_argument("--window", type=float, default=1.0)
    drive.add_argument("--limit", type=int, metavar="N", help="drive at most N windows")
    drive.add_argument("--threads", type=int, default=1, metavar="N")
    drive.add_argument("--parity-steps", type=int, default=20, metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))

"""``python -m export.qdq --module``: any Brevitas network to float, QDQ and integer files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.table import Table

from export.errors import ExportError
from export.module_export import REPORT, STAGES, Options, export_module
from export.module_inputs import input_names, load_module, parse_shape, read_samples
from export.module_profiles import find_module_profile
from export.module_report import Report
from export.torch_graph import ROUTES
from runtime.evaluate import table_console
from runtime.timing import times_faster


def add_module_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --module and what goes with it."""
    group = parser.add_argument_group("any Brevitas network")
    group.add_argument(
        "--module",
        metavar="PACKAGE.FILE:FACTORY",
        help="export what this function returns, a torch.nn.Module of Brevitas layers, instead of "
        "a network of the family; the current folder is searched first",
    )
    group.add_argument(
        "--input-shape",
        action="append",
        metavar="N,C,...",
        help="shape of an input, batch first; once for every input",
    )
    group.add_argument(
        "--calibrate",
        type=Path,
        metavar="F",
        help=".npz with an array per input, samples along the first axis; every fourth is held out "
        "for the checks (default: the module keeps its scales, random inputs)",
    )
    group.add_argument(
        "--route", choices=ROUTES, default=ROUTES[0], help="which of torch's exporters"
    )
    group.add_argument(
        "--bias-correction", action="store_true", help="correct biases after calibration"
    )


def module_command(arguments: argparse.Namespace) -> int:
    """Export the module that the arguments name; returns the exit status.

    Raises:
        ExportError: as its message says.
    """
    if not arguments.input_shape:
        raise ExportError("--module needs --input-shape, once for every input")
    shapes = [parse_shape(text) for text in arguments.input_shape]
    module = load_module(arguments.module)
    names = input_names(module, len(shapes))
    samples = read_samples(arguments.calibrate, names, shapes)
    if arguments.bias_correction and not samples.calibration:
        raise ExportError("--bias-correction needs samples; give --calibrate")
    profiles = tuple(find_module_profile(name) for name in dict.fromkeys(arguments.profile or ()))
    options = Options(arguments.route, arguments.bias_correction, arguments.json, profiles)
    report = export_module(module, samples, arguments.out, options)
    results = report.to_dict()
    if arguments.json:
        print(json.dumps(results))
    else:
        _print(report, arguments.out)
    return 0


def _print(report: Report, out: Path) -> None:
    table_console().print(stage_table(report))
    print("scales: the module's own" if report.own_scales else "scales: calibrated")
    for what, gap in (
        ("Brevitas to QDQ", report.torch_qdq),
        ("QDQ to integers", report.qdq_integer),
    ):
        print(
            f"{what}, end to end: at most {gap.lsb:.2f} LSB, {100 * gap.share:.2f} % of the values"
        )
    verdict = "within one LSB" if report.islands else "equal bit for bit"
    print(f"integers in ONNX Runtime and in NumPy: {verdict} ({report.runs} runs)")
    for name, other in report.profiles.items():
        found = "equal to the integers bit for bit"
        if other is not None:
            found = f"at most {other.lsb:.2f} LSB from QDQ, {100 * other.share:.2f} % of the values"
        print(f"profile {name}: {found}")
    counts = ", ".join(f"{count} {dtype}" for dtype, count in report.constants.items())
    print(f"constants: {counts}")
    for what, names in (
        ("computed in float", report.islands),
        ("float constants besides scales", report.floats_left),
    ):
        if names:
            print(f"{what}: {', '.join(names)}")
    table = Table()
    table.add_column("file")
    for heading in ("kB", *(f"ms, {threads} thread(s)" for threads in report.timings)):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("times float", justify="right", no_wrap=True)
    for kind, path in report.paths.items():
        times = [f"{row[kind].median_ms:.2f}" for row in report.timings.values()]
        ratios = " / ".join(
            f"{times_faster(row[kind], row['float']):.2f}" for row in report.timings.values()
        )
        table.add_row(path.name, f"{path.stat().st_size / 1000:.0f}", *times, ratios)
    table_console().print(table)
    written = [*(path.name for path in report.paths.values()), STAGES, REPORT]
    print(f"{out}: {', '.join(written)}")


def stage_table(report: Report) -> Table:
    """Every stage against the one before, each layer on equal inputs, as a table for people."""
    table = Table(title="stage by stage, each layer on the inputs of the stage before")
    for heading in ("graph", "stage"):
        table.add_column(heading)
    for heading in ("tensors", "integers differ", "ties to", "real values to"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, stages in report.stages.items():
        for stage in stages:
            ties = f"{stage.tie:.0e} steps" if stage.differing else ""
            differ = f"{stage.differing} by {stage.largest:.0f}" if stage.differing else "0"
            real = "equal" if stage.relation == "equal" else f"{stage.real:.0e}"
            table.add_row(kind, stage.name, str(stage.tensors), differ, ties, real)
    return table

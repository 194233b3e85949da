"""Rewrite an ONNX file with chosen passes: ``python -m export.passes --help``."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from export.errors import ExportError
from export.files import read_model, write_model
from export.passes.legality import HEADINGS, markdown_rows
from export.passes.registry import PASSES, find_pass
from export.passes.run import PassReport, run_passes
from export.passes.trial import Trial, TrialSkipped, compare
from runtime.evaluate import table_console
from runtime.house import start_command

_DESCRIPTION = "Rewrite an ONNX file with chosen passes, in the order given, and run both files."
_EXAMPLE = "python -m export.passes in.onnx out.onnx --run clean,fold_weights,integer_bias"
_RUNS = 3


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    arguments = _parser().parse_args(argv)
    start_command()
    if arguments.list:
        _print_list(arguments.json)
        return 0
    if arguments.legality:
        _print_legality(arguments.json)
        return 0
    if arguments.input is None or arguments.output is None or arguments.run is None:
        raise ExportError(f"give a file, where the result goes, and --run; example: {_EXAMPLE}")
    return _rewrite(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.passes",
        description=_DESCRIPTION,
        epilog="exit status: 0 written, 1 not written because the results differ, 2 an error. "
        f"example: {_EXAMPLE}",
    )
    parser.add_argument("input", nargs="?", type=Path, help="ONNX file to rewrite")
    parser.add_argument("output", nargs="?", type=Path, help="where the result goes")
    parser.add_argument("--list", action="store_true", help="name the passes and end")
    parser.add_argument(
        "--legality", action="store_true", help="where a DequantizeLinear may move, and end"
    )
    parser.add_argument("--run", metavar="A,B,C", help="passes, in order")
    parser.add_argument(
        "--check",
        type=_count,
        default=_RUNS,
        metavar="N",
        help=f"random inputs on which both files run in ONNX Runtime; 0 for none ({_RUNS})",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="T",
        help="largest accepted difference of a float output (1e-5 of its largest value); integer "
        "outputs have to be equal",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if not 0 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 1000")
    return value


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return value


def _print_list(as_json: bool) -> None:
    rows = [{"name": entry.name, "summary": entry.summary} for entry in PASSES]
    if as_json:
        print(json.dumps(rows))
        return
    width = max(len(row["name"]) for row in rows) + 2
    for row in rows:
        print(f"{row['name']:<{width}}{row['summary']}")


def _print_legality(as_json: bool) -> None:
    rows = [dict(zip(HEADINGS, cells, strict=True)) for cells in markdown_rows()]
    if as_json:
        print(json.dumps(rows))
        return
    width = max(len(heading) for heading in HEADINGS)
    for row in rows:
        for heading, cell in row.items():
            print(f"{heading:<{width}}  {cell}")
        print()


def _rewrite(arguments: argparse.Namespace) -> int:
    names = [name.strip() for name in arguments.run.split(",") if name.strip()]
    if not names:
        raise ExportError("--run names no pass; --list shows all")
    passes = [find_pass(name)() for name in names]
    model = read_model(arguments.input)
    result, reports = run_passes(model, passes)
    trial, skipped = None, "not asked for"
    if arguments.check:
        try:
            trial = compare(model, result, arguments.check)
        except TrialSkipped as reason:
            skipped = str(reason)
    passed = trial is None or all(e.accepted(arguments.tolerance) for e in trial.outputs)
    output = write_model(result, arguments.output) if passed else None
    if arguments.json:
        print(json.dumps(_summary(output, reports, trial, skipped)))
    else:
        _print_report(reports)
        _print_trial(trial, skipped, arguments.tolerance)
        print(output or "not written: the results differ; --tolerance accepts, --check 0 skips")
    return 0 if passed else 1


def _summary(
    output: Path | None, reports: list[PassReport], trial: Trial | None, skipped: str
) -> dict[str, Any]:
    checked: dict[str, Any] = {"skipped": skipped}
    if trial is not None:
        checked = asdict(trial) | {"largest": trial.largest}
        for entry in (checked, *checked["outputs"]):
            if not math.isfinite(entry["largest"]):
                entry["largest"] = str(entry["largest"])
    return {
        "output": None if output is None else str(output),
        "passes": [asdict(report) for report in reports],
        "check": checked,
    }


def _print_report(reports: list[PassReport]) -> None:
    table = Table("pass")
    for heading in ("changes", "nodes afterwards"):
        table.add_column(heading, justify="right")
    for report in reports:
        table.add_row(report.name, str(report.changes), str(report.nodes))
    table_console().print(table)


def _print_trial(trial: Trial | None, skipped: str, tolerance: float | None) -> None:
    if trial is None:
        print(f"check: skipped, {skipped}")
        return
    table = Table("output", "compared as")
    for heading in ("largest difference", "values that differ"):
        table.add_column(heading, justify="right")
    for entry in trial.outputs:
        kind = "integer" if entry.integer else "float"
        style = "" if entry.accepted(tolerance) else "bold red"
        count = f"{entry.differing} of {entry.total}"
        table.add_row(entry.output, kind, f"{entry.largest:g}", count, style=style)
    table_console().print(table, markup=False)
    print(f"check: largest difference {trial.largest:g} on {trial.runs} random inputs")
    if trial.retyped:
        print(f"type changed, compared as numbers: {', '.join(trial.retyped)}")
    if trial.only:
        print(f"in one file only, not compared: {', '.join(trial.only)}")

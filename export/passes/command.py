"""Rewrite an ONNX file with chosen passes: ``python -m export.passes --help``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.files import read_model, write_model
from export.passes.registry import PASSES, find_pass
from export.passes.run import PassReport, run_passes
from export.passes.trial import Trial, TrialSkipped, compare
from runtime.house import start_command

_DESCRIPTION = "Rewrite an ONNX file with chosen passes, in the order given, and run both files."
_EXAMPLE = "python -m export.passes in.onnx out.onnx --run clean,fold_weights,integer_bias"
_RUNS = 3


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m export.passes", description=_DESCRIPTION, epilog=f"example: {_EXAMPLE}"
    )
    parser.add_argument("input", nargs="?", type=Path, help="ONNX file to rewrite")
    parser.add_argument("output", nargs="?", type=Path, help="where the result goes")
    parser.add_argument("--list", action="store_true", help="name the passes and end")
    parser.add_argument("--run", metavar="A,B,C", help="passes, in order")
    parser.add_argument(
        "--check",
        type=_count,
        default=_RUNS,
        metavar="N",
        help=f"random inputs on which both files run in ONNX Runtime; 0 for none ({_RUNS})",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    start_command()
    if arguments.list:
        _print_list(arguments.json)
        return 0
    if arguments.input is None or arguments.output is None or arguments.run is None:
        raise ExportError(f"give a file, where the result goes, and --run; example: {_EXAMPLE}")
    _rewrite(arguments)
    return 0


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if not 0 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 1000")
    return value


def _print_list(as_json: bool) -> None:
    rows = [{"name": entry.name, "summary": entry.summary} for entry in PASSES]
    if as_json:
        print(json.dumps(rows))
        return
    width = max(len(row["name"]) for row in rows) + 2
    for row in rows:
        print(f"{row['name']:<{width}}{row['summary']}")


def _rewrite(arguments: argparse.Namespace) -> None:
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
    write_model(result, arguments.output)
    if arguments.json:
        print(json.dumps(_summary(arguments.output, reports, trial, skipped)))
    else:
        _print_report(arguments.output, reports, trial, skipped)


def _summary(
    output: Path, reports: list[PassReport], trial: Trial | None, skipped: str
) -> dict[str, Any]:
    checked: dict[str, Any] = {"skipped": skipped}
    if trial is not None:
        checked = asdict(trial) | {"largest": trial.largest}
    return {
        "output": str(output),
        "passes": [asdict(report) for report in reports],
        "check": checked,
    }


def _print_report(
    output: Path, reports: list[PassReport], trial: Trial | None, skipped: str
) -> None:
    width = max(len(report.name) for report in reports) + 2
    for report in reports:
        print(f"{report.name:<{width}}{report.changes:>5} changes, {report.nodes} nodes")
    if trial is None:
        print(f"check: skipped, {skipped}")
    else:
        _print_trial(trial)
    print(output)


def _print_trial(trial: Trial) -> None:
    print(f"check: largest difference {trial.largest:g} on {trial.runs} random inputs")
    for entry in trial.outputs:
        if entry.differing:
            print(
                f"  {entry.output}: {entry.differing} of {entry.total} values, "
                f"by up to {entry.largest:g}"
            )
    if trial.only:
        print(f"  outputs of one file only: {', '.join(trial.only)}")

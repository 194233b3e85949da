"""Quantize a trained network without training it (PTQ), and report what that does to it.

Calibrates on recordings with the state carried along, chooses scales and fractional bits, and
writes a quantized checkpoint: the integers that every exported file holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from calib_data.console import run
from models import load_checkpoint, shipped_checkpoint
from quant import ptq_arguments, report
from quant.calibration import observe
from quant.checkpoint import is_quantized_checkpoint, save_spec
from quant.errors import QuantError
from quant.options import QuantOptions
from quant.prepared import Calibrated, prepare
from quant.ptq_searches import identity, run_sensitivity, run_tuning
from quant.recordings import Plan, read_recordings
from quant.search import Memo


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    arguments = ptq_arguments.parser(__doc__).parse_args(argv)
    path = arguments.checkpoint or shipped_checkpoint(arguments.model)
    if is_quantized_checkpoint(path):
        raise QuantError(f"{path} is a quantized checkpoint already; give the float one")
    ptq_arguments.check(arguments)
    model = load_checkpoint(path)
    plan = Plan(arguments.mode, arguments.window, arguments.limit)
    options = ptq_arguments.options_of(arguments)
    options.check([name for name, _ in model.named_layers()])
    ready = prepare(
        model,
        read_recordings(arguments.data, plan),
        weigh_inputs=arguments.scale_search == "inputs",
        quiet=arguments.json,
    )
    values: dict[str, Any] = {"checkpoint": str(path), **_scored(ready)}
    if arguments.sensitivity:
        values["sensitivity"] = _sensitivity(ready, options, arguments)
    else:
        values |= _quantize(ready, options, arguments)
    if arguments.json:
        print(json.dumps(values))
    return 0


def _scored(ready: Calibrated) -> dict[str, Any]:
    return {
        "recordings": [recording.name for recording in ready.recordings],
        "scored_on": [recording.name for recording in ready.scorer.recordings],
        "measure": ready.scorer.measure,
        "float_error": ready.scorer.float_error,
        "zero_flow_error": ready.scorer.zero_error,
    }


def _quantize(
    ready: Calibrated, options: QuantOptions, arguments: argparse.Namespace
) -> dict[str, Any]:
    tuned, memo_path = None, ptq_arguments.memo_path(arguments.out)
    if arguments.tune:
        memo = Memo(memo_path, identity(ready, options, arguments.scale_search))
        tuned = run_tuning(ready, options, memo, quiet=arguments.json)
        options = tuned.options
    spec = ready.derive(options)
    plain = ready.derive(replace(options, scale_search=False)) if options.scale_search else spec
    counts = [recording.counts for recording in ready.recordings]
    rows = report.layer_reports(
        spec,
        report.scale_gains(ready.model, options, ready.moments),
        ready.calibration,
        observe(spec, *counts),
    )
    values: dict[str, Any] = {
        "out": str(save_spec(spec, arguments.out)),
        "weight_bits": options.weight_bits,
        "current": options.current,
        "neuron": options.neuron,
        "error": ready.scorer.error(spec),
        "error_without_scale_search": ready.scorer.error(plain),
        "layers": report.to_rows(rows),
    }
    if tuned is not None:
        values["tuning"] = {
            "error_before": tuned.error_before,
            "error": tuned.error,
            "trials": tuned.trials,
        }
        memo_path.unlink(missing_ok=True)
    if arguments.report is not None:
        table, picture = ptq_arguments.REPORTS[False]
        report.write_json(values | _scored(ready), arguments.report / table)
        title = f"{ready.model.config.model}: {options.weight_bits}-bit weights"
        report.plot_layers(rows, arguments.report / picture, title)
    if not arguments.json:
        _print_layers(ready, rows, values)
    return values


def _print_layers(
    ready: Calibrated, rows: list[report.LayerReport], values: dict[str, Any]
) -> None:
    console = report.table_console()
    report.print_tables([report.layer_table(rows, ready.model.config.model)], console)
    scorer = ready.scorer
    console.print(
        f"{scorer.measure}, pixels: quantized {values['error']:.4f} "
        f"(largest weight decides scales: {values['error_without_scale_search']:.4f}), "
        f"float {scorer.float_error:.4f}, zero flow {scorer.zero_error:.4f}",
        highlight=False,
    )
    if "tuning" in values:
        tuning = values["tuning"]
        console.print(
            f"tuning: {tuning['error_before']:.4f} -> {tuning['error']:.4f} "
            f"in {tuning['trials']} trials",
            highlight=False,
        )
    console.print(values["out"], highlight=False, soft_wrap=True)


def _sensitivity(
    ready: Calibrated, options: QuantOptions, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    rows = run_sensitivity(ready, options, quiet=arguments.json)
    measure = ready.scorer.measure
    values = [row.to_dict() for row in rows]
    if arguments.report is not None:
        content = _scored(ready) | {"sensitivity": values}
        table, picture = ptq_arguments.REPORTS[True]
        report.write_json(content, arguments.report / table)
        report.plot_sensitivity(rows, arguments.report / picture, measure)
    if not arguments.json:
        report.print_tables([report.sensitivity_table(rows, measure)], report.table_console())
    return values


if __name__ == "__main__":
    sys.exit(run(main))

"""Quantize a trained network without training it (PTQ), and report what that does to it.

Calibrates on recordings with the state carried along, chooses scales and fractional bits, and
writes a quantized checkpoint: the integers that every exported file holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from calib_data.console import progress, run
from calib_data.windows import MODES
from models import SpikingFireNet, load_checkpoint, shipped_checkpoint
from quant import report
from quant.calibration import LayerCalibration, calibrate, observe
from quant.checkpoint import is_quantized_checkpoint, save_spec
from quant.conversion import quantize
from quant.errors import QuantError
from quant.options import QuantOptions
from quant.recordings import Plan, Recording, read_recordings
from quant.scales import measure_moments
from quant.scoring import Scorer
from quant.search import (
    Memo,
    Sensitivity,
    Tuned,
    membrane_candidates,
    sensitivity,
    sensitivity_trials,
    tune,
)
from quant.spec import CURRENTS, Float64, NetworkSpec

SEARCHES = ("inputs", "weights", "none")


@dataclass(frozen=True)
class Calibrated:
    """A float network, its recordings, and everything measured on them once."""

    model: SpikingFireNet
    recordings: list[Recording]
    calibration: dict[str, LayerCalibration]
    moments: dict[str, Float64] | None
    scorer: Scorer

    def derive(self, options: QuantOptions) -> NetworkSpec:
        """Options to integers."""
        return quantize(self.model, options, self.calibration, self.moments)


def prepare(
    model: SpikingFireNet, recordings: list[Recording], *, weigh_inputs: bool, quiet: bool = False
) -> Calibrated:
    """Calibrate on recordings and make ready to score on them.

    Args:
        model: float network in canonical form.
        recordings: states start at zero with each and are carried along it.
        weigh_inputs: record the convolutions' inputs for the scale search.
        quiet: no progress bars.

    Raises:
        QuantError: voxel input, a layer that never fires, or nothing to score.
    """
    total = sum(len(recording.counts) for recording in recordings)
    with _shown(total, "calibrating", quiet) as windows:
        calibration = calibrate(model, *(windows(r.floats()) for r in recordings))
    moments = None
    if weigh_inputs:
        with _shown(total, "recording inputs", quiet) as windows:
            moments = measure_moments(model, *(windows(r.floats()) for r in recordings))
    return Calibrated(model, recordings, calibration, moments, Scorer(model, recordings))


@contextmanager
def _shown(total: int, label: str, quiet: bool) -> Iterator[Any]:
    """A function that passes windows on and moves one bar for all recordings."""
    bar = progress(range(total), label, total, quiet=quiet)

    def windows(items: list[Any]) -> Iterator[Any]:
        for item in items:
            next(bar, None)
            yield item

    try:
        yield windows
    finally:
        for _ in bar:
            pass


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    arguments = _parser().parse_args(argv)
    path = arguments.checkpoint or shipped_checkpoint(arguments.model)
    if is_quantized_checkpoint(path):
        raise QuantError(f"{path} is a quantized checkpoint already; give the float one")
    _check_numbers(arguments)
    model = load_checkpoint(path)
    plan = Plan(arguments.mode, arguments.window, arguments.limit)
    options = QuantOptions(
        arguments.weight_bits,
        arguments.mem_bits,
        arguments.frac_bits,
        arguments.current,
        scale_search=arguments.scale_search != "none",
    )
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


def _check_numbers(arguments: argparse.Namespace) -> None:
    if arguments.limit < 1:
        raise QuantError(f"--limit must be at least 1, got {arguments.limit}")
    if arguments.sensitivity and arguments.tune:
        raise QuantError("--sensitivity and --tune exclude each other")
    if not arguments.sensitivity and arguments.out is None:
        raise QuantError("--out tells where the quantized checkpoint goes")


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
    tuned, memo_path = None, arguments.out.with_suffix(".tuning.json")
    if arguments.tune:
        memo = Memo(memo_path, _identity(ready, options, arguments))
        tuned = _tune(ready, options, memo, quiet=arguments.json)
        options = tuned.options
    spec = ready.derive(options)
    plain = ready.derive(replace(options, scale_search=False)) if options.scale_search else spec
    counts = [recording.counts for recording in ready.recordings]
    rows = report.layer_reports(
        spec,
        options,
        report.scale_gains(ready.model, options, ready.moments),
        ready.calibration,
        observe(spec, *counts),
    )
    values: dict[str, Any] = {
        "out": str(save_spec(spec, arguments.out)),
        "weight_bits": options.weight_bits,
        "current": options.current,
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
        report.write_json(values | _scored(ready), arguments.report / "report.json")
        title = f"{ready.model.config.model}: {options.weight_bits}-bit weights"
        report.plot_layers(rows, arguments.report / "report.png", title)
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
        f"{scorer.measure}, pixels: integer {values['error']:.4f} "
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


def _tune(ready: Calibrated, options: QuantOptions, memo: Memo, *, quiet: bool) -> Tuned:
    layers = range(len(ready.model.named_layers()))
    total = 1 + sum(len(membrane_candidates(ready.derive, options, i)) for i in layers)
    steps = tune(ready.derive, options, ready.scorer, memo)
    shown = progress(steps, f"tuning on {ready.scorer.measure}", total, quiet=quiet)
    (tuned,) = [result for result in shown if isinstance(result, Tuned)]
    return tuned


def _identity(
    ready: Calibrated, options: QuantOptions, arguments: argparse.Namespace
) -> dict[str, Any]:
    """What the errors of an interrupted tuning depend on."""
    events = hashlib.sha256()
    for recording in ready.recordings:
        for counts in recording.counts:
            events.update(counts.numpy().tobytes())
    return {
        "checkpoint": ready.model.checkpoint_sha256,
        "events": events.hexdigest(),
        "options": {k: v for k, v in vars(options).items() if k != "layers"},
        "scale_search": arguments.scale_search,
        "measure": ready.scorer.measure,
    }


def _sensitivity(
    ready: Calibrated, options: QuantOptions, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    trials = sensitivity_trials(len(ready.model.named_layers()))
    steps = sensitivity(ready.derive, options, ready.scorer)
    label = partial(progress, description="sensitivity", total=trials, quiet=arguments.json)
    rows: list[Sensitivity] = list(label(steps))
    measure = ready.scorer.measure
    values = [row.to_dict() for row in rows]
    if arguments.report is not None:
        content = _scored(ready) | {"sensitivity": values}
        report.write_json(content, arguments.report / "sensitivity.json")
        report.plot_sensitivity(rows, arguments.report / "sensitivity.png", measure)
    if not arguments.json:
        report.print_tables([report.sensitivity_table(rows, measure)], report.table_console())
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quant.ptq",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m quant.ptq --checkpoint net.safetensors --data flight.h5 "
        "--weight-bits 4 --tune --out net.q4.safetensors --report build/ptq",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="F", help="float weights (default: the shipped ones)"
    )
    parser.add_argument("--model", default="LIFFireNet", help="whose shipped weights are meant")
    parser.add_argument("--out", type=Path, metavar="Q", help="quantized checkpoint to write")
    parser.add_argument("--report", type=Path, metavar="DIR", help="folder for JSON and pictures")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    bits = parser.add_argument_group("integers")
    bits.add_argument("--weight-bits", type=int, default=7, metavar="2..8")
    bits.add_argument("--mem-bits", type=int, default=16, choices=(8, 16))
    bits.add_argument(
        "--frac-bits", type=int, metavar="N", help="of every membrane; default: calibrated"
    )
    bits.add_argument("--current", choices=CURRENTS, default="accumulator")
    bits.add_argument(
        "--scale-search",
        choices=SEARCHES,
        default="inputs",
        help="weigh weights' rounding errors by recorded inputs, all alike, or let the largest "
        "weight decide (default: inputs)",
    )
    search = parser.add_argument_group("measurements instead of defaults")
    search.add_argument(
        "--tune",
        action="store_true",
        help="search each layer's membrane; a search that was interrupted goes on",
    )
    search.add_argument(
        "--sensitivity", action="store_true", help="what each layer costs at which width; no --out"
    )
    data = parser.add_argument_group("recordings")
    data.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=[],
        metavar="D",
        help="recordings (default: two synthetic scenes)",
    )
    data.add_argument("--mode", choices=MODES, default="gtflow_dt1", help="how windows are cut")
    data.add_argument("--window", type=float, help="their length, in the unit of the mode")
    data.add_argument("--limit", type=int, default=60, metavar="N", help="windows of each (60)")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))

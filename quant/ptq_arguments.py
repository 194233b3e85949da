"""The command line of ``quant.ptq``: its arguments, and what is refused before any work."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib_data.files import check_writable
from calib_data.windows import MODES
from quant.errors import QuantError
from quant.options import QuantOptions
from quant.spec import CURRENTS, NEURONS

SEARCHES = ("inputs", "weights", "none")
REPORTS = {False: ("report.json", "report.png"), True: ("sensitivity.json", "sensitivity.png")}
"""Files of ``--report``, without and with ``--sensitivity``."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of ``python -m quant.ptq``.

    Args:
        description: what the command does, for its help.
    """
    result = argparse.ArgumentParser(
        prog="python -m quant.ptq",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m quant.ptq --checkpoint net.safetensors --data flight.h5 "
        "--weight-bits 4 --tune --out net.q4.safetensors --report build/ptq",
    )
    result.add_argument(
        "--checkpoint",
        type=Path,
        metavar="F",
        help="float weights, or runs:ID of an MLflow run (default: the shipped ones)",
    )
    result.add_argument("--model", default="LIFFireNet", help="whose shipped weights are meant")
    result.add_argument("--out", type=Path, metavar="Q", help="quantized checkpoint to write")
    result.add_argument("--report", type=Path, metavar="DIR", help="folder for JSON and pictures")
    result.add_argument("--json", action="store_true", help="print the report as JSON")
    bits = result.add_argument_group("integers")
    bits.add_argument("--weight-bits", type=int, default=7, metavar="2..8")
    bits.add_argument("--mem-bits", type=int, default=16, choices=(8, 16))
    bits.add_argument(
        "--frac-bits", type=int, metavar="N", help="of every membrane; default: calibrated"
    )
    bits.add_argument("--current", choices=CURRENTS, default="accumulator")
    bits.add_argument(
        "--neuron",
        choices=NEURONS,
        default="integer",
        help="float: quantize the convolutions only, membranes stay float32",
    )
    bits.add_argument(
        "--scale-search",
        choices=SEARCHES,
        default="inputs",
        help="weigh weights' rounding errors by recorded inputs, all alike, or let the largest "
        "weight decide (default: inputs)",
    )
    search = result.add_argument_group("measurements instead of defaults")
    search.add_argument(
        "--tune",
        action="store_true",
        help="search each layer's membrane; a search that was interrupted goes on",
    )
    search.add_argument(
        "--sensitivity", action="store_true", help="what each layer costs at which width; no --out"
    )
    data = result.add_argument_group("recordings")
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
    return result


def check(arguments: argparse.Namespace) -> None:
    """Refuse what means nothing, and outputs that cannot be written.

    Raises:
        QuantError: by option.
        OSError: a place where nothing can be written.
    """
    if arguments.limit < 1:
        raise QuantError(f"--limit must be at least 1, got {arguments.limit}")
    if arguments.sensitivity and arguments.tune:
        raise QuantError("--sensitivity and --tune exclude each other")
    if arguments.tune and arguments.neuron == "float":
        raise QuantError("--tune searches integer membranes; --neuron float has none")
    if not arguments.sensitivity:
        if arguments.out is None:
            raise QuantError("--out tells where the quantized checkpoint goes")
        check_writable(arguments.out)
        if arguments.tune:
            check_writable(memo_path(arguments.out))
    if arguments.report is not None:
        for name in REPORTS[arguments.sensitivity]:
            check_writable(arguments.report / name)


def memo_path(out: Path) -> Path:
    """Where an unfinished ``--tune`` keeps what it measured."""
    return out.with_suffix(".tuning.json")


def options_of(arguments: argparse.Namespace) -> QuantOptions:
    """The options that the arguments name."""
    return QuantOptions(
        arguments.weight_bits,
        arguments.mem_bits,
        arguments.frac_bits,
        arguments.current,
        scale_search=arguments.scale_search != "none",
        neuron=arguments.neuron,
    )

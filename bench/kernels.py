"""Every kernel on every target, against the roofs of the core.

    python -m bench.kernels [--targets NAMES] [--kernels OPS] [--shape C H W] [--density D]
        [--clustered] [--weight-bits N] [--turns N] [--json F]

Each kernel is a model of one node in ONNX Runtime, on one thread, its weights packed when the
session is made. All targets of a kernel take turns in one process, and with them the roofs: the
multiply-accumulates that each instruction set makes at most, and streams that read, change and
write as many 16-bit membranes as a layer has, and as the seven layers of a network. Where a target
has no kernel of its own, that of the next lower target runs. Where the op library has none at all
nothing is timed: the time of a function body says nothing about a kernel.

A time includes what ONNX Runtime needs to run a graph of one node, some microseconds.
Multiply-accumulates are counted as if every synapse were computed, so a kernel that skips silent
inputs, or looks sums up, can do more than the ceiling.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import lif_op
from bench import machine
from bench.errors import BenchError
from bench.kernel_cases import KERNEL, Case, Setting, cases
from bench.kernel_node import KernelNode, NoKernelError
from bench.peaks import VNNI, Peak, Stream, ceiling, peaks
from bench.spikes import PATTERNS
from bench.turns import time_turns
from calib_data import console
from calib_data.files import atomic_path, check_writable
from runtime.arguments import positive
from runtime.evaluate import table_console
from runtime.house import start_command
from runtime.timing import Timing, times_faster

Row = dict[str, Any]

OPS = ("LIF", "QLIF", "QConv", "QConvLIF", "QConvLIFRec")
_LAYER, _NETWORK = "stream of a layer", "stream of a network"
_LAYERS = 7
"""With membranes, in LIFFireNet."""
_DEFAULT_TURNS = 10


def measure(
    case: Case,
    targets: Sequence[str],
    found: Sequence[Peak],
    membranes: int,
    *,
    turns: int,
    quiet: bool = False,
) -> Row:
    """Time one kernel on some targets, and the roofs with it.

    Args:
        case: the node. targets: names of kernel targets. found: the instruction sets of
            ``bench.peaks``. membranes: of a layer.
        turns: see ``bench.turns``.
        quiet: no progress bar.

    Returns:
        JSON values: the kernel, a row per target, the roofs, or ``problem`` where no kernel runs.
    """
    streams = {_LAYER: Stream(membranes), _NETWORK: Stream(_LAYERS * membranes)}
    result: Row = {"op": case.op, "variant": case.variant, "macs": case.macs, "bytes": case.bytes}
    try:
        nodes = {target: KernelNode(case, target) for target in targets}
    except NoKernelError as error:
        return result | {"problem": str(error), "rows": []}
    runs = {target: node.run for target, node in nodes.items()}
    roofs = {peak.instruction: peak.run for peak in found} | {
        name: stream.run for name, stream in streams.items()
    }
    timings = time_turns(runs | roofs, turns=turns, description=case.name, quiet=quiet)
    rates = {peak.instruction: _best(peak.macs, timings[peak.instruction]) for peak in found}
    bandwidths = {name: _best(stream.bytes, timings[name]) for name, stream in streams.items()}
    rows = [
        _row(case, target, timings, targets[0], found, rates, bandwidths[_LAYER])
        for target in targets
    ]
    return result | {"rows": rows, "macs_per_s": rates, "stream_bytes_per_s": bandwidths}


def _row(
    case: Case,
    target: str,
    timings: dict[str, Timing],
    slowest: str,
    found: Sequence[Peak],
    rates: dict[str, float],
    bandwidth: float,
) -> Row:
    timing = timings[target]
    moved = _rate(case.bytes, timing)
    row: Row = {
        "target": target,
        **timing.to_dict(),
        "times_faster_than_first": times_faster(timing, timings[slowest]),
        "bytes_per_s": moved,
        "of_stream": moved / bandwidth,
    }
    if case.macs:
        rate = _rate(case.macs, timing)
        roof = ceiling(found, target, lif_op.targets()).instruction
        row |= {"macs_per_s": rate, "instruction": roof, "of_ceiling": rate / rates[roof]}
        if VNNI in rates:
            row["of_vnni"] = rate / rates[VNNI]
    return row


def _rate(amount: int, timing: Timing) -> float:
    return amount / (timing.median_ms / 1e3)


def _best(amount: int, timing: Timing) -> float:
    return amount / float(timing.seconds.min())


def _check_shape(channels: int, size: tuple[int, int]) -> None:
    """Refuse a layer whose neurons or weights are too many to make up."""
    most = 1 << 27
    elements = max(channels * size[0] * size[1], channels**2 * KERNEL**2)
    if elements > most:
        raise BenchError(
            f"shape {channels} x {size[0]} x {size[1]}: {elements} neurons or weights, more than "
            f"{most}; choose a smaller one"
        )


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    if arguments.json is not None:
        check_writable(arguments.json)
    targets = _targets(arguments.targets)
    channels, *size = arguments.shape
    setting = Setting(
        channels,
        (size[0], size[1]),
        arguments.density,
        PATTERNS[arguments.clustered],
        arguments.weight_bits,
    )
    _check_shape(channels, (size[0], size[1]))
    wanted = [case for case in cases(setting) if case.op in arguments.kernels]
    found = peaks()
    report: Row = {
        "machine": machine.describe(1),
        "shape": [1, channels, *size],
        "density": arguments.density,
        "pattern": setting.pattern,
        "weight_bits": arguments.weight_bits,
        "turns": arguments.turns,
        "kernels": [
            measure(case, targets, found, channels * size[0] * size[1], turns=arguments.turns)
            for case in wanted
        ],
    }
    if arguments.json is not None:
        with atomic_path(arguments.json) as path:
            path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    print_tables(report, table_console())
    return 0


def _targets(given: Iterable[str] | None) -> list[str]:
    here = lif_op.targets()
    unknown = [name for name in given or () if name not in here]
    if unknown:
        raise BenchError(f"target {unknown[0]!r} does not run here; there are {', '.join(here)}")
    return [name for name in here if given is None or name in given]


def print_tables(report: Row, out: Console) -> None:
    """Print what was measured."""
    host = report["machine"]
    shape = " x ".join(map(str, report["shape"]))
    out.print(
        f"{host['cpu']}, {host['cores']} cores (load {host['load_average']:.1f}), 1 thread, "
        f"ONNX Runtime {host['onnxruntime']}\n{shape}, {report['pattern']} spikes of "
        f"{100 * report['density']:g} %, {report['weight_bits']}-bit weights; "
        f"{report['turns']} turns, medians",
        highlight=False,
    )
    out.print(_kernel_table(report["kernels"]))
    measured = [kernel for kernel in report["kernels"] if kernel["rows"]]
    for kernel in report["kernels"]:
        if not kernel["rows"]:
            out.print(
                f"{kernel['op']} {kernel['variant']}: {kernel['problem']}; not timed",
                highlight=False,
            )
    if measured:
        out.print(_roofs(measured), highlight=False)


def _kernel_table(kernels: Sequence[Row]) -> Table:
    table = Table(title="time of one step")
    for heading in ("kernel", "target"):
        table.add_column(heading)
    for heading in ("p50 ms", "p5 ms", "x first", "GMAC/s", "of ceiling", "of VNNI", "GB/s"):
        table.add_column(heading, justify="right")
    table.add_column("of stream", justify="right")
    for kernel in kernels:
        for row in kernel["rows"]:
            first, last = row is kernel["rows"][0], row is kernel["rows"][-1]
            table.add_row(
                f"{kernel['op']} {kernel['variant']}" if first else "",
                row["target"],
                f"{row['p50_ms']:.3f}",
                f"{row['p5_ms']:.3f}",
                f"{row['times_faster_than_first']:.2f}",
                f"{row['macs_per_s'] / 1e9:.1f}" if "macs_per_s" in row else "-",
                _percent(row.get("of_ceiling")),
                _percent(row.get("of_vnni")),
                f"{row['bytes_per_s'] / 1e9:.1f}",
                _percent(row["of_stream"]),
                end_section=last,
            )
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _roofs(measured: Sequence[Row]) -> str:
    """The roofs, from the lowest to the highest that were measured beside the kernels."""
    lines = [
        "roofs of one core, measured beside the kernels (of its fastest turns, lowest to highest):"
    ]
    for name in measured[0]["macs_per_s"]:
        values = [kernel["macs_per_s"][name] / 1e9 for kernel in measured]
        lines.append(f"  {name}: {min(values):.1f} to {max(values):.1f} GMAC/s")
    for name in measured[0]["stream_bytes_per_s"]:
        values = [kernel["stream_bytes_per_s"][name] / 1e9 for kernel in measured]
        lines.append(f"  {name}, read and written: {min(values):.1f} to {max(values):.1f} GB/s")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels",
        description="Every kernel on every target, against the roofs of the core.",
        epilog="example: python -m bench.kernels --kernels QConvLIF QConvLIFRec --density 0.02 "
        "--clustered",
    )
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="default: all that run here")
    parser.add_argument("--kernels", nargs="+", choices=OPS, default=OPS, metavar="OP")
    parser.add_argument(
        "--shape",
        type=positive,
        nargs=3,
        default=(32, 256, 256),
        metavar=("C", "H", "W"),
        help="channels and size of a layer (default: 32 256 256)",
    )
    parser.add_argument(
        "--density", type=float, default=0.1, metavar="D", help="share of input spikes, 0 to 1"
    )
    parser.add_argument("--clustered", action="store_true", help="input spikes in clusters")
    parser.add_argument(
        "--weight-bits", type=int, choices=range(2, 9), default=7, metavar="N", help="2 to 8"
    )
    parser.add_argument("--turns", type=positive, default=_DEFAULT_TURNS, metavar="N")
    parser.add_argument("--json", type=Path, metavar="F", help="write the result there")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

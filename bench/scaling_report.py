"""What a scaling sweep says, as sentences, tables, CSV and charts."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from calib_data.files import atomic_path

Row = dict[str, Any]

LINEAR_WITHIN = 0.15
SLOWER_BY = 0.05


def size_verdict(rows: Sequence[Row]) -> list[Row]:
    """Per number of threads: how far sizes lie from the proportional line that fits them best.

    Returns rows of ``threads``, ``deviation`` (largest, as a share of the line's value) and
    ``linear``, whether that is at most 15 %; none where there is one size only.
    """
    verdicts = []
    for threads, group in _grouped(rows, "threads"):
        costs = [row["ns_per_pixel"] for row in group]
        if len(costs) < 2:
            continue
        deviation = (max(costs) - min(costs)) / (max(costs) + min(costs))
        linear = deviation <= LINEAR_WITHIN
        verdicts.append({"threads": threads, "deviation": deviation, "linear": linear})
    return verdicts


def density_verdict(rows: Sequence[Row]) -> list[Row]:
    """Per number of threads and pattern: the density that is slowest beside the densest.

    Returns rows of ``threads``, ``pattern``, ``density``, ``times_slower_than_densest`` and
    ``kept``, whether that is at most 1.05.
    """
    verdicts = []
    for threads, group in _grouped(rows, "threads"):
        for pattern, part in _grouped(group, "pattern"):
            worst = max(part, key=lambda row: row["times_slower_than_densest"])
            slower = worst["times_slower_than_densest"]
            verdicts.append(
                {
                    "threads": threads,
                    "pattern": pattern,
                    "density": worst["density"],
                    "times_slower_than_densest": slower,
                    "kept": slower <= 1 + SLOWER_BY,
                }
            )
    return verdicts


def _grouped(rows: Iterable[Row], key: str) -> list[tuple[Any, list[Row]]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return list(groups.items())


def sentences(values: Row) -> list[str]:
    """What the sweeps say, a line each."""
    lines = []
    for row in values["linear"]:
        said = "linear within" if row["linear"] else "NOT linear within"
        lines.append(
            f"{row['threads']} thread(s): cost against pixels is {said} {100 * LINEAR_WITHIN:.0f} "
            f"% (largest distance from proportional {100 * row['deviation']:.1f} %)"
        )
    for row in values["worst_density"]:
        limit = f"{100 * SLOWER_BY:.0f} %"
        said = (
            f"no density is slower than the densest by more than {limit}"
            if row["kept"]
            else f"a density is slower than the densest by MORE than {limit}"
        )
        lines.append(
            f"{row['threads']} thread(s), {row['pattern']}: {said} "
            f"(worst {row['times_slower_than_densest']:.3f} times, at {100 * row['density']:g} %)"
        )
    return lines


def print_report(values: Row, out: Console) -> None:
    """Print both sweeps and what they say."""
    host = values["machine"]
    out.print(
        f"{host['cpu']}, {host['cores']} cores (load {host['load_average']:.1f}), ONNX Runtime "
        f"{host['onnxruntime']}; {values['turns']} turns, medians; idle threads do not spin",
        highlight=False,
    )
    if not all(row["native"] for row in [*values["sizes"], *values["densities"]]):
        out.print("no kernels: ONNX Runtime runs the function bodies", highlight=False)
    out.print(_size_table(values["sizes"]))
    height, width = values["resolution"]
    out.print(_density_table(values["densities"], f"spike density at {height} x {width}"))
    for line in sentences(values):
        out.print(line, highlight=False)


def _size_table(rows: Sequence[Row]) -> Table:
    table = _headed("size", ("threads", "size", "ms", "ns per pixel", "stock ms", "times faster"))
    for row in rows:
        table.add_row(
            str(row["threads"]),
            f"{row['height']} x {row['width']}",
            f"{row['p50_ms']:.3f}",
            f"{row['ns_per_pixel']:.1f}",
            *_stock(row),
        )
    return table


def _density_table(rows: Sequence[Row], title: str) -> Table:
    headings = ("threads", "pattern", "wanted", "reached", "active pixels", "ms", "of densest")
    table = _headed(title, (*headings, "stock ms", "times faster"))
    for row in rows:
        layers = row["reached_by_layer"].values()
        table.add_row(
            str(row["threads"]),
            row["pattern"],
            f"{100 * row['density']:g} %",
            f"{100 * row['reached']:.2f} % ({100 * min(layers):.2f} to {100 * max(layers):.2f})",
            f"{100 * row['active_pixels']:.1f} %",
            f"{row['p50_ms']:.3f}",
            f"{row['times_slower_than_densest']:.3f}",
            *_stock(row),
        )
    return table


def _headed(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _stock(row: Row) -> tuple[str, str]:
    if "stock_p50_ms" not in row:
        return "-", "-"
    return f"{row['stock_p50_ms']:.1f}", f"{row['times_faster']:.2f}"


def write_files(values: Row, folder: Path) -> None:
    """Write the numbers as JSON and CSV, and a chart of each sweep."""
    with atomic_path(folder / "scaling.json") as path:
        path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    for name, draw in (("sizes", _draw_sizes), ("densities", _draw_densities)):
        rows = values[name]
        with (
            atomic_path(folder / f"{name}.csv") as path,
            path.open("w", newline="", encoding="utf-8") as file,
        ):
            columns = [key for key in rows[0] if key != "reached_by_layer"]
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        figure = require_charts().Figure(figsize=(8.0, 5.0), layout="constrained")
        draw(figure.subplots(), rows, values)
        with atomic_path(folder / f"{name}.png") as path:
            figure.savefig(path, format="png", dpi=140)


def require_charts() -> Any:
    """matplotlib's figures. Raises BenchError where it is not installed."""
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise BenchError(
            "drawing charts needs matplotlib; pip install 'spikedeploy[report]'"
        ) from error


def _draw_sizes(axes: Any, rows: Sequence[Row], values: Row) -> None:
    for number, (threads, group) in enumerate(_grouped(rows, "threads")):
        pixels = [row["height"] * row["width"] for row in group]
        colour = {"color": f"C{number}"}
        times = [row["p50_ms"] for row in group]
        axes.plot(pixels, times, "o-", label=f"{threads} thread(s)", **colour)
        if "stock_p50_ms" in group[0]:
            stock = [row["stock_p50_ms"] for row in group]
            axes.plot(pixels, stock, "s--", label=f"stock, {threads} thread(s)", **colour)
    axes.set(xscale="log", yscale="log", xlabel="pixels", ylabel="ms per step")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()


def _draw_densities(axes: Any, rows: Sequence[Row], values: Row) -> None:
    number = 0
    for threads, group in _grouped(rows, "threads"):
        for pattern, part in _grouped(group, "pattern"):
            reached = [100 * row["reached"] for row in part]
            times = [row["p50_ms"] for row in part]
            label = f"{pattern}, {threads} thread(s)"
            axes.plot(reached, times, "o-", color=f"C{number}", label=label)
            number += 1
    height, width = values["resolution"]
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set(xlabel="neurons that fire, % per step", ylabel=f"ms per step, {height} x {width}")
    axes.set_ylim(bottom=0)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()

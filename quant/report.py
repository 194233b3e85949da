"""What post-training quantization reports: numbers as JSON, tables on a terminal, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from calib_data.files import atomic_path
from models import SpikingFireNet
from quant.calibration import LayerActivity, LayerCalibration
from quant.options import HEAD, QuantOptions
from quant.scales import Moments, search_scale
from quant.search import Sensitivity
from quant.spec import NetworkSpec, membrane_limits

_TABLE_WIDTH = 120


@dataclass(frozen=True)
class LayerReport:
    """One spiking layer, float and quantized, on the recordings.

    neuron: "integer" or "float"; mem_bits and frac_bits of a float one are None. scale_gain: share
    of the output error of weight rounding that the scale search removed; 0 without a search.
    float_spikes, spikes: share of neurons that fired. clipped_current, saturated_mem: as of
    :class:`quant.LayerActivity`. silent_channels: channels whose threshold lies at the membrane's
    limit, so that they cannot fire.
    """

    name: str
    neuron: str
    weight_bits: int
    mem_bits: int | None
    frac_bits: int | None
    scale_gain: float
    float_spikes: float
    spikes: float
    clipped_current: float
    saturated_mem: float
    silent_channels: int


def layer_reports(
    spec: NetworkSpec,
    gains: Mapping[str, float],
    calibration: Mapping[str, LayerCalibration],
    activity: Mapping[str, LayerActivity],
) -> list[LayerReport]:
    """One row per spiking layer."""
    rows = []
    for layer in spec.layers:
        seen = activity[layer.name]
        _, hi = membrane_limits(layer.mem_bits)
        integer = spec.neuron == "integer"
        rows.append(
            LayerReport(
                name=layer.name,
                neuron=spec.neuron,
                weight_bits=layer.weight_bits,
                mem_bits=layer.mem_bits if integer else None,
                frac_bits=layer.frac_bits if integer else None,
                scale_gain=gains.get(layer.name, 0.0),
                float_spikes=calibration[layer.name].spike_rate,
                spikes=seen.spike_rate,
                clipped_current=seen.clipped_current,
                saturated_mem=seen.saturated_mem,
                silent_channels=int((layer.threshold == hi).sum()) if integer else 0,
            )
        )
    return rows


def scale_gains(
    model: SpikingFireNet, options: QuantOptions, moments: Moments | None
) -> dict[str, float]:
    """What the scale search gained, by layer and for the head; empty without a search."""
    if not options.scale_search:
        return {}
    weights: dict[str, tuple[Tensor, Tensor | None]] = {
        name: (layer.weight, layer.weight_rec) for name, layer in model.named_layers()
    }
    weights[HEAD] = (model.pred.weight, None)
    return {
        name: search_scale(
            *pair, options.of(name).weight_bits, None if moments is None else moments[name]
        ).gain
        for name, pair in weights.items()
    }


def table_console() -> Console:
    """Standard output; where it is no terminal, wide enough for every column."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _TABLE_WIDTH))


def layer_table(rows: Sequence[LayerReport], title: str) -> Table:
    """The layers as a table."""
    table = Table(title=title)
    table.add_column("layer")
    headings = ("weights", "membrane", "fraction", "scale gain", "float spikes", "spikes")
    for heading in (*headings, "clipped", "saturated", "silent"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            str(row.weight_bits),
            "float" if row.mem_bits is None else str(row.mem_bits),
            "" if row.frac_bits is None else str(row.frac_bits),
            f"{100 * row.scale_gain:.0f} %",
            f"{100 * row.float_spikes:.2f} %",
            f"{100 * row.spikes:.2f} %",
            f"{100 * row.clipped_current:.3f} %",
            f"{100 * row.saturated_mem:.3f} %",
            str(row.silent_channels),
        )
    return table


def sensitivity_table(rows: Sequence[Sensitivity], measure: str) -> Table:
    """Errors by layer and width."""
    base = rows[0].error
    membranes = any(row.weight_bits == 8 for row in rows[1:])
    start = "8-bit weights and 16-bit membranes" if membranes else "8-bit weights, float neurons"
    table = Table(title=f"{measure}, pixels; {start}: {base:.4f}")
    table.add_column("layer")
    columns = list(range(7, 1, -1))
    for bits in columns:
        table.add_column(f"weights {bits}", justify="right")
    if membranes:
        table.add_column("membrane 8", justify="right")
    for name in dict.fromkeys(row.layer for row in rows[1:]):
        own = [row for row in rows if row.layer == name]
        by_bits = {row.weight_bits: row.error for row in own if row.weight_bits < 8}
        membrane = [row.error for row in own if row.weight_bits == 8]
        cells = [f"{by_bits[bits]:.4f}" for bits in columns]
        table.add_row(name, *cells, *(f"{error:.4f}" for error in membrane))
    return table


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write a report; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def to_rows(reports: Sequence[LayerReport]) -> list[dict[str, Any]]:
    """JSON values."""
    return [asdict(row) for row in reports]


def print_tables(tables: Sequence[Table], console: Console) -> None:
    """Print tables one below the other."""
    for table in tables:
        console.print(table)


def plot_layers(rows: Sequence[LayerReport], path: Path, title: str) -> None:
    """Spike rates, clipping and saturation by layer as a PNG."""
    figure, axes = _axes(2)
    places = range(len(rows))
    names = [row.name for row in rows]
    bars: list[tuple[Any, list[tuple[str, list[float]]], str]] = [
        (
            axes[0],
            [
                ("float", [100 * row.float_spikes for row in rows]),
                ("quantized", [100 * row.spikes for row in rows]),
            ],
            "neurons that fire, %",
        ),
        (
            axes[1],
            [
                ("clipped currents", [100 * row.clipped_current for row in rows]),
                ("saturated membranes", [100 * row.saturated_mem for row in rows]),
            ],
            "share, %",
        ),
    ]
    for axis, series, label in bars:
        for number, (name, values) in enumerate(series):
            axis.bar([place + 0.4 * number - 0.2 for place in places], values, 0.4, label=name)
        axis.set_xticks(list(places), names)
        axis.set_ylabel(label)
        axis.legend()
    figure.suptitle(title)
    _save(figure, path)


def plot_sensitivity(rows: Sequence[Sensitivity], path: Path, measure: str) -> None:
    """Error against weight bits, a line per layer, and the 8-bit membranes, as a PNG."""
    membranes = [r for r in rows[1:] if r.weight_bits == 8]
    figure, axes = _axes(2)
    base = rows[0].error
    names = list(dict.fromkeys(row.layer for row in rows[1:]))
    for name in names:
        points = [(8, base)]
        points += [(r.weight_bits, r.error) for r in rows if r.layer == name and r.weight_bits < 8]
        axes[0].plot(*zip(*points, strict=True), marker="o", label=name)
    axes[0].set_xlabel("weight bits of one layer, all others 8")
    axes[0].set_ylabel("error, pixels")
    axes[0].invert_xaxis()
    axes[0].legend()
    axes[1].bar([row.layer for row in membranes], [row.error for row in membranes])
    start = "all membranes 16 bits" if membranes else "all membranes float"
    axes[1].axhline(base, linestyle="--", label=start)
    axes[1].set_xlabel("layer with an 8-bit membrane")
    axes[1].legend()
    figure.suptitle(measure)
    _save(figure, path)


def _axes(columns: int) -> tuple[Any, Any]:
    # Imported where a picture is drawn: it takes a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * columns, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)

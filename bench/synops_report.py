"""Tables, CSV and charts of what ``bench.synops`` counted."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.energy import FLOAT, INTEGER
from bench.errors import BenchError
from calib_data.files import atomic_path

PLOT_FORMATS = (".png", ".svg", ".pdf")
_UNITS = ((1e9, " G"), (1e6, " M"), (1e3, " k"))

Row = dict[str, Any]


def print_report(values: Row, out: Console) -> None:
    """Print operations, traffic and energy by layer, the artifacts side by side."""
    height, width = values["resolution"]
    source, models = values["input"], values["models"]
    out.print(
        f"{height} x {width} pixels, {source['data']} events: {source['events_per_pixel']:.3f} per "
        f"pixel and step, {100 * source['active_pixels']:.1f} % of pixels active; means of "
        f"{models[0]['steps']} steps",
        highlight=False,
    )
    names = artifact_names(models)
    labels = _labels(models)
    out.print(_table("synaptic operations and membranes per step", _OPERATIONS, models, labels))
    out.print(_table("memory traffic and estimated energy per step", _COSTS, models, labels))
    for name, model in zip(names, models, strict=True):
        out.print(_summary(name, model), highlight=False)
    if len(models) == 2:
        out.print(_comparison(names, models), highlight=False)
    out.print(_assumptions(values), highlight=False, style="dim")


def artifact_names(models: Sequence[Row]) -> list[str]:
    """Names for the table: file names, or paths where those are the same."""
    names = [Path(model["file"]).name for model in models]
    return names if len(set(names)) == len(names) else [model["file"] for model in models]


def _labels(models: Sequence[Row]) -> list[str]:
    """Short names where the kinds tell the artifacts apart, else their names."""
    kinds = [model["kind"] for model in models]
    return kinds if len(set(kinds)) == len(kinds) else artifact_names(models)


def write_csv(values: Row, path: Path) -> None:
    """Write a row per layer and artifact, numbers unrounded, means per step."""
    keys = list(values["models"][0]["total"])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "kind", *keys], extrasaction="ignore")
        writer.writeheader()
        for model in values["models"]:
            for row in [*model["layers"], model["total"]]:
                writer.writerow({"file": model["file"], "kind": model["kind"]} | row)


def draw(values: Row, path: Path) -> None:
    """Draw operations and energy by layer.

    Raises BenchError when matplotlib is not installed.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise BenchError(
            "drawing charts needs matplotlib; pip install 'spikedeploy[report]'"
        ) from error
    models, names = values["models"], artifact_names(values["models"])
    layers = _layer_names(models)
    figure = figures.Figure(figsize=(max(7.0, 1.1 * len(layers)), 7.0), layout="constrained")
    operations, joules = figure.subplots(2, 1, sharex=True)
    width = 0.8 / (2 * len(models))
    for number, (name, model) in enumerate(zip(names, models, strict=True)):
        rows = model["layers"]
        dense = [row["dense"] for row in rows]
        effective = [row["acs"] + row["macs"] for row in rows]
        colours = {"color": f"C{number}"}
        first = width * (2 * number + 0.5) - 0.4
        places = [layers.index(row["layer"]) + first for row in rows]
        operations.bar(places, dense, width, alpha=0.4, label=f"{name}, dense", **colours)
        places = [place + width for place in places]
        operations.bar(places, effective, width, label=f"{name}, effective", **colours)
        _stack(joules, rows, [place - width / 2 for place in places], 2 * width, name, number)
    operations.set_yscale("log")
    operations.set_ylabel("synaptic operations per step")
    joules.set_ylabel("estimated energy per step, µJ")
    joules.set_xticks(range(len(layers)), layers)
    for axes in (operations, joules):
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=140)


def _stack(
    axes: Any, rows: Sequence[Row], places: Sequence[float], width: float, name: str, number: int
) -> None:
    """Bars of a layer's energy, its parts on top of each other."""
    bottom = [0.0] * len(rows)
    for part, alpha in (("synapses", 1.0), ("updates", 0.65), ("memory", 0.3)):
        heights = [row[f"{part}_pj"] / 1e6 for row in rows]
        axes.bar(
            places,
            heights,
            width * 0.95,
            bottom,
            color=f"C{number}",
            alpha=alpha,
            label=f"{name}, {part}",
        )
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _number(value: float) -> str:
    """Three decimals and a unit, or a plain number below a thousand."""
    for size, unit in _UNITS:
        if value >= size:
            return f"{value / size:.3f}{unit}"
    return f"{value:g}" if value == int(value) else f"{value:.3f}"


def _bytes(*keys: str) -> Callable[[Row], str]:
    return lambda row: f"{sum(row[key] for key in keys) / 1024:,.1f}"


def _microjoules(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key] / 1e6:,.2f}"


def _changed(row: Row) -> str:
    return _number(row["membrane_updates"]) if row["neurons"] else "-"


_OPERATIONS: dict[str, Callable[[Row], str]] = {
    "input density": lambda row: _percent(row["input_density"]),
    "spikes": lambda row: _percent(row["spike_rate"]),
    "dense": lambda row: _number(row["dense"]),
    "effective ACs": lambda row: _number(row["acs"]),
    "effective MACs": lambda row: _number(row["macs"]),
    "of dense": lambda row: _percent((row["acs"] + row["macs"]) / max(row["dense"], 1)),
    "neurons": lambda row: _number(row["neurons"]) if row["neurons"] else "-",
    "membrane updates": _changed,
}
_COSTS: dict[str, Callable[[Row], str]] = {
    "parameters KiB": _bytes("parameters_bytes"),
    "membranes KiB": _bytes("membranes_read_bytes", "membranes_written_bytes"),
    "inputs KiB": _bytes("inputs_read_bytes"),
    "outputs KiB": _bytes("outputs_written_bytes"),
    "synapses µJ": _microjoules("synapses_pj"),
    "all MACs µJ": _microjoules("dense_synapses_pj"),
    "neurons µJ": _microjoules("updates_pj"),
    "memory µJ": _microjoules("memory_pj"),
    "sum µJ": _microjoules("energy_pj"),
}


def _table(
    title: str,
    columns: dict[str, Callable[[Row], str]],
    models: Sequence[Row],
    names: Sequence[str],
) -> Table:
    """A row per layer and artifact; the artifacts of a layer stand below each other."""
    table = Table(title=title)
    table.add_column("layer")
    if len(models) > 1:
        table.add_column("artifact", overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="right")
    layers = _layer_names(models)
    for layer in [*layers, "total"]:
        rows = [_find(model, layer) for model in models]
        for number, (name, row) in enumerate(zip(names, rows, strict=True)):
            if row is not None:
                label = [layer, name] if len(models) > 1 else [layer]
                last = number == len(models) - 1 and (len(models) > 1 or layer == layers[-1])
                cells = [cell(row) for cell in columns.values()]
                table.add_row(*label, *cells, end_section=last)
    return table


def _layer_names(models: Sequence[Row]) -> list[str]:
    """Layers that any of the artifacts has, the flow head last."""
    names = dict.fromkeys(row["layer"] for model in models for row in model["layers"][:-1])
    return [*names, models[0]["layers"][-1]["layer"]]


def _find(model: Row, layer: str) -> Row | None:
    rows: list[Row] = [*model["layers"], model["total"]]
    return next((row for row in rows if row["layer"] == layer), None)


def _summary(name: str, model: Row) -> str:
    total = model["total"]
    effective = total["acs"] + total["macs"]
    if not total["spike_rate"]:
        return f"{name}: no neuron fired, so these numbers say little; use other events"
    return (
        f"{name}: {_number(effective)} effective of {_number(total['dense'])} dense operations "
        f"({_percent(effective / total['dense'])}), {_number(total['membrane_updates'])} of "
        f"{_number(total['neurons'])} membranes change, about "
        f"{total['energy_pj'] / 1e6:,.1f} µJ per step"
    )


def _comparison(names: Sequence[str], models: Sequence[Row]) -> str:
    first, second = (model["total"] for model in models)
    if not first["energy_pj"] or not first["acs"] + first["macs"]:
        return f"{names[0]} did nothing to compare with"
    operations = (second["acs"] + second["macs"]) / (first["acs"] + first["macs"])
    moved = [sum(v for k, v in row.items() if k.endswith("_bytes")) for row in (first, second)]
    return (
        f"{names[1]} beside {names[0]}: {operations:.3f} times the effective operations, "
        f"{moved[1] / moved[0]:.3f} times the bytes, "
        f"{second['energy_pj'] / first['energy_pj']:.3f} times the estimated energy"
    )


def _assumptions(values: Row) -> str:
    """The constants of the estimate, their source, and what they are applied to."""
    constants = values["constants"]
    costs = "; ".join(f"{name} {c['picojoules']:g} pJ" for name, c in constants.items())
    sources = "; ".join(dict.fromkeys(c["source"] for c in constants.values()))

    def words(operations: Sequence[str]) -> str:
        return " + ".join(operations)

    return (
        f"energy: {costs} ({sources})\n"
        f"AC = {words(INTEGER.accumulate)} or {words(FLOAT.accumulate)}; "
        f"MAC = {words(INTEGER.multiply_accumulate)} or {words(FLOAT.multiply_accumulate)}; "
        f"neuron = {words(INTEGER.update)} or {words(FLOAT.update)}, every neuron in every step\n"
        "an estimate of arithmetic and traffic in that process, not of this machine"
    )

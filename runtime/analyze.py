"""``python -m runtime.analyze model.onnx --data F``: what a network's neurons do over a recording.

Per layer and channel: spike rates, dead and saturated channels and neurons, membrane statistics and
histograms, thresholds and decays in the file's units and in real ones. Definitions are in
``runtime.activity``. Memory does not grow with the recording.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from calib_data import console
from calib_data.files import check_writable
from runtime.activity import SATURATED, Activity, LayerActivity
from runtime.artifact import load_model
from runtime.errors import EvaluationError
from runtime.house import start_command
from runtime.looking import (
    add_looking_arguments,
    looking,
    new_figure,
    save_figure,
    write_json,
    write_rows,
)
from runtime.neurons import layer_neurons, unavailable

COLUMNS = (
    "layer", "channel", "steps", "neurons", "spikes", "spike_rate", "dead", "saturated",
    "dead_neurons", "saturated_neurons", "membrane_min", "membrane_max", "membrane_mean",
    "membrane_std", "membrane_unit", "threshold", "threshold_real", "decay", "decay_real",
)  # fmt: skip
"""Columns of the CSV file, one row per layer and channel."""


def print_table(layers: list[dict[str, Any]], out: Console) -> None:
    """One row per layer; values are those of ``LayerActivity.to_dict``."""
    table = Table(
        "layer", "channels", "spike rate", "dead channels", "saturated channels", "dead neurons",
        "saturated neurons", "membrane", "threshold", "decay",
    )  # fmt: skip
    for layer in layers:
        rows = layer["channels"]
        table.add_row(
            layer["name"],
            str(len(rows)),
            "-" if layer["spike_rate"] is None else f"{layer['spike_rate']:.4f}",
            *(_count(layer[f"{name}_channels"]) for name in ("dead", "saturated")),
            *(_count(layer[f"{name}_neurons"]) for name in ("dead", "saturated")),
            _span([r["membrane_min"] for r in rows], [r["membrane_max"] for r in rows]),
            _span([r["threshold"] for r in rows], [r["threshold"] for r in rows]),
            _span([r["decay_real"] for r in rows], [r["decay_real"] for r in rows]),
        )
    out.print(table)


def _count(value: list[int] | int | None) -> str:
    if value is None:
        return "-"
    return str(len(value) if isinstance(value, list) else value)


def _span(low: list[float | None], high: list[float | None]) -> str:
    lows, highs = [v for v in low if v is not None], [v for v in high if v is not None]
    return f"{min(lows):.4g} to {max(highs):.4g}" if lows and highs else "-"


def plot_layer(layer: LayerActivity, path: Path) -> None:
    """Draw a layer: spike rates by channel, membranes, thresholds and decays.

    Raises PictureError without matplotlib.
    """
    figure = new_figure(11, 7)
    rates, membranes, thresholds, decays = figure.subplots(2, 2).ravel()
    figure.suptitle(f"{layer.neurons.name}, {layer.steps} steps")
    values = layer.spike_rates()
    _bars(rates, values, "spikes per neuron and step", "spike rate by channel")
    membranes.set_title("membranes after the step")
    if layer.membranes is not None:
        edges, counts = _coarse(*layer.membranes.histogram())
        membranes.stairs(counts, edges, fill=True)
        membranes.set_yscale("log")
        membranes.set_xlabel("membrane, units of the state")
        membranes.set_ylabel("values")
        if layer.neurons.threshold is not None:
            for threshold in np.unique(layer.neurons.threshold):
                membranes.axvline(threshold, color="tab:red", linewidth=0.5)
    _bars(thresholds, layer.neurons.threshold, "units of the state", "threshold by channel")
    _bars(decays, layer.neurons.decay_real, "share kept per step", "decay by channel")
    save_figure(figure, path)


def _bars(axes: Any, values: Any, label: str, title: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("channel")
    axes.set_ylabel(label)
    if values is None:
        axes.text(0.5, 0.5, "not shown by this file", ha="center", transform=axes.transAxes)
    else:
        axes.bar(np.arange(len(values)), values)


def _coarse(edges: Any, counts: Any, bins: int = 200) -> tuple[Any, Any]:
    """At most about this many bins around the values, whole bins joined."""
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1]) + 1
    width = max(1, -(-(last - first) // bins))
    places = np.arange(first, last, width)
    joined = np.add.reduceat(counts[:last], places)
    return np.append(edges[places], edges[first] + (edges[1] - edges[0]) * width * len(places)), (
        joined
    )


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    loaded = load_model(arguments.model)
    for path in filter(None, (arguments.csv, arguments.json)):
        check_writable(path)
    if arguments.plots is not None:
        new_figure(1, 1)
        check_writable(arguments.plots / "layer.png")
    neurons = layer_neurons(loaded)
    activity = Activity(neurons)
    notes: list[str] = []
    steps = 0
    with looking(loaded, arguments) as run:
        for _, moments in run.steps("analyzing"):
            if steps == 0:
                notes = unavailable(neurons, moments)
            activity.add(moments)
            steps += 1
    if steps == 0:
        raise EvaluationError(f"--skip {arguments.skip} leaves no window to look at")
    layers = [layer.to_dict(arguments.saturated) for layer in activity.layers.values()]
    print_table(layers, Console(width=None if Console().is_terminal else 160))
    for note in notes:
        print(note)
    if arguments.csv is not None:
        write_rows(arguments.csv, COLUMNS, (row for layer in layers for row in layer["channels"]))
    if arguments.json is not None:
        write_json(
            arguments.json,
            {
                "model": str(arguments.model),
                "data": str(arguments.data),
                "resolution": list(run.resolution),
                "mode": run.plan.mode,
                "window": run.plan.window,
                "skipped": arguments.skip,
                "steps": steps,
                "saturated_from": arguments.saturated,
                "notes": notes,
                "layers": layers,
            },
        )
    if arguments.plots is not None:
        for name, layer in activity.layers.items():
            plot_layer(layer, arguments.plots / f"{name}.png")
    return 0


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and up to 1, got {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.analyze",
        description="Spike rates, dead and saturated neurons, membranes, thresholds and decays of "
        "an artifact over a recording, by layer and channel.",
        epilog="example: python -m runtime.analyze model.int8.onnx --data recording.h5 "
        "--csv channels.csv --plots plots",
    )
    add_looking_arguments(parser)
    parser.add_argument(
        "--saturated", type=_share, default=SATURATED, metavar="SHARE",
        help=f"share of steps from which a neuron counts as saturated ({SATURATED:g})",
    )  # fmt: skip
    parser.add_argument("--csv", type=Path, metavar="F", help="write a row per layer and channel")
    parser.add_argument("--json", type=Path, metavar="F", help="write everything there")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw a picture per layer there")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

"""Results of evaluations as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runtime.metrics import METRICS

if TYPE_CHECKING:
    from runtime.evaluate_sequences import Outcome
    from runtime.evaluation import Evaluation

_WIDTH = 140


def table_console() -> Console:
    """Standard output for tables; wide enough for them where it is no terminal."""
    out = Console()
    return out if out.is_terminal else Console(width=_WIDTH)


def print_tables(result: Evaluation, out: Console) -> None:
    """Print scores, yardsticks and spike rates."""
    out.print(
        f"{result.data.name}: {result.windows} windows ({result.plan.mode}, length "
        f"{result.plan.window:g}), {result.resolution[0]} x {result.resolution[1]} pixels, "
        f"{result.events_per_pixel:.3f} events per pixel and window",
        highlight=False,
        soft_wrap=True,
    )
    if result.span is not None:
        first, last = result.span
        out.print(
            f"driven: {first:.3f} to {last:.3f} s since t0; {result.scored}",
            highlight=False,
            soft_wrap=True,
        )
    out.print(_score_table(result))
    if any(network.metrics.metrics for network in result.networks.values()):
        out.print(_metric_table(result))
    if any(network.neurons for network in result.networks.values()):
        out.print(_rate_table(result))


def _score_table(result: Evaluation) -> Table:
    frames = max(network.score.frames for network in result.networks.values())
    table = Table(title=f"errors on {frames} scored frames, every pixel weighing the same")
    table.add_column("prediction", overflow="fold")
    for heading in ("AEE px", "AEE by frames", "outliers", "AAE deg", "NEE", "spikes", "FWL"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, network in result.networks.items():
        pixels, frame_means = network.score.by_pixels(), network.score.by_frames()
        table.add_row(
            name,
            _text(pixels["aee"]),
            _text(frame_means["aee"]),
            _percent(pixels["outliers"]),
            _text(pixels["aae"], 1),
            _text(pixels["nee"]),
            _percent(network.spike_rate(), 2),
            _text(network.mean_fwl()),
        )
    if frames:
        means = next(iter(result.networks.values())).score
        for label, key in (("zero flow", "zero_aee"), ("mean true flow of the frame", "mean_aee")):
            row = (_text(means.by_pixels()[key]), _text(means.by_frames()[key]))
            table.add_row(label, *row, style="dim")
    return table


def _metric_table(result: Evaluation) -> Table:
    """The metrics asked for: one row per network and metric."""
    table = Table(title="metrics asked for")
    table.add_column("prediction", overflow="fold")
    table.add_column("metric", no_wrap=True)
    for heading in ("by frames", "by pixels", "values", "unit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, network in result.networks.items():
        for metric, value in network.metrics.values().items():
            numbers = (_text(value.by_frames, 4), _text(value.by_pixels, 4), str(value.values))
            table.add_row(name, metric, *numbers, METRICS[metric].unit)
    return table


def print_means(evaluations: Mapping[Path, Evaluation], out: Console) -> None:
    """Print the AEE of every sequence and network, and the means, where there are several."""
    if len(evaluations) < 2:
        return
    names = list(next(iter(evaluations.values())).networks)
    table = Table(title="AEE px by sequence, every frame weighing the same")
    table.add_column("sequence", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    columns: list[list[float]] = [[] for _ in names]
    for path, evaluation in evaluations.items():
        values = [evaluation.networks[n].score.by_frames()["aee"] for n in names]
        for column, value in zip(columns, values, strict=True):
            column.extend([value] if np.isfinite(value) else [])
        table.add_row(path.stem, *(_text(value) for value in values))
    table.add_row("mean", *(_text(float(np.mean(c)) if c else None) for c in columns), style="bold")
    out.print(table)


def print_profile(outcome: Outcome, out: Console) -> None:
    """Print where the time went, and how many events a second were evaluated."""
    for path, evaluation in outcome.evaluations.items():
        profile = evaluation.profile
        total = max(sum(profile.parts.values()), 1e-9)
        shares = [
            f"{name} {seconds:.3f} s ({100 * seconds / total:.0f} %)"
            for name, seconds in profile.parts.items()
        ]
        rate = profile.to_dict(evaluation.events)["events_per_second"]
        out.print(
            f"{path.stem}: {evaluation.events} events, {_text(rate, 0)} events per second; "
            f"{', '.join(shares)}",
            highlight=False,
            soft_wrap=True,
        )

    overall = outcome.overall()
    if len(outcome.evaluations) > 1:
        out.print(
            f"all: {overall['events']} events, {_text(overall['events_per_second'], 0)} events per "
            f"second; {overall['seconds']:.3f} s, up to {overall['batch']} recordings at a time",
            highlight=False,
            soft_wrap=True,
        )


def list_metrics(out: Console) -> None:
    """Print every metric with its unit, definition and source."""
    table = Table(title="metrics; F is the prediction, G ground truth; see docs/metrics.md")
    table.add_column("name", no_wrap=True)
    for heading in ("unit", "better", "definition", "source"):
        table.add_column(heading, overflow="fold")
    for metric in METRICS.values():
        cells = (metric.unit, metric.better, escape(metric.definition), escape(metric.source))
        table.add_row(metric.name, *cells)
    out.print(table)


def _rate_table(result: Evaluation) -> Table:
    table = Table(title="neurons that fire per step")
    table.add_column("network")
    layers = list(
        dict.fromkeys(layer for n in result.networks.values() for layer in n.spike_rates())
    )
    for layer in [*layers, "all"]:
        table.add_column(layer, justify="right")
    for name, network in result.networks.items():
        rates = network.spike_rates()
        cells = [_percent(rates.get(layer), 2) for layer in layers]
        table.add_row(name, *cells, _percent(network.spike_rate(), 2))
    return table


def _text(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or np.isnan(value) else f"{100 * value:.{digits}f} %"

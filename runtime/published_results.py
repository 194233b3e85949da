"""Published errors next to ours, where the protocol is the same one.

``published_results.json`` holds the numbers with their sources. They are compared only under the
named protocol they were found with, over whole sequences and at full input resolution; under any
other protocol a comparison would mislead, so there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from runtime.protocol import Protocol, by_name, named_protocols

if TYPE_CHECKING:
    from runtime.evaluation import Evaluation

FILE = "published_results.json"
METRICS = ("aee_published", "outliers_published")


@dataclass(frozen=True)
class PublishedResult:
    """One method's numbers. values: (AEE in pixels, outliers in percent) by sequence. confirmed:
    whether they were read in print rather than recalled."""

    method: str
    protocol: str
    source: str
    confirmed: bool
    values: Mapping[str, tuple[float, float]]


def published_results(protocol: Protocol) -> list[PublishedResult]:
    """The numbers found under exactly this protocol; none where it is not a named one."""
    known = named_protocols().get(protocol.name)
    if known is None or known.hash != protocol.hash:
        return []
    values = json.loads(resources.files("runtime").joinpath(FILE).read_text())
    every = [PublishedResult(**result) for result in values["results"]]
    return [result for result in every if result.protocol == protocol.name]


def compare(evaluations: Mapping[Path, Evaluation], protocol: Protocol) -> list[dict[str, Any]]:
    """Rows {sequence, prediction, aee, outliers, source, confirmed}, ours first for a sequence.

    Outliers are in percent. Sequences without published numbers, and interrupted ones, are left
    out, and so are networks whose published metrics were not gathered.
    """
    results = published_results(protocol)
    rows = []
    for path, evaluation in evaluations.items():
        theirs = [
            _row(path, result.method, found[0], found[1], result.source, result.confirmed)
            for result in results
            if (found := by_name(result.values, path, None)) is not None
        ]
        if theirs and not evaluation.partial:
            rows += [*_ours(path, evaluation), *theirs]
    return rows


def _ours(path: Path, evaluation: Evaluation) -> list[dict[str, Any]]:
    rows = []
    for name, network in evaluation.networks.items():
        values = network.metrics.values()
        if all(metric in values for metric in METRICS):
            aee, outliers = (values[metric].by_frames for metric in METRICS)
            if aee is not None and outliers is not None:
                rows.append(_row(path, name, aee, 100 * outliers, "this run", True))
    return rows


def _row(
    path: Path, prediction: str, aee: float, outliers: float, source: str, confirmed: bool
) -> dict[str, Any]:
    return {
        "sequence": path.stem,
        "prediction": prediction,
        "aee": aee,
        "outliers": outliers,
        "source": source,
        "confirmed": confirmed,
    }


def print_comparison(rows: list[dict[str, Any]], out: Console) -> None:
    """Print the rows of ``compare``; nothing without any."""
    if not rows:
        return
    table = Table(title="published numbers under the same protocol, as the published code counts")
    for heading in ("sequence", "prediction"):
        table.add_column(heading, overflow="fold")
    for heading in ("AEE px", "outliers %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("source", overflow="fold")
    for row in rows:
        doubt = "" if row["confirmed"] else " (not confirmed)"
        numbers = f"{row['aee']:.2f}", f"{row['outliers']:.2f}"
        table.add_row(row["sequence"], row["prediction"], *numbers, row["source"] + doubt)
    out.print(table)

"""Results of evaluations as JSON values and as CSV."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from calib_data.files import atomic_path, check_writable
from runtime.evaluate_sequences import Outcome
from runtime.evaluation import WindowResult
from runtime.protocol import Protocol

COLUMNS = (
    "sequence", "window", "seconds", "events", "network", "aee", "zero_aee", "pixels", "latency_ms"
)  # fmt: skip


def outcome_values(
    outcome: Outcome, protocol: Protocol, networks: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The whole result as JSON values.

    A run over one recording has that recording's values at the top as well as in ``sequences``.
    ``networks``: facts about every network, added to its results. ``means``: AEE and outliers by
    network, once with every sequence weighing the same and once with every pixel.
    """
    sequences = []
    for evaluation in outcome.evaluations.values():
        values = evaluation.to_dict()
        for name, facts in networks.items():
            values["networks"][name].update(facts)
        sequences.append(values)
    top = sequences[0] if len(sequences) == 1 and not outcome.skipped else {}
    return {
        **top,
        "protocol": protocol.to_dict(),
        "partial": outcome.interrupted,
        "overall": outcome.overall(),
        "sequences": sequences,
        "skipped": [{"data": str(p), "error": text} for p, text in outcome.skipped.items()],
        "means": means(outcome),
    }


def means(outcome: Outcome) -> dict[str, dict[str, float | None]]:
    """By network: AEE as the mean of the sequences' values, and over all pixels; None without."""
    scores: dict[str, list[Any]] = {}
    for evaluation in outcome.evaluations.values():
        for name, network in evaluation.networks.items():
            if network.score.frames:
                scores.setdefault(name, []).append(network.score)
    return {name: _mean_of(found) for name, found in scores.items()}


def _mean_of(scores: list[Any]) -> dict[str, float | None]:
    pixels = np.array([score.pixels for score in scores], float)
    values: dict[str, float | None] = {"sequences": float(len(scores))}
    for metric in ("aee", "outliers"):
        by_pixels = np.array([score.by_pixels()[metric] for score in scores])
        by_frames = np.array([score.by_frames()[metric] for score in scores])
        values[f"{metric}_by_sequences"] = _number(float(by_frames.mean()))
        values[f"{metric}_by_pixels"] = _number(float((by_pixels * pixels).sum() / pixels.sum()))
    return values


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON values to a file that appears once complete."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


class CsvTable:
    """A row per sequence, window and network; columns are ``COLUMNS``, empty where unscored.

    Rows are written while windows are driven, those of a sequence to a temporary file of its own,
    so that memory does not grow and a recording that fails leaves none.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file cannot be written."""
        check_writable(path)
        self._path = path
        self._rows: dict[Path, IO[str]] = {}

    def sequence(self, data: Path) -> Callable[[WindowResult], None]:
        """What takes the windows of the recording in."""
        file = tempfile.TemporaryFile("w+", newline="")  # noqa: SIM115 (open until the end)
        self._rows[data] = file
        writer = csv.writer(file)

        def add(window: WindowResult) -> None:
            writer.writerows(_rows(data.stem, window))

        return add

    def write(self, finished: Iterable[Path]) -> None:
        """Write the table of these recordings, in this order; once, at the end."""
        with atomic_path(self._path) as temporary, temporary.open("w", newline="") as table:
            csv.writer(table).writerow(COLUMNS)
            for data in finished:
                self._rows[data].seek(0)
                shutil.copyfileobj(self._rows[data], table)
        for file in self._rows.values():
            file.close()


def _rows(sequence: str, window: WindowResult) -> Iterator[tuple[Any, ...]]:
    for name, step in window.networks.items():
        yield (
            sequence, window.index, f"{window.seconds:.9g}", window.events, name,
            _cell(step.aee), _cell(step.zero_aee), step.pixels, f"{step.latency_ms:.6g}",
        )  # fmt: skip


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"

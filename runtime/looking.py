"""Driving an artifact over a recording to look at its neurons: what such commands share."""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calib_data import console
from calib_data.events import EventSource
from calib_data.files import atomic_path
from calib_data.npz import open_events
from runtime.arguments import add_recording_arguments, positive
from runtime.artifact import LoadedModel
from runtime.errors import PictureError
from runtime.neurons import LayerMoment, look
from runtime.sequence import Drive, StepRecord, default_window, drive
from runtime.session import StatefulSession


def add_looking_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the recording, --skip, --limit, --threads and --no-library."""
    parser.add_argument("model", metavar="model.onnx", type=Path)
    add_recording_arguments(parser)
    parser.add_argument(
        "--skip", type=int, default=0, metavar="N",
        help="windows at the start that are run but not looked at, while states fill",
    )  # fmt: skip
    parser.add_argument("--limit", type=positive, metavar="N", help="run at most N windows")
    parser.add_argument("--threads", type=positive, default=1, metavar="N")
    parser.add_argument("--no-library", action="store_true", help="do not use the op library")


class Looking:
    """An artifact being driven; iterate over ``steps``. resolution: (H, W) of the recording."""

    def __init__(
        self, loaded: LoadedModel, file: EventSource, arguments: argparse.Namespace
    ) -> None:
        """Raises EvaluationError, SessionError: the recording does not fit the artifact."""
        self.resolution = file.resolution
        self._file = file
        session = StatefulSession(
            loaded,
            resolution=file.resolution if loaded.artifact.spatial_free else None,
            threads=arguments.threads,
            library="never" if arguments.no_library else "auto",
        )
        self._runner = session.diagnostic()
        length = arguments.window
        if length is None:
            length = default_window(arguments.mode, file.resolution)
        self.plan = Drive(
            mode=arguments.mode, window=length, warmup=arguments.skip, limit=arguments.limit
        )
        self.plan.check()

    def steps(self, what: str) -> Iterator[tuple[StepRecord, dict[str, LayerMoment]]]:
        """Every window after the skipped ones, and the layers after it; a progress bar meanwhile.

        ``what``: title of the bar.
        """
        records = drive(self._file, {"network": self._runner}, self.plan)
        shown = console.progress(records, what, self.plan.count(self._file))
        for number, record in enumerate(shown):
            if number >= self.plan.warmup:
                yield record, look(self._runner.artifact, self._runner)


@contextlib.contextmanager
def looking(loaded: LoadedModel, arguments: argparse.Namespace) -> Iterator[Looking]:
    """Open the recording that the command line names and make the artifact ready.

    Raises DataError: the recording cannot be read.
    """
    with open_events(arguments.data, arguments.resolution) as file:
        yield Looking(loaded, file, arguments)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_rows(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file; empty cells for None, 0 and 1 for truths."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({n: int(v) if isinstance(v, bool) else v for n, v in row.items()})


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure that needs no screen, in inches; PictureError without matplotlib."""
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise PictureError(
            "drawing plots needs matplotlib; pip install 'spikedeploy[report]'"
        ) from error
    return figures.Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of the suffix."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)

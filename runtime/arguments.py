"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib_data.windows import MODES


def add_recording_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add --data, --mode, --window and --resolution: which recording, and how it is cut.

    ``window`` is None where it is not given; ``runtime.sequence.default_window`` then tells. With
    ``several``, ``data`` is a list or None, and ``mode`` None where it is not given.
    """
    if several:
        parser.add_argument(
            "--data", action="extend", nargs="+", type=Path, metavar="F",
            help="recordings, or folders of them; may be given again",
        )  # fmt: skip
    else:
        parser.add_argument("--data", required=True, type=Path, metavar="F", help="recording")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=None if several else "gtflow_dt1",
        help="how windows are cut (default: gtflow_dt1)",
    )
    parser.add_argument(
        "--window",
        type=positive_length,
        help="their length: events, seconds, frames or flow maps (default: 1 frame or flow map, "
        "1/30 s, or 1000 events per 128 x 128 pixels)",
    )
    parser.add_argument(
        "--resolution",
        type=positive,
        nargs=2,
        metavar=("H", "W"),
        help="sensor size of a recording that does not tell it",
    )


def positive(text: str) -> int:
    """A command-line number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def positive_length(text: str) -> float:
    """A command-line length above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value

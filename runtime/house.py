"""The check that the packages found are ours: one distribution, its folders side by side.

Python finds packages by name along its path, and ``models`` or ``training`` are names that other
projects use too. Run from such a project's folder, ours would be shadowed and fail somewhere far
from the cause.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import TextIO

ROOMS = ("lif_op", "calib_data", "models", "quant", "export", "runtime", "bench", "training")


class HouseError(ImportError):
    """The project's packages do not come from one place."""

    user_error = True


def check_house(rooms: tuple[str, ...] = ROOMS) -> None:
    """Raise HouseError unless the packages stand beside this one.

    Nothing is imported: only where Python would find each package is looked at.
    """
    home = Path(__file__).resolve().parent.parent
    for room in rooms:
        places = _places(room)
        if not places:
            raise HouseError(
                f"package {room!r} is missing, expected in {home}; install spikedeploy again"
            )
        if home / room not in places:
            raise HouseError(
                f"package {room!r} is found in {places[0]}, but spikedeploy's is in {home / room}: "
                "another folder of that name shadows it; run from another folder, or remove "
                f"{places[0].parent} from PYTHONPATH"
            )


def start_command() -> None:
    """What every command does first: check the house, and print our own warnings as one line."""
    check_house()
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings meant for users (class attribute ``user_note``) come without the line of code."""
    if getattr(category, "user_note", False):
        text = f"note: {message}\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)


def _places(room: str) -> list[Path]:
    """The folders Python would load the package from."""
    try:
        spec = importlib.util.find_spec(room)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin or room).resolve()]
    return [Path(place).resolve() for place in spec.submodule_search_locations]

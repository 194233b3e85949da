"""Several recordings, one after the other: found, evaluated, and what went wrong with which."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from calib_data.npz import HDF5_SUFFIXES
from runtime.errors import EvaluationError

if TYPE_CHECKING:
    from runtime.evaluation import Evaluation

SUFFIXES = (*HDF5_SUFFIXES, ".npz")


@dataclass
class Outcome:
    """What became of a list of recordings.

    evaluations: by recording, in order; the last may be partial. skipped: message by recording
    that could not be evaluated. interrupted: whether the run was ended by hand. seconds: wall time
    of all of it. batch: most recordings at a time.
    """

    evaluations: dict[Path, Evaluation] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)
    interrupted: bool = False
    seconds: float = 0.0
    batch: int = 1
    first_error: Exception | None = None

    def skip(self, path: Path, error: Exception) -> None:
        """Note a recording's error; a fault of the program is raised."""
        if not (isinstance(error, OSError) or getattr(type(error), "user_error", False)):
            raise error
        self.first_error = self.first_error or error
        self.skipped[path] = " ".join(str(error).split())

    def overall(self) -> dict[str, float]:
        """Events, wall seconds, events per second and the batch of the whole run."""
        events = sum(evaluation.events for evaluation in self.evaluations.values())
        rate = events / self.seconds if self.seconds else 0.0
        return {
            "events": events, "seconds": self.seconds, "events_per_second": rate,
            "batch": self.batch,
        }  # fmt: skip

    def finish(self, paths: Iterable[Path]) -> None:
        """Put results in the order of ``paths`` and name what was skipped.

        Raises the first recording's error, if none of them could be evaluated.
        """
        if self.first_error is not None and not self.evaluations and not self.interrupted:
            raise self.first_error
        order = {path: number for number, path in enumerate(paths)}
        self.evaluations = dict(sorted(self.evaluations.items(), key=lambda e: order[e[0]]))
        for path, message in self.skipped.items():
            print(f"skipped {path}: {message}", file=sys.stderr)


def find_recordings(places: Iterable[Path]) -> list[Path]:
    """Recordings named, and those anywhere in the folders named, each once, folders sorted.

    Raises EvaluationError for a folder without any. A file that is absent is found out when it is
    opened.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            found[place] = None
            continue
        inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise EvaluationError(f"{place}: no recordings ({', '.join(SUFFIXES)}) in this folder")
        found.update(dict.fromkeys(inside))
    return list(found)


def evaluate_all(paths: Iterable[Path], one: Callable[[Path], Evaluation]) -> Outcome:
    """Evaluate recordings in turn; one that fails among several is named and left out.

    ``one`` evaluates a recording; interrupted, it returns what it has, marked as partial.

    Raises:
        The first recording's error, if none of them could be evaluated.
    """
    outcome, paths = Outcome(), list(paths)
    for path in paths:
        try:
            evaluation = one(path)
        except KeyboardInterrupt:
            outcome.interrupted = True
            break
        except Exception as error:
            outcome.skip(path, error)
            continue
        outcome.evaluations[path] = evaluation
        if evaluation.partial:
            outcome.interrupted = True
            break
    outcome.finish(paths)
    return outcome

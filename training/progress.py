"""The progress bar of a run: loss, rates, remaining time."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SMOOTHING = 0.05


class TrainingBar:
    """A bar on stderr, or nothing where that is no terminal.

    Args:
        done: updates behind the run when it begins.
        end: updates at which it ends.
    """

    def __init__(self, done: int, end: int) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=end, completed=done, figures="")
        self._seconds: float | None = None
        self._loss: float | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        self._last = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, loss: float, pixels: int, error: float | None) -> None:
        """One update is done.

        Args:
            loss: of the update; shown smoothed.
            pixels: pixels times windows that it took in, events or not.
            error: newest validation error, if there is one.
        """
        now = time.monotonic()
        self._seconds = _smooth(self._seconds, now - self._last)
        self._loss = _smooth(self._loss, loss) if loss == loss else self._loss
        self._last = now
        self._bar.update(self._task, advance=1, figures=self._figures(pixels, error))

    def _figures(self, pixels: int, error: float | None) -> str:
        seconds = max(self._seconds or 0.0, 1e-9)
        shown = [] if self._loss is None else [f"loss {self._loss:.4g}"]
        shown += [] if error is None else [f"error {error:.4g}"]
        shown += [f"{1 / seconds:.3g} updates/s", f"{pixels / seconds / 1e6:.3g} Mpixel/s"]
        return ", ".join(shown)


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + _SMOOTHING * (new - old)

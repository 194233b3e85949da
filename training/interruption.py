"""Ctrl-C and SIGTERM while training: finish what is being computed, then stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether somebody asked to stop, and how; false until then."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """What a shell expects of a program that this signal ended: 130 for Ctrl-C."""
        return 128 + (self.signal or signal.SIGINT)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        print("\nfinishing this update; once more to stop at once", file=sys.stderr)


@contextlib.contextmanager
def catch_interruption() -> Iterator[Interruption]:
    """Within, the first Ctrl-C or SIGTERM only sets the flag; the second raises as usual.

    Signals reach the main thread only; in any other nothing changes.
    """
    asked = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked._ask) for number in _SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

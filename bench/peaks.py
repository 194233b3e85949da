"""The roofs of a core, measured on the spot: multiply-accumulates of each instruction set, and the
bandwidth of a stream of membranes.

What a core can do at most is the fastest of a loop's turns. A kernel's median is held against the
multiply-accumulates of its target's best integer instruction, against vpdpbusd's, and against the
stream. All of them take turns, so that a slow moment of the machine hits every one.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

VNNI = "vpdpbusd"
_ROUND_SECONDS = 2e-3
_TRIES = 3
_MEMBRANE_BYTES = 2
_PASSES = 2
"""A membrane is read and written."""


@dataclass(frozen=True)
class Peak:
    """A loop of one instruction set's multiply-accumulates.

    instruction: what multiplies. target: the kernel target that has it. operands: their types.
    macs: multiply-accumulates of one call of ``run``.
    """

    instruction: str
    target: str
    operands: str
    macs: int
    run: Callable[[], None]

    @property
    def integer(self) -> bool:
        """Whether it multiplies integers."""
        return "int" in self.operands


def peaks() -> list[Peak]:
    """The instruction sets of this CPU, slowest first, each with a call of about 2 ms."""
    core = _core()
    found = []
    for instruction, target, operands, macs in core.peaks():
        rounds = _rounds(core, instruction)
        run = _runner(core, instruction, rounds)
        found.append(Peak(instruction, target, operands, macs * rounds, run))
    return found


def ceiling(found: Sequence[Peak], target: str, targets: Sequence[str]) -> Peak:
    """The fastest integer instruction that a kernel of this target may use.

    targets: all of the machine's, slowest first; each can do what the ones before it can.
    """
    below = targets[: targets.index(target) + 1]
    return [peak for peak in found if peak.integer and peak.target in below][-1]


class Stream:
    """Reads, changes and writes a buffer of membranes on one thread.

    bytes: moved by one call of ``run``, in both directions.
    """

    def __init__(self, membranes: int) -> None:
        self._mem = np.zeros(membranes, np.int16)
        self._core = _core()
        self.bytes = _PASSES * _MEMBRANE_BYTES * membranes

    def run(self) -> None:
        """One pass over the buffer."""
        self._core.stream(self._mem)


def _rounds(core: Any, instruction: str) -> int:
    """As many as take about the wanted time, whatever else interrupts a call now and then."""
    rounds = 1
    while min(_seconds(core, instruction, rounds) for _ in range(_TRIES)) < _ROUND_SECONDS / 2:
        rounds *= 2
    return rounds


def _seconds(core: Any, instruction: str, rounds: int) -> float:
    start = time.perf_counter()
    core.run_peak(instruction, rounds)
    return time.perf_counter() - start


def _runner(core: Any, instruction: str, rounds: int) -> Callable[[], None]:
    return lambda: core.run_peak(instruction, rounds)


def _core() -> Any:
    return importlib.import_module("lif_op._core")

"""Timing networks side by side, in turn: whatever else the machine does hits all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime.runner import Array


class Steps(Protocol):
    """What can be timed: a session, a stream, or anything else that takes a window at a time."""

    def step(self, events: Array, *, copy: bool = True) -> Array:
        """One step; ``copy=False`` may return a view of a buffer."""
        ...


@dataclass(frozen=True)
class Timing:
    """Wall time of each timed step, seconds, float64 [steps]."""

    seconds: npt.NDArray[np.float64]

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the step time, milliseconds."""
        return float(np.percentile(self.seconds, percent)) * 1e3

    @property
    def median_ms(self) -> float:
        """Median step time, milliseconds."""
        return self.percentile_ms(50)

    @property
    def steps_per_second(self) -> float:
        """Steps per second at the median."""
        return 1e3 / self.median_ms

    def to_dict(self) -> dict[str, float | int]:
        """Percentiles in milliseconds, as JSON values."""
        return {
            "steps": len(self.seconds),
            "p5_ms": self.percentile_ms(5),
            "p50_ms": self.median_ms,
            "p95_ms": self.percentile_ms(95),
            "steps_per_second": self.steps_per_second,
        }


def time_interleaved(
    streams: Mapping[str, Steps],
    inputs: Mapping[str, Sequence[Array]],
    *,
    steps: int,
    warmup: int = 10,
    turn: int = 1,
) -> dict[str, Timing]:
    """Step every stream in turn and time each step.

    With turns of one step, A B A B, every step finds the caches as another network left them. With
    longer turns, A A A B B B, the first step of a turn is not timed, and the others find the caches
    as in a program that runs this network alone.

    The copy of the events into the network's buffer is part of a step; encoding and the copy of
    the flow out of it are not.

    Args:
        streams: what to time, by name; state is carried on through warm-up and timed steps.
        inputs: ``events`` tensors for each stream, used round and round.
        steps: timed steps of each stream.
        warmup: steps of each stream before.
        turn: steps a stream makes before the next one's turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    made = dict.fromkeys(streams, -warmup)
    collecting = gc.isenabled()
    gc.disable()
    try:
        while any(len(times) < steps for times in seconds.values()):
            for name, stream in streams.items():
                for step in range(turn):
                    events = inputs[name][made[name] % len(inputs[name])]
                    start = time.perf_counter()
                    stream.step(events, copy=False)
                    elapsed = time.perf_counter() - start
                    if made[name] >= 0 and (step > 0 or turn == 1):
                        seconds[name].append(elapsed)
                    made[name] += 1
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(np.array(times[:steps])) for name, times in seconds.items()}


def times_faster(fast: Timing, slow: Timing) -> float:
    """How many times less ``fast`` takes: the median of the ratios of steps timed together."""
    return float(np.median(slow.seconds / fast.seconds))

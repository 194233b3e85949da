"""Timing any number of things side by side, in turns.

In a turn each of them runs once untimed, so that it finds the caches as it would alone, and then a
few times timed; what takes long runs once only, since it fills the caches itself. Whatever else the
machine does hits all of them, and the ratio of two is the median of their ratios in the same turn.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

import numpy as np

from calib_data.console import progress
from runtime.timing import Timing

_LONG_S = 0.1


def time_turns(
    runs: Mapping[str, Callable[[], object]],
    *,
    turns: int,
    burst: int = 3,
    description: str = "timing",
    quiet: bool = False,
) -> dict[str, Timing]:
    """Time calls in turns.

    Args:
        runs: what to call, by name. Everything runs once before the first turn.
        turns: how often each gets its turn.
        burst: timed calls in a turn; the turn's time is their median.
        description, quiet: of the progress bar.

    Returns:
        The times by name, one per turn, so that times of the same turn can be compared.
    """
    seconds = {name: np.zeros(turns) for name in runs}
    last = {name: _time(run) for name, run in runs.items()}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in progress(range(turns), description, quiet=quiet):
            for name, run in runs.items():
                if last[name] < _LONG_S:
                    run()
                calls = 1 if last[name] >= _LONG_S else burst
                last[name] = float(np.median([_time(run) for _ in range(calls)]))
                seconds[name][turn] = last[name]
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(values) for name, values in seconds.items()}


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start

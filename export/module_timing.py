"""Graphs of one network timed in turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from calib_data.console import progress
from export.difference import Arrays
from export.module_runs import onnx_session
from runtime.timing import Timing

THREADS = (1, 2)
TIMED_RUNS = 15
WARMUP_RUNS = 3


def time_models(
    models: Mapping[str, onnx.ModelProto], feeds: Sequence[Arrays], *, quiet: bool
) -> dict[int, dict[str, Timing]]:
    """Run every graph in turn, fully optimised; times by number of threads and kind."""
    return {threads: _time(models, feeds, threads, quiet) for threads in THREADS}


def _time(
    models: Mapping[str, onnx.ModelProto], feeds: Sequence[Arrays], threads: int, quiet: bool
) -> dict[str, Timing]:
    sessions = {kind: onnx_session(model, "all", threads) for kind, model in models.items()}
    seconds = {kind: np.zeros(TIMED_RUNS) for kind in sessions}
    numbers = range(-WARMUP_RUNS, TIMED_RUNS)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in progress(numbers, f"timing, {threads} threads", len(numbers), quiet=quiet):
            feed = feeds[number % len(feeds)]
            for kind, session in sessions.items():
                start = time.perf_counter()
                session.run(None, feed)
                if number >= 0:
                    seconds[kind][number] = time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()
    return {kind: Timing(values) for kind, values in seconds.items()}

"""The driver's share of a step: what Python and the copies around ONNX Runtime's run take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from runtime.runner import Array
from runtime.session import StatefulSession, Stream


class _TimedSession:
    """Stands in for ONNX Runtime's session and notes how long its last run took."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.seconds = 0.0

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        start = time.perf_counter()
        self._session.run_with_iobinding(binding)
        self.seconds = time.perf_counter() - start


def driver_ms(session: StatefulSession, tensors: Sequence[Array], *, steps: int) -> float:
    """Median of step time minus ONNX Runtime's run time, milliseconds.

    The steps run on a stream of their own on the session's engine, so its state stays as it is.

    Args:
        session: of the artifact. tensors: ``events``, used round and round.
        steps: timed steps, after two others.
    """
    engine = session.engine
    timed = _TimedSession(engine.session)
    size = (tensors[0].shape[2], tensors[0].shape[3])
    stream = Stream(replace(engine, session=timed), size)
    outside = []
    for number in range(-2, steps):
        # Just written, as an encoder leaves it: fetching it from far memory is not the driver's.
        events = tensors[number % len(tensors)].copy()
        start = time.perf_counter()
        stream.step(events, copy=False)
        whole = time.perf_counter() - start
        if number >= 0:
            outside.append(whole - timed.seconds)
    return float(np.median(outside)) * 1e3

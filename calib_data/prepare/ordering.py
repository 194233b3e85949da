"""Bringing events into time order while they stream by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.prepare.recording import Block

REORDER_S = 0.01
"""How far back in time an event may come and still find its place, seconds."""


class TimeOrder:
    """Passes blocks on in time order; events of one time keep their order.

    where: names the source in errors. reorder_s: events are held back for so long (seconds of the
    recording) for earlier ones that come late. An event that comes later still ends the conversion
    with a DataError, or is left out and counted with ``drop_late``.

    Attributes: reordered (events that came after a later one), dropped (events left out).
    """

    def __init__(
        self, where: str, reorder_s: float = REORDER_S, *, drop_late: bool = False
    ) -> None:
        self.reordered = 0
        self.dropped = 0
        self._where = where
        self._reorder_s = reorder_s
        self._drop_late = drop_late
        self._seen = 0

    def sort(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The same events in time order. Raises DataError for a timestamp that is not finite."""
        held: Block | None = None
        latest = -np.inf
        for incoming in blocks:
            if not len(incoming.ts):
                continue
            self._check_finite(incoming.ts)
            block = self._in_time(incoming, latest)
            self._seen += len(incoming.ts)
            running = np.maximum.accumulate(np.concatenate([[latest], block.ts]))
            self.reordered += int((block.ts < running[:-1]).sum())
            latest = float(running[-1])
            held = block if held is None else _join(held, block)
            if (held.ts[1:] < held.ts[:-1]).any():
                held = _take(held, np.argsort(held.ts, kind="stable"))
            ready = int(np.searchsorted(held.ts, latest - self._reorder_s, side="right"))
            if ready:
                yield _take(held, slice(0, ready))
                held = _take(held, slice(ready, None))
        if held is not None and len(held.ts):
            yield held

    def _check_finite(self, ts: NDArray[np.float64]) -> None:
        finite = np.isfinite(ts)
        if not finite.all():
            at = int((~finite).argmax())
            raise DataError(
                f"{self._where}: event {self._seen + at} has timestamp {ts[at]}; "
                "the recording is damaged there"
            )

    def _in_time(self, block: Block, latest: float) -> Block:
        """The block without the events that come too late after ``latest`` or one of their own."""
        behind = np.maximum.accumulate(np.maximum(block.ts, latest)) - block.ts
        late = behind > self._reorder_s
        if not late.any():
            return block
        if not self._drop_late:
            at = int(late.argmax())
            raise DataError(
                f"{self._where}: event {self._seen + at} is {behind[at]:.6f} s earlier than one "
                f"before it, only {self._reorder_s:g} s are sorted; raise --reorder-ms, or leave "
                "such events out with --drop-late"
            )
        self.dropped += int(late.sum())
        return _take(block, ~late)


def _take(block: Block, which: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Block:
    return Block(*(column[which] for column in block))


def _join(first: Block, second: Block) -> Block:
    return Block(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))

"""Prophesee's EVT3 stream: 16-bit words, decoded by whole blocks.

The top four bits of a word tell its kind: 0 row; 2 one event (column, polarity); 3 column and
polarity at which a vector begins; 4, 5 the next 12 or 8 pixels of the vector as bits; 6, 8 the low
and the high 12 bits of the time in microseconds, which begins again every 16.8 s. Others (triggers,
monitoring) are passed over. Source: Prophesee's published description of the format.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib_data.prepare.recording import Block

_ROW, _EVENT, _BASE, _VECTOR_12, _VECTOR_8, _LOW, _HIGH = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8
_HALF_TURN = 1 << 23


class Decoder:
    """Decodes a stream piece by piece; what a piece leaves open is kept for the next.

    Events before the first full time (high and low word) are dropped: their time is unknown.
    """

    def __init__(self) -> None:
        self._state = np.zeros(0, np.int64)
        self._turns = 0
        self._last = 0
        self._timed = False
        self._odd = b""

    def decode(self, data: bytes) -> Block:
        """Events of the next bytes: xs, ys int64, ts float64 seconds, ps bool."""
        data = self._odd + data
        self._odd = data[len(data) & ~1 :]
        words = np.frombuffer(data, "<u2", len(data) // 2).astype(np.int64)
        words = np.concatenate([self._state, words])
        kinds, values = words >> 12, words & 0xFFF
        times = self._times(kinds, values)
        rows = _latest(kinds == _ROW, values & 0x7FF)
        bases = _latest(kinds == _BASE, values)
        steps = 12 * (kinds == _VECTOR_12) + 8 * (kinds == _VECTOR_8)
        passed = np.cumsum(steps) - steps
        offset = passed - _latest(kinds == _BASE, passed)
        self._remember(words, kinds, bases, offset + steps)
        return _events(kinds, values, times, rows, bases, offset)

    def _times(self, kinds: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Microseconds at every word, -1 where they are not known yet."""
        is_high, is_low = kinds == _HIGH, kinds == _LOW
        high = _latest(is_high, values)
        # A high word begins its 4096 microseconds; the low word of before no longer holds.
        stamp = np.where(is_low, (high << 12) | values, high << 12)
        marks = is_high | is_low
        marked = stamp[marks]
        known = np.logical_or.accumulate(is_high) if len(kinds) else is_high
        if len(marked):
            previous = np.concatenate([[self._last if self._timed else marked[0]], marked[:-1]])
            turns = self._turns + np.cumsum(marked < previous - _HALF_TURN)
            marked = marked + (turns << 24)
            self._turns, self._last = int(turns[-1]), int(marked[-1] & 0xFFFFFF)
            self._timed = self._timed or bool(known.any())
        spread = np.zeros(len(kinds), np.int64)
        spread[marks] = marked
        return np.where(known, _latest(marks, spread), -1)

    def _remember(
        self,
        words: NDArray[np.int64],
        kinds: NDArray[np.int64],
        bases: NDArray[np.int64],
        offset: NDArray[np.int64],
    ) -> None:
        """Words that put the next piece where this one ended."""
        last = {kind: _last(kinds == kind) for kind in (_HIGH, _LOW, _ROW)}
        if last[_LOW] < last[_HIGH]:
            last[_LOW] = -1  # the high word since has ended it
        state = [int(words[at]) for at in last.values() if at >= 0]
        if (kinds == _BASE).any():
            polarity = int(bases[-1]) & 0x800
            column = min((int(bases[-1]) & 0x7FF) + int(offset[-1]), 0x7FF)
            state.append((_BASE << 12) | polarity | column)
        self._state = np.array(state, np.int64)


def _last(marks: NDArray[np.bool_]) -> int:
    """Place of the last mark; -1 for none."""
    at = np.flatnonzero(marks)
    return int(at[-1]) if len(at) else -1


def _latest(marks: NDArray[np.bool_], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """At every place the value at the last mark up to it; 0 before the first."""
    if not len(marks):
        return np.zeros(0, np.int64)
    at = np.maximum.accumulate(np.where(marks, np.arange(len(marks)), -1))
    return np.where(at < 0, 0, values[at.clip(0)])


def _events(
    kinds: NDArray[np.int64],
    values: NDArray[np.int64],
    times: NDArray[np.int64],
    rows: NDArray[np.int64],
    bases: NDArray[np.int64],
    offset: NDArray[np.int64],
) -> Block:
    """The events of words, in their order; a vector's by column."""
    single = kinds == _EVENT
    bits = np.where(kinds == _VECTOR_12, values, 0) | np.where(kinds == _VECTOR_8, values & 0xFF, 0)
    bits = np.where(times < 0, 0, np.where(single, 1, bits))
    at, bit = np.nonzero((bits[:, None] >> np.arange(12)) & 1)
    one = single[at]
    xs = np.where(one, values[at] & 0x7FF, (bases[at] & 0x7FF) + offset[at] + bit)
    ps = np.where(one, values[at], bases[at]) & 0x800 != 0
    return Block(xs, rows[at], times[at].astype(np.float64) / 1e6, ps)

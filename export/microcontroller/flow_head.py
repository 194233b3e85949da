"""The flow head's last step in fixed point: tanh by a table, with a measured error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.microcontroller.network import BundleError, FlowHead

_INT16_MAX = 32767
_LARGEST_SUM = 1 << 22
_MOST_ENTRIES = 257
_LARGEST_SHIFT = 15
"""An entry's difference times the rest of a sum then fits 32 bits."""
_GOOD_ENOUGH = 1.0
"""Units in the last place at which a table is not made finer."""


@dataclass(frozen=True)
class FixedHead:
    """``flow = value / 2**frac_bits``.

    shift: every entry of a table stands for 2**shift sums. tables: int16 [2, entries], the flow of
    the sums 0, 2**shift, ... error: largest distance to tanh over every sum that can be reached.
    """

    frac_bits: int
    shift: int
    tables: npt.NDArray[np.int16]
    error: float

    @property
    def format(self) -> str:
        """The format, for people: Q0.15 has 15 fractional bits."""
        return f"Q{15 - self.frac_bits}.{self.frac_bits}"

    def values(self, sums: npt.NDArray[np.int32]) -> npt.NDArray[np.int16]:
        """What the C code computes, integer by integer; sums int32 [N, 2, H, W]."""
        flow = np.empty(sums.shape, np.int16)
        for component, table in enumerate(self.tables):
            flow[:, component] = _interpolate(table, self.shift, sums[:, component])
        return flow


def fixed_head(head: FlowHead) -> FixedHead:
    """The coarsest table that is good to one unit in the last place, or the finest allowed.

    Raises:
        BundleError: sums that reach too far to look at every one of them.
    """
    largest = head.largest_sum()
    if largest > _LARGEST_SUM:
        raise BundleError(
            f"the flow head's sums reach {largest}, more than the {_LARGEST_SUM} of a fixed-point "
            "head; use --flow float"
        )
    sums = np.arange(largest + 1)
    exact = np.tanh(sums * head.scale.astype(np.float64)[:, None])
    top = max(float(exact.max()), 2.0**-16)
    frac_bits = min(math.floor(math.log2(_INT16_MAX / top)), 30)
    shift = min(largest.bit_length(), _LARGEST_SHIFT)
    while True:
        found = _tabulate(head, largest, exact, frac_bits, shift)
        finer = (largest >> (shift - 1)) + 2 if shift else _MOST_ENTRIES + 1
        if found.error * 2**frac_bits <= _GOOD_ENOUGH or finer > _MOST_ENTRIES:
            return found
        shift -= 1


def _tabulate(
    head: FlowHead, largest: int, exact: npt.NDArray[np.float64], frac_bits: int, shift: int
) -> FixedHead:
    at = np.arange((largest >> shift) + 2) << shift
    flow = np.tanh(at * head.scale.astype(np.float64)[:, None])
    tables = np.minimum(np.rint(flow * 2**frac_bits), _INT16_MAX).astype(np.int16)
    sums = np.arange(largest + 1)
    found = np.stack([_interpolate(table, shift, sums) for table in tables])
    error = float(np.abs(found / 2.0**frac_bits - exact).max())
    return FixedHead(frac_bits, shift, tables, error)


def _interpolate(
    table: npt.NDArray[np.int16], shift: int, sums: npt.NDArray[np.integer]
) -> npt.NDArray[np.int16]:
    size = np.abs(sums.astype(np.int64))
    entry, rest = size >> shift, size & ((1 << shift) - 1)
    low, high = table.astype(np.int64)[entry], table.astype(np.int64)[entry + 1]
    half = (1 << shift) >> 1
    value = low + (((high - low) * rest + half) >> shift)
    return np.where(sums < 0, -value, value).astype(np.int16)

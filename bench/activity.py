"""Counting effective synaptic operations exactly, without touching every synapse.

A convolution uses the weight of input channel c at tap (i, j) once for every output it computes
from an active input, so

    effective operations = sum over c, i, j of nonzero[c, i, j] * active[c, i, j]

where nonzero counts the output channels whose weight there is not 0, and active counts the active
inputs that tap (i, j) reads at some output position. An input at the border is read by fewer taps,
and with strides every tap reads only some inputs; the positions that a tap reads are a grid of rows
and columns, so two small matrix products count them for all taps at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Geometry:
    """Shape of a convolution.

    kernel, strides, dilations: (vertical, horizontal). pads: (top, left, bottom, right).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    def read(self, axis: int, size: int) -> npt.NDArray[np.float32]:
        """Which inputs along an axis (0 vertical, 1 horizontal) each tap reads.

        Returns float32 [kernel, size], 1 where the tap reads that input at some output position.
        No tap reads an input twice.
        """
        stride, dilation, kernel = self.strides[axis], self.dilations[axis], self.kernel[axis]
        before, after = self.pads[axis], self.pads[axis + 2]
        outputs = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
        starts = np.arange(max(outputs, 0)) * stride - before
        read = np.zeros((kernel, size), np.float32)
        for tap in range(kernel):
            places = starts + tap * dilation
            read[tap, places[(places >= 0) & (places < size)]] = 1
        return read

    def reads(self, size: tuple[int, int]) -> Counts:
        """How many of a channel's inputs each tap reads: int64 [kh, kw] for an image (H, W)."""
        rows, columns = (self.read(axis, size[axis]).sum(axis=1) for axis in (0, 1))
        return np.outer(rows.astype(np.int64), columns.astype(np.int64))

    def active_reads(self, active: npt.NDArray[np.bool_]) -> Counts:
        """How many active inputs each tap reads.

        active: bool [N, C, H, W]. Returns int64 [C, kh, kw], summed over N.
        """
        height, width = active.shape[2:]
        # Sums along a row are below 2^24 and those of a column are made in float64, so both are
        # exact, and products of real matrices are fast.
        along_rows = active.astype(np.float32) @ self.read(1, width).T
        rows = self.read(0, height).astype(np.float64)
        sums = np.einsum("ih,nchj->cij", rows, along_rows, optimize=True)
        return np.rint(sums).astype(np.int64)


def effective_operations(nonzero: Counts, geometry: Geometry, active: npt.NDArray[np.bool_]) -> int:
    """Synapses with a nonzero weight that an active input drives.

    nonzero: int64 [C, kh, kw], nonzero weights per input channel and tap.
    active: bool [N, C, H, W].
    """
    return int((nonzero * geometry.active_reads(active)).sum())


def dense_operations(channels: int, fanout: int, geometry: Geometry, size: tuple[int, int]) -> int:
    """All synapses of a convolution on one image (H, W), padding excluded.

    channels: of the input. fanout: output channels that each input channel is connected with.
    """
    return channels * fanout * int(geometry.reads(size).sum())


def is_binary(values: npt.NDArray[Any]) -> bool:
    """Whether all values are -1, 0 or 1, so that a synaptic operation is an addition."""
    return bool(np.isin(values, (-1, 0, 1)).all())

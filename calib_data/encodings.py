"""Events to tensors: counts per polarity, voxel grids, masks.

The definitions are those of event_flow (Hagenaars et al., NeurIPS 2021), so networks trained there
see here what they saw in training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from calib_data.errors import DataError
from calib_data.events import Events

COUNT_LIMIT = 127
"""Largest count the integer networks take: the byte is then the same as uint8 and as int8."""


def event_counts(
    events: Events,
    resolution: tuple[int, int],
    dtype: DTypeLike = np.float32,
    saturate: int | None = None,
) -> NDArray[Any]:
    """Events per pixel and polarity: [2, H, W] of ``dtype``; channel 0 brighter, 1 darker.

    saturate: largest count kept (larger ones become it). Without it a count that ``dtype`` cannot
    hold raises DataError, rather than wrapping round.
    """
    height, width = resolution
    channel = np.where(events.ps > 0, 0, 1)
    flat = channel * (height * width) + _pixels(events, resolution)
    counts = np.bincount(flat, minlength=2 * height * width)
    if saturate is not None:
        counts = np.minimum(counts, saturate)
    kind = np.dtype(dtype)
    if kind.kind in "iu" and counts.max(initial=0) > np.iinfo(kind).max:
        raise DataError(
            f"a pixel has {counts.max()} events in this window, more than {kind} holds; "
            f"pass saturate={COUNT_LIMIT} or use shorter windows"
        )
    return counts.reshape(2, height, width).astype(kind)


def voxel_grid(
    events: Events,
    num_bins: int,
    resolution: tuple[int, int],
    *,
    round_time: bool = False,
) -> NDArray[np.float32]:
    """Signed events spread linearly over time bins: float32 [num_bins, H, W].

    Bin b of a pixel is the sum of p * max(0, 1 - |tau - b|), where tau runs from 0 at the first
    event to num_bins - 1 at the last, rounded (half to even) with ``round_time``; it is 0 where all
    events have one time. With one bin every event counts fully. Raises DataError unless
    num_bins >= 1.
    """
    if num_bins < 1:
        raise DataError(f"a voxel grid needs at least one bin, got {num_bins}")
    height, width = resolution
    size = height * width
    pixels = _pixels(events, resolution)
    tau = _unit_time(events.ts) * (num_bins - 1)
    if round_time:
        tau = np.rint(tau)
    lower = np.minimum(np.floor(tau), num_bins - 1).astype(np.int64)
    upper_share = tau - lower
    grid = np.bincount(
        lower * size + pixels, weights=events.ps * (1.0 - upper_share), minlength=num_bins * size
    )
    inside = lower + 1 < num_bins
    grid += np.bincount(
        (lower[inside] + 1) * size + pixels[inside],
        weights=events.ps[inside] * upper_share[inside],
        minlength=num_bins * size,
    )
    return grid.reshape(num_bins, height, width).astype(np.float32)


def event_mask(events: Events, resolution: tuple[int, int]) -> NDArray[np.bool_]:
    """Where at least one event fell: bool [H, W]."""
    mask = np.zeros(resolution[0] * resolution[1], np.bool_)
    mask[_pixels(events, resolution)] = True
    return mask.reshape(resolution)


def _pixels(events: Events, resolution: tuple[int, int]) -> NDArray[np.int64]:
    """Row-major pixel number of each event; DataError for one outside the image."""
    height, width = resolution
    if len(events) and (
        min(int(events.xs.min()), int(events.ys.min())) < 0
        or int(events.xs.max()) >= width
        or int(events.ys.max()) >= height
    ):
        raise DataError(f"events outside the image of {width} x {height} pixels")
    return events.ys.astype(np.int64) * width + events.xs


def _unit_time(ts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times scaled to 0..1 within the run; all 0 where they do not differ."""
    if not len(ts) or ts[-1] <= ts[0]:
        return np.zeros(len(ts))
    unit: NDArray[np.float64] = (ts - ts[0]) / (ts[-1] - ts[0])
    return unit

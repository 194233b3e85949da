"""Ground-truth flow between any two times from maps at other times.

The rule is that of Zhu et al., "EV-FlowNet: Self-Supervised Optical Flow Estimation for Event-based
Cameras" (RSS 2018), section VI-B, which published MVSEC figures rest on: points start on the pixels
of the interval's beginning and are carried from map to map, each map being looked up at the nearest
pixel and, at both ends of the interval, scaled to the part of its time that lies inside.

What it costs in accuracy, per pixel (checked by the tests against motions in closed form):

* a look-up away from the point by up to half a pixel in x and y: at most L/sqrt(2) pixels per map
  after the first, L being the largest change of the map from pixel to pixel;
* speed taken as constant within a map: at most A*T*T/8 pixels at each end, T being the map's time
  in seconds and A the largest acceleration of a point in pixels per square second;
* an interval shorter than the time of the map in which it starts is that map scaled, even where the
  interval reaches into the next map: at most 1.5*A*T*dt + L*V*dt, V the largest speed in pixels per
  second (the map is that of the points which were at these pixels when the map began).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.prepare.recording import FlowMaps


def flow_between(maps: FlowMaps, start: float, end: float) -> NDArray[np.float32]:
    """Where each pixel at ``start`` has gone until ``end``: float32 [2, H, W], pixels.

    Both components are 0 (no ground truth) where a point met a pixel without ground truth or left
    the image on its way. start, end: seconds on the clock of ``maps.stamps``, within
    them; DataError otherwise.
    """
    stamps = maps.stamps
    if not stamps[0] <= start < end <= stamps[-1]:
        raise DataError(
            f"flow from {start:.6f} s to {end:.6f} s asked for, the ground truth covers "
            f"{stamps[0]:.6f} s to {stamps[-1]:.6f} s"
        )
    first = min(int(np.searchsorted(stamps, start, side="right")) - 1, len(stamps) - 2)
    span = stamps[first + 1] - stamps[first]
    if span > end - start:
        scaled: NDArray[np.float32] = maps.read(first) * np.float32((end - start) / span)
        return scaled
    return _carry(maps, list(_parts(stamps, first, start, end)))


def _parts(
    stamps: NDArray[np.float64], first: int, start: float, end: float
) -> Iterator[tuple[int, float]]:
    """Maps that an interval touches and the share of each one's time that lies in it."""
    number = first
    while number < len(stamps) - 1 and stamps[number] < end:
        begin, finish = stamps[number], stamps[number + 1]
        yield number, float((min(end, finish) - max(start, begin)) / (finish - begin))
        number += 1


def _carry(maps: FlowMaps, parts: list[tuple[int, float]]) -> NDArray[np.float32]:
    """Carry the pixels along the maps."""
    total = np.zeros(0, np.float64)
    valid = np.zeros(0, np.bool_)
    for number, share in parts:
        flow = maps.read(number)
        if not total.size:
            total = np.zeros(flow.shape, np.float64)
            valid = np.ones(flow.shape[1:], np.bool_)
        step = _nearest(flow, total)
        valid &= (step != 0).any(axis=0)
        total += share * step
    total[:, ~valid] = 0
    return total.astype(np.float32)


def _nearest(flow: NDArray[np.float32], moved: NDArray[np.float64]) -> NDArray[np.float32]:
    """A map's values at the pixels nearest to pixels that have moved; 0 outside the image."""
    height, width = flow.shape[1:]
    columns = _pixel(np.arange(width)[None, :] + moved[0], width)
    rows = _pixel(np.arange(height)[:, None] + moved[1], height)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    step = flow[:, rows.clip(0, height - 1), columns.clip(0, width - 1)]
    step[:, ~inside] = 0
    return step


def _pixel(place: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """The nearest pixel; whatever lies outside becomes -1 or ``size``."""
    nearest: NDArray[np.int64] = np.rint(place).clip(-1, size).astype(np.int64)
    return nearest

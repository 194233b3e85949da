"""Quality of flow without ground truth: how sharply it lets events pile up.

Events are moved along the flow to the end of their window and counted. Right flow brings the events
of one edge onto one line, so the image becomes sharper.

* Flow warp loss (FWL, Stoffregen et al., ECCV 2020): variance of the image of warped events over
  that of the events where they fell. 1 for zero flow; above 1 is better.
* RSAT (Hagenaars et al., NeurIPS 2021): squared average time stamps per pixel and polarity, summed
  and divided by the number of active pixels, warped over unwarped. 1 for zero flow; below 1 is
  better.

Warped positions are rounded to the nearest pixel, as in the event_flow code; events that leave the
image are dropped from the warped image and kept in the other.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from calib_data.events import Events

Flow = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.int64]


def warp_to_end(events: Events, flow: Flow) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Move events along the flow to the end of their window.

    Args:
        events: one window.
        flow: float32 [2, H, W], pixels per window, x right and y down.

    Returns:
        int64 [N] row-major pixel number of each event (meaningless outside the image), and bool
        [N], whether it is inside.
    """
    height, width = flow.shape[1:]
    span = float(events.ts[-1] - events.ts[0]) if len(events) else 0.0
    left = (events.ts[-1] - events.ts) / span if span > 0 else np.zeros(len(events))
    xs = np.rint(events.xs + left * flow[0, events.ys, events.xs]).astype(np.int64)
    ys = np.rint(events.ys + left * flow[1, events.ys, events.xs]).astype(np.int64)
    inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
    return ys * width + xs, inside


def flow_warp_loss(events: Events, flow: Flow) -> float:
    """FWL of one window, see the module's text; NaN where the unwarped image has no variance.

    ``flow`` is float32 [2, H, W] in pixels per window (network output times flow_scaling).
    """
    pixels, inside = warp_to_end(events, flow)
    size = flow.shape[1] * flow.shape[2]
    warped = np.bincount(pixels[inside], minlength=size)
    unwarped = np.bincount(events.ys.astype(np.int64) * flow.shape[2] + events.xs, minlength=size)
    variance = float(unwarped.var())
    return float(warped.var()) / variance if variance > 0 else math.nan


def rsat(events: Events, flow: Flow) -> float:
    """RSAT of one window, see the module's text; NaN for a window without events or duration.

    ``flow`` is float32 [2, H, W] in pixels per window.
    """
    span = float(events.ts[-1] - events.ts[0]) if len(events) else 0.0
    if span <= 0:
        return math.nan
    pixels, inside = warp_to_end(events, flow)
    still = events.ys.astype(np.int64) * flow.shape[2] + events.xs
    everywhere = np.ones(len(events), np.bool_)
    before = _squared_times(events, still, everywhere, flow)
    return _squared_times(events, pixels, inside, flow) / before if before > 0 else math.nan


def _squared_times(
    events: Events, pixels: Pixels, inside: npt.NDArray[np.bool_], flow: Flow
) -> float:
    """Sum of squared average time stamps of both polarities, per active pixel."""
    size = flow.shape[1] * flow.shape[2]
    times = (events.ts - events.ts[0]) / (events.ts[-1] - events.ts[0])
    active, total = np.zeros(size, np.bool_), 0.0
    for sign in (1, -1):
        chosen = inside & (events.ps == sign)
        counts = np.bincount(pixels[chosen], minlength=size)
        sums = np.bincount(pixels[chosen], weights=times[chosen], minlength=size)
        total += float(np.square(sums[counts > 0] / counts[counts > 0]).sum())
        active |= counts > 0
    return total / int(active.sum()) if active.any() else math.nan

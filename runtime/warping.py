"""Quality of flow without ground truth: how sharply it lets events pile up.

The events of one or several consecutive windows are moved along the flow to the end of the last
window and counted. Right flow brings the events of one edge onto one line, so the image becomes
sharper.

* Flow warp loss (FWL, Stoffregen et al., ECCV 2020): variance of the image of warped events over
  that of the events where they fell. 1 for zero flow; above 1 is better.
* RSAT (Hagenaars et al., NeurIPS 2021): squared average time stamps per pixel and polarity, summed
  and divided by the number of active pixels, warped over unwarped. 1 for zero flow; below 1 is
  better.

* The averaged image of warped events (Paredes-Valles and de Croon, CVPR 2021) is a picture, no
  figure: events per pixel that they came from.

FWL and RSAT grow with the time they span, so values compare only at equal numbers of events;
event_flow takes windows until they hold 15000 events. As there, an event moves by the flow of its
own window at its own pixel, warped positions are rounded to the nearest pixel, and events that
leave the image are dropped from the warped image and kept in the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from calib_data.events import Events

Flow = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]
Warp = tuple[Events, Flow]
"""A window's events and its flow: float32 [2, H, W], pixels per window, x right and y down."""

EVENTS_PER_VALUE = 15_000


class WarpMeter:
    """Collects consecutive windows and gives a flow warp loss whenever they hold enough events."""

    def __init__(self, events_per_value: int = EVENTS_PER_VALUE) -> None:
        """``events_per_value``: events, at least, that one value spans."""
        self._wanted = events_per_value
        self._windows: list[Warp] = []
        self._held = 0

    def add(self, events: Events, flow: Flow) -> float | None:
        """Take a window; returns the FWL once enough events are held, and starts over."""
        self._windows.append((events, flow))
        self._held += len(events)
        if self._held < self._wanted:
            return None
        value = flow_warp_loss(self._windows)
        self._windows, self._held = [], 0
        return None if math.isnan(value) else value


def warp_to_end(windows: Sequence[Warp]) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Move events along the flow to the end of the last window.

    Returns:
        int64 [N] row-major pixel number of each event of all windows in order (meaningless outside
        the image), and bool [N], whether it is inside.
    """
    pixels, insides = [], []
    for number, (events, flow) in enumerate(windows):
        height, width = flow.shape[1:]
        left = len(windows) - number - _times(events)
        xs = np.rint(events.xs + left * flow[0, events.ys, events.xs])
        ys = np.rint(events.ys + left * flow[1, events.ys, events.xs])
        # Before the conversion to integers, which has no answer for flow that is not finite.
        inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
        pixels.append(np.where(inside, ys * width + xs, 0).astype(np.int64))
        insides.append(inside)
    return np.concatenate(pixels), np.concatenate(insides)


def flow_warp_loss(windows: Sequence[Warp]) -> float:
    """FWL of consecutive windows; NaN where the unwarped image has no variance.

    Flow is in pixels per window: the network's output times flow_scaling.
    """
    pixels, inside = warp_to_end(windows)
    size = windows[0][1][0].size
    warped = np.bincount(pixels[inside], minlength=size)
    variance = float(np.bincount(_unwarped(windows), minlength=size).var())
    return float(warped.var()) / variance if variance > 0 else math.nan


def rsat(windows: Sequence[Warp]) -> float:
    """RSAT of consecutive windows; NaN without events or where every time stamp is 0."""
    times = np.concatenate([number + _times(events) for number, (events, _) in enumerate(windows)])
    positive = np.concatenate([events.ps > 0 for events, _ in windows])
    size = windows[0][1][0].size
    pixels, inside = warp_to_end(windows)
    everywhere = np.ones(len(times), np.bool_)
    before = _squared_times(_unwarped(windows), everywhere, times, positive, size)
    after = _squared_times(pixels, inside, times, positive, size)
    return after / before if before > 0 else math.nan


def averaged_image(windows: Sequence[Warp]) -> Times:
    """Averaged image of warped events of consecutive windows, without the bias of crowded edges.

    Per polarity, the events that arrive at a pixel over the number of different pixels that they
    came from (Paredes-Valles and de Croon, CVPR 2021; one window there). Warped positions are
    rounded, events that leave the image are dropped. Of several windows a pixel of each counts by
    itself, since its flow differs.

    Returns:
        float64 [2, H, W], events per source pixel, positive ones first; 0 where none arrived.
    """
    height, width = windows[0][1].shape[1:]
    size = height * width
    numbers = np.repeat(np.arange(len(windows)), [len(events) for events, _ in windows])
    sources = numbers * size + _unwarped(windows)
    positive = np.concatenate([events.ps > 0 for events, _ in windows])
    pixels, inside = warp_to_end(windows)
    image = np.zeros((2, size))
    for plane, of_polarity in zip(image, (positive, ~positive), strict=True):
        chosen = inside & of_polarity
        pairs = np.unique(np.stack([sources[chosen], pixels[chosen]]), axis=1)
        counts = np.bincount(pixels[chosen], minlength=size)
        plane[:] = counts / np.maximum(np.bincount(pairs[1], minlength=size), 1)
    return image.reshape(2, height, width)


def _times(events: Events) -> Times:
    """Times scaled to 0..1 within the window; all 0 where they do not differ."""
    span = float(events.ts[-1] - events.ts[0]) if len(events) else 0.0
    return (events.ts - events.ts[0]) / span if span > 0 else np.zeros(len(events))


def _unwarped(windows: Sequence[Warp]) -> Pixels:
    width = windows[0][1].shape[2]
    return np.concatenate([events.ys.astype(np.int64) * width + events.xs for events, _ in windows])


def _squared_times(
    pixels: Pixels,
    inside: npt.NDArray[np.bool_],
    times: Times,
    positive: npt.NDArray[np.bool_],
    size: int,
) -> float:
    """Sum of squared average time stamps of both polarities, per active pixel."""
    active, total = np.zeros(size, np.bool_), 0.0
    for of_polarity in (positive, ~positive):
        chosen = inside & of_polarity
        counts = np.bincount(pixels[chosen], minlength=size)
        sums = np.bincount(pixels[chosen], weights=times[chosen], minlength=size)
        total += float(np.square(sums[counts > 0] / counts[counts > 0]).sum())
        active |= counts > 0
    return total / int(active.sum()) if active.any() else math.nan

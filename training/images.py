"""Pictures that a run records: what the network saw, what it said, and what that does to events."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from calib_data.files import atomic_path
from training.chunk import EventBatch
from training.contrast import image_of_warped_events

Rgb = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float64]

TILES = ("events", "predicted flow", "ground truth", "events as they fell", "events warped")
"""From left to right."""

GAP = 2
_ABSENT = 200
_EVENTS_AT_FULL = 3.0
# The length at full saturation: all but the largest hundredth, and never next to nothing.
_PERCENTILE = 99.0
_SHORTEST = 0.1


def flow_panel(
    counts: Any, flow: Any, target: Any | None = None, events: EventBatch | None = None
) -> Rgb:
    """One window as a row of tiles, in the order of :data:`TILES`.

    Both flows share the length at full colour. The last two tiles are images of events, darker
    where more fell on a pixel: unmoved, and moved along the predicted flow to the end of the
    window, which is sharp if the flow is right.

    Args:
        counts: [C, H, W] what the network saw, tensor or array. With two channels, events that
            became brighter (blue) and darker (red); else bins of a voxel grid, by their sign.
        flow: [2, H, W] pixels per window, x right and y down.
        target: [2, H, W] ground truth, NaN where there is none; None leaves its tile grey.
        events: the window's own, times 0 to 1, of any shape; None leaves their tiles grey.

    Returns:
        uint8 [H, 5 * W + 4 * GAP, 3].

    Raises:
        ValueError: shapes that do not go together.
    """
    seen, said = _array(counts), _array(flow)
    truth = None if target is None else _array(target)
    height, width = seen.shape[-2:]
    for name, given in (("flow", said), ("target", truth)):
        if given is not None and given.shape != (2, height, width):
            raise ValueError(f"{name} has shape {given.shape}, expected {(2, height, width)}")
    length = _full_length(said if truth is None else truth)
    absent = np.full((height, width, 3), _ABSENT, np.uint8)
    tiles = [event_image(seen), flow_image(said, length)]
    tiles.append(absent if truth is None else flow_image(truth, length))
    tiles += [absent, absent] if events is None else _warped(events, said)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    parts = [part for tile in tiles for part in (gap, tile)][1:]
    return np.concatenate(parts, axis=1)


def event_image(counts: Plane) -> Rgb:
    """Events on white, blue where pixels became brighter and red where darker; see above."""
    if len(counts) == 2:
        brighter, darker = counts
    else:
        brighter, darker = counts.clip(0).sum(0), (-counts).clip(0).sum(0)
    up, down = (np.minimum(plane / _EVENTS_AT_FULL, 1) for plane in (brighter, darker))
    colour = np.stack([1 - up, 1 - np.maximum(up, down), 1 - down], axis=-1)
    return np.rint(255 * colour).astype(np.uint8)


def flow_image(flow: Plane, full: float) -> Rgb:
    """Flow in colours: hue is direction, saturation is length, white is none, grey is unknown.

    Args:
        flow: [2, H, W]; not finite where unknown.
        full: length of full saturation; longer vectors look the same.
    """
    known = np.isfinite(flow).all(0)
    x, y = np.where(known, flow, 0.0)
    sixth = (np.arctan2(y, x) / (2 * np.pi) % 1.0) * 6
    # Hue to RGB at full value: each channel falls and rises linearly over the circle.
    hue = np.stack([np.clip(np.abs((sixth + k) % 6 - 3) - 1, 0, 1) for k in (0, 4, 2)], axis=-1)
    saturation = np.minimum(np.hypot(x, y) / full, 1.0)[..., None]
    image = np.rint(255 * (1 - saturation * (1 - hue))).astype(np.uint8)
    image[~known] = _ABSENT
    return image


def save_png(rgb: Rgb, path: str | os.PathLike[str]) -> Path:
    """Write uint8 [H, W, 3]; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(rgb, "RGB").save(temporary, format="png")
    return Path(path)


def _array(values: Any) -> Plane:
    plain = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else values
    return np.asarray(plain, np.float64)


def _full_length(flow: Plane) -> float:
    lengths = np.hypot(*flow)
    lengths = lengths[np.isfinite(lengths)]
    return max(float(np.percentile(lengths, _PERCENTILE)) if lengths.size else 0.0, _SHORTEST)


def _warped(events: EventBatch, flow: Plane) -> list[Rgb]:
    """Images of the events as they fell and at the window's end, on one scale."""
    window = EventBatch(*(part.detach().cpu().reshape(1, 1, -1) for part in events))
    moving = torch.from_numpy(flow.astype(np.float32))[None, None]
    images = [
        _array(image_of_warped_events(one, window)[0].sum(0))
        for one in (torch.zeros_like(moving), moving)
    ]
    full = max(float(np.percentile(images[1], _PERCENTILE)), 1.0)
    return [_grey(image, full) for image in images]


def _grey(image: Plane, full: float) -> Rgb:
    level = np.rint(255 * (1 - np.minimum(image / full, 1))).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=2)

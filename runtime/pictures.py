"""Pictures of events, flow and errors.

Arrays to RGB arrays need NumPy only; ``strip``, which writes a labelled PNG, needs matplotlib
(extra ``report``). Flow is drawn on the colour wheel of the Middlebury benchmark (Baker et al.,
IJCV 2011): hue is direction, saturation is length, white is no motion. The length at full
saturation is the caller's, so that pictures can be compared.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calib_data.encodings import event_counts
from calib_data.files import atomic_path
from runtime.errors import PictureError
from runtime.metrics import end_point_error, valid_ground_truth
from runtime.sequence import StepRecord

Flow = npt.NDArray[np.float32]
Rgb = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_WHEEL = (
    (15, 0, 1, True),
    (6, 1, 0, False),
    (4, 1, 2, True),
    (11, 2, 1, False),
    (13, 2, 0, True),
    (6, 0, 2, False),
)
"""Middlebury's wheel: colours of a segment, the channel that is full, the one that fades, and
whether it fades in; in turn red-yellow, -green, -cyan, -blue, -magenta, -red."""

_BACKGROUND = np.array([255.0, 255.0, 255.0])
_BRIGHTER = np.array([33.0, 102.0, 172.0])
_DARKER = np.array([202.0, 0.0, 32.0])
_HEAT = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]],
    np.float64,
)
_UNSCORED = np.array([235, 235, 235], np.uint8)
_COUNT_AT_FULL = 3


def colour_wheel() -> npt.NDArray[np.float64]:
    """The 55 hues of the Middlebury wheel, from pointing right and on clockwise: [55, 3], 0..1."""
    rows = []
    for count, full, fading, fades_in in _WHEEL:
        part = np.zeros((count, 3))
        ramp = np.arange(count) / count
        part[:, full] = 1.0
        part[:, fading] = ramp if fades_in else 1.0 - ramp
        rows.append(part)
    return np.concatenate(rows)


def flow_image(flow: Flow, max_magnitude: float) -> Rgb:
    """Colour-code a flow map.

    Args:
        flow: float32 [2, H, W], pixels, x right and y down.
        max_magnitude: length in pixels at full saturation; longer vectors get darker.

    Returns:
        uint8 [H, W, 3].

    Raises:
        PictureError: another shape, or a max_magnitude that is not positive.
    """
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise PictureError(f"flow has shape {list(flow.shape)}, expected [2, H, W]")
    if not max_magnitude > 0:
        raise PictureError(f"max_magnitude = {max_magnitude}: expected a positive length in pixels")
    wheel = colour_wheel()
    u, v = np.nan_to_num(flow.astype(np.float64)) / max_magnitude
    radius = np.hypot(u, v)[..., np.newaxis]
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    lower = np.floor(place).astype(np.int64)
    share = (place - lower)[..., np.newaxis]
    hue = (1 - share) * wheel[lower] + share * wheel[(lower + 1) % len(wheel)]
    colour = np.where(radius <= 1, 1 - np.minimum(radius, 1) * (1 - hue), 0.75 * hue)
    return np.rint(255 * colour).astype(np.uint8)


def wheel_image(size: int, max_magnitude: float = 1.0) -> Rgb:
    """The legend: a disc in which each point is coloured as the vector from the centre to it.

    ``size`` is the side in pixels; returns uint8 [size, size, 3], white outside the disc.
    """
    axis = np.linspace(-1, 1, size, dtype=np.float32) * np.float32(max_magnitude)
    flow = np.stack(np.meshgrid(axis, axis, indexing="xy"))
    image = flow_image(flow, max_magnitude)
    image[np.hypot(flow[0], flow[1]) > max_magnitude] = 255
    return image


def event_image(counts: npt.NDArray[Any], full: int = _COUNT_AT_FULL) -> Rgb:
    """Events of a window on white: blue where pixels became brighter, red where darker.

    counts: [2, H, W] events per pixel, brighter and darker. full: events at full colour. Returns
    uint8 [H, W, 3]. Raises PictureError for another shape.
    """
    if counts.ndim != 3 or counts.shape[0] != 2:
        raise PictureError(f"counts have shape {list(counts.shape)}, expected [2, H, W]")
    total = counts.sum(axis=0).astype(np.float64)
    strength = np.minimum(total / full, 1.0)[..., np.newaxis]
    share = np.divide(counts[0], total, out=np.zeros(total.shape), where=total > 0)
    colour = share[..., np.newaxis] * _BRIGHTER + (1 - share[..., np.newaxis]) * _DARKER
    return np.rint(_BACKGROUND + strength * (colour - _BACKGROUND)).astype(np.uint8)


def error_image(
    error: npt.NDArray[np.floating[Any]], max_error: float, mask: Mask | None = None
) -> Rgb:
    """Heat map of an error: black is none, yellow is ``max_error`` or more, grey is not scored.

    error: [H, W], pixels. mask: bool [H, W], what is scored. Returns uint8 [H, W, 3]. Raises
    PictureError for a max_error that is not positive.
    """
    if not max_error > 0:
        raise PictureError(f"max_error = {max_error}: expected a positive number of pixels")
    place = np.clip(np.nan_to_num(error) / max_error, 0, 1) * (len(_HEAT) - 1)
    lower = np.minimum(place.astype(np.int64), len(_HEAT) - 2)
    share = (place - lower)[..., np.newaxis]
    image = np.rint((1 - share) * _HEAT[lower] + share * _HEAT[lower + 1]).astype(np.uint8)
    if mask is not None:
        image[~mask] = _UNSCORED
    return image


@dataclass(frozen=True)
class Frame:
    """One row of a strip.

    counts: [2, H, W] events of the window. ground_truth: float32 [2, H, W], pixels. predictions:
    float32 [2, H, W] each, pixels over the same interval, by title. seconds: time of the frame.
    """

    counts: npt.NDArray[Any]
    ground_truth: Flow
    predictions: Mapping[str, Flow]
    seconds: float

    @property
    def mask(self) -> Mask:
        """Where an event fell: bool [H, W]."""
        return np.asarray(self.counts.any(axis=0))

    @property
    def scored(self) -> Mask:
        """Where an event fell and ground truth exists: bool [H, W]."""
        both: Mask = self.mask & valid_ground_truth(self.ground_truth)
        return both


def frame_of(record: StepRecord) -> Frame | None:
    """The frame of a driven window, None where it was not scored."""
    window = record.window
    flows = {name: step.pixels for name, step in record.networks.items()}
    predictions = {name: flow for name, flow in flows.items() if flow is not None}
    if window.flow is None or not predictions:
        return None
    height, width = window.flow.shape[1:]
    counts = event_counts(window.events, (height, width))
    return Frame(counts, window.flow, predictions, window.t_stop)


def strip(
    path: str | os.PathLike[str],
    frames: Sequence[Frame],
    *,
    title: str = "",
    max_magnitude: float | None = None,
    max_error: float | None = None,
) -> Path:
    """Write a PNG: a row per frame with events, ground truth, each prediction, and the error.

    Predictions are shown where events fell, as they are scored; the error is that of the last
    prediction. The colour wheel and its scale stand at the right.

    Args:
        path: the PNG.
        frames: at least one, all of one size and with the same predictions.
        title: above the picture.
        max_magnitude: pixels at full saturation; default: 99th percentile of the ground truth.
        max_error: pixels at the heat map's end; default: half of max_magnitude.

    Raises:
        PictureError: no frames, frames that do not match, or matplotlib is not installed.
    """
    _check_frames(frames)
    largest = max_magnitude or _largest_magnitude(frames)
    worst = max_error or largest / 2
    figure_class, canvas_class = _matplotlib()
    titles = ["events", "ground truth", *frames[0].predictions, f"error of {_last(frames[0])}"]
    figure = figure_class(figsize=_figure_size(frames, len(titles)), layout="constrained", dpi=140)
    canvas_class(figure)
    if title:
        figure.suptitle(title, fontsize=11)
    grid = figure.add_gridspec(
        len(frames), len(titles) + 1, width_ratios=[1.0] * len(titles) + [0.4]
    )
    for row, frame in enumerate(frames):
        for column, image in enumerate(_panels(frame, largest, worst)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(titles[column], fontsize=9)
            if column == 0:
                axes.set_ylabel(f"{frame.seconds:.2f} s", fontsize=8)
    _legend(figure.add_subplot(grid[0, len(titles)]), largest, worst)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)


def _check_frames(frames: Sequence[Frame]) -> None:
    if not frames:
        raise PictureError("a strip needs at least one frame")
    first = frames[0]
    if not first.predictions:
        raise PictureError("a strip needs at least one prediction")
    for frame in frames:
        maps = [frame.ground_truth, *frame.predictions.values()]
        sizes = {frame.counts.shape[1:], *(m.shape[1:] for m in maps)}
        if sizes != {first.counts.shape[1:]} or list(frame.predictions) != list(first.predictions):
            raise PictureError("frames of a strip must have one size and the same predictions")


def _last(frame: Frame) -> str:
    return list(frame.predictions)[-1]


def _largest_magnitude(frames: Sequence[Frame]) -> float:
    """99th percentile of the ground truth's length over all frames, at least a hundredth pixel."""
    lengths = [
        np.linalg.norm(f.ground_truth[:, valid_ground_truth(f.ground_truth)], axis=0)
        for f in frames
    ]
    every = np.concatenate(lengths)
    return max(float(np.percentile(every, 99)), 0.01) if every.size else 1.0


def _panels(frame: Frame, largest: float, worst: float) -> list[Rgb]:
    images = [event_image(frame.counts), flow_image(frame.ground_truth, largest)]
    images += [flow_image(flow * frame.mask, largest) for flow in frame.predictions.values()]
    error = end_point_error(frame.predictions[_last(frame)], frame.ground_truth)
    return [*images, error_image(error, worst, frame.scored)]


def _figure_size(frames: Sequence[Frame], columns: int) -> tuple[float, float]:
    height, width = frames[0].counts.shape[1:]
    panel = 2.0
    return panel * (columns + 0.4), panel * len(frames) * height / width + 0.7


def _legend(axes: Any, largest: float, worst: float) -> None:
    axes.imshow(wheel_image(101))
    axes.set_axis_off()
    axes.set_title(f"flow\nrim = {largest:.2g} px", fontsize=7)
    axes.text(
        0.5, -0.12, f"error\n0 to {worst:.2g} px", fontsize=7, ha="center", va="top",
        transform=axes.transAxes,
    )  # fmt: skip
    bar = axes.inset_axes([0.0, -0.55, 1.0, 0.1])
    bar.imshow(error_image(np.linspace(0, 1, 101)[np.newaxis], 1.0), aspect="auto")
    bar.set_axis_off()


def _matplotlib() -> tuple[Any, Any]:
    """matplotlib's Figure and a canvas that needs no screen; one clear error without it."""
    try:
        figure = importlib.import_module("matplotlib.figure")
        canvas = importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError as error:
        raise PictureError(
            "drawing pictures needs matplotlib; pip install 'spikedeploy[report]'"
        ) from error
    return figure.Figure, canvas.FigureCanvasAgg

"""Errors of a predicted flow against ground truth, per frame and over a sequence.

Conventions. Flow is float32 [2, H, W], channel 0 to the right, channel 1 down, in pixels over the
ground-truth interval (``flow_in_pixels``). A pixel is scored where ``scoring_mask`` is true: at
least one event in the window, and ground truth present. F is the prediction, G the ground truth:

============== ==================================================================================
aee            mean of |F - G|, pixels (average end-point error)
outliers       share of pixels with |F - G| > 3 px and > 5 % of |G| (KITTI's rule)
aae            mean angle between F and G in the image plane, degrees; a vector shorter than
               1e-6 px has no direction and counts 90
aae_spacetime  mean angle between (F, 1) and (G, 1), degrees (Barron, Fleet and Beauchemin 1994)
aae_weighted   mean angle in the plane weighted by |G|, degrees
nee            mean of |F - G| / (|G| + 0.01)
angle_of_means angle between the mean F and the mean G of a frame, degrees
============== ==================================================================================

Yardsticks that need no network: ``zero_aee``, the AEE of predicting no motion (the mean of |G|),
and ``mean_aee``, that of predicting each frame's mean ground-truth flow everywhere.

Over a sequence two averages are kept apart, since they differ by tens of percent: over *pixels*
(every scored pixel weighs the same) and over *frames* (the mean of the frames' own means; frames
with nothing to score do not count).

Other definitions, those of published code among them, are in ``runtime.metric_registry``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from runtime.streaming import RunningSum

Flow = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Plane = npt.NDArray[np.float64]

OUTLIER_PIXELS = 3.0
OUTLIER_SHARE = 0.05
NEE_FLOOR = 0.01
NO_DIRECTION = 1e-6
PIXEL_METRICS = ("aee", "outliers", "aae", "aae_spacetime", "nee", "zero_aee", "mean_aee")


def flow_in_pixels(flow: Flow, flow_scaling: float, dt_gt: float, dt_input: float) -> Flow:
    """Convert a network's output to pixels over the ground-truth interval.

    ``flow * flow_scaling`` is in pixels per input window; it is stretched by ``dt_gt / dt_input``,
    the interval's length over the time from the window's first event to its last. With windows
    shorter than the interval the caller passes the last window of it, whose motion is then taken
    to have lasted for all of it; with windows longer, ground truth is that of their last interval.

    Args:
        flow: float32 [2, H, W] or [N, 2, H, W], network output.
        flow_scaling: pixels per window for an output of 1.
        dt_gt, dt_input: seconds, both positive.

    Raises:
        ValueError: a duration that is not positive.
    """
    if dt_gt <= 0 or dt_input <= 0:
        raise ValueError(f"durations must be positive, got dt_gt {dt_gt} and dt_input {dt_input}")
    factor = np.float32(flow_scaling * dt_gt / dt_input)
    scaled: Flow = flow * factor
    return scaled


def valid_ground_truth(ground_truth: Flow) -> Mask:
    """Where ground truth exists: bool [H, W]; both components zero, or not finite, means none."""
    finite = np.isfinite(ground_truth).all(axis=0)
    present: Mask = finite & (ground_truth != 0).any(axis=0)
    return present


def scoring_mask(ground_truth: Flow, events: Mask) -> Mask:
    """Pixels to score: ground truth exists and at least one event fell. bool [H, W]."""
    mask: Mask = valid_ground_truth(ground_truth) & events
    return mask


def angle_degrees(first: Plane, second: Plane) -> Plane:
    """Angle between vectors [D, ...] along their first axis, degrees in 0..180.

    From atan2 of |a x b| and a . b for two components, which keeps its accuracy at 0 and 180 where
    the arc cosine loses it; a vector shorter than 1e-6 has no direction and gives 90.
    """
    lengths = np.minimum(_lengths(first), _lengths(second))
    dot = (first * second).sum(axis=0)
    if len(first) == 2:
        across = np.abs(first[0] * second[1] - first[1] * second[0])
    else:
        across = np.linalg.norm(np.cross(first, second, axis=0), axis=0)
    angle: Plane = np.degrees(np.arctan2(across, dot))
    return np.where(lengths < NO_DIRECTION, 90.0, angle)


def end_point_error(flow: Flow, ground_truth: Flow) -> npt.NDArray[np.float64]:
    """|F - G| per pixel: float64 [H, W], pixels."""
    return _lengths(flow.astype(np.float64) - ground_truth)


def _lengths(vectors: Plane) -> Plane:
    """Lengths of vectors [2, ...], as ``np.linalg.norm`` computes them, in half its time."""
    if len(vectors) != 2:
        return np.linalg.norm(vectors, axis=0)
    squares: Plane = vectors[0] * vectors[0]
    squares += vectors[1] * vectors[1]
    return np.sqrt(squares)


@dataclass(frozen=True)
class FrameScore:
    """Sums over the scored pixels of one frame; means are properties.

    pixels: how many were scored; where it is 0 the means are NaN.
    """

    pixels: int
    sum_error: float
    sum_outliers: int
    sum_angle: float
    sum_angle_spacetime: float
    sum_angle_weighted: float
    sum_nee: float
    sum_magnitude: float
    sum_mean_error: float
    angle_of_means: float

    @property
    def aee(self) -> float:
        """Average end-point error, pixels."""
        return self._mean(self.sum_error)

    @property
    def outliers(self) -> float:
        """Share of outliers, 0..1."""
        return self._mean(self.sum_outliers)

    @property
    def aae(self) -> float:
        """Average angular error in the image plane, degrees."""
        return self._mean(self.sum_angle)

    @property
    def aae_spacetime(self) -> float:
        """Average angular error in space and time, degrees."""
        return self._mean(self.sum_angle_spacetime)

    @property
    def aae_weighted(self) -> float:
        """Average angular error in the plane weighted by the ground truth's magnitude, degrees."""
        return self.sum_angle_weighted / self.sum_magnitude if self.sum_magnitude else float("nan")

    @property
    def nee(self) -> float:
        """Average normalised end-point error."""
        return self._mean(self.sum_nee)

    @property
    def zero_aee(self) -> float:
        """AEE of predicting zero everywhere: the mean ground-truth magnitude, pixels."""
        return self._mean(self.sum_magnitude)

    @property
    def mean_aee(self) -> float:
        """AEE of predicting this frame's mean ground-truth flow everywhere, pixels."""
        return self._mean(self.sum_mean_error)

    def _mean(self, total: float) -> float:
        return total / self.pixels if self.pixels else float("nan")


def score_frame(flow: Flow, ground_truth: Flow, mask: Mask) -> FrameScore:
    """Score one frame.

    Args:
        flow: float32 [2, H, W], pixels over the ground-truth interval.
        ground_truth: float32 [2, H, W], the same unit.
        mask: bool [H, W], pixels to score, see ``scoring_mask``.

    A prediction that is not finite is an outlier and makes the other means infinite or NaN.

    Raises:
        ValueError: shapes that do not fit together.
    """
    if flow.shape != ground_truth.shape or flow.shape != (2, *mask.shape):
        raise ValueError(
            f"flow {list(flow.shape)}, ground truth {list(ground_truth.shape)} and mask "
            f"{list(mask.shape)} do not fit together"
        )
    at = np.flatnonzero(mask)
    f, g = (np.take(m.reshape(2, -1), at, axis=1).astype(np.float64) for m in (flow, ground_truth))
    if not len(at):
        return FrameScore(0, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, float("nan"))
    with np.errstate(invalid="ignore", over="ignore"):
        return _score_vectors(f, g)


def _score_vectors(f: Plane, g: Plane) -> FrameScore:
    """Score predictions f against ground truth g, float64 [2, pixels] each, at least one pixel."""
    count = f.shape[1]
    difference = f - g
    error, magnitude = _lengths(difference), _lengths(g)
    angle = angle_degrees(f, g)
    spacetime = _spacetime_degrees(f, g, difference)
    mean_f, mean_g = f.mean(axis=1), g.mean(axis=1)
    # Written as "not within the tolerance", so that an error that is NaN is an outlier.
    outliers = ~((error <= OUTLIER_PIXELS) | (error <= OUTLIER_SHARE * magnitude))
    return FrameScore(
        pixels=count,
        sum_error=float(error.sum()),
        sum_outliers=int(outliers.sum()),
        sum_angle=float(angle.sum()),
        sum_angle_spacetime=float(spacetime.sum()),
        sum_angle_weighted=float((angle * magnitude).sum()),
        sum_nee=float((error / (magnitude + NEE_FLOOR)).sum()),
        sum_magnitude=float(magnitude.sum()),
        sum_mean_error=float(_lengths(g - mean_g[:, np.newaxis]).sum()),
        angle_of_means=float(angle_degrees(mean_f, mean_g)),
    )


def _spacetime_degrees(f: Plane, g: Plane, difference: Plane) -> Plane:
    """``angle_degrees`` of (F, 1) and (G, 1), whose cross product is (dy, -dx, F x G)."""
    across = difference[1] * difference[1]
    across += difference[0] * difference[0]
    across += np.square(f[0] * g[1] - f[1] * g[0])
    angle: Plane = np.degrees(np.arctan2(np.sqrt(across), (f * g).sum(axis=0) + 1.0))
    return angle


class SequenceScore:
    """Frames of one sequence, averaged over pixels and over frames, in constant memory.

    frames: how many had scored pixels. See the module's text for the averages.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._total = total_score(())
        names = (*PIXEL_METRICS, "aae_weighted", "angle_of_means")
        self._means = {name: RunningSum() for name in names}

    def add(self, frame: FrameScore) -> None:
        """Take a frame in; one without scored pixels is left out."""
        if not frame.pixels:
            return
        self.frames += 1
        self._total = total_score((self._total, frame))
        for name, total in self._means.items():
            total.add(getattr(frame, name))

    @property
    def pixels(self) -> int:
        """Scored pixels in all frames."""
        return self._total.pixels

    def by_pixels(self) -> dict[str, float]:
        """Every metric with each scored pixel weighing the same; NaN without any."""
        names = (*PIXEL_METRICS, "aae_weighted")
        return {name: float(getattr(self._total, name)) for name in names}

    def by_frames(self) -> dict[str, float]:
        """Every metric as the mean of the frames' own values; NaN without frames."""
        if not self.frames:
            return dict.fromkeys(self._means, float("nan"))
        return {name: total.value / self.frames for name, total in self._means.items()}

    def to_dict(self) -> dict[str, object]:
        """Both averages and the counts, as JSON values (None for what has no value)."""
        return {
            "frames": self.frames,
            "pixels": self.pixels,
            "by_pixels": {k: _number(v) for k, v in self.by_pixels().items()},
            "by_frames": {k: _number(v) for k, v in self.by_frames().items()},
        }


def total_score(frames: Iterable[FrameScore]) -> FrameScore:
    """The sums of several frames as one; the angle of means is not additive and becomes NaN."""
    taken = list(frames)
    sums = {
        f.name: sum(getattr(frame, f.name) for frame in taken)
        for f in fields(FrameScore)
        if f.name != "angle_of_means"
    }
    return FrameScore(**sums, angle_of_means=float("nan"))


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None

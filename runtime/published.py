"""Errors of a predicted flow exactly as two published codes compute them, peculiarities included.

For comparing with numbers that those codes printed; the figures to trust are in
``runtime.scores``. ``event_flow`` is github.com/tudelft/event_flow (Hagenaars, Paredes-Valles and
de Croon, NeurIPS 2021), from which AEE is. The fork is LSquarzoni/SNN_Event-based_Optical_Flow,
which added the others.

Every function takes one frame, ``flow`` F and ``ground_truth`` G, float32 [2, H, W] in pixels over
the ground-truth interval, and ``events``, bool [H, W], pixels with an event, and returns a float.
M is the set of pixels with an event where G is not zero in both components, n their number,
e = 1e-9. Angles are in radians, from ``acos(clip(c, -1 + 1e-5, 1 - 1e-5))``, so between 0.0045 and
pi - 0.0045. Sums over M are sums of products with 0 or 1: a NaN anywhere in the frame makes them
NaN. Arithmetic is float64 here and float32 there.

Both codes average over the frames of a file with every frame weighing the same, one without valid
pixels included: most functions give 0 for it, ``angle_of_means`` pi / 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from runtime.scores import Flow, Mask, Plane

_EPSILON = 1e-9
_CLIP = 1 - 1e-5
_NEE_FLOOR = 0.01
_NEE_OUTLIER = 0.5
_DOT_OFFSET = 0.01
_ANGLE_OUTLIER = np.pi / 6
FILTER_PIXELS = 0.5

FrameFunction = Callable[[Flow, Flow, Mask], float]


def valid_pixels(ground_truth: Flow, events: Mask) -> Mask:
    """M: an event fell, and ground truth is not zero in both components (NaN passes)."""
    mask: Mask = events & ~((ground_truth[0] == 0) & (ground_truth[1] == 0))
    return mask


def _on_scored_pixels(function: FrameFunction) -> FrameFunction:
    """Compute it on the pixels of M alone, as [2, n], which gives the same and is faster.

    A frame that holds NaN or infinity anywhere is computed whole, as it makes sums over it NaN.
    """

    @functools.wraps(function)
    def restricted(flow: Flow, ground_truth: Flow, events: Mask) -> float:
        if np.isfinite(flow).all() and np.isfinite(ground_truth).all():
            at = np.flatnonzero(valid_pixels(ground_truth, events))
            flow = np.take(flow.reshape(2, -1), at, axis=1)
            ground_truth = np.take(ground_truth.reshape(2, -1), at, axis=1)
            events = np.ones(len(at), np.bool_)
        return function(flow, ground_truth, events)

    return restricted


@_on_scored_pixels
def aee(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """AEE of event_flow: sum over M of |F - G|, over n + e. Pixels."""
    return _mean(_norm(_wide(flow) - ground_truth), valid_pixels(ground_truth, events))


@_on_scored_pixels
def outliers(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """Outliers of event_flow's AEE for one frame: |F - G| > 3 and > 0.05 |F|, over n + e. Share.

    Relative to the predicted magnitude.
    """
    return float(
        outliers_of_batch(flow[np.newaxis], ground_truth[np.newaxis], events[np.newaxis])[0]
    )


def outliers_of_batch(flow: Flow, ground_truth: Flow, events: Mask) -> npt.NDArray[np.float64]:
    """Outliers of event_flow's AEE for a batch: those of all its frames, over each frame's n + e.

    So a value can exceed 1; with one frame it is ``outliers``.

    Args:
        flow, ground_truth: float32 [N, 2, H, W]. events: bool [N, H, W].

    Returns:
        float64 [N].
    """
    masks = np.stack([valid_pixels(g, e) for g, e in zip(ground_truth, events, strict=True)])
    wide = flow.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.linalg.norm(wide - ground_truth, axis=1) * masks
        found = (error > 3.0) & (error > 0.05 * np.linalg.norm(wide, axis=1) * masks)
    shares: npt.NDArray[np.float64] = found.sum() / (
        masks.reshape(len(masks), -1).sum(axis=1) + _EPSILON
    )
    return shares


@_on_scored_pixels
def nee(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """NEE of the fork: mean over M of |F - G| / (min(|F|, |G|) + 0.01). No unit.

    A prediction of zero divides by 0.01.
    """
    return _mean(_normalised_error(flow, ground_truth), valid_pixels(ground_truth, events))


@_on_scored_pixels
def nee_outliers(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """Outliers of the fork's NEE: share of M where its terms exceed 0.5."""
    mask = valid_pixels(ground_truth, events)
    return _mean(_normalised_error(flow, ground_truth) > _NEE_OUTLIER, mask)


@_on_scored_pixels
def aae(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """AAE of the fork: mean over M of acos(clip(|F| |G| / (F.G + 0.01))). Radians.

    The ratio is upside down: about 0.26 degrees for every true angle below 90, about 179.74 for
    every one above, in between only where |F| |G| is near 0.01.
    """
    return _mean(_inverted_angle(flow, ground_truth), valid_pixels(ground_truth, events))


@_on_scored_pixels
def aae_outliers(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """Outliers of the fork's AAE: share of M where its terms exceed pi / 6."""
    mask = valid_pixels(ground_truth, events)
    return _mean(_inverted_angle(flow, ground_truth) > _ANGLE_OUTLIER, mask)


@_on_scored_pixels
def naae(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """NAAE of the fork: mean over M of the angle between F and G over |F| + e. Radians per pixel.

    Divides by the predicted magnitude, so that small predictions score without bound.
    """
    with np.errstate(invalid="ignore"):
        error = _angle(_wide(flow), _wide(ground_truth)) / (_norm(_wide(flow)) + _EPSILON)
    return _mean(error, valid_pixels(ground_truth, events))


@_on_scored_pixels
def angle_of_means(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """AE_ofMeans of the fork: angle between the means over M of F and of G. Radians."""
    mask = valid_pixels(ground_truth, events)
    means = [
        np.array([_mean(component, mask) for component in _wide(field)])
        for field in (flow, ground_truth)
    ]
    return float(_angle(*means))


def aae_weighted(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """AAE_Weighted of the fork: sum over the frame of angle |F|, over e + sum over M of |F|.

    Radians. Only the denominator is masked: pixels that are not scored add to the figure, to above
    pi, and a frame without valid pixels divides by e.
    """
    mask, magnitude = valid_pixels(ground_truth, events), _norm(_wide(flow))
    with np.errstate(invalid="ignore"):
        total = (_angle(_wide(flow), _wide(ground_truth)) * magnitude).sum()
        return float(total / ((magnitude * mask).sum() + _EPSILON))


@_on_scored_pixels
def aae_filtered(flow: Flow, ground_truth: Flow, events: Mask) -> float:
    """AAE_Filtered of the fork: mean angle over the pixels of M with |F| >= 0.5 px. Radians."""
    mask = valid_pixels(ground_truth, events) & (_norm(_wide(flow)) >= FILTER_PIXELS)
    return _mean(_angle(_wide(flow), _wide(ground_truth)), mask)


def _wide(flow: Flow) -> Plane:
    return flow.astype(np.float64)


def _norm(vectors: Plane) -> Plane:
    lengths: Plane = np.sqrt(vectors[0] * vectors[0] + vectors[1] * vectors[1])
    return lengths


def _mean(values: npt.NDArray[np.generic], mask: Mask) -> float:
    with np.errstate(invalid="ignore"):
        return float((values.astype(np.float64) * mask).sum() / (mask.sum() + _EPSILON))


def _normalised_error(flow: Flow, ground_truth: Flow) -> Plane:
    f, g = _wide(flow), _wide(ground_truth)
    with np.errstate(invalid="ignore"):
        return _norm(f - g) / (np.minimum(_norm(f), _norm(g)) + _NEE_FLOOR)


def _angle(f: Plane, g: Plane) -> Plane:
    with np.errstate(invalid="ignore"):
        return _arc((f * g).sum(axis=0) / (_norm(f) * _norm(g) + _EPSILON))


def _inverted_angle(flow: Flow, ground_truth: Flow) -> Plane:
    f, g = _wide(flow), _wide(ground_truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _arc(_norm(f) * _norm(g) / ((f * g).sum(axis=0) + _DOT_OFFSET))


def _arc(cosine: Plane) -> Plane:
    arc: Plane = np.arccos(np.clip(cosine, -_CLIP, _CLIP))
    return arc

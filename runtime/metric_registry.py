"""Every metric by name: what it is, in which unit, from where, and how it is averaged.

``METRICS`` holds the figures to trust and, with the suffix ``_published``, those that published
codes print under the same title. ``ChosenMetrics`` gathers any of them over a sequence.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from calib_data.events import Events
from runtime import published
from runtime.scores import (
    NEE_FLOOR,
    Flow,
    FrameScore,
    Mask,
    Plane,
    angle_degrees,
    score_frame,
    scoring_mask,
)
from runtime.streaming import RunningSum
from runtime.warping import EVENTS_PER_VALUE, Warp, flow_warp_loss, rsat

FILTER_PIXELS = 0.5
ANGLE_OUTLIER_DEGREES = 30.0
NEE_OUTLIER = 0.5
_KITTI = "Geiger, Lenz and Urtasun, CVPR 2012 (KITTI)"
_OTTE = "Otte and Nagel, ECCV 1994; Baker et al., IJCV 2011"
_EVENT_FLOW = "event_flow, loss/flow.py"
_FORK = "SNN_Event-based_Optical_Flow, loss/flow.py"
_TITLES_FROM_FORK = "title from SNN_Event-based_Optical_Flow"


class MetricError(ValueError):
    """A metric that does not exist."""

    user_error = True


class Part(NamedTuple):
    """One frame's share of a metric; its value is ``total / weight``, none where weight is 0."""

    total: float
    weight: float


FrameFunction = Callable[[Flow, Flow, Mask], Part]
ScoreFunction = Callable[[FrameScore], Part]
WindowFunction = Callable[[Sequence[Warp]], float]


@dataclass(frozen=True)
class Metric:
    """One metric.

    definition: its equation over scored pixels; F is the prediction, G ground truth. better: which
    way. source: where the definition is from. frame: computes it from flow and ground truth,
    float32 [2, H, W] in pixels over the ground-truth interval, and bool [H, W], pixels with an
    event. windows: computes it from events instead. by_pixels: whether frames can be joined pixel
    by pixel. faithful_of: the metric whose published form this is. of_score: computes it from the
    frame's score, which saves doing so again.
    """

    name: str
    unit: str
    better: Literal["lower", "higher", "reference"]
    definition: str
    source: str
    frame: FrameFunction | None = None
    windows: WindowFunction | None = None
    by_pixels: bool = True
    faithful_of: str | None = None
    of_score: ScoreFunction | None = None


class MetricValue(NamedTuple):
    """A metric over a sequence.

    by_frames: mean of the frames' (or spans') values. by_pixels: every pixel weighing the same,
    None where that is not defined. values: how many frames (or spans of events) had a value.
    """

    by_frames: float
    by_pixels: float | None
    values: int


class _Forms(TypedDict):
    frame: FrameFunction
    of_score: ScoreFunction


def _forms(of_score: ScoreFunction) -> _Forms:
    """Both ways of computing what is a part of a frame's score."""

    def frame(flow: Flow, ground_truth: Flow, events: Mask) -> Part:
        return of_score(score_frame(flow, ground_truth, scoring_mask(ground_truth, events)))

    return {"frame": frame, "of_score": of_score}


def _score(total: str, weight: str = "pixels") -> _Forms:
    return _forms(lambda s: Part(float(getattr(s, total)), float(getattr(s, weight))))


def _angle_of_means(score: FrameScore) -> Part:
    return Part(score.angle_of_means, 1.0) if score.pixels else Part(0.0, 0.0)


def _over_pixels(part: Callable[[Plane, Plane], Part]) -> FrameFunction:
    """A frame function from one of predictions and ground truth at scored pixels, [2, pixels]."""

    def masked(flow: Flow, ground_truth: Flow, events: Mask) -> Part:
        mask = scoring_mask(ground_truth, events)
        with np.errstate(invalid="ignore", over="ignore"):
            return part(flow[:, mask].astype(np.float64), ground_truth[:, mask].astype(np.float64))

    return masked


def _aae_filtered(f: Plane, g: Plane) -> Part:
    # A prediction that is NaN has no magnitude; it is kept, so that it does not go unnoticed.
    kept = ~(np.linalg.norm(f, axis=0) < FILTER_PIXELS)
    return Part(float(angle_degrees(f, g)[kept].sum()), float(kept.sum()))


def _aae_outliers(f: Plane, g: Plane) -> Part:
    outliers = ~(angle_degrees(f, g) <= ANGLE_OUTLIER_DEGREES)
    return Part(float(outliers.sum()), float(f.shape[1]))


def _nee_outliers(f: Plane, g: Plane) -> Part:
    relative = np.linalg.norm(f - g, axis=0) / (np.linalg.norm(g, axis=0) + NEE_FLOOR)
    return Part(float((~(relative <= NEE_OUTLIER)).sum()), float(f.shape[1]))


def _naae(f: Plane, g: Plane) -> Part:
    terms = angle_degrees(f, g) / (np.linalg.norm(g, axis=0) + NEE_FLOOR)
    return Part(float(terms.sum()), float(f.shape[1]))


def _published(
    of: str,
    unit: str,
    definition: str,
    function: Callable[[Flow, Flow, Mask], float],
    source: str = _FORK,
) -> Metric:
    def part(flow: Flow, ground_truth: Flow, events: Mask) -> Part:
        return Part(function(flow, ground_truth, events), 1.0)

    return Metric(
        f"{of}_published", unit, "lower", definition, source, part, by_pixels=False, faithful_of=of
    )


_ALL = (
    Metric("aee", "px", "lower", "mean |F - G|", _OTTE, **_score("sum_error")),
    Metric(
        "outliers", "share", "lower", "|F - G| > 3 px and > 5 % of |G|", _KITTI,
        **_score("sum_outliers"),
    ),
    Metric(
        "aae", "deg", "lower", "mean angle(F, G); 90 where |F| or |G| < 1e-6", _TITLES_FROM_FORK,
        **_score("sum_angle"),
    ),
    Metric(
        "aae_outliers", "share", "lower", "angle(F, G) > 30 deg", _TITLES_FROM_FORK,
        _over_pixels(_aae_outliers),
    ),
    Metric(
        "aae_spacetime", "deg", "lower", "mean angle((F, 1), (G, 1))",
        "Barron, Fleet and Beauchemin, IJCV 1994", **_score("sum_angle_spacetime"),
    ),
    Metric(
        "aae_weighted", "deg", "lower", "sum angle(F, G) |G| / sum |G|", _TITLES_FROM_FORK,
        **_score("sum_angle_weighted", "sum_magnitude"),
    ),
    Metric(
        "aae_filtered", "deg", "lower", "mean angle(F, G) where |F| >= 0.5 px", _TITLES_FROM_FORK,
        _over_pixels(_aae_filtered),
    ),
    Metric(
        "nee", "1", "lower", "mean |F - G| / (|G| + 0.01)", _TITLES_FROM_FORK, **_score("sum_nee")
    ),
    Metric(
        "nee_outliers", "share", "lower", "|F - G| / (|G| + 0.01) > 0.5", _TITLES_FROM_FORK,
        _over_pixels(_nee_outliers),
    ),
    Metric(
        "naae", "deg/px", "lower", "mean angle(F, G) / (|G| + 0.01)", _TITLES_FROM_FORK,
        _over_pixels(_naae),
    ),
    Metric(
        "angle_of_means", "deg", "lower", "angle(mean F, mean G)", "AE_ofMeans, " + _FORK,
        by_pixels=False, **_forms(_angle_of_means),
    ),
    Metric(
        "zero_aee", "px", "reference", "mean |G|: AEE of no motion", "yardstick",
        **_score("sum_magnitude"),
    ),
    Metric(
        "mean_aee", "px", "reference", "mean |mean G - G|: AEE of the frame's mean flow",
        "yardstick", **_score("sum_mean_error"),
    ),
    Metric(
        "fwl", "1", "higher", "var(warped events) / var(events)",
        "Stoffregen et al., ECCV 2020; as event_flow", windows=flow_warp_loss, by_pixels=False,
    ),
    Metric(
        "rsat", "1", "lower",
        "sum of squared mean time stamps / active pixels, warped / not warped",
        "Hagenaars et al., NeurIPS 2021; as event_flow", windows=rsat, by_pixels=False,
    ),
    _published("aee", "px", "sum |F - G| / (n + 1e-9)", published.aee, _EVENT_FLOW),
    _published(
        "outliers", "share", "|F - G| > 3 px and > 5 % of |F|", published.outliers, _EVENT_FLOW
    ),
    _published("aae", "rad", "mean acos(|F| |G| / (F.G + 0.01))", published.aae),
    _published(
        "aae_outliers", "share", "terms of aae_published > pi / 6", published.aae_outliers
    ),
    _published(
        "aae_weighted", "rad", "sum of angle |F|, all pixels / sum of |F|, scored pixels",
        published.aae_weighted,
    ),
    _published(
        "aae_filtered", "rad", "mean angle where |F| >= 0.5 px", published.aae_filtered
    ),
    _published("nee", "1", "mean |F - G| / (min(|F|, |G|) + 0.01)", published.nee),
    _published("nee_outliers", "share", "terms of nee_published > 0.5", published.nee_outliers),
    _published("naae", "rad/px", "mean angle / (|F| + 1e-9)", published.naae),
    _published("angle_of_means", "rad", "angle(mean F, mean G)", published.angle_of_means),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


def find_metrics(names: Iterable[str]) -> list[Metric]:
    """The metrics of these names, in order, each once.

    Raises:
        MetricError: a name that is none; the message has the nearest one.
    """
    found: dict[str, Metric] = {}
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.0)[0]
            raise MetricError(f"no metric is called {name!r}; nearest: {near!r}")
        found[name] = METRICS[name]
    return list(found.values())


class ChosenMetrics:
    """Gathers metrics over a sequence."""

    def __init__(self, names: Iterable[str], events_per_value: int = EVENTS_PER_VALUE) -> None:
        """Start empty.

        Args:
            names: of ``METRICS``.
            events_per_value: events, at least, that one value of fwl or rsat spans.

        Raises:
            MetricError: an unknown name.
        """
        self.metrics = find_metrics(names)
        self._wanted = events_per_value
        self._sums = {metric.name: _Sums() for metric in self.metrics}
        self._held: list[Warp] = []

    def add_frame(
        self, flow: Flow, ground_truth: Flow, events: Mask, score: FrameScore | None = None
    ) -> dict[str, float]:
        """Take a scored frame; returns its values by metric, without those it has none of.

        Args:
            flow, ground_truth: float32 [2, H, W], pixels over the ground-truth interval.
            events: bool [H, W], pixels with an event.
            score: what ``score_frame`` gave for it, if it is at hand.
        """
        parts = {}
        for metric in self.metrics:
            if metric.of_score is not None and score is not None:
                parts[metric.name] = metric.of_score(score)
            elif metric.frame is not None:
                parts[metric.name] = metric.frame(flow, ground_truth, events)
        return self._add(parts)

    def add_window(self, events: Events, flow: Flow) -> dict[str, float]:
        """Take a window's events and its flow, float32 [2, H, W] in pixels per window.

        Returns the values by metric of the span of events that ends here, if one does.
        """
        of_events = [metric for metric in self.metrics if metric.windows is not None]
        if not of_events:
            return {}
        self._held.append((events, flow))
        if sum(len(window) for window, _ in self._held) < self._wanted:
            return {}
        parts = {}
        for metric in of_events:
            value = metric.windows(self._held) if metric.windows is not None else np.nan
            # NaN is a span without a value, such as one whose events are spread evenly.
            parts[metric.name] = Part(0.0, 0.0) if np.isnan(value) else Part(value, 1.0)
        self._held = []
        return self._add(parts)

    def _add(self, parts: dict[str, Part]) -> dict[str, float]:
        counted = {name: part for name, part in parts.items() if part.weight != 0}
        for name, part in counted.items():
            self._sums[name].add(part)
        return {name: part.total / part.weight for name, part in counted.items()}

    def values(self) -> dict[str, MetricValue]:
        """Every chosen metric over what was taken; NaN without a frame that had a value."""
        return {metric.name: self._value(metric) for metric in self.metrics}

    def to_dict(self) -> dict[str, Any]:
        """Values with their units, as JSON values (None for what has no value)."""
        return {
            name: {
                "by_frames": _number(value.by_frames),
                "by_pixels": _number(value.by_pixels),
                "values": value.values,
                "unit": METRICS[name].unit,
            }
            for name, value in self.values().items()
        }

    def _value(self, metric: Metric) -> MetricValue:
        sums = self._sums[metric.name]
        if not sums.count:
            return MetricValue(float("nan"), float("nan") if metric.by_pixels else None, 0)
        joined = sums.total.value / sums.weight.value
        by_pixels = float(joined) if metric.by_pixels else None
        return MetricValue(sums.means.value / sums.count, by_pixels, sums.count)


class _Sums:
    """Sums over the frames (or spans) that had a value: of the values, totals and weights."""

    def __init__(self) -> None:
        self.count = 0
        self.means, self.total, self.weight = RunningSum(), RunningSum(), RunningSum()

    def add(self, part: Part) -> None:
        self.count += 1
        self.means.add(part.total / part.weight)
        self.total.add(part.total)
        self.weight.add(part.weight)


def _number(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None

"""Networks driven over a recording: their scores, spikes and times, gathered in constant memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calib_data import console
from calib_data.events import EventSource
from runtime.metrics import ChosenMetrics, SequenceScore, find_metrics
from runtime.runner import Runner
from runtime.sequence import Drive, NetworkStep, StepRecord, drive
from runtime.streaming import RunningSum, Spread, Timeline
from runtime.warping import EVENTS_PER_VALUE

KEPT_WINDOWS = 10_000
"""Windows whose own results are kept; beyond, they are thinned or averaged."""

Observer = Callable[[StepRecord], None]


@dataclass(frozen=True)
class WindowStep:
    """One network in one window. aee, zero_aee: pixels, None where it is not scored. pixels:
    scored. latency_ms: of the step, without encoding."""

    aee: float | None
    zero_aee: float | None
    pixels: int
    latency_ms: float


@dataclass(frozen=True)
class WindowResult:
    """One window: its number, the end of its time in seconds since t0, its events."""

    index: int
    seconds: float
    events: int
    networks: Mapping[str, WindowStep]


@dataclass
class Profile:
    """Wall seconds: reading windows, encoding and stepping them (all networks), counting spikes and
    scoring, pictures, and everything."""

    loading: float = 0.0
    encoding: float = 0.0
    stepping: float = 0.0
    scoring: float = 0.0
    pictures: float = 0.0
    total: float = 0.0

    @property
    def parts(self) -> dict[str, float]:
        """The parts by name; rest is what belongs to none of them."""
        names = ("loading", "encoding", "stepping", "scoring", "pictures")
        parts = {name: float(getattr(self, name)) for name in names}
        return {**parts, "rest": max(self.total - sum(parts.values()), 0.0)}

    def to_dict(self, events: int) -> dict[str, float | None]:
        """JSON values; the rate is over everything."""
        rate = events / self.total if self.total else None
        return {**self.parts, "total": self.total, "events_per_second": rate}


@dataclass
class NetworkResult:
    """What one network did over a recording.

    score: errors of the scored windows. fired, neurons: spikes and chances to spike by layer, over
    all windows. errors: AEE, and that of no motion, in pixels over time, one value per scored
    frame, neighbours averaged beyond ``KEPT_WINDOWS``. flow_scaling: pixels per window for an
    output of 1. metrics: those asked for by name.
    """

    score: SequenceScore = field(default_factory=SequenceScore)
    fired: dict[str, int] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    errors: Timeline = field(default_factory=lambda: Timeline(KEPT_WINDOWS))
    flow_scaling: float = 1.0
    metrics: ChosenMetrics = field(default_factory=lambda: ChosenMetrics(()))
    fwl_values: int = 0
    _fwl: RunningSum = field(default_factory=RunningSum)

    def add(self, step: NetworkStep, seconds: float) -> None:
        """Take in what it did with the window that ended at ``seconds`` since t0."""
        for layer, fired in step.fired.items():
            self.fired[layer] = self.fired.get(layer, 0) + fired
            self.neurons[layer] = self.neurons.get(layer, 0) + step.neurons[layer]
        if step.fwl is not None:
            self._fwl.add(step.fwl)
            self.fwl_values += 1
        if step.score is not None and step.score.pixels:
            self.score.add(step.score)
            self.errors.add(seconds, {"aee": step.score.aee, "zero_aee": step.score.zero_aee})

    @property
    def times(self) -> list[float]:
        """Of the scored frames, the ends of their windows in seconds; see ``errors``."""
        return self.errors.series()[0]

    @property
    def aee(self) -> list[float]:
        """Of the scored frames, pixels; see ``errors``."""
        return self.errors.series()[1].get("aee", [])

    def spike_rates(self) -> dict[str, float]:
        """Share of neurons that fired per step, by layer."""
        return {layer: self.fired[layer] / total for layer, total in self.neurons.items() if total}

    def spike_rate(self) -> float | None:
        """The share over all layers, every neuron weighing the same; None if unknown."""
        total = sum(self.neurons.values())
        return sum(self.fired.values()) / total if total else None

    def mean_fwl(self) -> float | None:
        """Mean flow warp loss, None if it was not computed."""
        return self._fwl.value / self.fwl_values if self.fwl_values else None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; ``metrics`` only where some were asked for."""
        chosen = {"metrics": self.metrics.to_dict()} if self.metrics.metrics else {}
        return {
            "score": self.score.to_dict(),
            "spike_rate": self.spike_rate(),
            "spike_rates": self.spike_rates(),
            "fwl": self.mean_fwl(),
            "timeline": {
                "seconds": self.times,
                "aee": [value if math.isfinite(value) else None for value in self.aee],
                "frames_per_point": self.errors.values_per_point,
            },
            **chosen,
        }


@dataclass
class Evaluation:
    """Networks driven side by side over one recording.

    windows, events: driven windows and the events in them. kept: results of windows, every one up
    to twice ``KEPT_WINDOWS``, beyond that every second, fourth, ... metric_lines: metrics asked for
    over time, by metric and network, neighbours averaged. on_window: gets every window's result.
    partial: whether it was interrupted before the end. scored: what of the recording was driven, in
    words. span: start of the first window and end of the last, seconds since t0; None before one.
    Memory does not grow with the windows.
    """

    data: Path
    resolution: tuple[int, int]
    plan: Drive
    networks: dict[str, NetworkResult]
    windows: int = 0
    events: int = 0
    kept: Spread[WindowResult] = field(default_factory=lambda: Spread(KEPT_WINDOWS))
    metric_lines: dict[str, Timeline] = field(default_factory=dict)
    on_window: Callable[[WindowResult], None] | None = None
    profile: Profile = field(default_factory=Profile)
    partial: bool = False
    scored: str = "the whole recording"
    span: tuple[float, float] | None = None

    @property
    def events_per_pixel(self) -> float:
        """Input density: events per pixel and window."""
        pixels = self.resolution[0] * self.resolution[1]
        return self.events / (self.windows * pixels) if self.windows else 0.0

    @property
    def per_window(self) -> list[WindowResult]:
        """The windows' results that were kept."""
        return self.kept.items

    def add(self, record: StepRecord) -> None:
        """Take the record of one window in."""
        start = time.perf_counter()
        self._add_to_metrics(record)
        self.windows += 1
        self.events += len(record.window.events)
        started = record.window.t_start if self.span is None else self.span[0]
        self.span = (started, record.window.t_stop)
        if self.on_window is not None or self.kept.due():
            result = window_result(record)
            self.kept.add(result)
            if self.on_window is not None:
                self.on_window(result)
        else:
            self.kept.skip()
        for name, step in record.networks.items():
            self.networks[name].add(step, record.window.t_stop)
        profile = self.profile
        profile.loading += record.loading
        profile.encoding += sum(step.encoding for step in record.networks.values())
        profile.stepping += sum(step.seconds for step in record.networks.values())
        profile.scoring += record.scoring + time.perf_counter() - start

    def _add_to_metrics(self, record: StepRecord) -> None:
        window = record.window
        asked = any(result.metrics.metrics for result in self.networks.values())
        if not asked or not record.after_warmup:
            return
        values: dict[str, dict[str, float]] = {}
        for name, step in record.networks.items():
            result = self.networks[name]
            pixels_per_window = step.flow * np.float32(result.flow_scaling)
            found = result.metrics.add_window(window.events, pixels_per_window)
            if step.pixels is not None and window.flow is not None and record.active is not None:
                found |= result.metrics.add_frame(
                    step.pixels, window.flow, record.active, step.score
                )
            for metric, value in found.items():
                values.setdefault(metric, {})[name] = value
        for metric, by_network in values.items():
            # A line has the same networks at all of its points.
            if len(by_network) == len(record.networks):
                line = self.metric_lines.setdefault(metric, Timeline())
                line.add(window.t_stop, by_network)

    def yardsticks(self) -> dict[str, float | None]:
        """AEE over pixels of predicting zero, and each frame's mean ground truth."""
        score = next(iter(self.networks.values())).score
        if not score.frames:
            return {"zero_aee": None, "mean_aee": None}
        means = score.by_pixels()
        return {"zero_aee": means["zero_aee"], "mean_aee": means["mean_aee"]}

    def zero_timeline(self) -> list[float]:
        """AEE of predicting zero, over time as ``NetworkResult.errors``."""
        return next(iter(self.networks.values())).errors.series()[1].get("zero_aee", [])

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON values."""
        return {
            "data": str(self.data),
            "resolution": list(self.resolution),
            "mode": self.plan.mode,
            "window": self.plan.window,
            "warmup": self.plan.warmup,
            "fwl_events": self.plan.fwl_events,
            "scored": self.scored,
            "span": None if self.span is None else list(self.span),
            "windows": self.windows,
            "events": self.events,
            "events_per_pixel": self.events_per_pixel,
            "networks": {name: result.to_dict() for name, result in self.networks.items()},
            "yardsticks": self.yardsticks(),
            "partial": self.partial,
            "profile": self.profile.to_dict(self.events),
            "per_window_stride": self.kept.stride,
            "per_window": [asdict(window) for window in self.per_window],
        }


def window_result(record: StepRecord) -> WindowResult:
    steps = {}
    for name, step in record.networks.items():
        score = step.score if step.score is not None and step.score.pixels else None
        steps[name] = WindowStep(
            aee=score.aee if score and np.isfinite(score.aee) else None,
            zero_aee=score.zero_aee if score else None,
            pixels=score.pixels if score else 0,
            latency_ms=step.seconds * 1000,
        )
    window = record.window
    return WindowResult(window.index, window.t_stop, len(window.events), steps)


def evaluate(
    file: EventSource,
    runners: Mapping[str, Runner],
    plan: Drive,
    *,
    observe: Observer | None = None,
    quiet: bool = False,
    metrics: Iterable[str] = (),
    keep_interrupted: bool = False,
    on_window: Callable[[WindowResult], None] | None = None,
) -> Evaluation:
    """Drive networks over a recording and gather their scores.

    Args:
        file: the recording.
        runners: networks by name; spike rates need diagnostic ones (``runner.diagnostic()``).
        plan: windows and scoring.
        observe: called with every record, for pictures.
        quiet: no progress bar.
        metrics: names of ``runtime.metrics.METRICS`` to gather besides.
        keep_interrupted: on Ctrl-C return what was computed, marked as partial.
        on_window: called with every window's result, of which the evaluation keeps a few.

    Raises:
        EvaluationError, DataError: as ``runtime.sequence.drive``.
        MetricError: an unknown metric.
    """
    result = begin(file, runners, plan, metrics=metrics)
    result.on_window = on_window
    plan.check()
    records = drive(file, runners, plan)
    began = time.perf_counter()
    try:
        for record in console.progress(records, "evaluating", plan.count(file), quiet=quiet):
            take(result, record, observe)
    except KeyboardInterrupt:
        if not keep_interrupted:
            raise
        result.partial = True
    result.profile.total = time.perf_counter() - began
    return result


def begin(
    file: EventSource, runners: Mapping[str, Runner], plan: Drive, *, metrics: Iterable[str] = ()
) -> Evaluation:
    """An evaluation that has not seen a window; arguments and errors as of ``evaluate``."""
    wanted = [metric.name for metric in find_metrics(metrics)]
    networks = {
        name: NetworkResult(
            flow_scaling=runner.artifact.flow_scaling,
            metrics=ChosenMetrics(wanted, plan.fwl_events or EVENTS_PER_VALUE),
        )
        for name, runner in runners.items()
    }
    return Evaluation(Path(file.path), file.resolution, plan, networks)


def take(result: Evaluation, record: StepRecord, observe: Observer | None) -> None:
    """Take in a record and show it to the observer."""
    result.add(record)
    if observe is not None:
        before = time.perf_counter()
        observe(record)
        result.profile.pictures += time.perf_counter() - before

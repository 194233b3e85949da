"""Driving networks over a recording, window by window, and scoring what they return."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from calib_data.encodings import event_mask
from calib_data.events import Events, EventSource
from calib_data.hot_pixels import HotPixelFilter
from calib_data.windows import Window, count_windows, iterate_windows
from calib_data.windows import default_window as default_window
from runtime.errors import EvaluationError
from runtime.metrics import (
    Flow,
    FrameScore,
    Mask,
    flow_in_pixels,
    score_frame,
    scoring_mask,
)
from runtime.pooling import PooledRunner
from runtime.runner import Runner, encode
from runtime.warping import WarpMeter


@dataclass(frozen=True)
class NetworkStep:
    """What one network did with one window.

    flow: float32 [2, H, W], its output, in units of flow_scaling pixels per window.
    pixels: float32 [2, H, W], the same in pixels over the ground-truth interval; None where the
        window is not scored.
    score: errors against ground truth, None where the window is not scored.
    fired, neurons: how many neurons fired, and how many there are, by layer; empty unless the
        runner is diagnostic.
    fwl: flow warp loss of the windows up to this one, where enough events have gathered again for
        a value; None otherwise.
    seconds, encoding: wall time of the step without encoding, and of the encoding.
    """

    flow: Flow
    pixels: Flow | None
    score: FrameScore | None
    fired: Mapping[str, int]
    neurons: Mapping[str, int]
    fwl: float | None
    seconds: float = 0.0
    encoding: float = 0.0


@dataclass(frozen=True)
class StepRecord:
    """One window, and what every network did with it. loading: seconds that reading it took."""

    window: Window
    networks: Mapping[str, NetworkStep] = field(default_factory=dict)
    loading: float = 0.0


@dataclass(frozen=True)
class Drive:
    """Which windows to run and which of them to score.

    mode, window: as in ``calib_data.windows``. warmup: windows at the start that are run but not
    scored, while states fill. limit: most windows to run. fwl_events: events that one value of the
    flow warp loss spans; None leaves it out. first: windows to leave out altogether. rows: score
    only this many rows from the top; None scores all. hot_pixels: leave out the events of pixels
    that fire in nearly every window (``calib_data.hot_pixels``). few_events: a window with at most
    this many events is run as an empty one, and so is not scored.

    Scored are the windows that end a ground-truth interval, after the warm-up, with a positive
    duration of both the interval and the events. Event masks are those of the scored window.
    """

    mode: str = "gtflow_dt1"
    window: float = 1.0
    warmup: int = 0
    limit: int | None = None
    fwl_events: int | None = None
    first: int = 0
    rows: int | None = None
    hot_pixels: bool = False
    few_events: int = 0

    def check(self) -> None:
        """Raise EvaluationError for a count out of its range."""
        if self.first < 0 or self.few_events < 0 or (self.rows is not None and self.rows < 1):
            raise EvaluationError("first and few_events must not be negative, rows at least 1")
        if self.warmup < 0:
            raise EvaluationError(f"warmup = {self.warmup}: expected 0 or more windows")
        if self.limit is not None and self.limit < 1:
            raise EvaluationError(f"limit = {self.limit}: expected at least one window")
        if self.fwl_events is not None and self.fwl_events < 1:
            raise EvaluationError(f"fwl_events = {self.fwl_events}: expected at least one event")

    def count(self, file: EventSource) -> int:
        """How many windows of the file will be run."""
        total = max(count_windows(file, self.mode, self.window) - self.first, 0)
        return total if self.limit is None else min(total, self.limit)


def check_resolution(runner: Runner, file: EventSource) -> None:
    """Raise EvaluationError unless the network takes images of the recording's size."""
    if runner.resolution is not None and tuple(runner.resolution) != tuple(file.resolution):
        raise EvaluationError(
            f"{file.path} has {file.resolution[0]} x {file.resolution[1]} pixels, the network "
            f"({runner.artifact.model}, {runner.artifact.kind}) takes {runner.resolution[0]} x "
            f"{runner.resolution[1]}; export it for that resolution or without one"
        )


def drive(file: EventSource, runners: Mapping[str, Runner], plan: Drive) -> Iterator[StepRecord]:
    """Run networks side by side over a recording; states start at reset and are carried on.

    Args:
        file: the recording.
        runners: networks by a name for the records.
        plan: windows and scoring.

    Yields:
        One record per window, in order.

    Raises:
        EvaluationError: the recording is too short or of another size than a network's.
        DataError: the recording is damaged or lacks what the mode needs.
    """
    plan.check()
    if plan.count(file) == 0:
        raise EvaluationError(
            f"{file.path}: shorter than one window of mode {plan.mode}, length {plan.window:g}; "
            "use a shorter window or a longer recording"
        )
    for runner in runners.values():
        check_resolution(runner, file)
        runner.reset()
    meters = {name: WarpMeter(plan.fwl_events) for name in runners if plan.fwl_events}
    for number, (window, loading) in enumerate(_loaded(file, plan)):
        scored = number >= plan.warmup
        mask = _mask(window, file.resolution, plan.rows) if scored else None
        steps = {}
        for name, runner in runners.items():
            meter = meters.get(name) if scored else None
            steps[name] = _run(runner, window, mask, file.resolution, meter)
        yield StepRecord(window, steps, loading)


def _loaded(file: EventSource, plan: Drive) -> Iterator[tuple[Window, float]]:
    """The windows as the networks get them, and the seconds that reading each took."""
    hot = HotPixelFilter(file.resolution) if plan.hot_pixels else None
    windows = iterate_windows(file, plan.mode, plan.window, first=plan.first, limit=plan.limit)
    start = time.perf_counter()
    for window in windows:
        if len(window.events) <= plan.few_events:
            window = replace(window, events=Events.empty(), dt_input=0.0)
        if hot is not None:
            window = _without_hot_pixels(window, hot, file.resolution)
        yield window, time.perf_counter() - start
        start = time.perf_counter()


def _without_hot_pixels(window: Window, hot: HotPixelFilter, resolution: tuple[int, int]) -> Window:
    """The window without the events of hot pixels; its duration stays that of all its events."""
    events = window.events
    keep = hot.update(event_mask(events, resolution))[events.ys, events.xs]
    if keep.all():
        return window
    kept = Events(events.xs[keep], events.ys[keep], events.ts[keep], events.ps[keep])
    return replace(window, events=kept)


def _mask(window: Window, resolution: tuple[int, int], rows: int | None) -> Mask | None:
    """Pixels to score in a window, None where it has no ground truth to be scored against."""
    timed = window.dt_gt > 0 and window.dt_input > 0
    if window.flow is None or not window.interval_end or not timed:
        return None
    mask = scoring_mask(window.flow, event_mask(window.events, resolution))
    if rows is not None:
        mask[rows:] = False
    return mask


def _run(
    runner: Runner,
    window: Window,
    mask: Mask | None,
    resolution: tuple[int, int],
    meter: WarpMeter | None,
) -> NetworkStep:
    artifact = runner.artifact
    before = time.perf_counter()
    if isinstance(runner, PooledRunner):
        inputs = runner.encode(window.events)
    else:
        inputs = encode(artifact, window.events, resolution)
    start = time.perf_counter()
    output = runner.step(inputs)
    seconds = time.perf_counter() - start
    flow: Flow = np.ascontiguousarray(output[0])
    pixels = score = None
    if mask is not None and window.flow is not None:
        pixels = flow_in_pixels(flow, artifact.flow_scaling, window.dt_gt, window.dt_input)
        score = score_frame(pixels, window.flow, mask)
    fwl = None
    if meter is not None:
        fwl = meter.add(window.events, flow * np.float32(artifact.flow_scaling))
    spikes = runner.spikes()
    return NetworkStep(
        flow=flow,
        pixels=pixels,
        score=score,
        fired={layer: int(np.count_nonzero(array)) for layer, array in spikes.items()},
        neurons={layer: array.size for layer, array in spikes.items()},
        fwl=fwl,
        seconds=seconds,
        encoding=start - before,
    )

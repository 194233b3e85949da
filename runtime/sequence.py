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
from runtime.runner import Array, Runner, encode
from runtime.spikes import spike_counts
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
    """One window, and what every network did with it.

    loading, scoring: seconds that reading it took, and counting spikes and scoring all networks.
    after_warmup: whether it may be scored. active: bool [H, W], pixels that may be scored because
    an event fell there; None where the window is not scored. mask: those of them with ground truth.
    """

    window: Window
    networks: Mapping[str, NetworkStep] = field(default_factory=dict)
    loading: float = 0.0
    after_warmup: bool = True
    active: Mask | None = None
    mask: Mask | None = None
    scoring: float = 0.0


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


def check_drive(file: EventSource, runners: Mapping[str, Runner], plan: Drive) -> None:
    """Raise EvaluationError unless the recording has a window and a size that networks take."""
    plan.check()
    if plan.count(file) == 0:
        raise EvaluationError(
            f"{file.path}: shorter than one window of mode {plan.mode}, length {plan.window:g}; "
            "use a shorter window or a longer recording"
        )
    for runner in runners.values():
        check_resolution(runner, file)


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
    check_drive(file, runners, plan)
    for runner in runners.values():
        runner.reset()
    scorer = Scorer(file.resolution, plan, runners)
    for window, loading in loaded_windows(file, plan):
        outputs = {n: run_window(r, window.events, file.resolution) for n, r in runners.items()}
        yield scorer.record(window, loading, outputs)


@dataclass(frozen=True)
class Output:
    """What a network returned for one window, before it is scored.

    flow: float32 [2, H, W]. fired, neurons: as in ``NetworkStep``. seconds, encoding, counting:
    wall time of the step, of encoding its input and of counting spikes.
    """

    flow: Flow
    fired: Mapping[str, int]
    neurons: Mapping[str, int]
    seconds: float
    encoding: float
    counting: float


def encode_window(runner: Runner, events: Events, resolution: tuple[int, int]) -> Array:
    """The input tensor of one window, [1, bins, h, w]."""
    if isinstance(runner, PooledRunner):
        return runner.encode(events)
    return encode(runner.artifact, events, resolution)


def run_window(runner: Runner, events: Events, resolution: tuple[int, int]) -> Output:
    """Step a network of batch 1 on the events of one window."""
    before = time.perf_counter()
    inputs = encode_window(runner, events, resolution)
    start = time.perf_counter()
    flow = runner.step(inputs)
    end = time.perf_counter()
    counts = spike_counts(runner)
    return Output(
        flow=np.ascontiguousarray(flow[0]),
        fired={layer: int(count.fired[0]) for layer, count in counts.items()},
        neurons={layer: count.neurons for layer, count in counts.items()},
        seconds=end - start,
        encoding=start - before,
        counting=time.perf_counter() - end,
    )


class Scorer:
    """Scores what networks return for the windows of one recording, in order."""

    def __init__(
        self, resolution: tuple[int, int], plan: Drive, runners: Mapping[str, Runner]
    ) -> None:
        self._resolution = resolution
        self._plan = plan
        self._scalings = {name: runner.artifact.flow_scaling for name, runner in runners.items()}
        events = plan.fwl_events
        self._meters = {name: WarpMeter(events) for name in runners} if events else {}
        self._number = 0

    def record(self, window: Window, loading: float, outputs: Mapping[str, Output]) -> StepRecord:
        """The record of the next window."""
        start = time.perf_counter()
        scored = self._number >= self._plan.warmup
        self._number += 1
        active = mask = None
        if scored and _has_truth(window):
            active = event_mask(window.events, self._resolution)
            if self._plan.rows is not None:
                active[self._plan.rows :] = False
            if window.flow is not None:
                mask = scoring_mask(window.flow, active)
        steps = {n: self._step(n, window, mask, output, scored) for n, output in outputs.items()}
        counting = sum(output.counting for output in outputs.values())
        seconds = time.perf_counter() - start + counting
        return StepRecord(window, steps, loading, scored, active, mask, seconds)

    def _step(
        self, name: str, window: Window, mask: Mask | None, output: Output, scored: bool
    ) -> NetworkStep:
        scaling = self._scalings[name]
        pixels = score = None
        if mask is not None and window.flow is not None:
            pixels = flow_in_pixels(output.flow, scaling, window.dt_gt, window.dt_input)
            score = score_frame(pixels, window.flow, mask)
        fwl = None
        if scored and name in self._meters:
            fwl = self._meters[name].add(window.events, output.flow * np.float32(scaling))
        return NetworkStep(
            flow=output.flow,
            pixels=pixels,
            score=score,
            fired=output.fired,
            neurons=output.neurons,
            fwl=fwl,
            seconds=output.seconds,
            encoding=output.encoding,
        )


def _has_truth(window: Window) -> bool:
    """Whether a window has ground truth that it can be scored against."""
    timed = window.dt_gt > 0 and window.dt_input > 0
    return window.flow is not None and window.interval_end and timed


def loaded_windows(file: EventSource, plan: Drive) -> Iterator[tuple[Window, float]]:
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

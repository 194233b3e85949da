"""Errors of a network on held-out sequences, beside trivial predictors.

Where a sequence has ground truth: endpoint errors by the definitions of ``runtime.metrics``, means
over frames. Where it has none: contrast loss and flow warp loss (FWL) of whole chunks of windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calib_data.events import Events
from models import LIFState
from quant import QuantFireNet
from runtime.metrics import (
    SequenceScore,
    end_point_error,
    flow_warp_loss,
    score_frame,
    scoring_mask,
)
from training.chunk import EventBatch
from training.config import ConfigError, TrainingConfig
from training.data import Sequence, WindowEvents
from training.images import flow_panel
from training.network import Network, standardise
from training.numerics import Precision, forward_numerics
from training.objective import contrast

# Pixels side by side: what eight sequences of 128 x 128 have.
BATCH_PIXELS = 8 * 128 * 128
CPU = torch.device("cpu")
WARMUP_WINDOWS = 3
Plane = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FlowErrors:
    """Mean endpoint errors in pixels per window on scored pixels, and the spike rate.

    Scored is a pixel with events and ground truth; a window without any does not count. ``zero``
    predicts no motion. ``sequence_mean`` and ``mean`` predict the mean ground-truth flow of the
    whole sequence and of each window, which no real predictor knows. ``outliers`` is the share of
    pixels that are off by more than 3 pixels and 5 %; ``ratio`` is aee over zero.
    """

    aee: float
    zero: float
    sequence_mean: float
    mean: float
    spike_rate: float
    outliers: float = float("nan")
    ratio: float = float("nan")

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for JSON."""
        return asdict(self)


class FlowScorer:
    """Scores a network's flow on one sequence, window by window; the first three do not count.

    Args:
        sequence: with ground truth, which windows are scored against.
    """

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._score = SequenceScore()
        self._constant = _sequence_mean(sequence)
        self._constant_errors: list[float] = []
        self._rates: list[float] = []

    def add(self, index: int, flow: Plane, spike_rate: float) -> None:
        """Take in the flow float32 [2, H, W], pixels per window, predicted for a window."""
        if index < WARMUP_WINDOWS:
            return
        target = self._sequence.flow[index]
        mask = scoring_mask(target, self._sequence.counts[index].any(0))
        self._score.add(score_frame(flow, target, mask))
        self._rates.append(spike_rate)
        if mask.any():
            constant = np.broadcast_to(self._constant, target.shape)
            self._constant_errors.append(float(end_point_error(constant, target)[mask].mean()))

    def errors(self) -> FlowErrors:
        """Means over the scored windows.

        Raises:
            ConfigError: none was scored.
        """
        if not self._score.frames:
            raise ConfigError(
                f"a validation sequence has {len(self._sequence)} windows, of which the first "
                f"{WARMUP_WINDOWS} are not scored, and no pixel with events and ground truth in "
                "the others; raise data.duration"
            )
        means = self._score.by_frames()
        return FlowErrors(
            aee=means["aee"],
            zero=means["zero_aee"],
            sequence_mean=float(np.mean(self._constant_errors)),
            mean=means["mean_aee"],
            spike_rate=float(np.mean(self._rates)),
            outliers=means["outliers"],
            ratio=means["aee"] / means["zero_aee"],
        )


def _sequence_mean(sequence: Sequence) -> Plane:
    """Mean ground-truth flow on pixels with events, float32 [2, 1, 1]."""
    active = sequence.counts.any(1, keepdims=True) & np.isfinite(sequence.flow)
    total = np.where(active, sequence.flow, 0).sum((0, 2, 3), dtype=np.float64)
    mean = total / np.maximum(active.sum((0, 2, 3)), 1)
    return mean.astype(np.float32).reshape(2, 1, 1)


Step = Callable[[Tensor], tuple[Tensor, float]]
"""uint8 counts [1, 2, H, W] to flow in pixels per window [1, 2, H, W] and the spike rate."""


@torch.no_grad()
def evaluate_steps(step: Step, sequence: Sequence) -> FlowErrors:
    """Errors of anything that turns counts into flow; the first three windows are not scored.

    Raises:
        ConfigError: the sequence has no more windows than that.
    """
    scorer = FlowScorer(sequence)
    for index in range(len(sequence)):
        flow, spike_rate = step(torch.from_numpy(sequence.counts[index : index + 1]))
        scorer.add(index, flow[0].float().numpy(), spike_rate)
    return scorer.errors()


def evaluate(model: Network, sequence: Sequence) -> FlowErrors:
    """Errors of a network on one sequence with ground truth, from the zero state."""
    scorer = FlowScorer(sequence)
    for index, flow, rate in predictions(model, [sequence], Numerics()):
        scorer.add(index, flow[0], rate[0])
    return scorer.errors()


@dataclass(frozen=True)
class Numerics:
    """How a network computes: its device, and precision and input as configured for training."""

    device: torch.device = CPU
    precision: Precision = "float32"
    norm_input: bool = False


@torch.no_grad()
def predictions(
    model: Network, sequences: list[Sequence], numerics: Numerics, limit: int | None = None
) -> Iterator[tuple[int, Plane, list[float]]]:
    """Run sequences of equal length and size side by side, from the zero state.

    Args:
        model: left as it is; put it into eval mode before.
        sequences: B of them.
        numerics: how to compute.
        limit: most windows; None for all.

    Yields:
        number of the window, flow float32 [B, 2, H, W] in pixels per window, and per sequence the
        mean share of neurons that fired.
    """
    states: Any = None
    exact = isinstance(model, QuantFireNet)
    for index in range(len(sequences[0]) if limit is None else min(limit, len(sequences[0]))):
        inputs = np.stack([sequence.inputs[index] for sequence in sequences])
        given = torch.from_numpy(inputs).to(numerics.device).float()
        given = standardise(given) if numerics.norm_input else given
        with forward_numerics(numerics.device, numerics.precision, exact):
            flow, states = model.step(given, states)
        scaled = flow.float() * model.config.flow_scaling
        yield index, scaled.cpu().numpy(), _spike_rates(states, len(sequences))


def _spike_rates(states: Mapping[str, Any], batch: int) -> list[float]:
    """Mean share of neurons that fired, per sequence; NaN for a network without spikes."""
    rates = [s.spike.flatten(1).mean(1) for s in states.values() if isinstance(s, LIFState)]
    return torch.stack(rates).mean(0).tolist() if rates else [float("nan")] * batch


def validate(
    model: Network, sequences: list[Sequence], config: TrainingConfig, device: torch.device
) -> dict[str, float]:
    """Mean errors over held-out sequences; the network is in training mode afterwards.

    Args:
        model: the network.
        sequences: whole recordings; those with ground truth are scored against it, and only if
            there is none, the others by contrast.
        config: of the run.
        device: where the network is.

    Returns:
        the fields of :class:`FlowErrors`, or ``contrast``, ``fwl`` and ``spike_rate``; and
        ``error``, which is to be lowered (aee or contrast).
    """
    numerics = Numerics(device, config.precision, config.model.norm_input)
    limit = config.data.validation_windows
    scored = [sequence for sequence in sequences if np.isfinite(sequence.flow).any()]
    model.eval()
    try:
        if scored:
            rows = [
                errors.as_dict()
                for batch in _batches(scored)
                for errors in _flow_errors(model, batch, numerics, limit)
            ]
            means = _means(rows)
            return {**means, "ratio": means["aee"] / means["zero"], "error": means["aee"]}
        rows = [
            row for sequence in sequences for row in _contrasts(model, sequence, config, numerics)
        ]
        if not rows:
            raise ConfigError(
                f"no held-out sequence has {config.loss.window_loss} windows in a row with events; "
                "hold out more, or lower loss.window_loss"
            )
        means = _means(rows)
        return {**means, "error": means["contrast"]}
    finally:
        model.train()


def _batches(sequences: list[Sequence]) -> Iterator[list[Sequence]]:
    """Sequences of equal length and size, as many at a time as memory is meant to hold."""

    def shape(sequence: Sequence) -> tuple[int, ...]:
        return sequence.counts.shape

    for _, alike in itertools.groupby(sorted(sequences, key=shape), shape):
        group = list(alike)
        height, width = group[0].counts.shape[2:]
        size = max(1, BATCH_PIXELS // (height * width))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _flow_errors(
    model: Network, batch: list[Sequence], numerics: Numerics, limit: int | None
) -> list[FlowErrors]:
    scorers = [FlowScorer(sequence) for sequence in batch]
    for index, flow, rates in predictions(model, batch, numerics, limit):
        for scorer, predicted, rate in zip(scorers, flow, rates, strict=True):
            scorer.add(index, predicted, rate)
    return [scorer.errors() for scorer in scorers]


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every figure over the rows that have it; without any it is left out."""
    columns = {key: [row[key] for row in rows if not np.isnan(row[key])] for key in rows[0]}
    return {key: float(np.mean(column)) for key, column in columns.items() if column}


def _contrasts(
    model: Network, sequence: Sequence, config: TrainingConfig, numerics: Numerics
) -> Iterator[dict[str, float]]:
    """Contrast loss and flow warp loss of every whole chunk of windows that has events."""
    length = config.loss.window_loss
    flows: list[Tensor] = []
    for index, flow, rates in predictions(model, [sequence], numerics):
        flows.append(torch.from_numpy(flow))
        if len(flows) < length:
            continue
        part = sequence.cut(index + 1 - length, index + 1)
        mask = torch.from_numpy(part.counts.any(1, keepdims=True))[:, None]
        if bool(mask.any()):
            loss = contrast(config.loss, torch.stack(flows), event_batch(part), mask)
            windows = [(_events(part, k), flow[0].numpy()) for k, flow in enumerate(flows)]
            fwl = flow_warp_loss(windows)
            yield {"contrast": float(loss), "fwl": fwl, "spike_rate": rates[0]}
        flows = []


def _events(sequence: Sequence, index: int) -> Events:
    window = _kept_events(sequence).cut(index, index + 1)
    return Events(window.xs, window.ys, window.ts.astype(np.float64), window.ps)


def _kept_events(sequence: Sequence) -> WindowEvents:
    if sequence.events is None:
        raise ConfigError(f"sequence {sequence.name}: was loaded without its events")
    return sequence.events


def validation_picture(
    model: Network, sequence: Sequence, config: TrainingConfig, device: torch.device
) -> npt.NDArray[np.uint8]:
    """The last window of a sequence as :func:`training.images.flow_panel` shows it.

    The network is in training mode afterwards.
    """
    model.eval()
    numerics = Numerics(device, config.precision, config.model.norm_input)
    *_, (index, flow, _) = predictions(model, [sequence], numerics)
    model.train()
    window = sequence.cut(index, index + 1)
    truth = window.flow[0] if np.isfinite(window.flow).any() else None
    events = event_batch(window) if window.has_events else None
    return flow_panel(window.inputs[0], flow[0], truth, events)


def event_batch(sequence: Sequence) -> EventBatch:
    """The events of a sequence's K windows as one slot: float32 [K, 1, N] each.

    Raises:
        ConfigError: it was loaded without them.
    """
    events = _kept_events(sequence)
    counts = np.diff(events.offsets)
    batch = np.zeros((4, len(counts), 1, max(1, int(counts.max()))), np.float32)
    step = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(step)) - events.offsets[step]
    batch[:, step, 0, place] = np.stack([events.ts, events.ys, events.xs, events.ps])
    return EventBatch(*torch.from_numpy(batch))

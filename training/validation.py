"""Flow error of a float network on held-out sequences, beside two trivial predictors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from models import LIFState, SpikingFireNet
from quant import QuantFireNet
from training.config import ConfigError
from training.data import Sequence

WARMUP_WINDOWS = 3


@dataclass(frozen=True)
class FlowErrors:
    """Mean endpoint errors in pixels per window on pixels with events, and the spike rate.

    ``zero`` predicts no motion. ``sequence_mean`` and ``mean`` predict the mean ground-truth flow
    of the whole sequence and of each window, which no real predictor knows.
    """

    aee: float
    zero: float
    sequence_mean: float
    mean: float
    spike_rate: float

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for JSON."""
        return asdict(self)


Step = Callable[[Tensor], tuple[Tensor, float]]
"""uint8 counts [1, 2, H, W] to flow in pixels per window [1, 2, H, W] and the spike rate."""


def evaluate(model: SpikingFireNet | QuantFireNet, sequence: Sequence) -> FlowErrors:
    """Errors of a network on one sequence, from the zero state."""
    states: dict[str, LIFState] = {}

    def step(counts: Tensor) -> tuple[Tensor, float]:
        nonlocal states
        flow, states = model.step(counts.float(), states)
        rates = torch.stack([state.spike.mean() for state in states.values()])
        return flow * model.config.flow_scaling, float(rates.mean())

    return evaluate_steps(step, sequence)


@torch.no_grad()
def evaluate_steps(step: Step, sequence: Sequence) -> FlowErrors:
    """Errors of anything that turns counts into flow; the first three windows are not scored.

    Raises:
        ConfigError: the sequence has no more windows than that.
    """
    if len(sequence) <= WARMUP_WINDOWS:
        raise ConfigError(
            f"a validation scene has {len(sequence)} windows, of which the first {WARMUP_WINDOWS} "
            "are not scored; raise data.duration"
        )
    constant, rows = _sequence_mean(sequence), []
    for index in range(len(sequence)):
        counts = torch.from_numpy(sequence.counts[index : index + 1])
        flow, spike_rate = step(counts)
        if index >= WARMUP_WINDOWS:
            target = torch.from_numpy(sequence.flow[index : index + 1])
            rows.append([*_errors(flow, target, constant, counts), spike_rate])
    return FlowErrors(*(float(column.mean()) for column in torch.tensor(rows).T))


def _sequence_mean(sequence: Sequence) -> Tensor:
    """Mean ground-truth flow on pixels with events, [1, 2, 1, 1]."""
    active = (sequence.counts.sum(1, keepdims=True) > 0).astype(np.float32)
    mean = (sequence.flow * active).sum((0, 2, 3)) / max(float(active.sum()), 1.0)
    return torch.from_numpy(mean).view(1, 2, 1, 1)


def _errors(flow: Tensor, target: Tensor, constant: Tensor, counts: Tensor) -> list[float]:
    active = counts.sum(1, keepdim=True) > 0
    pixels = active.sum().clamp_min(1)
    mean = (target * active).sum((2, 3), keepdim=True) / pixels

    def error(prediction: Tensor) -> float:
        norm = torch.linalg.vector_norm(prediction - target, dim=1, keepdim=True)
        return float((norm * active).sum() / pixels)

    predictions = (flow, torch.zeros_like(target), constant, mean)
    return [error(prediction.expand_as(target)) for prediction in predictions]

"""Flow error of a float network on held-out sequences, beside two trivial predictors."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from models import SpikingFireNet
from training.data import Sequence

WARMUP_WINDOWS = 3


@dataclass(frozen=True)
class FlowErrors:
    """Mean endpoint errors in pixels per window on pixels with events, and the spike rate.

    ``zero`` predicts no motion; ``mean`` predicts each window's mean ground-truth flow, which no
    real predictor knows.
    """

    aee: float
    zero: float
    mean: float
    spike_rate: float

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for JSON."""
        return asdict(self)


@torch.no_grad()
def evaluate(model: SpikingFireNet, sequence: Sequence) -> FlowErrors:
    """Drive one sequence from the zero state; the first three windows are not scored."""
    states, rows = None, []
    for index in range(len(sequence)):
        counts = torch.from_numpy(sequence.counts[index : index + 1]).float()
        flow, states = model.step(counts, states)
        if index >= WARMUP_WINDOWS:
            target = torch.from_numpy(sequence.flow[index : index + 1])
            rates = torch.stack([state.spike.mean() for state in states.values()])
            rows.append([*_errors(model, flow, target, counts), float(rates.mean())])
    return FlowErrors(*(float(column.mean()) for column in torch.tensor(rows).T))


def _errors(model: SpikingFireNet, flow: Tensor, target: Tensor, counts: Tensor) -> list[float]:
    active = counts.sum(1, keepdim=True) > 0
    pixels = active.sum().clamp_min(1)
    mean = (target * active).sum((2, 3), keepdim=True) / pixels

    def error(prediction: Tensor) -> float:
        norm = torch.linalg.vector_norm(prediction - target, dim=1, keepdim=True)
        return float((norm * active).sum() / pixels)

    return [
        error(flow * model.config.flow_scaling),
        error(torch.zeros_like(target)),
        error(mean.expand_as(target)),
    ]

"""Batch norms of currents and membranes, and what they are worth once trained.

In evaluation a batch norm is ``gain * I + shift``, which folds into weights and bias.

* **time**: a factor per time step and channel behind the batch norm. Duan et al., "Temporal
  effective batch normalization in spiking neural networks", NeurIPS 2022. Evaluation uses the mean
  of the factors, because a deployed network has no time step.
* **membrane**: besides the currents, the membrane that the next step starts from is normalised.
  Guo et al., "Membrane potential batch normalization for spiking neural networks", ICCV 2023, put
  the norm in front of the spike; here it follows the reset, ``u = beta (gain m + shift) + I``,
  which is a neuron of decay ``beta * gain`` whose bias is larger by ``beta * shift``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORMS = ("none", "batch", "time", "membrane")


def affine(
    weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Gain and shift [C] of a batch norm in evaluation, of its parameters and statistics [C]."""
    gain = weight / torch.sqrt(variance + eps)
    return gain, bias - gain * mean


def is_decay(values: Tensor) -> bool:
    """Whether every value is a decay of the canonical neuron: 0 to 1."""
    return bool(((values >= 0) & (values <= 1)).all())


def batch_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Gain and shift of a batch norm in evaluation, float64 [C].

    Raises:
        ValueError: it has no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    weight, bias = norm.weight.detach().double(), norm.bias.detach().double()
    return affine(weight, bias, norm.running_mean.double(), norm.running_var.double(), norm.eps)


class TimeNorm(nn.Module):
    """Batch norm, then a learnable factor per time step and channel, 1 at first.

    Args:
        channels: of the current.
        time_steps: number T of factors; step t uses factor t mod T.

    Raises:
        ValueError: no time step.
    """

    def __init__(self, channels: int, time_steps: int) -> None:
        super().__init__()
        if time_steps < 1:
            raise ValueError(f"time_steps must be positive, got {time_steps}")
        self.batch = nn.BatchNorm2d(channels)
        self.scale = nn.Parameter(torch.ones(time_steps, channels))

    def forward(self, current: Tensor, time_step: int | None = None) -> Tensor:
        """Normalised current [N, C, H, W].

        Args:
            current: [N, C, H, W].
            time_step: counts from 0; in evaluation, and without one, the mean factor is used.
        """
        if self.training and time_step is not None:
            scale = self.scale[time_step % len(self.scale)]
        else:
            scale = self.scale.mean(0)
        normalised: Tensor = self.batch(current)
        return normalised * scale.view(1, -1, 1, 1)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Gain and shift in evaluation, float64 [C]."""
        gain, shift = batch_affine(self.batch)
        mean = self.scale.detach().double().mean(0)
        return gain * mean, shift * mean


def current_norm(kind: str, channels: int, time_steps: int) -> nn.BatchNorm2d | TimeNorm | None:
    """The norm of the currents that this kind has.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {kind!r}")
    if kind == "none":
        return None
    return TimeNorm(channels, time_steps) if kind == "time" else nn.BatchNorm2d(channels)

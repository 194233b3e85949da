"""Integer arithmetic in float32 tensors, with gradients that pass straight through the rounding.

Forward, every function gives integers exactly (as float32, within 2^24); backward, rounding counts
as the identity and a clamp passes what lies inside it. Nothing here depends on the module's mode,
so a network that trains computes the very values it will compute when it is deployed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.surrogates import spike as surrogate_spike
from quant.spec import CURRENT_ZERO_POINT, DECAY_UNIT, membrane_limits


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, soft: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def replace(soft: Tensor, value: Tensor) -> Tensor:
    """``value``, with the gradient of ``soft``; both of one shape and dtype."""
    replaced: Tensor = _Replace.apply(soft, value)  # type: ignore[no-untyped-call]
    return replaced


def round_half_even(x: Tensor) -> Tensor:
    """Nearest integer; straight-through gradient."""
    return replace(x, torch.round(x.detach()))


class Grid(NamedTuple):
    """The neurons of one layer on their integer grid.

    decay, threshold: float32 [C], integers. gain: float32 scalar, 2^f. frac_bits: f. unit: float32
    [C], the real value of one unit of membrane and threshold.
    """

    decay: Tensor
    threshold: Tensor
    gain: Tensor
    frac_bits: int
    unit: Tensor


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def requantize(acc: Tensor, multiplier: Tensor) -> Tensor:
    """:func:`quant.emulation.requantize` less its zero point: integers -128..127 as float32.

    Args:
        acc: float32 [N, C, H, W], integers.
        multiplier: float32 [C].
    """
    shifted = round_half_even(acc * _per_channel(multiplier)) + CURRENT_ZERO_POINT
    return shifted.clamp(0, 255) - CURRENT_ZERO_POINT


def integer_lif(
    current: Tensor, mem: Tensor, grid: Grid, mem_bits: int, reset: str
) -> tuple[Tensor, Tensor]:
    """The integer neuron, one time step, equal to :func:`quant.emulation.integer_lif`.

    Args:
        current: float32 [N, C, H, W], integers: the accumulator or the requantized current.
        mem: float32 [N, C, H, W], integers: membrane after the previous step's reset.
        grid: decay, threshold and unit of the layer.
        mem_bits: 8 or 16.
        reset: "zero", "subtract" or "none".

    Returns:
        spike and mem_out, float32 [N, C, H, W]. The surrogate gradient of the spike is taken on
        ``u - threshold`` in real units, as in the float network.
    """
    lo, hi = membrane_limits(mem_bits)
    scaled = current * grid.gain
    if grid.frac_bits >= 0:
        step = 1 << grid.frac_bits
        incoming = scaled.clamp(lo, hi + 1 - step)
    else:
        incoming = replace(scaled, torch.floor(scaled.detach() + 0.5)).clamp(lo, hi)
    product = mem * _per_channel(grid.decay) / DECAY_UNIT
    u = (replace(product, torch.trunc(product.detach())) + incoming).clamp(lo, hi)
    threshold = _per_channel(grid.threshold)
    spike = surrogate_spike((u - threshold) * _per_channel(grid.unit))
    fired = spike.detach()
    if reset == "zero":
        return spike, u * (1 - fired)
    if reset == "subtract":
        return spike, (u - fired * threshold).clamp(lo, hi)
    return spike, u

"""Searching weight scales: which share of the largest weight should be the last step of the grid.

The scale that reaches the largest weight of a channel is rarely the best one: a smaller scale
clips a few weights and rounds all others more finely. What counts is the error of the convolution's
output, ``E = dw^T M dw`` for the weights' errors dw of one channel and the second moments
``M[i, j] = mean(x_i x_j)`` of its inputs, recorded on calibration windows. Without a recording M is
the identity and E the squared error of the weights. The scale of the largest weight is among the
candidates, so by this measure the search never loses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import SpikingFireNet
from quant.calibration import float_steps
from quant.errors import QuantError
from quant.options import HEAD
from quant.quantizers import concatenated, largest_scale, round_weight
from quant.spec import Float64, weight_limit

Moments = Mapping[str, Float64]
"""By layer and for the flow head: M, float64 [K, K] for K = input channels (feed-forward, then
recurrent) * k * k inputs of one output value."""

FACTORS = np.linspace(0.3, 1.0, 71)
"""Candidates, as shares of the scale that reaches the largest weight; 1 is among them."""

_POSITIONS = 2000
"""Pixels per window and layer that are recorded: those with any input first."""


@dataclass(frozen=True)
class ScaleSearch:
    """Result for one convolution.

    scale: float64 [Cout], float32 values, each a float32 quotient v / (largest integer), as
    Brevitas computes scales. error, error_before: E per channel, float64 [Cout], with this scale
    and with the one that reaches the largest weight.
    """

    scale: Float64
    error: Float64
    error_before: Float64

    @property
    def gain(self) -> float:
        """Share of the summed error that the search removed, 0 to 1."""
        before = float(self.error_before.sum())
        return 0.0 if before == 0 else 1.0 - float(self.error.sum()) / before


def search_scale(
    weight: Tensor, weight_rec: Tensor | None, bits: int, moment: Float64 | None = None
) -> ScaleSearch:
    """Choose each output channel's scale among shares of the largest one.

    Args:
        weight: float32 [Cout, Cin, k, k].
        weight_rec: float32 [Cout, Cout, k, k] or None.
        bits: 2 to 8.
        moment: M, float64 [K, K]; None for the identity.

    Raises:
        QuantError: moments of another size, or impossible bits.
    """
    both = concatenated(weight, weight_rec)
    limit = weight_limit(bits)
    largest = largest_scale(both, bits)
    flat = both.flatten(1).double()
    if moment is not None and moment.shape != (flat.shape[1], flat.shape[1]):
        raise QuantError(
            f"moments of {moment.shape[0]} inputs for a convolution of {flat.shape[1]}"
        )
    best_error = np.full(len(largest), np.inf)
    best_scale = largest
    for factor in FACTORS[::-1]:
        reached = (largest * limit * factor).astype(np.float32)
        scale = largest if factor == 1 else (reached / np.float32(limit)).astype(np.float64)
        integers = round_weight(both, scale, bits).flatten(1).double()
        error = _errors(flat - integers * torch.from_numpy(scale)[:, None], moment)
        if factor == 1:
            error_before = error
        better = error < best_error
        best_scale = np.where(better, scale, best_scale)
        best_error = np.where(better, error, best_error)
    return ScaleSearch(best_scale, best_error, error_before)


def _errors(difference: Tensor, moment: Float64 | None) -> Float64:
    seen = difference if moment is None else difference @ torch.from_numpy(moment)
    return (seen * difference).sum(1).clamp_min(0).numpy()


def measure_moments(model: SpikingFireNet, *sequences: Iterable[Tensor]) -> dict[str, Float64]:
    """Second moments of every convolution's inputs while the float network runs.

    Args:
        model: float network in canonical form.
        sequences: consecutive windows, float32 [N, num_bins, H, W] each; state carried along each.

    Returns:
        M by layer name and for the head ("pred").

    Raises:
        QuantError: no windows.
    """
    generator = torch.Generator().manual_seed(0)
    kernels = {name: (layer.kernel_size, layer.stride) for name, layer in model.named_layers()}
    recurrent = {name for name, layer in model.named_layers() if layer.recurrent}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for windows in sequences:
        for rows, _ in float_steps(model, windows):
            inputs = {
                row.name: torch.cat([row.x, row.spike_prev], 1) if row.name in recurrent else row.x
                for row in rows
            }
            inputs[HEAD] = rows[-1].state.spike
            for name, x in inputs.items():
                kernel, stride = kernels.get(name, (1, 1))
                patches = _patches(x, kernel, stride, generator)
                moment = (patches.T @ patches).double()
                sums[name] = sums[name] + moment if name in sums else moment
                counts[name] = counts.get(name, 0) + len(patches)
    if not sums:
        raise QuantError("moments need at least one window of events")
    return {name: (total / max(counts[name], 1)).numpy() for name, total in sums.items()}


def _patches(x: Tensor, kernel: int, stride: int, generator: torch.Generator) -> Tensor:
    """Inputs of some output pixels that receive any, [P, K] with P at most ``_POSITIONS``."""
    any_input = functional.max_pool2d(
        (x != 0).any(1, keepdim=True).float(), kernel, stride, kernel // 2
    )
    batch, rows, columns = any_input[:, 0].nonzero(as_tuple=True)
    chosen = torch.randperm(len(batch), generator=generator)[:_POSITIONS]
    padded = functional.pad(x, [kernel // 2] * 4)
    top, left = rows[chosen, None] * stride, columns[chosen, None] * stride
    steps = torch.arange(kernel)
    taps = padded[
        batch[chosen, None, None], :, top[..., None] + steps[:, None], left[..., None] + steps
    ]
    return taps.permute(0, 3, 1, 2).flatten(1)

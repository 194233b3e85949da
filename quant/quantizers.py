"""Weight quantization with Brevitas: per output channel, symmetric, feed-forward and recurrent
weights of a layer on one scale.

One scale per layer and channel is what lets the two convolutions of a recurrent layer add in one
integer accumulator, so the quantizer sees their concatenation.
"""

from __future__ import annotations

import numpy as np
import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.nn import QuantConv2d
from brevitas.quant import Int8WeightPerChannelFloat
from torch import Tensor

from quant.spec import Float64, Int8, weight_limit

WEIGHT_SCALES = ("max", "learned")
SMALLEST_SCALE = 1e-8


def weight_quantizer(bits: int, weight_scale: str = "max") -> type[Int8WeightPerChannelFloat]:
    """A Brevitas weight quantizer of the given bits: symmetric, narrow range, per output channel.

    Args:
        bits: 2 to 8; 7 gives -63..63.
        weight_scale: "max", the channel's largest weight decides its scale, or "learned", the
            scale is a parameter.

    Raises:
        QuantError: other bits.
    """
    weight_limit(bits)
    fields: dict[str, object] = {"bit_width": bits, "narrow_range": True}
    if weight_scale == "max":
        fields |= {"scaling_impl_type": ScalingImplType.STATS}
    else:
        fields |= {"scaling_impl_type": ScalingImplType.PARAMETER, "scaling_init": 1.0}
        fields |= {"scaling_min_val": SMALLEST_SCALE}
    return type(f"Int{bits}WeightPerChannel", (Int8WeightPerChannelFloat,), fields)


def concatenated(weight: Tensor, weight_rec: Tensor | None) -> Tensor:
    """Both convolutions of a layer as one: float32 [Cout, Cin (+ Cout), k, k], detached."""
    both = weight if weight_rec is None else torch.cat([weight, weight_rec], dim=1)
    return both.detach().float()


def largest_scale(both: Tensor, bits: int) -> Float64:
    """Scale per output channel that reaches the largest weight, float64 [Cout] of float32 values.

    A channel of zero weights has scale 1.
    """
    convolution = QuantConv2d(
        both.shape[1],
        both.shape[0],
        both.shape[2],
        bias=False,
        weight_quant=weight_quantizer(bits),
    ).eval()
    with torch.no_grad():
        convolution.weight.copy_(both)
        scale = convolution.quant_weight().scale.detach().cpu().numpy()
    zero = both.abs().amax(dim=(1, 2, 3)).numpy() == 0
    return np.where(zero, 1.0, scale.astype(np.float64).reshape(-1))


def tensor_scale(both: Tensor, bits: int) -> Float64:
    """The same scale for every output channel, reaching the largest weight of all of them."""
    scale = largest_scale(both, bits)
    live = both.abs().amax(dim=(1, 2, 3)).numpy() > 0
    return np.full_like(scale, scale[live].max() if live.any() else 1.0)


def round_weight(both: Tensor, scale: Float64, bits: int) -> Tensor:
    """Nearest integers of weights at a scale, within the bits; float32 of ``both``'s shape.

    The arithmetic is that of Brevitas: float32 division, half to even.
    """
    limit = weight_limit(bits)
    unit = torch.from_numpy(scale).float().view(-1, 1, 1, 1)
    return torch.round(both / unit).clamp(-limit, limit)


def quantize_weight(
    weight: Tensor, weight_rec: Tensor | None, bits: int, scale: Float64 | None = None
) -> tuple[Int8, Int8 | None, Float64]:
    """Quantize the convolution weights of one layer on a shared scale per output channel.

    Args:
        weight: float32 [Cout, Cin, k, k].
        weight_rec: float32 [Cout, Cout, k, k] or None.
        bits: 2 to 8.
        scale: float64 [Cout] of float32 values; None for the one that reaches the largest weight.

    Returns:
        weight int8, weight_rec int8 or None, and the scale float64 [Cout]; a channel of zero
        weights has scale 1.
    """
    both = concatenated(weight, weight_rec)
    if scale is None:
        scale = largest_scale(both, bits)
    integers = round_weight(both, scale, bits).numpy().astype(np.int8)
    split = weight.shape[1]
    return integers[:, :split], None if weight_rec is None else integers[:, split:], scale

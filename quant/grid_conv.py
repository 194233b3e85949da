"""A Brevitas convolution and its integers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.nn import QuantConv2d
from brevitas.quant import Int32Bias, Uint8ActPerTensorFloat
from torch import Tensor
from torch.nn import functional

from quant.quantizers import weight_quantizer
from quant.spec import ConvSpec, Float32, Float64, Int8, Int32, derive_bias, weight_limit
from quant.straight_through import replace, round_half_even

_LARGEST_INPUT = 255.0


def double(tensor: Tensor) -> Float64:
    """float64 NumPy copy without gradient."""
    return tensor.detach().cpu().numpy().astype(np.float64)


def like(values: Int32, tensor: Tensor) -> Tensor:
    """Integers as a tensor of another's dtype."""
    return torch.from_numpy(values).to(tensor)


class Weights(NamedTuple):
    """A convolution on its grid, float32 with gradients: weight [Cout, Cin, k, k] and bias [Cout]
    as integers, scale [Cout]."""

    weight: Tensor
    bias: Tensor
    scale: Tensor


class GridConv(QuantConv2d):  # type: ignore[misc]
    """A Brevitas convolution that also tells its integers.

    Called as usual it computes in real units; :meth:`grid` has the integers of the same
    convolution.

    Args:
        in_channels, out_channels, kernel_size, stride: as of ``Conv2d``; zero padding of half the
            kernel.
        bits: of the weights, 2 to 8.
        weight_scale: "max" or "learned".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bits: int,
        stride: int = 1,
        weight_scale: str = "max",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=True,
            input_quant=_unit_scale_input(),
            weight_quant=weight_quantizer(bits, weight_scale),
            bias_quant=Int32Bias,
        )
        self.bits, self.weight_scale = bits, weight_scale

    def grid(self) -> Weights:
        """The integers of the convolution; weights outside the range of the scale are clipped."""
        quantized = self.quant_weight()
        zero = quantized.value.detach().abs().amax(dim=(1, 2, 3), keepdim=True) == 0
        # A channel of zeros has no scale of its own; 1 is what a NetworkSpec holds for it.
        scale = torch.where(zero, torch.ones_like(quantized.scale), quantized.scale)
        weight = round_half_even(quantized.value / scale)
        scale = scale.flatten()
        soft = self.bias / scale
        bias = replace(soft, like(derive_bias(double(self.bias), double(scale)), soft))
        return Weights(weight, bias, scale)

    def accumulate(self, x: Tensor, weights: Weights) -> Tensor:
        """Accumulator of integer-valued x, float32 [N, Cout, H', W'], exact integers."""
        acc = functional.conv2d(x, weights.weight, None, self.stride, self.padding)
        return acc + weights.bias.view(1, -1, 1, 1)

    def start_at(self, weight: Tensor, bias: Tensor, scale: Float64) -> None:
        """Copy shadows, and start a learned scale at float64 [Cout] of float32 values."""
        with torch.no_grad():
            self.weight.copy_(weight)
            self.bias.copy_(bias)
            if self.weight_scale == "learned":
                reached = _reaching(scale.astype(np.float32), weight_limit(self.bits))
                value = self.weight_quant.tensor_quant.scaling_impl.value
                value.copy_(torch.from_numpy(reached).view_as(value))


def _unit_scale_input() -> type[Uint8ActPerTensorFloat]:
    """Unsigned 8 bits at a scale of exactly 1: spikes and event counts pass unchanged."""
    return type(
        "UnitScaleUint8",
        (Uint8ActPerTensorFloat,),
        {"scaling_impl_type": ScalingImplType.CONST, "scaling_init": _LARGEST_INPUT},
    )


def _reaching(scale: Float32, limit: int) -> Float32:
    """float32 v with ``v / limit == scale`` in float32 where there is one, else the nearest."""
    near = scale * np.float32(limit)
    candidates = [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))]
    for candidate in candidates:
        near = np.where(candidate / np.float32(limit) == scale, candidate, near)
    return near.astype(np.float32)


def conv_spec(weights: Weights, in_channels: int, stride: int, x_max: int) -> tuple[ConvSpec, Int8]:
    """Integers of a convolution: of the input's channels, and the weights of those beyond them."""
    integers = weights.weight.numpy().astype(np.int8)
    bias = weights.bias.double().numpy().astype(np.int32)
    conv = ConvSpec(integers[:, :in_channels], bias, double(weights.scale), stride, x_max)
    return conv, integers[:, in_channels:]

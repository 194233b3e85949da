"""Building blocks of the example networks: quantizers, and convolutions with their norm folded.

A batch norm is folded into float weights and bias *before* they are quantized, so the quantized
network never has one and nothing about it is approximate: the quantizers see the folded weights.
"""

from __future__ import annotations

import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.nn import QuantConv2d, QuantIdentity, QuantReLU
from brevitas.nn.utils import merge_bn
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    Uint8ActPerTensorFloat,
)
from torch import Tensor, nn


class UnitUint8(Uint8ActPerTensorFloat):
    """uint8 with the constant scale 1: spikes and counts."""

    scaling_impl_type = ScalingImplType.CONST
    scaling_init = 255.0


class UnitInt8(Int8ActPerTensorFloat):
    """int8 with the constant scale 1/32: a state that keeps its meaning without calibration."""

    scaling_impl_type = ScalingImplType.CONST
    scaling_init = 4.0


def signed() -> QuantIdentity:
    """Any sign, as uint8 with a zero point: the form that ONNX Runtime is fast in on x86."""
    return QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat, return_quant_tensor=True)


def relu() -> QuantReLU:
    """Rectified, as uint8."""
    return QuantReLU(act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True)


def _random_norm(channels: int, generator: torch.Generator) -> nn.BatchNorm2d:
    """A batch norm as training leaves it: nothing in it is 0 or 1."""
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.copy_(0.5 + torch.rand(channels, generator=generator))
        norm.bias.copy_(0.2 * torch.randn(channels, generator=generator))
        norm.running_mean.copy_(0.1 * torch.randn(channels, generator=generator))
        norm.running_var.copy_(0.5 + torch.rand(channels, generator=generator))
    return norm


def folded_conv(
    inputs: int,
    outputs: int,
    kernel: int,
    generator: torch.Generator,
    *,
    stride: int = 1,
    groups: int = 1,
) -> QuantConv2d:
    """A quantized convolution into whose weights a batch norm has been folded.

    Weights int8 per channel, bias int32; padding keeps the size at stride 1.
    """
    conv = QuantConv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        bias=True,
        weight_quant=Int8WeightPerChannelFloat,
        bias_quant=Int32Bias,
    )
    fan_in = inputs // groups * kernel * kernel
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
        conv.bias.zero_()
    merge_bn(conv, _random_norm(outputs, generator).eval())
    return conv


class Shared(nn.Module):
    """One activation quantizer for several tensors, which puts them on one grid."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = signed()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Each tensor, quantized by the same scale and zero point."""
        return tuple(self.quant(tensor) for tensor in tensors)

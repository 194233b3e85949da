"""MobileNetV3-small in Brevitas (Howard et al., ICCV 2019): topology in full, width free."""

from __future__ import annotations

from typing import NamedTuple

import torch
from brevitas.nn import QuantConv2d, QuantLinear
from brevitas.quant import Int8WeightPerTensorFloat, Int32Bias
from torch import Tensor, nn

from examples.networks.blocks import folded_conv, relu, signed


class Row(NamedTuple):
    """One row of the paper's table."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    hardswish: bool
    stride: int


ROWS = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)


def plain(x: Tensor) -> Tensor:
    """The real values of a Brevitas tensor; activations work on them."""
    return getattr(x, "value", x)


def _round8(value: float) -> int:
    """The nearest multiple of 8, at least 8 and not below nine tenths of the value."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


class HardSwish(nn.Module):
    """Quantize, hard swish, quantize: a table of 256 entries to an integer graph."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = signed(), signed()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return self.after(nn.functional.hardswish(plain(self.before(x))))


class SqueezeExcite(nn.Module):
    """Each channel times a gate computed from the means of all channels."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        inner = _round8(channels / 4)
        self.mean_quant = signed()
        self.reduce = folded_conv(channels, inner, 1, generator)
        self.act = relu()
        self.expand = folded_conv(inner, channels, 1, generator)
        self.gate_in, self.gate_out, self.product = signed(), relu(), signed()

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W], the same out."""
        mean = self.mean_quant(nn.functional.adaptive_avg_pool2d(plain(x), 1))
        gate = self.gate_in(self.expand(self.act(self.reduce(mean))))
        gate = self.gate_out(nn.functional.hardsigmoid(plain(gate)))
        return self.product(plain(x) * plain(gate))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze and excite, project; added to the input where sizes allow."""

    def __init__(self, inputs: int, row: Row, width: float, generator: torch.Generator) -> None:
        super().__init__()
        expanded, outputs = _round8(row.expanded * width), _round8(row.outputs * width)
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers += [folded_conv(inputs, expanded, 1, generator), _activation(row)]
        depthwise = folded_conv(
            expanded, expanded, row.kernel, generator, stride=row.stride, groups=expanded
        )
        layers += [depthwise, _activation(row)]
        if row.squeeze:
            layers.append(SqueezeExcite(expanded, generator))
        layers.append(folded_conv(expanded, outputs, 1, generator))
        self.layers = nn.Sequential(*layers)
        self.adds = row.stride == 1 and inputs == outputs
        self.out_quant = signed()
        self.sum_quant = signed() if self.adds else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y = self.out_quant(self.layers(x))
        return y if self.sum_quant is None else self.sum_quant(plain(x) + plain(y))


def _activation(row: Row) -> nn.Module:
    return HardSwish() if row.hardswish else relu()


class MobileNetV3Small(nn.Module):
    """The network.

    Args:
        width: multiplier of every channel count.
        classes: outputs.
        seed: of the weights.
    """

    def __init__(self, width: float = 1.0, classes: int = 1000, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        inputs, last = _round8(16 * width), _round8(576 * width)
        self.input_quant = signed()
        self.stem: QuantConv2d = folded_conv(3, inputs, 3, generator, stride=2)
        self.stem_act = HardSwish()
        blocks = []
        for row in ROWS:
            blocks.append(InvertedResidual(inputs, row, width, generator))
            inputs = _round8(row.outputs * width)
        self.blocks = nn.Sequential(*blocks)
        self.last = folded_conv(inputs, last, 1, generator)
        self.last_act = HardSwish()
        self.mean_quant = signed()
        hidden = _round8(1024 * width)
        self.hidden = _linear(last, hidden, generator)
        self.hidden_act = HardSwish()
        self.classifier = _linear(hidden, classes, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Images float32 [N, 3, H, W] to scores [N, classes]."""
        x = self.blocks(self.stem_act(self.stem(self.input_quant(x))))
        x = plain(self.last_act(self.last(x)))
        mean = self.mean_quant(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return self.classifier(self.hidden_act(self.hidden(mean)))


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> QuantLinear:
    layer = QuantLinear(
        inputs, outputs, bias=True, weight_quant=Int8WeightPerTensorFloat, bias_quant=Int32Bias
    )
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) * inputs**-0.5)
        layer.bias.copy_(0.1 * torch.randn(outputs, generator=generator))
    return layer


def mobilenet_v3_small() -> MobileNetV3Small:
    """The full width."""
    return MobileNetV3Small()


def mobilenet_v3_small_narrow() -> MobileNetV3Small:
    """The same topology at a quarter of the width."""
    return MobileNetV3Small(width=0.25, classes=10)

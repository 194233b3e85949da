"""ResNet-18 in Brevitas (He et al., CVPR 2016): topology in full, width and classes free."""

from __future__ import annotations

import torch
from brevitas.nn import QuantLinear
from brevitas.quant import Int8WeightPerTensorFloat, Int32Bias
from torch import Tensor, nn

from examples.networks.blocks import folded_conv, relu, signed

DEPTHS = (2, 2, 2, 2)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; both ends of the addition are on one grid."""

    def __init__(self, inputs: int, outputs: int, stride: int, generator: torch.Generator) -> None:
        super().__init__()
        self.conv1 = folded_conv(inputs, outputs, 3, generator, stride=stride)
        self.act1 = relu()
        self.conv2 = folded_conv(outputs, outputs, 3, generator)
        self.shortcut = (
            folded_conv(inputs, outputs, 1, generator, stride=stride)
            if stride > 1 or inputs != outputs
            else nn.Identity()
        )
        self.sum_quant = signed()
        self.act2 = relu()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        left = self.sum_quant(self.conv2(self.act1(self.conv1(x))))
        return self.act2(left + self.sum_quant(self.shortcut(x)))


class ResNet(nn.Module):
    """The network.

    Args:
        width: channels of the first stage; 64 in the paper.
        classes: outputs.
        seed: of the weights.
    """

    def __init__(self, width: int = 64, classes: int = 1000, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.input_quant = signed()
        self.stem = folded_conv(3, width, 7, generator, stride=2)
        self.stem_act = relu()
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks, inputs = [], width
        for stage, depth in enumerate(DEPTHS):
            outputs = width << stage
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(BasicBlock(inputs, outputs, stride, generator))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.mean_quant = relu()
        self.classifier = QuantLinear(
            inputs,
            classes,
            bias=True,
            weight_quant=Int8WeightPerTensorFloat,
            bias_quant=Int32Bias,
        )
        with torch.no_grad():
            weight = torch.randn(classes, inputs, generator=generator)
            self.classifier.weight.copy_(weight * inputs**-0.5)
            self.classifier.bias.copy_(0.1 * torch.randn(classes, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Images float32 [N, 3, H, W] to scores [N, classes]."""
        x = self.pool(self.stem_act(self.stem(self.input_quant(x))))
        x = self.blocks(x)
        mean = nn.functional.adaptive_avg_pool2d(plain(x), 1).flatten(1)
        return self.classifier(self.mean_quant(mean))


def plain(x: Tensor) -> Tensor:
    """The real values of a Brevitas tensor; pooling works on them."""
    return getattr(x, "value", x)


def resnet18() -> ResNet:
    """The full width."""
    return ResNet()


def resnet18_narrow() -> ResNet:
    """The same topology with 8 channels in the first stage."""
    return ResNet(width=8, classes=10)

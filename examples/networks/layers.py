"""Small networks, one question each: what a layer, a bias, a shared grid or a state becomes."""

from __future__ import annotations

from typing import Any

import torch
from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear, QuantMultiheadAttention
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    Uint8ActPerTensorFloat,
)
from torch import Tensor, nn

from examples.networks.blocks import Shared, UnitInt8, relu, signed
from examples.networks.mobilenet import plain


class Single(nn.Module):
    """Quantizer, one layer, quantizer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.after = signed(), layer, signed()

    def forward(self, x: Tensor) -> Tensor:
        """What the layer takes and gives."""
        return plain(self.after(self.layer(self.before(x))))


def _weights(per_channel: bool) -> dict[str, Any]:
    chosen = Int8WeightPerChannelFloat if per_channel else Int8WeightPerTensorFloat
    return {"weight_quant": chosen, "bias_quant": Int32Bias}


def _seeded(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return layer


def conv(*, bias: bool = True, per_channel: bool = True) -> nn.Module:
    """3 to 8 channels, 3x3."""
    layer = QuantConv2d(3, 8, 3, padding=1, bias=bias, **_weights(per_channel))
    return Single(_seeded(layer))


def conv_without_bias() -> nn.Module:
    """The same without a bias."""
    return conv(bias=False)


def conv_per_tensor() -> nn.Module:
    """The same with one weight scale."""
    return conv(per_channel=False)


class Signed(nn.Module):
    """Brevitas' default: int8 activations, which are slow in ONNX Runtime on x86 as they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.before = QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
        self.conv1 = _seeded(QuantConv2d(3, 8, 3, padding=1, bias=True, **_weights(True)))
        self.middle = QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
        self.conv2 = _seeded(QuantConv2d(8, 4, 1, bias=True, **_weights(True)))
        self.after = QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, 4, H, W]."""
        return plain(self.after(self.conv2(self.middle(self.conv1(self.before(x))))))


def depthwise() -> nn.Module:
    """8 channels, each by itself, 5x5, stride 2."""
    layer = QuantConv2d(8, 8, 5, stride=2, padding=2, groups=8, bias=True, **_weights(True))
    return Single(_seeded(layer))


def linear(*, bias: bool = True, per_channel: bool = False) -> nn.Module:
    """12 to 7 features."""
    return Single(_seeded(QuantLinear(12, 7, bias=bias, **_weights(per_channel))))


def linear_without_bias() -> nn.Module:
    """The same without a bias."""
    return linear(bias=False)


def linear_per_channel() -> nn.Module:
    """The same with a weight scale per output."""
    return linear(per_channel=True)


class SharedInput(nn.Module):
    """Two convolutions read one quantized tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.before = signed()
        self.left = _seeded(QuantConv2d(3, 4, 3, padding=1, bias=True, **_weights(True)))
        self.right = _seeded(QuantConv2d(3, 4, 1, bias=True, **_weights(True)))
        self.after = relu()

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, 8, H, W]."""
        x = self.before(x)
        return plain(self.after(torch.cat([self.left(x), self.right(x)], 1)))


class Residual(nn.Module):
    """A convolution added to its input, on one grid or on two."""

    def __init__(self, equal: bool) -> None:
        super().__init__()
        self.shared = Shared() if equal else None
        self.left, self.right = signed(), signed()
        self.conv = _seeded(QuantConv2d(4, 4, 3, padding=1, bias=True, **_weights(True)))
        self.after = relu()

    def forward(self, x: Tensor) -> Tensor:
        """[N, 4, H, W], the same out."""
        x = self.left(x)
        y = self.conv(x)
        x, y = (x, self.right(y)) if self.shared is None else self.shared(plain(x), y)
        return plain(self.after(plain(x) + plain(y)))


def residual_equal() -> nn.Module:
    """Both ends of the addition have one scale."""
    return Residual(equal=True)


def residual_unequal() -> nn.Module:
    """Each end of the addition has its own scale."""
    return Residual(equal=False)


class TwoInTwoOut(nn.Module):
    """Two images in, their sum and the features of the first out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = signed(), signed()
        self.conv1 = _seeded(QuantConv2d(3, 4, 3, padding=1, bias=True, **_weights(True)))
        self.conv2 = _seeded(QuantConv2d(2, 4, 3, padding=1, bias=True, **_weights(True)))
        self.middle, self.after = relu(), signed()

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """a [N, 3, H, W] and b [N, 2, H, W] to two of [N, 4, H, W]."""
        features = self.middle(self.conv1(self.first(a)))
        total = plain(features) + self.conv2(self.second(b))
        return plain(self.after(total)), plain(features)


class Stateful(nn.Module):
    """A recurrent cell: the new state is the output, quantized with the constant scale 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.before = signed()
        self.state_quant = QuantIdentity(act_quant=UnitInt8, return_quant_tensor=True)
        self.new_quant = QuantIdentity(act_quant=UnitInt8, return_quant_tensor=True)
        self.conv = _seeded(QuantConv2d(2, 4, 3, padding=1, bias=True, **_weights(True)))
        self.recurrent = _seeded(QuantConv2d(4, 4, 3, padding=1, bias=False, **_weights(True)))

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, 2, H, W] and state [N, 4, H, W] to the rectified state and the state."""
        new = self.conv(self.before(x)) + self.recurrent(self.state_quant(state))
        new = plain(self.new_quant(new))
        return nn.functional.relu(new), new


class Attention(nn.Module):
    """Self-attention of two heads; the softmax between its two products stays in float."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        shifted = ShiftedUint8ActPerTensorFloat
        self.attention = QuantMultiheadAttention(
            16,
            2,
            in_proj_input_quant=shifted,
            attn_output_weights_quant=Uint8ActPerTensorFloat,
            out_proj_input_quant=shifted,
            out_proj_output_quant=shifted,
            batch_first=True,
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, length, 16], the same out."""
        return plain(self.attention(x, x, x, need_weights=False)[0])

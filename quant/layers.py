"""Layers that train on their integer grid (QAT), around Brevitas convolutions.

Each layer holds float shadows of its weights, biases, decays and thresholds. Every forward, in
training as in evaluation, computes with the integers that ``spec`` reports, as integer-valued
float32; gradients reach the shadows straight through the rounding. With float neurons only the
convolution computes in integers, and membranes are in real units.

For graphs in real units (QDQ), each layer holds its convolution as a ``brevitas.nn.QuantConv2d``
over the channels of ``torch.cat([x, previous spikes], 1)``, so that

    conv(torch.cat([x, spike_prev], 1))  ->  current in real units (scale of one unit: s_w)

with ``input_quant`` unsigned 8 bits at a constant scale of exactly 1, ``weight_quant`` per output
channel, narrow, and ``bias_quant`` 32 bits at the accumulator's scale. Together with
:meth:`QuantConvLIF.spec`, whose ``real_beta``, ``real_threshold`` and ``membrane_unit`` are the
neuron in real units, that is everything an exported graph holds. Requantized currents pass
:meth:`QuantConvLIF.current_quantizer` in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.nn import QuantIdentity
from brevitas.quant import Int8ActPerTensorFloat
from torch import Tensor, nn

from models import ConvLIF, LIFState, lif_step
from models.lif import MIN_THRESHOLD
from quant.errors import QuantError
from quant.grid_conv import GridConv, Weights, conv_spec, double, like
from quant.quantizers import SMALLEST_SCALE, WEIGHT_SCALES, concatenated
from quant.spec import (
    DECAY_UNIT,
    EXACT_FLOAT32,
    NEURONS,
    ConvSpec,
    Float64,
    LayerSpec,
    check_frac_bits,
    derive_decay,
    derive_threshold,
    real_threshold,
    threshold_frac_bits,
)
from quant.straight_through import Grid, integer_lif, replace, requantize

_CURRENT_STEPS = 128.0


@dataclass(frozen=True)
class LayerSettings:
    """What a layer's grid is made of, apart from what it learns.

    weight_bits: 2 to 8. mem_bits: 8 or 16. frac_bits: where it starts. current_scale: s_y where it
    starts, None for currents "accumulator".
    """

    weight_bits: int
    mem_bits: int
    frac_bits: int
    current_scale: float | None = None


@dataclass(frozen=True)
class GridSettings:
    """What holds for the whole network.

    weight_scale: "max", the largest weight of a channel decides its scale; or "learned", the scale
    is a parameter. learn_range: fractional bits and scales of uint8 currents are parameters.
    neuron: "integer", or "float" where only the convolutions are quantized.
    """

    weight_scale: str = "max"
    learn_range: bool = False
    neuron: str = "integer"

    def check(self) -> None:
        """Raise QuantError for a value that is not known, or ranges that float neurons lack."""
        if self.weight_scale not in WEIGHT_SCALES:
            raise QuantError(
                f"weight_scale must be {' or '.join(WEIGHT_SCALES)}, got {self.weight_scale!r}"
            )
        if self.neuron not in NEURONS:
            raise QuantError(f"neuron must be {' or '.join(NEURONS)}, got {self.neuron!r}")
        if self.neuron == "float" and self.learn_range:
            raise QuantError("float neurons have no ranges to learn; leave out learn_range")


class QuantConvLIF(nn.Module):
    """Integer convolution and LIF neurons, integer or float, trained on their grid.

    Args:
        in_channels, channels, kernel_size, recurrent, stride, reset: as of
            :class:`models.ConvLIF`.
        x_max: largest input value: 1 for spikes, 127 for counts.
        settings: bit widths and where the ranges start.
        network: how scales and ranges are found.

    Attributes:
        conv: the Brevitas convolution over input and, in recurrent layers, previous spikes.
        beta, threshold: float32 [C], shadows in real units.

    Raises:
        QuantError: impossible bit widths, or uint8 currents with float neurons.
    """

    log2_gain: Tensor
    current_scale: Tensor

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        *,
        recurrent: bool,
        stride: int,
        reset: str,
        x_max: int,
        settings: LayerSettings,
        network: GridSettings,
    ) -> None:
        super().__init__()
        check_frac_bits(settings.frac_bits, settings.mem_bits)
        self.in_channels, self.channels, self.kernel_size = in_channels, channels, kernel_size
        self.recurrent, self.stride, self.reset, self.x_max = recurrent, stride, reset, x_max
        self.settings, self.neuron = settings, network.neuron
        if self.neuron == "float" and settings.current_scale is not None:
            raise QuantError("float neurons take the accumulator; uint8 currents need integer ones")
        self.conv = GridConv(
            in_channels + channels * recurrent,
            channels,
            kernel_size,
            bits=settings.weight_bits,
            stride=stride,
            weight_scale=network.weight_scale,
        )
        self.beta = nn.Parameter(torch.full((channels,), 0.5))
        self.threshold = nn.Parameter(torch.ones(channels))
        self._range("log2_gain", float(settings.frac_bits), network.learn_range)
        if settings.current_scale is not None:
            self._range("current_scale", settings.current_scale, network.learn_range)

    def _range(self, name: str, start: float, learned: bool) -> None:
        value = torch.tensor(start)
        if learned:
            setattr(self, name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @property
    def current(self) -> str:
        """Current mode: "accumulator" or "uint8"."""
        return "accumulator" if self.settings.current_scale is None else "uint8"

    @property
    def frac_bits(self) -> int:
        """Fractional bits of the membrane; of a float one, of the grid its thresholds lie on."""
        return self.grid(self.conv.grid()).frac_bits

    def _soft_frac_bits(self, threshold: Tensor, unit: Tensor) -> Tensor:
        if self.neuron == "float":
            return torch.tensor(float(threshold_frac_bits(double(threshold), double(unit))))
        return self.log2_gain.clamp(-15, self.settings.mem_bits - 2)

    def _current_scale(self) -> Tensor:
        return self.current_scale.abs().clamp_min(SMALLEST_SCALE)

    def load_float(self, layer: ConvLIF, scale: Float64) -> None:
        """Take over a float layer's parameters; ``scale`` is where a learned one starts."""
        both = concatenated(layer.weight, layer.weight_rec)
        self.conv.start_at(both, layer.bias.detach(), scale)
        with torch.no_grad():
            self.beta.copy_(layer.effective_beta())
            self.threshold.copy_(layer.effective_threshold())

    def initial_state(self, x: Tensor) -> LIFState:
        """Zero state for an input of x's batch and size."""
        height, width = (-(-side // self.stride) for side in x.shape[2:])
        zeros = torch.zeros(x.shape[0], self.channels, height, width, device=x.device)
        return LIFState(zeros, zeros)

    def grid(self, weights: Weights) -> Grid:
        """Decay, threshold and unit on the integer grid, as tensors with gradients."""
        unit = weights.scale
        if self.current == "uint8":
            unit = self._current_scale().expand(self.channels)
        threshold = self.threshold.clamp_min(MIN_THRESHOLD)
        soft_bits = self._soft_frac_bits(threshold, unit)
        f = round(float(soft_bits.detach()))
        soft_gain = torch.exp2(soft_bits)
        gain = replace(soft_gain, torch.full_like(soft_gain, 2.0**f))
        soft_threshold = threshold * gain / unit
        beta = self.beta.clamp(0.0, 1.0)
        decay = derive_decay(double(beta))
        integers = derive_threshold(double(threshold), double(unit), f, self.settings.mem_bits)
        return Grid(
            decay=replace(beta * DECAY_UNIT, like(decay, beta)),
            threshold=replace(soft_threshold, like(integers, soft_threshold)),
            gain=gain,
            frac_bits=f,
            unit=unit / gain,
        )

    def forward(self, x: Tensor, state: LIFState | None = None) -> tuple[Tensor, LIFState]:
        """Advance by one step, always in float32.

        Args:
            x: [N, in_channels, H, W], event counts or spikes.
            state: of the previous step, the membrane in integer units, or in real ones where the
                neurons are float; None for the zero state.

        Returns:
            spikes float32 [N, C, H', W'] and the new state, with integer neurons integer-valued
            float32.

        Raises:
            QuantError: sums that float32 does not hold exactly.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            state = self.initial_state(x) if state is None else state
            weights = self.conv.grid()
            self._check_exact(weights)
            both = torch.cat([x, state.spike.float()], 1) if self.recurrent else x
            current = self.conv.accumulate(both, weights)
            if self.neuron == "float":
                spike, mem = self._float_neurons(current, state.mem.float(), weights)
                return spike, LIFState(mem, spike)
            if self.current == "uint8":
                current = requantize(current, weights.scale / self._current_scale())
            spike, mem = integer_lif(
                current,
                state.mem.float(),
                self.grid(weights),
                self.settings.mem_bits,
                self.reset,
            )
        return spike, LIFState(mem, spike)

    def _float_neurons(self, acc: Tensor, mem: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
        """The arithmetic of :class:`quant.HybridNetwork`."""
        grid, threshold = self.grid(weights), self.threshold.clamp_min(MIN_THRESHOLD)
        real = real_threshold(double(grid.threshold).astype(np.int32), double(grid.unit))
        return lif_step(
            acc * weights.scale.view(1, -1, 1, 1),
            mem,
            grid.decay / DECAY_UNIT,
            replace(threshold, torch.from_numpy(real).to(threshold)),
            self.reset,
        )

    def _check_exact(self, weights: Weights) -> None:
        magnitude = weights.weight.detach().abs().double().sum(dim=(2, 3))
        inputs = torch.ones(magnitude.shape[1], dtype=torch.float64)
        inputs[: self.in_channels] = self.x_max
        largest = float((magnitude @ inputs + weights.bias.detach().abs().double()).max())
        if largest > EXACT_FLOAT32:
            raise QuantError(
                f"sums of a layer with {self.channels} channels reach {largest:.0f}, more than the "
                "2^24 that float32 holds exactly; its bias is too large for its weights' scale"
            )

    @torch.no_grad()
    def spec(self, name: str) -> LayerSpec:
        """The layer's integers."""
        weights = self.conv.grid()
        grid = self.grid(weights)
        conv, integers_rec = conv_spec(weights, self.in_channels, self.stride, self.x_max)
        return LayerSpec(
            name=name,
            conv=conv,
            weight_rec=integers_rec if self.recurrent else None,
            decay=grid.decay.numpy().astype(np.int32),
            threshold=grid.threshold.numpy().astype(np.int32),
            frac_bits=grid.frac_bits,
            mem_bits=self.settings.mem_bits,
            reset=self.reset,
            current=self.current,
            current_scale=float(self._current_scale()) if self.current == "uint8" else None,
            weight_bits=self.settings.weight_bits,
        )

    def current_quantizer(self) -> QuantIdentity:
        """A Brevitas quantizer of uint8 currents in real units, signed 8 bits at scale s_y.

        q - 128 of the unsigned form; the same steps and limits.

        Raises:
            QuantError: current mode "accumulator".
        """
        if self.current != "uint8":
            raise QuantError("currents in mode accumulator are not requantized")
        largest = _CURRENT_STEPS * float(self._current_scale())
        quantizer = type(
            "Int8Current",
            (Int8ActPerTensorFloat,),
            {"scaling_impl_type": ScalingImplType.CONST, "scaling_init": largest},
        )
        return QuantIdentity(act_quant=quantizer)


class QuantFlowHead(nn.Module):
    """The 1x1 flow head: integer convolution of spikes, tanh of its accumulator in real units.

    Args:
        channels: of the spikes.
        bits: of the weights.
        weight_scale: "max" or "learned".
    """

    def __init__(self, channels: int, bits: int, weight_scale: str) -> None:
        super().__init__()
        self.channels = channels
        self.conv = GridConv(channels, 2, 1, bits=bits, weight_scale=weight_scale)

    def accumulate(self, spike: Tensor) -> tuple[Tensor, Tensor]:
        """Accumulator float32 [N, 2, H, W], integers, and the scale float32 [2]."""
        with torch.autocast(spike.device.type, enabled=False):
            weights = self.conv.grid()
            return self.conv.accumulate(spike.float(), weights), weights.scale

    def forward(self, spike: Tensor) -> Tensor:
        """Flow float32 [N, 2, H, W] in (-1, 1) of spikes [N, C, H, W]."""
        acc, scale = self.accumulate(spike)
        return torch.tanh(acc * scale.view(1, -1, 1, 1))

    @torch.no_grad()
    def spec(self) -> ConvSpec:
        """The head's integers."""
        return conv_spec(self.conv.grid(), self.channels, 1, 1)[0]

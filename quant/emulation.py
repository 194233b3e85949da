"""The integer network in PyTorch: the arithmetic of the integer neuron, one step at a time.

Everything after the convolutions (:mod:`quant.stepping`) runs in int32. Plain CPU arithmetic only:
no TF32 or other reduced precision.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quant.errors import QuantError
from quant.spec import CURRENT_ZERO_POINT, LayerSpec, NetworkSpec, membrane_limits
from quant.stepping import SteppedNetwork

_MEM_TYPES = {8: torch.int8, 16: torch.int16}


class IntegerState(NamedTuple):
    """Membrane int16 or int8 and previous spikes uint8, both [N, C, H, W]."""

    mem: Tensor
    spike: Tensor


class IntegerStep(NamedTuple):
    """Result of one step.

    flow_acc: int32 [N, 2, H, W], the flow head's accumulator. flow: float32 [N, 2, H, W] in
    (-1, 1). states: per layer.
    """

    flow_acc: Tensor
    flow: Tensor
    states: dict[str, IntegerState]


def integer_lif(
    acc: Tensor, mem: Tensor, decay: Tensor, threshold: Tensor, frac_bits: int, reset: str
) -> tuple[Tensor, Tensor]:
    """The integer neuron, one time step.

    Args:
        acc: int32 [N, C, H, W].
        mem: int16 or int8 [N, C, H, W].
        decay: int32 [C] in 256ths.
        threshold: int32 [C] in membrane units.
        frac_bits: fractional bits of the membrane.
        reset: "zero", "subtract" or "none".

    Returns:
        spike uint8 and mem_out of mem's type, both [N, C, H, W].
    """
    lo, hi = membrane_limits(torch.iinfo(mem.dtype).bits)
    if frac_bits >= 0:
        span = (hi + 1) >> frac_bits
        current = acc.clamp(-span, span - 1) << frac_bits
    else:
        # Rounding may carry past 32 bits.
        wide = acc.to(torch.int64) + (1 << (-frac_bits - 1))
        current = (wide >> -frac_bits).clamp(lo, hi).to(torch.int32)
    product = mem.to(torch.int32) * decay.view(1, -1, 1, 1)
    decayed = torch.div(product, 256, rounding_mode="trunc")
    u = (decayed + current).clamp(lo, hi)
    threshold_c = threshold.view(1, -1, 1, 1)
    fires = u > threshold_c
    if reset == "zero":
        after = torch.where(fires, 0, u)
    elif reset == "subtract":
        after = torch.where(fires, (u - threshold_c).clamp(lo, hi), u)
    else:
        after = u
    return fires.to(torch.uint8), after.to(mem.dtype)


def requantize(acc: Tensor, multiplier: Tensor) -> Tensor:
    """Accumulator to an 8-bit current with zero point 128, as ONNX Runtime's QLinearConv does it.

    Every operation is one float32 operation, in this order: the product, the rounding (half to
    even), the zero point, the clamp.

    Args:
        acc: int32 [N, C, H, W].
        multiplier: float32 [C], s_w / s_y.

    Returns:
        uint8 [N, C, H, W].
    """
    real = acc.to(torch.float32) * multiplier.view(1, -1, 1, 1)
    return (torch.round(real) + CURRENT_ZERO_POINT).clamp(0, 255).to(torch.uint8)


class IntegerNetwork(SteppedNetwork[IntegerState]):
    """A :class:`quant.spec.NetworkSpec` that runs with integer neurons.

    Args:
        spec: all integers of the network.

    Raises:
        QuantError: a network whose neurons are float.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        if spec.neuron != "integer":
            raise QuantError("the network has float neurons; HybridNetwork computes it")
        super().__init__(spec)

    def current(self, layer: LayerSpec, acc: Tensor) -> Tensor:
        """Accumulator to what the neuron receives, int32, in units of ``layer.current_unit``."""
        if layer.current == "accumulator":
            return acc
        quantized = requantize(acc, torch.from_numpy(layer.multiplier))
        return quantized.to(torch.int32) - CURRENT_ZERO_POINT

    def zero_state(self, layer: LayerSpec, shape: tuple[int, ...]) -> IntegerState:
        """Zero state of one layer of that shape."""
        return IntegerState(
            torch.zeros(shape, dtype=_MEM_TYPES[layer.mem_bits]),
            torch.zeros(shape, dtype=torch.uint8),
        )

    def fire(self, layer: LayerSpec, acc: Tensor, mem: Tensor) -> IntegerState:
        """The neurons of one layer: accumulator and previous membrane to the new state."""
        spike, after = integer_lif(
            self.current(layer, acc),
            mem,
            torch.from_numpy(layer.decay),
            torch.from_numpy(layer.threshold),
            layer.frac_bits,
            layer.reset,
        )
        return IntegerState(after, spike)

    @torch.no_grad()
    def step(self, events: Tensor, states: dict[str, IntegerState] | None = None) -> IntegerStep:
        """Advance by one window.

        Args:
            events: uint8 [N, num_bins, H, W], event counts.
            states: of the previous step; None for the zero state.

        Raises:
            QuantError: events that are not uint8.
        """
        x, after = self.advance(self.spec.layers, events, {} if states is None else states)
        flow_acc, flow = self.head(x)
        return IntegerStep(flow_acc, flow, after)

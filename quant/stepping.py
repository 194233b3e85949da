"""What every network with integer convolutions does in one step, whatever its neurons compute in.

Convolutions run in float32, which is exact while the sums stay within 2^24 (otherwise in float64),
whatever autocast is on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from quant.errors import QuantError
from quant.spec import ConvSpec, LayerSpec, NetworkSpec


class NeuronState(Protocol):
    """Membrane and previous spikes of a layer, both [N, C, H, W]."""

    @property
    def mem(self) -> Tensor:
        """Membrane after the reset."""

    @property
    def spike(self) -> Tensor:
        """Spikes, 0 or 1."""


State = TypeVar("State", bound=NeuronState)


def integer_conv(x: Tensor, weight: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
    """Integer convolution with zero padding of half the kernel; returns int32 sums.

    Args:
        x: uint8 [N, Cin, H, W].
        weight: int8 [Cout, Cin, k, k].
        stride: of both directions.
        dtype: float32 where the sums stay within 2^24, else float64.
    """
    padding = weight.shape[2] // 2
    with torch.autocast(x.device.type, enabled=False):
        sums = functional.conv2d(x.to(dtype), weight.to(dtype), stride=stride, padding=padding)
    return sums.to(torch.int32)


class SteppedNetwork(ABC, Generic[State]):
    """Integer convolutions and flow head of a network; subclasses bring the neurons.

    Args:
        spec: all integers of the network.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self._dtype = torch.float32 if spec.exact_in_float32() else torch.float64

    def _conv(self, x: Tensor, conv: ConvSpec) -> Tensor:
        sums = integer_conv(x, torch.from_numpy(conv.weight), conv.stride, self._dtype)
        return sums + torch.from_numpy(conv.bias).view(1, -1, 1, 1)

    def accumulate(self, layer: LayerSpec, x: Tensor, spike_prev: Tensor) -> Tensor:
        """Accumulator int32 [N, C, H, W] of one layer, of uint8 inputs and previous spikes."""
        acc = self._conv(x, layer.conv)
        if layer.weight_rec is not None:
            acc = acc + integer_conv(spike_prev, torch.from_numpy(layer.weight_rec), 1, self._dtype)
        return acc

    def initial_state(self, layer: LayerSpec, x: Tensor) -> State:
        """Zero state of one layer for an input of x's batch and size."""
        height, width = (-(-side // layer.conv.stride) for side in x.shape[2:])
        return self.zero_state(layer, (x.shape[0], layer.channels, height, width))

    @abstractmethod
    def zero_state(self, layer: LayerSpec, shape: tuple[int, ...]) -> State:
        """Zero state of one layer of that shape."""

    @abstractmethod
    def fire(self, layer: LayerSpec, acc: Tensor, mem: Tensor) -> State:
        """The neurons of one layer: accumulator and previous membrane to the new state."""

    def layer_step(self, layer: LayerSpec, x: Tensor, state: State) -> State:
        """Advance one layer: x uint8 [N, Cin, H, W] and its state to the new state."""
        spike_prev = state.spike.to(torch.uint8)
        return self.fire(layer, self.accumulate(layer, x, spike_prev), state.mem)

    def head(self, spike: Tensor) -> tuple[Tensor, Tensor]:
        """Accumulator int32 and flow float32, both [N, 2, H, W], of the last layer's spikes."""
        flow_acc = self._conv(spike, self.spec.head)
        scale = torch.from_numpy(self.spec.head.weight_scale).float().view(1, -1, 1, 1)
        return flow_acc, torch.tanh(flow_acc.float() * scale)

    @torch.no_grad()
    def advance(
        self, layers: tuple[LayerSpec, ...], x: Tensor, states: dict[str, State]
    ) -> tuple[Tensor, dict[str, State]]:
        """Advance consecutive layers by one step.

        Args:
            layers: of the network.
            x: uint8, what the first of them receives.
            states: of the previous step; a layer without one starts at zero.

        Returns:
            the last one's spikes, uint8, and the new states.

        Raises:
            QuantError: events that are not uint8.
        """
        if x.dtype != torch.uint8:
            raise QuantError(f"events must be uint8 counts, got {x.dtype}")
        after: dict[str, State] = {}
        for layer in layers:
            state = states.get(layer.name) or self.initial_state(layer, x)
            after[layer.name] = self.layer_step(layer, x, state)
            x = after[layer.name].spike.to(torch.uint8)
        return x, after

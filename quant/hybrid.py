"""The hybrid network: integer convolutions, float neurons.

Weights are int8 and biases int32, so the accumulator is exact. The neuron is the float one, on the
current ``float32(acc) * float32(s_w)``, with float32 states, ``beta = d / 256`` and the threshold's
real value. Only the neuron rounds: from equal states, two float32 implementations of one step
differ in the membrane by at most ``4 eps (|beta * m| + |I|)``, and in a spike only where the
membrane is that close to its threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models import LIFState, lif_step
from quant.emulation import IntegerNetwork
from quant.errors import QuantError
from quant.spec import LayerSpec, NetworkSpec


class HybridNetwork:
    """A :class:`quant.spec.NetworkSpec` that runs with float neurons.

    Args:
        spec: its convolutions are used as integers; its membrane bits do not matter.

    Raises:
        QuantError: currents that are requantized.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        for layer in spec.layers:
            if layer.current != "accumulator":
                raise QuantError(f"layer {layer.name!r} requantizes its current; hybrids do not")
        self.spec = spec
        self._integers = IntegerNetwork(spec)

    def current(self, layer: LayerSpec, x: Tensor, spike_prev: Tensor) -> Tensor:
        """Current in real units, float32 [N, C, H, W], of uint8 inputs and previous spikes."""
        acc = self._integers.accumulate(layer, x, spike_prev)
        scale = torch.from_numpy(layer.conv.weight_scale).float()
        return acc.float() * scale.view(1, -1, 1, 1)

    @torch.no_grad()
    def step(
        self, events: Tensor, states: dict[str, LIFState] | None = None
    ) -> tuple[Tensor, dict[str, LIFState]]:
        """Advance by one window.

        Args:
            events: uint8 [N, num_bins, H, W], event counts.
            states: of the previous step, float32; None for the zero state.

        Returns:
            flow float32 [N, 2, H, W] in (-1, 1), and the new states.

        Raises:
            QuantError: events that are not uint8.
        """
        if events.dtype != torch.uint8:
            raise QuantError(f"events must be uint8 counts, got {events.dtype}")
        before = {} if states is None else states
        x, after = events, {}
        for layer in self.spec.layers:
            zero = self._integers.initial_state(layer, x).spike
            state = before.get(layer.name) or LIFState(zero.float(), zero.float())
            spike, mem = lif_step(
                self.current(layer, x, state.spike.to(torch.uint8)),
                state.mem,
                torch.from_numpy(layer.real_beta),
                torch.from_numpy(layer.real_threshold),
                layer.reset,
            )
            after[layer.name] = LIFState(mem, spike)
            x = spike.to(torch.uint8)
        return self._integers.head(x)[1], after

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
from quant.emulation import IntegerNetwork, IntegerState
from quant.errors import QuantError
from quant.spec import LayerSpec, NetworkSpec
from quant.stepping import SteppedNetwork


class HybridNetwork(SteppedNetwork[LIFState]):
    """A :class:`quant.spec.NetworkSpec` that runs with float neurons.

    Args:
        spec: its convolutions are used as integers; the grid of its membranes only says what its
            thresholds are. Integer neurons are replaced by float ones.

    Raises:
        QuantError: currents that are requantized.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        for layer in spec.layers:
            if layer.current != "accumulator":
                raise QuantError(f"layer {layer.name!r} requantizes its current; hybrids do not")
        super().__init__(spec)

    def current(self, layer: LayerSpec, acc: Tensor) -> Tensor:
        """Accumulator int32 to the current in real units, float32 [N, C, H, W]."""
        scale = torch.from_numpy(layer.conv.weight_scale).float()
        return acc.float() * scale.view(1, -1, 1, 1)

    def zero_state(self, layer: LayerSpec, shape: tuple[int, ...]) -> LIFState:
        """Zero state of one layer of that shape, float32."""
        return LIFState(torch.zeros(shape), torch.zeros(shape))

    def fire(self, layer: LayerSpec, acc: Tensor, mem: Tensor) -> LIFState:
        """The neurons of one layer: accumulator and previous membrane to the new state."""
        spike, after = lif_step(
            self.current(layer, acc),
            mem,
            torch.from_numpy(layer.real_beta),
            torch.from_numpy(layer.real_threshold),
            layer.reset,
        )
        return LIFState(after, spike)

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
        x, after = self.advance(self.spec.layers, events, {} if states is None else states)
        return self.head(x)[1], after


def network_of(spec: NetworkSpec) -> SteppedNetwork[IntegerState] | SteppedNetwork[LIFState]:
    """The network that computes a spec with the neurons it says it has."""
    return HybridNetwork(spec) if spec.neuron == "float" else IntegerNetwork(spec)

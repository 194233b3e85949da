"""The LIFFireNet family: spiking optical-flow networks in canonical form.

Topology of Hagenaars, Paredes-Valles and de Croon, "Self-supervised learning of event-based
optical flow with spiking neural networks", NeurIPS 2021.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from models.errors import CheckpointError
from models.lif import ConvLIF, NeuronOptions
from models.network import FlowNetwork, ModelConfig
from models.states import LIFState

# (layer, recurrent) in order; the head takes the events.
TOPOLOGIES: dict[str, tuple[tuple[str, bool], ...]] = {
    "LIFFireNet": (
        ("head", False),
        ("G1", True),
        ("R1a", False),
        ("R1b", False),
        ("G2", True),
        ("R2a", False),
        ("R2b", False),
    ),
    "LIFFireNet_short": (
        ("head", False),
        ("G1", True),
        ("R1a", False),
        ("G2", True),
        ("R2a", False),
    ),
    "LIFFireFlowNet": (
        ("head", False),
        ("G1", False),
        ("R1a", False),
        ("R1b", False),
        ("G2", False),
        ("R2a", False),
        ("R2b", False),
    ),
    "LIFFireFlowNet_short": (
        ("head", False),
        ("G1", False),
        ("R1a", False),
        ("G2", False),
        ("R2a", False),
    ),
}


class SpikingFireNet(FlowNetwork[LIFState]):
    """A stack of :class:`models.lif.ConvLIF` layers and a 1x1 flow head with tanh.

    Args:
        config: which member of the family and its sizes.
        norm: what is normalised while training, "none", "batch", "time" or "membrane", see
            :mod:`models.norms`; :meth:`folded` gives the canonical form.
        time_steps: number of factors of norm "time"; time step t uses factor t mod time_steps.
        neuron: how the neurons start and learn.

    Raises:
        ValueError: unknown model or encoding, a count encoding without exactly two bins, or what
            :class:`models.lif.ConvLIF` refuses.
    """

    def __init__(
        self,
        config: ModelConfig = ModelConfig(),  # noqa: B008 (immutable)
        *,
        norm: str = "none",
        time_steps: int = 4,
        neuron: NeuronOptions = NeuronOptions(),  # noqa: B008 (immutable)
    ) -> None:
        if config.model not in TOPOLOGIES:
            raise ValueError(f"unknown model {config.model!r}; one of {', '.join(TOPOLOGIES)}")
        super().__init__(config)
        fan_in = config.num_bins
        for name, recurrent in TOPOLOGIES[config.model]:
            self.layers[name] = ConvLIF(
                fan_in,
                config.channels,
                config.kernel_size,
                recurrent=recurrent,
                reset=config.reset,
                norm=norm,
                time_steps=time_steps,
                neuron=neuron,
            )
            fan_in = config.channels
        self.add_head(bound=0.01)

    def named_layers(self) -> list[tuple[str, ConvLIF]]:
        """The spiking layers in order."""
        return [(name, layer) for name, layer in self.layers.items() if isinstance(layer, ConvLIF)]

    def folded(self) -> Self:
        """A copy in canonical form: every norm folded, in evaluation's statistics.

        Raises:
            CheckpointError: a membrane norm that no canonical neuron computes, by its layer.
        """
        copied = super().folded()
        for name, layer in copied.named_layers():
            try:
                layer.fold_norm()
            except CheckpointError as error:
                raise CheckpointError(f"layer {name!r}: {error}") from None
            layer.compiled = False
        return copied

    def step(
        self,
        events: Tensor,
        states: dict[str, LIFState] | None = None,
        time_step: int | None = None,
    ) -> tuple[Tensor, dict[str, LIFState]]:
        """Advance by one window, see :meth:`models.network.FlowNetwork.step`."""
        states = {} if states is None else states
        x, new_states = events, {}
        for name, layer in self.named_layers():
            x, new_states[name] = layer(x, states.get(name), time_step)
        return torch.tanh(self.pred(x)), new_states

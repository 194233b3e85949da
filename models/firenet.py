"""The LIFFireNet family: spiking optical-flow networks in canonical form.

Topology of Hagenaars, Paredes-Valles and de Croon, "Self-supervised learning of event-based
optical flow with spiking neural networks", NeurIPS 2021.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.lif import ConvLIF, LIFState

FLOW_SCALING = 128.0

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


class ModelConfig(NamedTuple):
    """Everything that rebuilds a network, apart from its parameters."""

    model: str = "LIFFireNet"
    encoding: str = "cnt"
    num_bins: int = 2
    channels: int = 32
    kernel_size: int = 3
    reset: str = "zero"
    flow_scaling: float = FLOW_SCALING


class SpikingFireNet(nn.Module):
    """A stack of :class:`models.lif.ConvLIF` layers and a 1x1 flow head with tanh.

    Args:
        config: which member of the family and its sizes.
        batch_norm: normalise currents while training; :meth:`folded` gives the canonical form.

    Raises:
        ValueError: unknown model or encoding, or a count encoding without exactly two bins.
    """

    def __init__(
        self,
        config: ModelConfig = ModelConfig(),  # noqa: B008 (immutable)
        *,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if config.model not in TOPOLOGIES:
            raise ValueError(f"unknown model {config.model!r}; one of {', '.join(TOPOLOGIES)}")
        if config.encoding not in ("cnt", "voxel"):
            raise ValueError(f"encoding must be cnt or voxel, got {config.encoding!r}")
        if config.encoding == "cnt" and config.num_bins != 2:
            raise ValueError(f"encoding cnt needs num_bins 2, got {config.num_bins}")
        self.config = config
        self.checkpoint_sha256 = ""
        self.layers = nn.ModuleDict()
        fan_in = config.num_bins
        for name, recurrent in TOPOLOGIES[config.model]:
            self.layers[name] = ConvLIF(
                fan_in,
                config.channels,
                config.kernel_size,
                recurrent=recurrent,
                reset=config.reset,
                batch_norm=batch_norm,
            )
            fan_in = config.channels
        self.pred = nn.Conv2d(config.channels, 2, 1)
        nn.init.uniform_(self.pred.weight, -0.01, 0.01)
        nn.init.zeros_(self.pred.bias)  # type: ignore[arg-type]

    def named_layers(self) -> list[tuple[str, ConvLIF]]:
        """The spiking layers in order."""
        return [(name, layer) for name, layer in self.layers.items() if isinstance(layer, ConvLIF)]

    def folded(self) -> SpikingFireNet:
        """A copy in canonical form: every batch norm folded into weights and bias."""
        copied = copy.deepcopy(self)
        for _, layer in copied.named_layers():
            layer.fold_norm()
        return copied

    def step(
        self, events: Tensor, states: dict[str, LIFState] | None = None
    ) -> tuple[Tensor, dict[str, LIFState]]:
        """Advance by one window.

        Args:
            events: float32 [N, num_bins, H, W], event counts or voxel grid of one window.
            states: per layer, of the previous step; None for the zero state.

        Returns:
            flow float32 [N, 2, H, W] in (-1, 1), x right and y down, in units of flow_scaling
            pixels per window; and the new states.
        """
        states = {} if states is None else states
        x, new_states = events, {}
        for name, layer in self.named_layers():
            x, new_states[name] = layer(x, states.get(name))
        return torch.tanh(self.pred(x)), new_states

    def forward(
        self, events: Tensor, states: dict[str, LIFState] | None = None
    ) -> tuple[Tensor, dict[str, LIFState]]:
        """Same as :meth:`step`."""
        return self.step(events, states)


def detach(states: dict[str, LIFState]) -> dict[str, LIFState]:
    """Cut the states from the graph that computed them (truncated back-propagation)."""
    return {name: LIFState(s.mem.detach(), s.spike.detach()) for name, s in states.items()}

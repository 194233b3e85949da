"""What every network of this project has, with spikes or without."""

from __future__ import annotations

import abc
import copy
from typing import Generic, NamedTuple, Self

from torch import Tensor, nn

from models.states import State

FLOW_SCALING = 128.0


class ModelConfig(NamedTuple):
    """Everything that rebuilds a network, apart from its parameters.

    reset is without meaning in networks without spikes.
    """

    model: str = "LIFFireNet"
    encoding: str = "cnt"
    num_bins: int = 2
    channels: int = 32
    kernel_size: int = 3
    reset: str = "zero"
    flow_scaling: float = FLOW_SCALING

    def check(self) -> None:
        """Raise ValueError for an impossible input or kernel."""
        if self.encoding not in ("cnt", "voxel"):
            raise ValueError(f"encoding must be cnt or voxel, got {self.encoding!r}")
        if self.encoding == "cnt" and self.num_bins != 2:
            raise ValueError(f"encoding cnt needs num_bins 2, got {self.num_bins}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")


class FlowNetwork(nn.Module, abc.ABC, Generic[State]):
    """Layers in order, then a 1x1 convolution and tanh that give the flow.

    Attributes:
        config: what rebuilds it.
        layers: by name.
        pred: the flow head.
        checkpoint_sha256: hash of the file it was read from, or empty.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.checkpoint_sha256 = ""
        self.layers = nn.ModuleDict()

    def add_head(self, bound: float | None) -> None:
        """Give it the flow head, its weights within +-bound; None leaves PyTorch's initial ones."""
        self.pred = nn.Conv2d(self.config.channels, 2, 1)
        if bound is not None:
            nn.init.uniform_(self.pred.weight, -bound, bound)
            nn.init.zeros_(self.pred.bias)  # type: ignore[arg-type]

    @abc.abstractmethod
    def step(
        self, events: Tensor, states: dict[str, State] | None = None, time_step: int | None = None
    ) -> tuple[Tensor, dict[str, State]]:
        """Advance by one window.

        Args:
            events: float32 [N, num_bins, H, W], event counts or voxel grid of one window.
            states: per layer, of the previous step; None for the zero state.
            time_step: position of the window in the training sequence, from 0, which norm "time"
                learns from; None for none.

        Returns:
            flow float32 [N, 2, H, W] in (-1, 1), x right and y down, in units of flow_scaling
            pixels per window; and the new states.
        """

    def forward(
        self, events: Tensor, states: dict[str, State] | None = None, time_step: int | None = None
    ) -> tuple[Tensor, dict[str, State]]:
        """Same as :meth:`step`."""
        return self.step(events, states, time_step)

    def folded(self) -> Self:
        """A copy as it is deployed; where there is nothing to fold, the same again."""
        return copy.deepcopy(self)

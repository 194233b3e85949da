"""The same networks without spikes, as baselines: FireNet, RNNFireNet and FireFlowNet.

Topology and cells of event_flow (Hagenaars et al., NeurIPS 2021); FireNet itself is Scheerlinck et
al., "Fast image reconstruction with an event camera", WACV 2020. ``RNNFireNet_relu`` is RNNFireNet
with the plain recurrent cell of Xu et al., "Event-based optical flow on neuromorphic processor: ANN
vs. SNN comparison based on activation sparsification", 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.network import FlowNetwork, ModelConfig
from models.states import HiddenState


class ConvReLU(nn.Module):
    """``relu(conv(x))``, without a state.

    Args:
        in_channels, channels, kernel_size: of the convolution, which keeps the size.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Activation [N, C, H, W] of x [N, in_channels, H, W]."""
        return torch.relu(self.conv(x))


class ConvGRU(nn.Module):
    """Convolutional gated recurrent unit; the hidden state is the output.

    ``u = sigmoid(update([x, h])), r = sigmoid(reset([x, h])), c = tanh(candidate([x, r h]))``,
    ``h' = (1 - u) h + u c``. Weights start orthogonal, biases at zero.

    Args:
        channels: of input and hidden state.
        kernel_size: of the three convolutions.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.update_gate = self._conv(channels, kernel_size)
        self.reset_gate = self._conv(channels, kernel_size)
        self.candidate = self._conv(channels, kernel_size)

    @staticmethod
    def _conv(channels: int, kernel_size: int) -> nn.Conv2d:
        conv = nn.Conv2d(2 * channels, channels, kernel_size, padding=kernel_size // 2)
        nn.init.orthogonal_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        return conv

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Output and new hidden state [N, C, H, W] of input and previous hidden state."""
        both = torch.cat([x, hidden], 1)
        update = torch.sigmoid(self.update_gate(both))
        reset = torch.sigmoid(self.reset_gate(both))
        candidate = torch.tanh(self.candidate(torch.cat([x, reset * hidden], 1)))
        hidden = (1 - update) * hidden + update * candidate
        return hidden, hidden


class ConvRecurrent(nn.Module):
    """``h' = tanh(ff(x) + rec(h))``, output ``relu(out(h'))``; or, plain, ``h' = relu(ff(x) +
    rec(h))``, which is the output too.

    Args:
        channels: of input, hidden state and output.
        kernel_size: of the convolutions.
        plain: leave out the third convolution.
    """

    def __init__(self, channels: int, kernel_size: int, *, plain: bool = False) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.ff = nn.Conv2d(channels, channels, kernel_size, padding=padding)
        self.rec = nn.Conv2d(channels, channels, kernel_size, padding=padding)
        self.out = None if plain else nn.Conv2d(channels, channels, kernel_size, padding=padding)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Output and new hidden state [N, C, H, W] of input and previous hidden state."""
        summed = self.ff(x) + self.rec(hidden)
        if self.out is None:
            hidden = torch.relu(summed)
            return hidden, hidden
        hidden = torch.tanh(summed)
        return torch.relu(self.out(hidden)), hidden


ANALOG_MODELS = ("FireNet", "RNNFireNet", "RNNFireNet_relu", "FireFlowNet")
LAYERS = ("head", "G1", "R1a", "R1b", "G2", "R2a", "R2b")
RECURRENT = ("G1", "G2")


def _recurrent_cell(model: str, channels: int, kernel_size: int) -> nn.Module:
    if model == "FireNet":
        return ConvGRU(channels, kernel_size)
    return ConvRecurrent(channels, kernel_size, plain=model == "RNNFireNet_relu")


class AnalogFireNet(FlowNetwork[HiddenState]):
    """A non-spiking network of seven layers and a 1x1 flow head with tanh.

    Args:
        config: one of ``ANALOG_MODELS`` and its sizes.

    Raises:
        ValueError: unknown model or encoding, a count encoding without exactly two bins, or an even
            kernel.
    """

    def __init__(self, config: ModelConfig) -> None:
        if config.model not in ANALOG_MODELS:
            raise ValueError(f"unknown model {config.model!r}; one of {', '.join(ANALOG_MODELS)}")
        super().__init__(config)
        fan_in, recurrent = config.num_bins, config.model != "FireFlowNet"
        for name in LAYERS:
            if recurrent and name in RECURRENT:
                cell = _recurrent_cell(config.model, config.channels, config.kernel_size)
            else:
                cell = ConvReLU(fan_in, config.channels, config.kernel_size)
            self.layers[name] = cell
            fan_in = config.channels
        # As event_flow starts them.
        self.add_head(bound=None if recurrent else 0.01)

    def step(
        self,
        events: Tensor,
        states: dict[str, HiddenState] | None = None,
        time_step: int | None = None,
    ) -> tuple[Tensor, dict[str, HiddenState]]:
        """Advance by one window, see :meth:`models.network.FlowNetwork.step`."""
        states = {} if states is None else states
        x, new_states = events, {}
        for name, layer in self.layers.items():
            if isinstance(layer, ConvReLU):
                x = layer(x)
                continue
            state = states.get(name)
            x, hidden = layer(x, torch.zeros_like(x) if state is None else state.hidden)
            new_states[name] = HiddenState(hidden)
        return torch.tanh(self.pred(x)), new_states

"""The one spiking layer of this project: convolution, then the canonical LIF neuron."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_THRESHOLD = 0.01
SURROGATE_WIDTH = 4.0
RESETS = ("zero", "subtract", "none")


class ArctanSpike(torch.autograd.Function):
    """Heaviside step with the arctangent surrogate gradient ``1 / (1 + 4 x^2)``.

    Source: Fang et al., "Incorporating learnable membrane time constant", ICCV 2021. Hagenaars et
    al. (NeurIPS 2021) use a factor of 10; 4 reaches more of the unit-variance currents that batch
    norm gives here.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad / (1 + SURROGATE_WIDTH * x * x)


class LIFState(NamedTuple):
    """Membrane after reset and spikes of the previous step, both float32 [N, C, H, W]."""

    mem: Tensor
    spike: Tensor


def lif_step(
    current: Tensor, mem: Tensor, beta: Tensor, threshold: Tensor, reset: str
) -> tuple[Tensor, Tensor]:
    """Advance the canonical neuron by one step.

    ``u = beta * mem + current``, spike where ``u > threshold`` (a tie does not fire), then the
    reset. The gradient reaches the membrane through ``u``; the reset itself is not differentiated.

    Args:
        current: float32 [N, C, H, W].
        mem: float32 [N, C, H, W], membrane after the previous step's reset.
        beta: float32 [C], decay per step.
        threshold: float32 [C].
        reset: "zero", "subtract" or "none".

    Returns:
        (spike, mem_out), both float32 [N, C, H, W].
    """
    threshold_c = threshold.view(1, -1, 1, 1)
    u = beta.view(1, -1, 1, 1) * mem + current
    spike: Tensor = ArctanSpike.apply(u - threshold_c)  # type: ignore[no-untyped-call]
    fired = (u > threshold_c).to(u.dtype)
    if reset == "zero":
        return spike, u * (1 - fired)
    if reset == "subtract":
        return spike, u - fired * threshold_c
    return spike, u


class ConvLIF(nn.Module):
    """Convolution and LIF neurons in canonical form, feed-forward or recurrent.

    ``I = conv(x, weight) + conv(previous spikes, weight_rec) + bias``, then :func:`lif_step`.

    Args:
        in_channels: channels of the input.
        channels: output channels C, one neuron type each.
        kernel_size: odd; zero padding keeps the size at stride 1.
        recurrent: whether the layer's own previous spikes feed back through ``weight_rec``.
        stride: of the feed-forward convolution; a recurrent layer needs 1.
        reset: "zero", "subtract" or "none".
        batch_norm: normalise the current while training; :meth:`fold_norm` makes the layer
            canonical again.

    Raises:
        ValueError: even kernel, unknown reset, or a recurrent layer with a stride.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int = 3,
        *,
        recurrent: bool = False,
        stride: int = 1,
        reset: str = "zero",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if reset not in RESETS:
            raise ValueError(f"reset must be one of {', '.join(RESETS)}, got {reset!r}")
        if recurrent and stride != 1:
            raise ValueError("a recurrent layer needs stride 1")
        self.in_channels, self.channels, self.kernel_size = in_channels, channels, kernel_size
        self.recurrent, self.stride, self.reset = recurrent, stride, reset
        self.weight = nn.Parameter(self._initial_weight(in_channels))
        self.weight_rec = nn.Parameter(self._initial_weight(channels)) if recurrent else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.empty(channels).uniform_(0.4, 0.6))
        self.threshold = nn.Parameter(torch.empty(channels).uniform_(0.8, 1.2))
        self.norm = nn.BatchNorm2d(channels) if batch_norm else None

    def _initial_weight(self, fan_in: int) -> Tensor:
        bound = (1.0 / fan_in) ** 0.5
        return torch.empty(self.channels, fan_in, self.kernel_size, self.kernel_size).uniform_(
            -bound, bound
        )

    def effective_beta(self) -> Tensor:
        """Decay as used, float32 [C], clamped to 0..1."""
        return self.beta.clamp(0.0, 1.0)

    def effective_threshold(self) -> Tensor:
        """Threshold as used, float32 [C], at least 0.01."""
        return self.threshold.clamp_min(MIN_THRESHOLD)

    def initial_state(self, x: Tensor) -> LIFState:
        """Zero state for an input of x's batch and size."""
        height, width = (-(-side // self.stride) for side in x.shape[2:])
        zeros = x.new_zeros(x.shape[0], self.channels, height, width)
        return LIFState(zeros, zeros)

    def current(self, x: Tensor, spike_prev: Tensor) -> Tensor:
        """Input current float32 [N, C, H', W'] of spikes or counts x and the previous spikes."""
        padding = self.kernel_size // 2
        current = functional.conv2d(x, self.weight, self.bias, self.stride, padding)
        if self.weight_rec is not None:
            current = current + functional.conv2d(spike_prev, self.weight_rec, padding=padding)
        return current if self.norm is None else self.norm(current)

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Move the batch norm ``g*I + b`` into weights and bias, in eval mode's statistics."""
        if self.norm is None:
            return
        norm, self.norm = self.norm, None
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a batch norm without running statistics cannot be folded")
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.bias.copy_((self.bias - norm.running_mean) * gain + norm.bias)
        self.weight.mul_(gain.view(-1, 1, 1, 1))
        if self.weight_rec is not None:
            self.weight_rec.mul_(gain.view(-1, 1, 1, 1))

    def forward(self, x: Tensor, state: LIFState | None = None) -> tuple[Tensor, LIFState]:
        """Advance by one step.

        Args:
            x: float32 [N, in_channels, H, W], event counts or spikes.
            state: of the previous step; None for the zero state.

        Returns:
            spikes float32 [N, C, H', W'] and the new state.
        """
        state = self.initial_state(x) if state is None else state
        spike, mem = lif_step(
            self.current(x, state.spike),
            state.mem,
            self.effective_beta(),
            self.effective_threshold(),
            self.reset,
        )
        return spike, LIFState(mem, spike)

"""The one spiking layer of this project: convolution, then the canonical LIF neuron."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import compiled
from models.errors import CheckpointError
from models.norms import TimeNorm, batch_affine, current_norm, is_decay
from models.states import LIFState
from models.surrogates import ARCTAN, Surrogate, spike, surrogate_of

MIN_THRESHOLD = 0.01
RESETS = ("zero", "subtract", "none")


class NeuronOptions(NamedTuple):
    """How the neurons of a network start and learn.

    surrogate: one of ``models.SURROGATES``. surrogate_width: None for the surrogate's own. leak,
    threshold: ranges that decays (0 to 1) and thresholds start in, uniformly, each channel its own;
    thresholds are used as at least 0.01. learn_leak, learn_threshold: whether they are trained.
    compiled: training runs the neuron as compiled kernels (``torch.compile``); faster once the
    first steps are over.
    """

    surrogate: str = "arctanspike"
    surrogate_width: float | None = None
    leak: tuple[float, float] = (0.4, 0.6)
    threshold: tuple[float, float] = (0.8, 1.2)
    learn_leak: bool = True
    learn_threshold: bool = True
    compiled: bool = False

    def check(self) -> None:
        """Raise ValueError for ranges that no neuron has, or an unknown surrogate."""
        surrogate_of(self.surrogate, self.surrogate_width)
        if not 0 <= self.leak[0] <= self.leak[1] <= 1:
            raise ValueError(f"leak must be a range within 0 to 1, got {self.leak}")
        if not 0 <= self.threshold[0] <= self.threshold[1] < float("inf"):
            raise ValueError(f"threshold must be a range from 0 on, got {self.threshold}")


def lif_step(
    current: Tensor,
    mem: Tensor,
    beta: Tensor,
    threshold: Tensor,
    reset: str,
    surrogate: Surrogate = ARCTAN,
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
        surrogate: of the spike's derivative.

    Returns:
        (spike, mem_out), both float32 [N, C, H, W].
    """
    threshold_c = threshold.view(1, -1, 1, 1)
    u = beta.view(1, -1, 1, 1) * mem + current
    fired = spike(u - threshold_c, surrogate)
    if reset == "zero":
        return fired, u * (1 - fired.detach())
    if reset == "subtract":
        return fired, u - fired.detach() * threshold_c
    return fired, u


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
        norm: what is normalised while training, see :mod:`models.norms`: "none", "batch" (the
            current), "time" (the current, with factors per time step) or "membrane" (the current
            and the previous membrane). :meth:`fold_norm` makes the layer canonical again.
        time_steps: number of factors of norm "time".
        neuron: how the neurons start and learn.

    Raises:
        ValueError: even kernel, unknown reset or norm, a recurrent layer with a stride, or neurons
            that are impossible.
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
        norm: str = "none",
        time_steps: int = 4,
        neuron: NeuronOptions = NeuronOptions(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if reset not in RESETS:
            raise ValueError(f"reset must be one of {', '.join(RESETS)}, got {reset!r}")
        if recurrent and stride != 1:
            raise ValueError("a recurrent layer needs stride 1")
        neuron.check()
        self.in_channels, self.channels, self.kernel_size = in_channels, channels, kernel_size
        self.recurrent, self.stride, self.reset = recurrent, stride, reset
        self.surrogate = surrogate_of(neuron.surrogate, neuron.surrogate_width)
        self.compiled = neuron.compiled
        self.weight = nn.Parameter(self._initial_weight(in_channels))
        self.weight_rec = nn.Parameter(self._initial_weight(channels)) if recurrent else None
        self.bias = nn.Parameter(torch.zeros(channels))
        leak, threshold = (
            torch.empty(channels).uniform_(*bounds) for bounds in (neuron.leak, neuron.threshold)
        )
        self.beta = nn.Parameter(leak, requires_grad=neuron.learn_leak)
        self.threshold = nn.Parameter(threshold, requires_grad=neuron.learn_threshold)
        self.norm = current_norm(norm, channels, time_steps)
        self.membrane_norm = nn.BatchNorm2d(channels) if norm == "membrane" else None

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

    def current(self, x: Tensor, spike_prev: Tensor, time_step: int | None = None) -> Tensor:
        """Input current [N, C, H', W'] of spikes or counts x and the previous spikes.

        In the parameters' precision, under autocast too, so that neurons and statistics never
        compute in less; the convolutions do.
        """
        padding = self.kernel_size // 2
        current = functional.conv2d(x, self.weight, self.bias, self.stride, padding)
        if self.weight_rec is not None:
            current = current + functional.conv2d(spike_prev, self.weight_rec, padding=padding)
        current = current.to(self.bias.dtype)
        if isinstance(self.norm, TimeNorm):
            return self.norm(current, time_step)
        return current if self.norm is None else self.norm(current)

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Move the norms, in evaluation's statistics, into weights, bias and decay.

        Raises:
            CheckpointError: the norm of the membrane makes a decay outside 0 to 1.
            ValueError: a batch norm without running statistics.
        """
        if self.membrane_norm is not None:
            gain, shift = batch_affine(self.membrane_norm)
            beta = self.effective_beta().double()
            if not is_decay(beta * gain):
                raise CheckpointError(
                    "its membrane batch norm gives a decay outside 0..1, which the canonical "
                    "neuron does not have; train with another norm, or with smaller decays"
                )
        if self.norm is not None:
            self._fold_current_norm()
        if self.membrane_norm is not None:
            self.bias.copy_(self.bias + beta * shift)
            self.beta.copy_(beta * gain)
        self.norm = self.membrane_norm = None

    def _fold_current_norm(self) -> None:
        norm = self.norm
        assert norm is not None
        gain, shift = norm.affine() if isinstance(norm, TimeNorm) else batch_affine(norm)
        self.bias.copy_(self.bias * gain + shift)
        for weight in (self.weight, self.weight_rec):
            if weight is not None:
                weight.copy_(weight * gain.view(-1, 1, 1, 1))

    def forward(
        self, x: Tensor, state: LIFState | None = None, time_step: int | None = None
    ) -> tuple[Tensor, LIFState]:
        """Advance by one step.

        Args:
            x: float32 [N, in_channels, H, W], event counts or spikes.
            state: of the previous step; None for the zero state.
            time_step: of norm "time", counts from 0; None for the mean of all.

        Returns:
            spikes float32 [N, C, H', W'] and the new state.
        """
        state = self.initial_state(x) if state is None else state
        current = self.current(x, state.spike, time_step)
        # The state holds the membrane as it was reset, so a state of zeros is one for every norm.
        mem = state.mem if self.membrane_norm is None else self.membrane_norm(state.mem)
        neuron = (current, mem, self.effective_beta(), self.effective_threshold(), self.reset)
        functions = compiled.compiled(x.device.type) if self.compiled else None
        if functions is None:
            fired, after = lif_step(*neuron, self.surrogate)
        else:
            fired, after = compiled.neuron(*neuron, self.surrogate, functions)
        return fired, LIFState(after, fired)

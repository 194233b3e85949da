"""The float neuron against its sources: snnTorch's Leaky and the event_flow equation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lif_op.spec
from models import ConvLIF, LIFState, lif_step
from models.surrogates import ARCTAN

STEPS = 25
CHANNELS = 5
EPS = float(np.finfo(np.float32).eps)
SHAPE = (2, CHANNELS, 3, 4)

seeds = st.integers(0, 2**32 - 1)
scales = st.floats(0.05, 1e3)


def parameters(seed: int, scale: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """beta with 0 and 1 among them, thresholds of the currents' order, and the currents."""
    generator = torch.Generator().manual_seed(seed)
    beta = torch.rand(CHANNELS, generator=generator)
    beta[0], beta[1] = 0.0, 1.0
    threshold = (0.05 + torch.rand(CHANNELS, generator=generator)) * scale
    currents = [torch.randn(SHAPE, generator=generator) * scale for _ in range(STEPS)]
    return beta, threshold.clamp_min(0.01), currents


def margin(beta: Tensor, mem: Tensor, current: Tensor) -> Tensor:
    """Largest allowed difference of one step from equal state."""
    return 4 * EPS * ((beta.view(1, -1, 1, 1) * mem).abs() + current.abs())


def assert_step(
    got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], near: Tensor, bound: Tensor
) -> None:
    """Spikes equal except where u is within the bound of the threshold; so are membranes."""
    spikes_differ = got[0].double() != want[0].double()
    assert not bool((spikes_differ & ~near).any())
    apart = (got[1].double() - want[1].double()).abs() > bound
    assert not bool((apart & ~spikes_differ).any())


@settings(max_examples=40, deadline=None)
@given(seed=seeds, scale=scales, reset=st.sampled_from(["zero", "none"]))
def test_equals_snntorch_leaky(seed: int, scale: float, reset: str) -> None:
    beta, threshold, currents = parameters(seed, scale)
    leaky = snntorch.Leaky(
        beta=beta.view(-1, 1, 1),
        threshold=threshold.view(-1, 1, 1),
        reset_mechanism=reset,
        reset_delay=False,
    )
    mem = torch.zeros(SHAPE)
    fired = 0.0
    for current in currents:
        bound = margin(beta, mem, current)
        u = beta.double().view(1, -1, 1, 1) * mem.double() + current.double()
        near = (u - threshold.double().view(1, -1, 1, 1)).abs() <= bound
        got = lif_step(current, mem, beta, threshold, reset)
        assert_step(got, leaky(current, mem), near, bound)
        spike, mem = got
        fired += float(spike.sum())
    assert fired > 0


@settings(max_examples=40, deadline=None)
@given(seed=seeds, scale=scales)
def test_equals_the_event_flow_equation(seed: int, scale: float) -> None:
    """``v' = a v (1 - z) + (1 - a) I``, ``z' = v' > theta``: state before the reset, in float64."""
    beta, threshold, currents = parameters(seed, scale)
    leak = beta.double().clamp_max(0.999).view(1, -1, 1, 1)
    threshold_source = threshold.double().view(1, -1, 1, 1) * (1 - leak)
    beta = leak.flatten().float()
    threshold = (threshold_source / (1 - leak)).flatten().float()
    mem = torch.zeros(SHAPE)
    v, z = torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64)
    fired = 0.0
    for current in currents:
        bound = margin(beta, mem, current)
        v = leak * v * (1 - z) + (1 - leak) * current.double()
        z = (v - threshold_source > 0).double()
        u = v / (1 - leak)
        near = (u - threshold.double().view(1, -1, 1, 1)).abs() <= bound
        spike, mem = got = lif_step(current, mem, beta, threshold, "zero")
        assert_step(got, (z, u * (1 - z)), near, bound)
        # Both go on from the same state, so that the bound is that of a single step.
        v, z = mem.double() * (1 - leak), torch.zeros_like(z)
        fired += float(spike.sum())
    assert fired > 0


@settings(max_examples=20, deadline=None)
@given(seed=seeds, scale=scales, reset=st.sampled_from(lif_op.spec.RESETS))
def test_equals_the_reference_of_the_op(seed: int, scale: float, reset: str) -> None:
    beta, threshold, currents = parameters(seed, scale)
    mem = torch.zeros(SHAPE)
    for current in currents:
        expected = lif_op.spec.lif(
            current.numpy(), mem.numpy(), beta.numpy(), threshold.numpy(), reset
        )
        spike, mem = lif_step(current, mem, beta, threshold, reset)
        np.testing.assert_array_equal(spike.numpy(), expected[0])
        np.testing.assert_array_equal(mem.numpy(), expected[1])


def test_subtract_differs_from_snntorch() -> None:
    """Why snnTorch's "subtract" is refused at import: past twice the threshold it goes its way."""
    beta, threshold = torch.ones(1), torch.ones(1)
    leaky = snntorch.Leaky(beta=1.0, threshold=1.0, reset_mechanism="subtract", reset_delay=False)
    ours, theirs = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    spikes = []
    for value in (2.6, 0.0):
        current = torch.full((1, 1, 1, 1), value)
        spike, ours = lif_step(current, ours, beta, threshold, "subtract")
        spike_theirs, theirs = leaky(current, theirs)
        spikes.append((float(spike), float(spike_theirs)))
    assert spikes == [(1.0, 1.0), (1.0, 0.0)]


@pytest.mark.parametrize(
    ("reset", "after"), [("zero", [0.5, 0.75, 0.0]), ("subtract", [0.5, 0.75, 0.375])]
)
def test_a_tie_does_not_fire(reset: str, after: list[float]) -> None:
    """beta 1/2, threshold 3/4: 0.5, then exactly 0.75 (silent), then 1.125 (fires)."""
    beta, threshold = torch.tensor([0.5]), torch.tensor([0.75])
    mem, seen, spikes = torch.zeros(1, 1, 1, 1), [], []
    for current in (0.5, 0.5, 0.75):
        spike, mem = lif_step(torch.full((1, 1, 1, 1), current), mem, beta, threshold, reset)
        seen.append(float(mem))
        spikes.append(float(spike))
    assert seen == after and spikes == [0.0, 0.0, 1.0]


def test_gradient_is_the_surrogate_through_the_membrane() -> None:
    """d spike_2 / d current_1 = surrogate(u_2 - theta) * beta while the first step is silent."""
    beta, threshold = torch.tensor([0.5]), torch.tensor([1.0])
    first = torch.full((1, 1, 1, 1), 0.8, requires_grad=True)
    _, mem = lif_step(first, torch.zeros(1, 1, 1, 1), beta, threshold, "zero")
    spike, _ = lif_step(torch.full((1, 1, 1, 1), 0.9), mem, beta, threshold, "zero")
    spike.sum().backward()  # type: ignore[no-untyped-call]
    x = 0.5 * 0.8 + 0.9 - 1.0
    assert first.grad is not None
    assert float(first.grad) == pytest.approx(0.5 / (1 + ARCTAN.width * x * x), rel=1e-5)


# --- the layer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 2}, "kernel_size must be odd"),
        ({"reset": "soft"}, "reset must be one of"),
        ({"recurrent": True, "stride": 2}, "stride 1"),
    ],
)
def test_impossible_layers(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvLIF(2, 4, **arguments)


def test_stride_and_state_sizes() -> None:
    layer = ConvLIF(2, 4, stride=2)
    spike, state = layer(torch.ones(1, 2, 7, 10))
    assert spike.shape == state.mem.shape == (1, 4, 4, 5)


def layer_with_norm(recurrent: bool, seed: int) -> ConvLIF:
    """A layer whose batch norm has statistics of its own and gains of both signs."""
    torch.manual_seed(seed)
    layer = ConvLIF(3, 6, recurrent=recurrent, norm="batch").eval()
    assert layer.norm is not None
    assert layer.norm.running_mean is not None and layer.norm.running_var is not None
    with torch.no_grad():
        layer.norm.weight.copy_(torch.tensor([1.5, -1.2, 0.3, -0.4, 0.0, 2.0]))
        layer.norm.bias.normal_(0, 0.3)
        layer.norm.running_mean.normal_()
        layer.norm.running_var.uniform_(0.1, 3.0)
        layer.bias.normal_(0, 0.2)
        layer.threshold.fill_(0.4)
    return layer.double()


@pytest.mark.parametrize("recurrent", [False, True])
def test_folded_norm_computes_the_same(recurrent: bool) -> None:
    """In float64, so that rounding decides no spike."""
    layer = layer_with_norm(recurrent, seed=3)
    folded = layer_with_norm(recurrent, seed=3)
    folded.fold_norm()
    assert folded.norm is None and layer.norm is not None
    state: LIFState | None = None
    state_folded: LIFState | None = None
    fired = 0.0
    with torch.no_grad():
        for _ in range(8):
            x = torch.randint(0, 3, (2, 3, 6, 7)).double()
            spike, state = layer(x, state)
            spike_folded, state_folded = folded(x, state_folded)
            assert torch.equal(spike, spike_folded)
            torch.testing.assert_close(state.mem, state_folded.mem, rtol=0, atol=1e-12)
            fired += float(spike.mean())
    assert 0.1 < fired < 7


def test_folding_twice_is_folding_once() -> None:
    layer = layer_with_norm(True, seed=4)
    layer.fold_norm()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.fold_norm()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())

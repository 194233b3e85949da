"""How neurons start, learn and stay as they are; and the neuron as one function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models import SURROGATES, ConvLIF, ModelConfig, NeuronOptions, SpikingFireNet, lif_step
from models import compiled as compiled_neuron
from models.lif import RESETS
from models.surrogates import surrogate_of

SHORT = ModelConfig("LIFFireNet_short", channels=4)


def test_the_defaults_start_a_network_as_ever() -> None:
    """Drawn in this order: weights, recurrent weights, decays, thresholds."""
    torch.manual_seed(3)
    layer = ConvLIF(2, 4, recurrent=True)
    torch.manual_seed(3)
    weight = torch.empty(4, 2, 3, 3).uniform_(-(0.5**0.5), 0.5**0.5)
    weight_rec = torch.empty(4, 4, 3, 3).uniform_(-0.5, 0.5)
    beta, threshold = torch.empty(4).uniform_(0.4, 0.6), torch.empty(4).uniform_(0.8, 1.2)
    assert torch.equal(layer.weight, weight) and torch.equal(layer.beta, beta)
    assert layer.weight_rec is not None and torch.equal(layer.weight_rec, weight_rec)
    assert torch.equal(layer.threshold, threshold)


def test_ranges_take_effect() -> None:
    options = NeuronOptions(leak=(0.1, 0.2), threshold=(2.0, 3.0))
    network = SpikingFireNet(ModelConfig("LIFFireNet", channels=32), neuron=options)
    layers = network.named_layers()
    beta = torch.cat([layer.effective_beta().detach() for _, layer in layers])
    threshold = torch.cat([layer.effective_threshold().detach() for _, layer in layers])
    assert 0.1 <= float(beta.min()) < 0.11 and 0.19 < float(beta.max()) <= 0.2
    assert 2.0 <= float(threshold.min()) < 2.1 and 2.9 < float(threshold.max()) <= 3.0


def test_thresholds_are_used_as_at_least_a_hundredth() -> None:
    layer = ConvLIF(2, 4, neuron=NeuronOptions(threshold=(0.0, 0.001)))
    assert torch.equal(layer.effective_threshold(), torch.full((4,), 0.01))


@pytest.mark.parametrize("learn_leak", [True, False])
@pytest.mark.parametrize("learn_threshold", [True, False])
def test_fixed_parameters_stay(learn_leak: bool, learn_threshold: bool) -> None:
    """An optimiser with weight decay would change them even where their gradient is zero."""
    torch.manual_seed(0)
    options = NeuronOptions(
        threshold=(0.1, 0.2), learn_leak=learn_leak, learn_threshold=learn_threshold
    )
    network = SpikingFireNet(SHORT, neuron=options)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    states = None
    for _ in range(3):
        flow, states = network.step(torch.ones(1, 2, 6, 6), states)
    flow.square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for name, value in network.named_parameters():
        fixed = (name.endswith("beta") and not learn_leak) or (
            name.endswith("threshold") and not learn_threshold
        )
        assert torch.equal(value, before[name]) == fixed, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (NeuronOptions(leak=(0.6, 0.4)), "leak must be a range within 0 to 1"),
        (NeuronOptions(leak=(-4.0, 0.1)), "leak must be a range within 0 to 1"),
        (NeuronOptions(threshold=(1.0, 0.5)), "threshold must be a range from 0 on"),
        (NeuronOptions(threshold=(0.1, float("inf"))), "threshold must be a range"),
        (NeuronOptions(surrogate="relu"), "surrogate must be one of"),
    ],
)
def test_impossible_neurons(options: NeuronOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpikingFireNet(SHORT, neuron=options)


# --- the neuron as one function -----------------------------------------------------------------


def gradients(step: Any, reset: str, name: str, dtype: torch.dtype) -> list[Tensor]:
    """Spikes, membranes and every gradient of three steps in a row."""
    generator = torch.Generator().manual_seed(4)

    def values(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    shape = (2, 3, 4, 5)
    currents = [(2 * values(*shape) - 0.3).requires_grad_() for _ in range(3)]
    mem = start = values(*shape).requires_grad_()
    beta, threshold = values(3).requires_grad_(), (0.3 + values(3)).requires_grad_()
    loss, seen = torch.zeros((), dtype=dtype), []
    for current in currents:
        fired, mem = step(current, mem, beta, threshold, reset, surrogate_of(name))
        loss = loss + (fired * values(*shape)).sum() + (mem * values(*shape)).sum()
        seen += [fired.detach(), mem.detach()]
    rate = float(torch.stack(seen[::2]).mean())
    assert 0.1 < rate < 0.9
    return [*seen, *torch.autograd.grad(loss, [*currents, start, beta, threshold])]


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("name", SURROGATES)
def test_the_function_has_the_gradients_of_the_formulation(reset: str, name: str) -> None:
    got = gradients(compiled_neuron.neuron, reset, name, torch.float64)
    want = gradients(lif_step, reset, name, torch.float64)
    for mine, reference in zip(got, want, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


def test_compiled_neurons_compute_the_same() -> None:
    """Spikes and membranes bit for bit, gradients but for the order of their sums."""
    functions = compiled_neuron.compiled("cpu")
    assert functions is not None

    def step(*arguments: Any) -> tuple[Tensor, Tensor]:
        return compiled_neuron.neuron(*arguments, functions)

    got = gradients(step, "zero", "arctanspike", torch.float32)
    want = gradients(lif_step, "zero", "arctanspike", torch.float32)
    assert all(torch.equal(mine, other) for mine, other in zip(got[:6], want[:6], strict=True))
    for mine, reference in zip(got[6:], want[6:], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)


def test_without_a_compiler_it_goes_on_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any) -> Any:
        raise RuntimeError("no C++ compiler\nlong details")

    monkeypatch.setattr(torch, "compile", broken)
    compiled_neuron.compiled.cache_clear()
    torch.manual_seed(1)
    network = SpikingFireNet(SHORT, neuron=NeuronOptions(compiled=True))
    events = torch.ones(1, 2, 6, 6)
    try:
        with pytest.warns(
            UserWarning, match="not compiled.*: no C\\+\\+ compiler. Install"
        ) as seen:
            flow, states = network.step(events)
            network.step(events, states)
    finally:
        compiled_neuron.compiled.cache_clear()
    assert len(seen) == 1
    torch.manual_seed(1)
    assert torch.equal(flow, SpikingFireNet(SHORT).step(events)[0])


def test_neurons_compute_in_float32_under_autocast() -> None:
    network = SpikingFireNet(SHORT, norm="batch").train()
    with torch.autocast("cpu", torch.bfloat16):
        _, states = network.step(torch.ones(2, 2, 6, 6))
        _, states = network.step(torch.ones(2, 2, 6, 6), states)
        assert network.layers["G1"](torch.ones(1, 4, 6, 6))[0].dtype == torch.float32
    assert {part.dtype for state in states.values() for part in state} == {torch.float32}

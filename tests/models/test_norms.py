"""Norms while training, and the canonical network that they fold into."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import (
    NORMS,
    TOPOLOGIES,
    CheckpointError,
    LIFState,
    ModelConfig,
    NeuronOptions,
    SpikingFireNet,
    save_checkpoint,
)
from models.norms import TimeNorm

CHANNELS = 4


def trained(model: str, norm: str, encoding: str = "cnt", num_bins: int = 2) -> SpikingFireNet:
    """A network in float64 whose norms have statistics, gains of both signs, and shifts."""
    torch.manual_seed(11)
    config = ModelConfig(model, encoding, num_bins, CHANNELS)
    options = NeuronOptions(leak=(0.3, 0.9), threshold=(0.2, 0.6))
    network = SpikingFireNet(config, norm=norm, neuron=options).double().eval()
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                membrane = "membrane" in name
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.8, 2.0)
                module.weight.uniform_(0.2, 0.9)
                module.bias.normal_(0.1, 0.1)
                if not membrane:
                    module.weight[::3] *= -1
            elif isinstance(module, TimeNorm):
                module.scale.uniform_(0.5, 1.5)
        for _, layer in network.named_layers():
            layer.bias.normal_(0, 0.1)
        network.pred.weight.normal_(0, 0.3)
    return network


@pytest.mark.parametrize("model", TOPOLOGIES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("encoding", "bins"), [("cnt", 2), ("voxel", 5)])
def test_the_folded_network_computes_the_same(
    model: str, norm: str, encoding: str, bins: int
) -> None:
    """Flow within 1e-12 over ten windows, in float64, so that rounding decides no spike."""
    network = trained(model, norm, encoding, bins)
    folded = network.folded()
    assert all(
        layer.norm is None and layer.membrane_norm is None for _, layer in folded.named_layers()
    )
    states: dict[str, LIFState] | None = None
    states_folded: dict[str, LIFState] | None = None
    generator = torch.Generator().manual_seed(2)
    fired = torch.zeros(())
    with torch.no_grad():
        for step in range(10):
            shape = (2, bins, 6, 7)
            events = torch.randint(0, 3, shape, generator=generator).double() - int(bins != 2)
            flow, states = network.step(events, states, time_step=step)
            flow_folded, states_folded = folded.step(events, states_folded)
            torch.testing.assert_close(flow, flow_folded, rtol=0, atol=1e-12)
            for name, state in states.items():
                assert torch.equal(state.spike, states_folded[name].spike)
                torch.testing.assert_close(state.mem, states_folded[name].mem, rtol=0, atol=1e-12)
            fired = fired + next(reversed(states.values())).spike.mean()
    assert 0.1 < float(fired) < 9.9


@pytest.mark.parametrize("norm", ["batch", "time", "membrane"])
def test_an_unfolded_network_is_not_written(norm: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    network = trained("LIFFireNet_short", norm)
    with pytest.raises(CheckpointError, match="layer 'head' has a batch norm"):
        save_checkpoint(network, tmp_path / "n.safetensors")
    save_checkpoint(network.folded().float(), tmp_path / "n.safetensors")


@pytest.mark.parametrize("gain", [-0.1, 40.0])
def test_a_membrane_norm_that_makes_no_decay_is_refused(gain: float) -> None:
    network = trained("LIFFireNet_short", "membrane")
    norm = network.layers["R1a"].membrane_norm
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[1] = gain
    with pytest.raises(
        CheckpointError, match=r"layer 'R1a': its membrane batch norm.*outside 0..1"
    ):
        network.folded()


def test_training_uses_the_factor_of_its_time_step() -> None:
    """And only that one learns; evaluation, and a step without a number, take the mean."""
    norm = TimeNorm(2, 3).double()
    with torch.no_grad():
        norm.scale.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]]))
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    plain = norm.batch(x)
    for step in (0, 2, 4):
        factor = norm.scale[step % 3].view(1, 2, 1, 1)
        torch.testing.assert_close(norm(x, step), plain * factor, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm(x), plain * norm.scale.mean(0).view(1, 2, 1, 1))
    norm(x, 1).square().sum().backward()
    assert norm.scale.grad is not None
    assert [bool(row.any()) for row in norm.scale.grad] == [False, True, False]
    norm.eval()
    assert torch.equal(norm(x, 1), norm(x))


def test_networks_hand_the_time_step_on() -> None:
    network = trained("LIFFireNet_short", "time").train()
    _, one = network.step(torch.ones(2, 2, 5, 5).double(), None, 0)
    _, other = network.step(torch.ones(2, 2, 5, 5).double(), None, 1)
    assert not torch.equal(one["head"].mem, other["head"].mem)


def test_the_membrane_norm_sees_what_the_next_step_starts_from() -> None:
    """``u = beta * norm(m) + I``: by hand for one neuron, beta 1/2, gain 3/4, shift 1/4."""
    network = trained("LIFFireNet_short", "membrane")
    layer = network.layers["head"]
    norm = layer.membrane_norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.fill_(0.75)
        norm.bias.fill_(0.25)
        layer.beta.fill_(0.5)
        layer.threshold.fill_(100.0)
        mem = torch.full((1, CHANNELS, 2, 2), 2.0, dtype=torch.float64)
        x = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
        current = layer.current(x, torch.zeros_like(mem))
        _, state = layer(x, LIFState(mem, torch.zeros_like(mem)))
    torch.testing.assert_close(state.mem, current + 0.5 * (0.75 * 2 + 0.25), rtol=0, atol=1e-12)


def test_impossible_norms() -> None:
    config = ModelConfig("LIFFireNet_short", channels=2)
    with pytest.raises(ValueError, match="norm must be one of none, batch, time, membrane"):
        SpikingFireNet(config, norm="group")
    with pytest.raises(ValueError, match="time_steps must be positive, got 0"):
        SpikingFireNet(config, norm="time", time_steps=0)


# Published counts with batch norm [of the currents]; without it, 64 per layer less at 32 channels.
COUNTS = {
    32: {"LIFFireNet": 75266, "LIFFireNet_short": 56578},
    16: {"LIFFireNet": 19202, "LIFFireNet_short": 14466},
    8: {"LIFFireNet": 4994, "LIFFireNet_short": 3778},
    4: {"LIFFireNet": 1346, "LIFFireNet_short": 1026},
}
FLOW_NET_COUNTS = {32: (56834, 38146), 16: (14594, 9858), 8: (3842, 2626), 4: (1058, 738)}


@pytest.mark.parametrize("channels", COUNTS)
def test_parameter_counts(channels: int) -> None:
    """Ours hold one bias per channel and layer more, which folding needs."""
    names = ("LIFFireFlowNet", "LIFFireFlowNet_short")
    counts = COUNTS[channels] | dict(zip(names, FLOW_NET_COUNTS[channels], strict=True))
    for name, count in counts.items():
        per_layer = channels * len(TOPOLOGIES[name])
        for norm, more in (("none", -2), ("batch", 0), ("time", 4), ("membrane", 2)):
            network = SpikingFireNet(ModelConfig(name, channels=channels), norm=norm)
            held = sum(value.numel() for value in network.parameters())
            assert held - per_layer == count + more * per_layer, (name, norm)
    network = SpikingFireNet(ModelConfig("LIFFireNet", "voxel", 5, channels))
    assert network.layers["head"].weight.shape == (channels, 5, 3, 3)

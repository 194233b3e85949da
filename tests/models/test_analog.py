"""Networks without spikes, their checkpoints, and what is done with states of both kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models import (
    ANALOG_MODELS,
    MODELS,
    AnalogFireNet,
    CheckpointError,
    HiddenState,
    LIFState,
    ModelConfig,
    SpikingFireNet,
    activity,
    build_network,
    detach,
    keep,
    load_checkpoint,
    load_network,
    restore,
    save_checkpoint,
)

PUBLIC = Path(__file__).parents[3] / "shared/data/weights/RNNFireNet_ReLU_ANN_84699299.npz"


def windows(count: int, bins: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.rand(2, bins, 6, 7, generator=generator) for _ in range(count)]


def drive(network: Any, events: list[Tensor]) -> list[Tensor]:
    states, flows = None, []
    with torch.no_grad():
        for window in events:
            flow, states = network.step(window, states)
            flows.append(flow)
    return flows


@pytest.mark.parametrize(
    ("name", "count"), [("FireNet", 148450), ("RNNFireNet", 93154), ("FireFlowNet", 56162)]
)
def test_parameter_counts(name: str, count: int) -> None:
    network = build_network(ModelConfig(name))
    assert sum(value.numel() for value in network.parameters()) == count
    small = build_network(ModelConfig(name, "voxel", 5, 8))
    assert small.step(torch.ones(1, 5, 4, 4))[0].shape == (1, 2, 4, 4)


def event_flow_keys(network: AnalogFireNet) -> dict[str, Tensor]:
    """The state dict under event_flow's names."""
    names = {"conv": "conv2d", "candidate": "out_gate"}
    tensors = {}
    for key, value in network.state_dict().items():
        parts = key.removeprefix("layers.").split(".")
        parts = ["pred", "conv2d", parts[1]] if parts[0] == "pred" else parts
        tensors[".".join(names.get(part, part) for part in parts)] = value
    return tensors


def reference(p: dict[str, Tensor], name: str, events: list[Tensor]) -> list[Tensor]:
    """event_flow's cells as published, from its keys, in the dtype of the events."""

    def conv(key: str, x: Tensor) -> Tensor:
        return functional.conv2d(x, p[f"{key}.weight"], p[f"{key}.bias"], padding=1)

    hidden: dict[str, Tensor] = {}
    flows = []
    for x in events:
        for layer in ("head", "G1", "R1a", "R1b", "G2", "R2a", "R2b"):
            if layer not in ("G1", "G2") or name == "FireFlowNet":
                x = torch.relu(conv(f"{layer}.conv2d", x))
                continue
            h = hidden.get(layer, torch.zeros_like(x))
            if name == "FireNet":
                update = torch.sigmoid(conv(f"{layer}.update_gate", torch.cat([x, h], 1)))
                reset = torch.sigmoid(conv(f"{layer}.reset_gate", torch.cat([x, h], 1)))
                new = torch.tanh(conv(f"{layer}.out_gate", torch.cat([x, h * reset], 1)))
                x = hidden[layer] = h * (1 - update) + new * update
            elif name == "RNNFireNet":
                hidden[layer] = torch.tanh(conv(f"{layer}.ff", x) + conv(f"{layer}.rec", h))
                x = torch.relu(conv(f"{layer}.out", hidden[layer]))
            else:
                x = hidden[layer] = torch.relu(conv(f"{layer}.ff", x) + conv(f"{layer}.rec", h))
        flow = functional.conv2d(x, p["pred.conv2d.weight"], p["pred.conv2d.bias"])
        flows.append(torch.tanh(flow))
    return flows


@pytest.mark.parametrize("name", ANALOG_MODELS)
def test_event_flow_runs_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = AnalogFireNet(ModelConfig(name, channels=4))
    with torch.no_grad():
        for value in source.parameters():
            value.mul_(2)
    tensors = event_flow_keys(source)
    torch.save(tensors, tmp_path / "source.pth")
    network = load_network(tmp_path / "source.pth")
    assert isinstance(network, AnalogFireNet) and network.config.model == name
    events = [window.double() for window in windows(5)]
    want = reference({key: value.double() for key, value in tensors.items()}, name, events)
    for mine, other in zip(drive(network.double(), events), want, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    assert name == "FireFlowNet" or not torch.allclose(want[0], want[-1], atol=1e-5)


@pytest.mark.parametrize("name", ANALOG_MODELS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    config = ModelConfig(name, "voxel", 5, 3, 5, "zero", 64.0)
    network = AnalogFireNet(config)
    path = save_checkpoint(network.folded(), tmp_path / "own.safetensors")
    back = load_network(path)
    assert back.config == config and not back.training and back.checkpoint_sha256
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in network.state_dict().items())
    with pytest.raises(CheckpointError, match=f"{path}: holds {name}, which is non-spiking"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("R1a.conv2d.weight", None, "missing key 'R1a.conv.weight' for FireNet"),
        ("R1a.extra", torch.zeros(1), "unexpected key 'R1a.extra.'"),
        ("G1.thre_acti_rec", torch.zeros(1), "unexpected key"),
        ("head.conv2d.weight", torch.zeros(3), "'head.conv2d.weight' has shape"),
        ("G2.out_gate.bias", torch.full((4,), torch.nan), "G2.candidate.bias.*not finite"),
    ],
)
def test_refused_state_dicts(key: str, value: Tensor | None, message: str, tmp_path: Path) -> None:
    tensors = event_flow_keys(AnalogFireNet(ModelConfig("FireNet", channels=4)))
    tensors.pop(key, None)
    if value is not None:
        tensors[key] = value
    torch.save(tensors, tmp_path / "source.pth")
    with pytest.raises(CheckpointError, match=message):
        load_network(tmp_path / "source.pth")


@pytest.mark.skipif(not PUBLIC.exists(), reason="the public weights are not here")
def test_a_public_trained_network_loads() -> None:
    network = load_network(PUBLIC)
    assert network.config == ModelConfig("RNNFireNet_relu")
    flows = drive(network, [(window > 0.8).float() for window in windows(5)])
    assert 1e-3 < float(flows[-1].abs().mean()) < 1


def test_every_model_is_built() -> None:
    for name in MODELS:
        network = build_network(ModelConfig(name, channels=2))
        assert isinstance(network, AnalogFireNet) == (name in ANALOG_MODELS)
    with pytest.raises(ValueError, match="unknown model 'E2VID'; one of LIFFireNet"):
        build_network(ModelConfig("E2VID"))
    with pytest.raises(ValueError, match="FireNet is non-spiking and has no batch norm"):
        build_network(ModelConfig("FireNet"), norm="batch")
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        build_network(ModelConfig("FireNet", kernel_size=2))
    with pytest.raises(ValueError, match="unknown model 'LIFFireNet'; one of FireNet"):
        AnalogFireNet(ModelConfig())


@pytest.mark.parametrize("name", ["LIFFireNet_short", "FireNet"])
def test_states_of_both_kinds(name: str) -> None:
    """A slot that is not kept goes on as a fresh one, and restored states are what they were."""
    torch.manual_seed(2)
    network = build_network(ModelConfig(name, channels=4)).eval()
    first, second = windows(2)
    _, states = network.step(3 * first)
    assert any(part.requires_grad for state in states.values() for part in state)
    kept = keep(detach(states), torch.tensor([True, False]))
    assert not any(part.requires_grad for state in kept.values() for part in state)
    flow, _ = network.step(second, kept)
    torch.testing.assert_close(flow[1:], network.step(second[1:])[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(flow[:1], network.step(second, states)[0][:1], rtol=0, atol=0)
    back = restore({layer: tuple(state) for layer, state in kept.items()})
    assert {layer: type(state) for layer, state in back.items()} == {
        layer: type(state) for layer, state in kept.items()
    }
    assert torch.equal(network.step(second, back)[0], flow)


def test_a_slot_that_is_not_kept_forgets_even_what_is_not_a_number() -> None:
    bad = torch.full((2, 1, 1, 1), torch.nan)
    (state,) = keep({"a": HiddenState(bad)}, torch.tensor([False, False])).values()
    assert torch.equal(state.hidden, torch.zeros(2, 1, 1, 1))


def test_restoring_something_else() -> None:
    with pytest.raises(ValueError, match="layer 'G1' has 3 tensors"):
        restore({"G1": (torch.zeros(1),) * 3})


def test_activity_is_the_share_that_fired() -> None:
    fired = torch.zeros(1, 2, 2, 2)
    fired[0, 0] = 1
    assert activity({"a": LIFState(fired, fired), "b": LIFState(fired, 0 * fired)}) == {
        "a": 0.5,
        "b": 0.0,
    }
    _, states = AnalogFireNet(ModelConfig("FireNet", channels=2)).step(torch.ones(1, 2, 4, 4))
    assert activity(states) == {}
    _, spiking = SpikingFireNet(ModelConfig(channels=2)).step(torch.ones(1, 2, 4, 4))
    assert list(activity(spiking)) == ["head", "G1", "R1a", "R1b", "G2", "R2a", "R2b"]

"""State dicts of other projects: imported exactly, or refused by the name of the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import snntorch
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import TOPOLOGIES, CheckpointError, SpikingFireNet, load_checkpoint

CHANNELS = 6
SIZE = (7, 9)
STEPS = 12

StateDict = dict[str, Tensor]
Edit = Callable[[StateDict], object]


def save(tensors: StateDict, tmp_path: Path, name: str = "source.pth") -> Path:
    path = tmp_path / name
    torch.save(tensors, path)
    return path


def windows(seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rate = torch.full((1, 2, *SIZE), 0.6, dtype=torch.float64)
    return [torch.poisson(rate, generator=generator) for _ in range(STEPS)]


def drive(model: SpikingFireNet) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Spikes of every layer and the flow, per step, in float64."""
    states, spikes, flows = None, [], []
    model = model.double()
    with torch.no_grad():
        for events in windows():
            flow, states = model.step(events, states)
            spikes.append({name: state.spike for name, state in states.items()})
            flows.append(flow)
    return spikes, flows


def assert_same_run(
    ours: tuple[list[dict[str, Tensor]], list[Tensor]],
    theirs: tuple[list[dict[str, Tensor]], list[Tensor]],
) -> None:
    for step, (mine, other) in enumerate(zip(ours[0], theirs[0], strict=True)):
        for layer, spike in other.items():
            assert torch.equal(mine[layer], spike.to(mine[layer].dtype)), (step, layer)
    for mine_flow, other_flow in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine_flow, other_flow, rtol=0, atol=1e-6)
    layers = theirs[0][0]
    for layer in layers:
        rate = float(torch.stack([spikes[layer].double().mean() for spikes in theirs[0]]).mean())
        assert 0.005 < rate < 0.95, (layer, rate)


# --- event_flow ---------------------------------------------------------------------------------


def event_flow_dict(name: str = "LIFFireNet", seed: int = 0) -> StateDict:
    """A state dict with event_flow's keys and shapes; some thresholds lie below its floor."""
    generator = torch.Generator().manual_seed(seed)
    tensors: StateDict = {}
    fan_in = 2
    for layer, recurrent in TOPOLOGIES[name]:
        tensors[f"{layer}.leak"] = torch.randn(CHANNELS, 1, 1, generator=generator) * 2
        thresh = torch.rand(CHANNELS, 1, 1, generator=generator) * 0.3
        thresh[0] = -0.2
        tensors[f"{layer}.thresh"] = thresh
        tensors[f"{layer}.act_width"] = torch.tensor(10.0)
        shape = (CHANNELS, fan_in, 3, 3)
        tensors[f"{layer}.ff.weight"] = torch.randn(shape, generator=generator) * 0.5
        if recurrent:
            shape = (CHANNELS, CHANNELS, 3, 3)
            tensors[f"{layer}.rec.weight"] = torch.randn(shape, generator=generator) * 0.3
        fan_in = CHANNELS
    tensors["pred.conv2d.weight"] = torch.randn(2, CHANNELS, 1, 1, generator=generator) * 0.2
    tensors["pred.conv2d.bias"] = torch.randn(2, generator=generator) * 0.1
    return tensors


def run_event_flow(tensors: StateDict, name: str) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """event_flow's ConvLIF and ConvLIFRecurrent as published, in float64.

    The state is the membrane *before* its reset; the spike of the step before resets it.
    """
    p = {key: value.double() for key, value in tensors.items()}
    v: StateDict = {}
    z: StateDict = {}
    spikes, flows = [], []
    for events in windows():
        x = events
        for layer, recurrent in TOPOLOGIES[name]:
            current = functional.conv2d(x, p[f"{layer}.ff.weight"], padding=1)
            if layer not in v:
                v[layer], z[layer] = torch.zeros_like(current), torch.zeros_like(current)
            if recurrent:
                current = current + functional.conv2d(z[layer], p[f"{layer}.rec.weight"], padding=1)
            leak = torch.sigmoid(p[f"{layer}.leak"])
            thresh = p[f"{layer}.thresh"].clamp_min(0.01)
            v[layer] = v[layer] * leak * (1 - z[layer]) + (1 - leak) * current
            z[layer] = (v[layer] - thresh > 0).double()
            x = z[layer]
        spikes.append(dict(z))
        head = functional.conv2d(x, p["pred.conv2d.weight"], p["pred.conv2d.bias"])
        flows.append(torch.tanh(head))
    return spikes, flows


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_event_flow_runs_the_same(name: str, tmp_path: Path) -> None:
    tensors = event_flow_dict(name)
    model = load_checkpoint(save(tensors, tmp_path))
    assert model.config.model == name and model.config.channels == CHANNELS
    assert_same_run(drive(model), run_event_flow(tensors, name))


@pytest.mark.parametrize("container", ["model_state_dict", "state_dict"])
def test_training_checkpoints_are_unwrapped(container: str, tmp_path: Path) -> None:
    tensors = event_flow_dict()
    path = tmp_path / "checkpoint.pt"
    torch.save({container: tensors, "epoch": 3, "loss": 0.5, "config": {"lr": 1e-4}}, path)
    assert torch.equal(load_checkpoint(path).layers["G1"].weight, tensors["G1.ff.weight"])


def test_npz_and_safetensors_hold_the_same(tmp_path: Path) -> None:
    tensors = event_flow_dict()
    expected = load_checkpoint(save(tensors, tmp_path)).state_dict()
    np.savez(tmp_path / "w.npz", **{key: value.numpy() for key, value in tensors.items()})
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
    for name in ("w.npz", "w.safetensors"):
        got = load_checkpoint(tmp_path / name).state_dict()
        assert got.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in got.items())


# --- snnTorch -----------------------------------------------------------------------------------


class Tebn(nn.Module):
    """Batch norm with a learnable factor per time step; the mean factor is what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(CHANNELS)
        self.p = nn.Parameter(torch.ones(4, CHANNELS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x) * self.p.mean(0)


class Mpbn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(CHANNELS)


class SnnTorchLayer(nn.Module):
    """The seed's ConvLIF around snnTorch's own Leaky; its state dict has the keys to import."""

    def __init__(
        self,
        fan_in: int,
        recurrent: bool,
        norm: str,
        mpbn: bool,
        shape: tuple[int, ...],
        **leaky: Any,
    ) -> None:
        super().__init__()
        self.ff = nn.Conv2d(fan_in, CHANNELS, 3, padding=1, bias=False)
        if recurrent:
            self.rec = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        if norm == "bn":
            self.bn: nn.Module = nn.BatchNorm2d(CHANNELS)
        elif norm == "tebn":
            self.bn = Tebn()
        if mpbn:
            self.mpbn = Mpbn()
        self.lif = snntorch.Leaky(
            beta=torch.rand(shape),
            threshold=torch.rand(shape) * 0.5 + 0.1,
            learn_beta=True,
            learn_threshold=True,
            reset_delay=False,
            **leaky,
        )
        self.recurrent = recurrent
        self.mem = self.spike = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        current = self.ff(x)
        if not len(self.mem):
            self.mem = self.spike = torch.zeros_like(current)
            if hasattr(self, "mpbn"):
                # The canonical state starts as after a reset: membrane 0, seen through the norm.
                self.mem = self.mpbn.bn(self.mem)
        if self.recurrent:
            current = current + self.rec(self.spike)
        if hasattr(self, "bn"):
            current = self.bn(current)
        spike, mem = self.lif(current, self.mem)
        self.mem = self.mpbn.bn(mem) if hasattr(self, "mpbn") else mem
        self.spike = spike.double()
        return self.spike


class SnnTorchNet(nn.Module):
    """The whole network as the snnTorch variant builds it."""

    def __init__(
        self,
        name: str = "LIFFireNet",
        norm: str = "bn",
        mpbn: bool = False,
        shape: tuple[int, ...] = (CHANNELS, 1, 1),
        seed: int = 1,
        reset_mechanism: str = "zero",
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.names = [layer for layer, _ in TOPOLOGIES[name]]
        fan_in = 2
        for layer, recurrent in TOPOLOGIES[name]:
            module = SnnTorchLayer(
                fan_in, recurrent, norm, mpbn, shape, reset_mechanism=reset_mechanism
            )
            setattr(self, layer, module)
            fan_in = CHANNELS
        self.pred = nn.Module()
        self.pred.conv2d = nn.Conv2d(CHANNELS, 2, 1)
        self._randomise_norms()
        self.double().eval()

    def _randomise_norms(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                membrane = "mpbn" in name
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.2 if membrane else 0.4, 0.6 if membrane else 1.6)
                nn.init.normal_(module.bias, -0.3 if membrane else 0.1, 0.05)
                if not membrane:
                    with torch.no_grad():
                        module.weight[::2] *= -1
            elif isinstance(module, Tebn):
                nn.init.uniform_(module.p, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.names:
            x = getattr(self, layer)(x)
        return torch.tanh(self.pred.conv2d(x))

    def plain(self) -> StateDict:
        """The state dict as it lies in a file: float32 tensors."""
        return {
            key: value.float() if value.is_floating_point() else value.clone()
            for key, value in self.state_dict().items()
        }

    def run(self) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        spikes, flows = [], []
        with torch.no_grad():
            for events in windows():
                flows.append(self(events))
                spikes.append({name: getattr(self, name).spike for name in self.names})
        return spikes, flows


CASES = {
    "plain": {"norm": "none"},
    "bn": {"norm": "bn"},
    "tebn": {"norm": "tebn"},
    "mpbn": {"norm": "bn", "mpbn": True},
    "old_shapes": {"norm": "none", "shape": (1, CHANNELS, 1, 1)},
    "no_reset": {"norm": "bn", "reset_mechanism": "none", "name": "LIFFireFlowNet_short"},
    "short": {"norm": "bn", "name": "LIFFireNet_short"},
}


@pytest.mark.parametrize("case", CASES)
def test_snntorch_runs_the_same(case: str, tmp_path: Path) -> None:
    net = SnnTorchNet(**CASES[case])  # type: ignore[arg-type]
    tensors = net.plain()
    # Both sides compute with what the file holds.
    net.load_state_dict({key: value.double() for key, value in tensors.items()}, strict=True)
    model = load_checkpoint(save(tensors, tmp_path))
    assert model.config.reset == CASES[case].get("reset_mechanism", "zero")
    assert_same_run(drive(model), net.run())


def test_older_layouts_repeat_the_neuron(tmp_path: Path) -> None:
    """Older files hold ``L.beta`` and ``L.leak_raw`` too; the ``lif.`` copies are what runs."""
    tensors = SnnTorchNet(norm="none").plain()
    expected = load_checkpoint(save(tensors, tmp_path)).state_dict()
    for key in ("beta", "threshold", "leak_raw", "thresh_raw"):
        tensors[f"head.{key}"] = torch.full((CHANNELS, 1, 1), 0.123)
    got = load_checkpoint(save(tensors, tmp_path)).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in got.items())


def test_one_value_for_every_channel(tmp_path: Path) -> None:
    tensors = SnnTorchNet(norm="none").plain()
    for layer, _ in TOPOLOGIES["LIFFireNet"]:
        tensors[f"{layer}.lif.beta"] = torch.tensor(0.5)
        tensors[f"{layer}.lif.threshold"] = torch.tensor(1.0)
    model = load_checkpoint(save(tensors, tmp_path))
    assert torch.equal(model.layers["R2b"].beta, torch.full((CHANNELS,), 0.5))


def test_what_the_source_clamps_is_clamped(tmp_path: Path) -> None:
    tensors = SnnTorchNet(norm="none").plain()
    tensors["head.lif.beta"][0], tensors["head.lif.beta"][1] = 1.7, -0.3
    tensors["head.lif.threshold"][2] = -1.0
    head = load_checkpoint(save(tensors, tmp_path)).layers["head"]
    assert head.beta[:2].tolist() == [1.0, 0.0]
    assert head.threshold[2].item() == pytest.approx(0.01)


# --- refusals -----------------------------------------------------------------------------------


def drop(key: str) -> Edit:
    return lambda tensors: tensors.pop(key)


def put(key: str, value: Tensor) -> Edit:
    return lambda tensors: tensors.__setitem__(key, value)


def poke(key: str, value: float) -> Edit:
    return lambda tensors: tensors[key].view(-1).__setitem__(0, value)


def both(*edits: Edit) -> Edit:
    return lambda tensors: [edit(tensors) for edit in edits]


EVENT_FLOW_REFUSALS: dict[str, tuple[Edit, str]] = {
    "leak too close to 1": (poke("R1a.leak", 20.0), "'R1a.leak' holds a leak closer to 1"),
    "missing threshold": (drop("G2.thresh"), "missing key 'G2.thresh'"),
    "missing head weight": (drop("head.ff.weight"), "not a network of the LIFFireNet family"),
    "missing flow head": (drop("pred.conv2d.bias"), "missing key 'pred.conv2d.bias'"),
    "unknown key": (put("G1.leak_pt", torch.zeros(6, 1, 1)), "'G1.leak_pt' has no canonical form"),
    "another network": (put("R3a.ff.weight", torch.zeros(6, 6, 3, 3)), "'R3a.ff.weight'"),
    "weight of another size": (put("R1b.ff.weight", torch.zeros(6, 5, 3, 3)), "'R1b.*weight'"),
    "recurrent weight of another size": (
        put("G1.rec.weight", torch.zeros(6, 6, 5, 5)),
        "'G1.*weight",
    ),
    "leak of another size": (put("R2a.leak", torch.zeros(5, 1, 1)), "'R2a.leak'"),
    "threshold of another size": (put("R2a.thresh", torch.ones(7, 1, 1)), "'R2a.thresh'"),
    "weight of no rank": (put("R1a.ff.weight", torch.tensor(1.0)), "'R1a.*weight'"),
    "head weight of rank 2": (put("head.ff.weight", torch.zeros(6, 2)), "'head.*weight'"),
    "even kernel": (put("head.ff.weight", torch.zeros(6, 2, 4, 4)), "kernel_size must be odd"),
    "nan in a leak": (poke("head.leak", float("nan")), "head.*not finite"),
    "nan in a weight": (poke("R1b.ff.weight", float("nan")), "R1b.*not finite"),
    "infinite flow head": (poke("pred.conv2d.weight", float("inf")), "pred.weight.*not finite"),
    "infinite threshold": (poke("G1.thresh", float("inf")), "G1.*not finite"),
}


@pytest.mark.parametrize("case", EVENT_FLOW_REFUSALS)
def test_event_flow_refusals(case: str, tmp_path: Path) -> None:
    edit, message = EVENT_FLOW_REFUSALS[case]
    tensors = event_flow_dict()
    edit(tensors)
    path = save(tensors, tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def subtract(tensors: StateDict) -> None:
    for layer, _ in TOPOLOGIES["LIFFireNet"]:
        tensors[f"{layer}.lif.reset_mechanism_val"] = torch.tensor(0)


SNNTORCH_REFUSALS: dict[str, tuple[Edit, str]] = {
    "subtract": (subtract, "'head.lif.reset_mechanism_val' is 0: snnTorch's reset 'subtract'"),
    "mixed resets": (put("G1.lif.reset_mechanism_val", torch.tensor(2)), "different ways"),
    "damaged reset": (
        put("G1.lif.reset_mechanism_val", torch.tensor([1, 1])),
        "'G1.lif.reset_mechanism_val'",
    ),
    "graded spikes": (
        put("R1a.lif.graded_spikes_factor", torch.tensor(0.5)),
        "'R1a.lif.graded_spikes_factor' is not 1",
    ),
    "no neuron": (drop("R2a.lif.beta"), "missing key 'R2a.lif.beta'"),
    "half a batch norm": (drop("R2a.bn.running_var"), "missing key 'R2a.bn.running_var'"),
    "batch norm of another size": (put("G2.bn.weight", torch.ones(5)), "'G2.bn.weight'"),
    "beta of another size": (put("G2.lif.beta", torch.ones(5, 1, 1)), "'G2.lif.beta'"),
    "negative variance": (poke("G2.bn.running_var", -1.0), "G2.*not finite"),
    "nan in the norm": (poke("G2.bn.bias", float("nan")), "G2.*not finite"),
    "quantizer": (
        put("head.ff.input_quant.scaling_impl.value", torch.tensor(1.0)),
        "'head.ff.input_quant.scaling_impl.value' has no canonical form",
    ),
    "bias of a convolution": (put("R1b.ff.bias", torch.zeros(6)), "'R1b.ff.bias'"),
}


@pytest.mark.parametrize("case", SNNTORCH_REFUSALS)
def test_snntorch_refusals(case: str, tmp_path: Path) -> None:
    edit, message = SNNTORCH_REFUSALS[case]
    tensors = SnnTorchNet().plain()
    edit(tensors)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(save(tensors, tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weight", 40.0),  # beta * gain above 1
        ("weight", -1.0),  # below 0
        ("bias", 5.0),  # lifts a silent membrane above the threshold, where snnTorch resets it
    ],
)
def test_membrane_norm_out_of_range(key: str, value: float, tmp_path: Path) -> None:
    tensors = SnnTorchNet(mpbn=True).plain()
    tensors["G1.lif.beta"].fill_(0.9)
    tensors[f"G1.mpbn.bn.{key}"][2] = value
    with pytest.raises(CheckpointError, match="layer 'G1': its membrane batch norm"):
        load_checkpoint(save(tensors, tmp_path))

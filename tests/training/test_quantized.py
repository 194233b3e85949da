"""Fine-tuning on the integer grid: it learns, resumes exactly, and leaves what it trained."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calib_data import console
from models import LIFState, save_checkpoint
from quant import HybridNetwork, IntegerNetwork, QuantFireNet, load_qat, load_spec, qat
from training.config import ConfigError, LossSection, load_config
from training.quantized import INTEGERS, SHADOWS
from training.validation import evaluate

Make = Callable[..., Any]
NAME = "LIFFireNet_short"


@pytest.fixture
def source(active_network: Make, tmp_path: Path) -> Path:
    return save_checkpoint(
        active_network(NAME, channels=4, rate=0.2), tmp_path / "float.safetensors"
    )


@pytest.fixture
def make_quantized(make_config: Make, source: Path) -> Make:
    def make(**quant: Any) -> Any:
        return make_config(quant={"init": str(source), "weight_bits": 4, **quant})

    return make


def test_it_learns(
    make_quantized: Make, make_trainer: Make, parameters: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(
        make_quantized(weight_scale="learned", learn_range=True), tmp_path / "run"
    )
    assert isinstance(trainer.model, QuantFireNet)
    before = parameters(trainer)
    assert all(math.isfinite(trainer.train_update().loss) for _ in range(3))
    after = parameters(trainer)
    for name, _ in trainer.model.named_parameters():
        assert not torch.equal(before[name], after[name]), name


def test_it_leaves_what_it_trained(
    make_quantized: Make, make_trainer: Make, moving_counts: Make, tmp_path: Path
) -> None:
    """The quantized checkpoint and the shadows of the best network compute the same."""
    folder = tmp_path / "run"
    make_trainer(make_quantized(mem_bits=8, current="uint8"), folder).fit()
    model, network = load_qat(folder / SHADOWS), IntegerNetwork(load_spec(folder / INTEGERS))
    states: dict[str, LIFState] = {}
    expected, fired = None, 0.0
    for events in moving_counts(30, (12, 14)):
        with torch.no_grad():
            flow, states = model.step(torch.from_numpy(events).float(), states)
        expected = network.step(torch.from_numpy(events), expected and expected.states)
        assert torch.equal(flow, expected.flow)
        for name, state in states.items():
            assert torch.equal(state.mem, expected.states[name].mem.float())
            assert torch.equal(state.spike, expected.states[name].spike.float())
        fired += float(states["R2a"].spike.mean())
    assert fired > 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["config"]["quant"]["current"] == "uint8"


def test_float_neurons_train_as_the_hybrid_network(
    make_quantized: Make, make_trainer: Make, moving_counts: Make, tmp_path: Path
) -> None:
    """What is validated, what the shadows compute and what the integers compute is one network."""
    folder = tmp_path / "run"
    trainer = make_trainer(make_quantized(neuron="float", weight_scale="learned"), folder)
    summary = trainer.fit()
    model, spec = load_qat(folder / SHADOWS), load_spec(folder / INTEGERS)
    assert spec.neuron == model.settings.neuron == "float"
    error = evaluate(model, trainer.validation[0]).aee
    assert error == pytest.approx(summary["best_validation_aee"], rel=1e-6)
    network, fired = HybridNetwork(spec), 0.0
    states: dict[str, LIFState] = {}
    expected: dict[str, LIFState] = {}
    for events in moving_counts(30, (12, 14)):
        with torch.no_grad():
            flow, states = model.step(torch.from_numpy(events).float(), states)
        wanted, expected = network.step(torch.from_numpy(events), expected)
        assert torch.equal(flow, wanted)
        for name, state in states.items():
            assert torch.equal(state.mem, expected[name].mem), name
        fired += float(states["R2a"].spike.mean())
    assert fired > 0


def test_it_resumes_exactly(
    make_quantized: Make, make_trainer: Make, parameters: Make, tmp_path: Path
) -> None:
    config = make_quantized(weight_scale="learned", learn_range=True)
    whole = make_trainer(config, tmp_path / "whole")
    whole.fit()
    make_trainer(config, tmp_path / "parts").fit(stop_after=4)
    resumed = make_trainer(config, tmp_path / "parts")
    resumed.load_state()
    resumed.fit()
    for name, value in parameters(whole).items():
        assert torch.equal(value, parameters(resumed)[name]), name


def test_autocast_never_reaches_it(
    make_quantized: Make, make_trainer: Make, tmp_path: Path
) -> None:
    """The forward pass is plain float32 whatever precision is configured, and around it."""
    first = make_trainer(make_quantized(), tmp_path / "first")
    second = make_trainer(
        first.config.model_copy(update={"precision": "bfloat16"}), tmp_path / "second"
    )
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = second.train_update().loss
        assert loss == first.train_update().loss
    for name, state in first.states.items():
        assert torch.equal(state.mem, second.states[name].mem), name


def test_contrast_trains_it_too(
    make_quantized: Make, make_trainer: Make, parameters: Make, tmp_path: Path
) -> None:
    config = make_quantized().model_copy(
        update={"loss": LossSection(kind="contrast", window_loss=3)}
    )
    trainer = make_trainer(config, tmp_path / "run")
    before = parameters(trainer)
    assert trainer.train_update().skipped is None
    assert not torch.equal(before["pred.conv.bias"], parameters(trainer)["pred.conv.bias"])


@pytest.mark.parametrize(
    ("group", "part"),
    [
        ("weights", "conv.weight"),
        ("biases", "conv.bias"),
        ("decays", "beta"),
        ("thresholds", "threshold"),
        ("head", "pred"),
    ],
)
def test_frozen_groups_stay(
    group: str,
    part: str,
    make_quantized: Make,
    make_trainer: Make,
    parameters: Make,
    tmp_path: Path,
) -> None:
    trainer = make_trainer(make_quantized(freeze=[group]), tmp_path / "run")
    before = parameters(trainer)
    for _ in range(2):
        trainer.train_update()
    changed = {n for n, v in parameters(trainer).items() if not torch.equal(v, before[n])}
    mine = {n for n in before if (n.startswith("pred") if group == "head" else part in n)}
    mine -= set() if group == "head" else {n for n in mine if n.startswith("pred")}
    assert mine and not mine & changed and changed


def test_another_model_is_refused(make_config: Make, make_trainer: Make, source: Path) -> None:
    for model, message in (
        ({"name": "LIFFireNet"}, r"holds LIFFireNet_short, and model\.name is LIFFireNet"),
        ({"name": NAME}, r"has 4 channels, and model\.base_num_channels is 32"),
    ):
        config = make_config(model=model, quant={"init": str(source)})
        with pytest.raises(ConfigError, match=message):
            make_trainer(config, source.parent / "run")


def test_the_command(source: Path, write_config: Make, tmp_path: Path, capsys: Any) -> None:
    model = {"name": NAME, "base_num_channels": 4}
    path = write_config(model=model, quant={"init": str(source), "weight_bits": 5})
    threads = torch.get_num_threads()
    arguments = ["--config", str(path), "--out", str(tmp_path / "run"), "--threads", "1", "--json"]
    assert console.run(qat.main, arguments) == 0
    assert json.loads(capsys.readouterr().out)["updates"] == 2
    assert load_spec(tmp_path / "run" / INTEGERS).weight_bits == 5
    write_config(model=model)
    assert console.run(qat.main, arguments) == 2
    assert "has no section quant, see configs/qat_snn.yml" in capsys.readouterr().err
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("file", "name", "bits"),
    [
        ("qat_snn.yml", "LIFFireNet", 7),
        ("qat_snn_4bit.yml", "LIFFireNet", 4),
        ("qat_snn_short.yml", "LIFFireNet_short", 7),
        ("qat_flownet.yml", "LIFFireFlowNet", 7),
    ],
)
def test_the_configurations_in_the_repository(file: str, name: str, bits: int) -> None:
    config = load_config(Path(__file__).parents[2] / "configs" / file)
    assert config.model.name == name
    assert config.quant is not None and config.quant.weight_bits == bits

"""Configurations of the research code: what each key becomes, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.config import ConfigError, TrainingConfig, load_config
from training.research_config import KNOWN, from_research, is_research

# The training configuration of the snnTorch fork.
FORK = """
experiment: Default
data: {path: datasets/training, mode: events, window: 1000, window_loss: 10000}
model:
    name: LIFFireNet_short
    encoding: cnt
    round_encoding: False
    norm_input: False
    num_bins: 2
    base_num_channels: 8
    kernel_size: 3
    activations: [arctanspike, arctanspike]
    mask_output: True
    quantization: {enabled: False, PTQ: False, Conv_only: False}
    tebn: {enabled: False, num_timesteps: 4}
    mpbn: {enabled: False}
spiking_neuron:
    leak: [0.0, 1.0]
    thresh: [0.0, 0.8]
    learn_leak: True
    learn_thresh: True
    hard_reset: True
loss: {flow_regul_weight: 0.001, clip_grad: 1.0, overwrite_intermediate: False}
optimizer: {name: Adam, lr: 0.0002}
loader:
    n_epochs: 100
    batch_size: 8
    resolution: [128, 128]
    std_resolution: [128, 128]
    augment: [Horizontal, Vertical, Polarity]
    augment_prob: [0.5, 0.5, 0.5]
    gpu: 0
    seed: 0
vis: {enabled: False, px: 400, verbose: True, store_grads: False}
hot_filter: {enabled: False, max_px: 100, min_obvs: 5, max_rate: 0.8}
"""

# That of event_flow.
ORIGINAL = """
experiment: Default
data: {path: datasets/data/training/, mode: events, window: 1000, window_loss: 10000}
model:
    name: LIFFireNet
    encoding: cnt
    round_encoding: False
    norm_input: False
    num_bins: 2
    base_num_channels: 32
    kernel_size: 3
    activations: [arctanspike, arctanspike]
    mask_output: True
    spiking_neuron:
        leak: [-4.0, 0.1]
        thresh: [0.8, 0.1]
        learn_leak: True
        learn_thresh: True
        hard_reset: True
loss: {flow_regul_weight: 0.001, clip_grad: 100.0, overwrite_intermediate: False}
optimizer: {name: Adam, lr: 0.0002}
loader:
    n_epochs: 100
    batch_size: 8
    resolution: [128, 128]
    augment: [Horizontal, Vertical, Polarity]
    augment_prob: [0.5, 0.5, 0.5]
    gpu: 0
    seed: 0
vis: {enabled: True, px: 400, verbose: True, store_grads: False}
hot_filter: {enabled: False, max_px: 100, min_obvs: 5, max_rate: 0.8}
"""


def load(text: str, tmp_path: Path, **overrides: Any) -> tuple[TrainingConfig, list[str]]:
    """The configuration after the given keys (a__b for a.b) were changed, and its warnings."""
    content = yaml.safe_load(text)
    for key, value in overrides.items():
        *sections, last = key.split("__")
        node = content
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    path = tmp_path / "research.yml"
    path.write_text(yaml.safe_dump(content))
    notes: list[str] = []
    return load_config(path, warn=notes.append), notes


@pytest.mark.parametrize(
    ("text", "name", "channels", "clip", "norm", "distribution", "leak", "threshold"),
    [
        (FORK, "LIFFireNet_short", 8, 1.0, "batch", "uniform", (0.0, 1.0), (0.0, 0.8)),
        (ORIGINAL, "LIFFireNet", 32, 100.0, "none", "event_flow", (-4.0, 0.1), (0.8, 0.1)),
    ],
    ids=["fork", "original"],
)
def test_every_value_arrives(
    text: str,
    name: str,
    channels: int,
    clip: float,
    norm: str,
    distribution: str,
    leak: tuple[float, float],
    threshold: tuple[float, float],
    tmp_path: Path,
) -> None:
    config, notes = load(text, tmp_path)
    model, data, loss, optimizer = config.model, config.data, config.loss, config.optimizer
    assert (model.name, model.base_num_channels, model.norm) == (name, channels, norm)
    assert (model.surrogate, model.surrogate_width) == ("arctanspike", 10.0)
    assert model.flow_scaling == 128.0
    neuron = model.spiking_neuron
    assert (neuron.distribution, neuron.leak, neuron.threshold) == (distribution, leak, threshold)
    assert neuron.learn_leak and neuron.learn_threshold and neuron.hard_reset
    assert (data.mode, data.window, data.crop) == ("events", 1000, 128)
    assert data.path == Path(yaml.safe_load(text)["data"]["path"])
    assert set(data.augment.model_dump().values()) == {0.5}
    assert not data.hot_filter.enabled and data.hot_filter.max_px == 100
    assert (loss.kind, loss.window_loss, loss.clip_grad) == ("contrast", 10, clip)
    assert (loss.flow_regul_weight, loss.overwrite_intermediate, loss.mask_output) == (
        0.001,
        False,
        True,
    )
    assert (loss.charbonnier, loss.reduction) == ("sum", "sum")
    assert (optimizer.name, optimizer.lr, optimizer.schedule) == ("Adam", 2e-4, "constant")
    assert optimizer.warmup_updates == 0 and not optimizer.scale_head
    assert (config.epochs, config.batch_size, config.seed) == (100, 8, 0)
    assert config.quant is None and config.logging.gradients is None
    (idle,) = [note for note in notes if "without effect here" in note]
    for key in ("vis.px", "loader.gpu", "vis.enabled", "vis.verbose"):
        assert key in idle
    assert "data.path" not in idle


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({"data__window_loss": 9500}, ("loss", "window_loss"), 10),
        ({"data__window": 10000}, ("loss", "window_loss"), 1),
        ({"model__tebn": {"enabled": True, "num_timesteps": 6}}, ("model", "time_steps"), 6),
        ({"model__tebn": {"enabled": True, "num_timesteps": 6}}, ("model", "norm"), "time"),
        ({"model__mpbn": {"enabled": True}}, ("model", "norm"), "membrane"),
        ({"loss__clip_grad": None}, ("loss", "clip_grad"), None),
        ({"vis__store_grads": True}, ("logging", "gradients"), 1),
        ({"loader__augment": ["Vertical"]}, ("data", "augment", "horizontal"), 0.0),
        ({"loader__resolution": [96, 128]}, ("data", "crop"), 96),
        ({"loader__resolution": [96, 128]}, ("model", "flow_scaling"), 128.0),
        ({"optimizer": {"name": "SGD", "lr": 0.1, "nesterov": True, "momentum": 0.9}},
         ("optimizer", "nesterov"), True),
        ({"model__quantization": {"enabled": True}}, ("quant", "current"), "uint8"),
        ({"model__quantization": {"enabled": True}}, ("optimizer", "schedule"), "plateau"),
        ({"model__quantization": {"enabled": True, "Conv_only": True}},
         ("quant", "neuron"), "float"),
        ({"data__window_eval": 15000}, ("data", "window"), 1000.0),
    ],
)  # fmt: skip
def test_conversions(
    changes: dict[str, Any], path: tuple[str, ...], expected: object, tmp_path: Path
) -> None:
    config, _ = load(FORK, tmp_path, **changes)
    value: Any = config
    for part in path:
        value = getattr(value, part)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (FORK, {"loader__batchsize": 3}, "unknown key 'loader.batchsize'.*'loader.batch_size'"),
        (FORK, {"model__name": "SpikingRecEVFlowNet"}, "SpikingRecEVFlowNet .* not offered"),
        (ORIGINAL, {"model__name": "XLIFFireNet"}, "model.name: XLIFFireNet"),
        (FORK, {"data__mode": "time"}, "data.window_loss: counts events.*mode time"),
        (FORK, {"data__window": 0}, "data.window_loss and data.window must be positive"),
        (FORK, {"spiking_neuron__hard_reset": False}, "spiking_neuron.hard_reset: "),
        (FORK, {"spiking_neuron__leak": [-4.0, 0.1]}, "are no bounds of a decay"),
        (ORIGINAL, {"model__spiking_neuron__leak": [0.1, 0.2]}, "may be bounds .* or mean"),
        (ORIGINAL, {"model__spiking_neuron__leak": 0.1}, "expected two numbers"),
        (FORK, {"model__activations": ["arctanspike", "superspike"]}, "different surrogates"),
        (ORIGINAL, {"model__name": "FireNet"}, "networks without spikes have relu"),
        (FORK, {"model__quantization": {"enabled": True, "PTQ": True}}, "python -m quant.ptq"),
        (FORK, {"model__tebn__enabled": True, "model__mpbn__enabled": True}, "only one of them"),
        (FORK, {"loader__augment_prob": []}, "loader.augment_prob: needs a probability"),
        (FORK, {"loader__augment": ["Rotate"], "loader__augment_prob": [1]}, "'Rotate' is not one"),
        (FORK, {"loader__resolution": 128}, r"loader.resolution: expected \[height, width\]"),
        (FORK, {"optimizer__momentum": 0.9}, "momentum: Adam has no such option"),
        (FORK, {"data__path": None}, "name a path"),
        (FORK, {"data__window_loss": None, "data__mode": "gtflow_dt1", "data__window": 1,
                "loader__std_resolution": [256, 256]}, "average-pooled"),
    ],
)  # fmt: skip
def test_refusals(text: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(text, tmp_path, **changes)
    assert "research.yml" in str(caught.value)


def test_networks_without_spikes_take_relu(tmp_path: Path) -> None:
    content = {"model__name": "FireNet", "model__activations": ["relu", None]}
    assert load(ORIGINAL, tmp_path, **content)[0].model.name == "FireNet"


def test_a_configuration_of_this_project_is_not_one() -> None:
    assert not is_research(TrainingConfig().to_dict())
    assert is_research(yaml.safe_load(FORK)) and is_research(yaml.safe_load(ORIGINAL))


def test_the_input_stays_as_it_is() -> None:
    content = yaml.safe_load(FORK)
    before = copy.deepcopy(content)
    from_research(content)
    assert content == before


def test_every_known_key_has_one_place() -> None:
    """Moved, converted or named as idle, never two of them."""
    assert len(KNOWN) == len(set(KNOWN))


def test_overrides_use_our_keys(tmp_path: Path) -> None:
    path = tmp_path / "fork.yml"
    path.write_text(FORK)
    config = load_config(path, ["loss.window_loss=3", "data.crop=64"], warn=lambda _: None)
    assert (config.loss.window_loss, config.data.crop) == (3, 64)

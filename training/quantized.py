"""What differs when the network trains on its integer grid: where it starts and what it leaves."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from models import SpikingFireNet, load_checkpoint, shipped_checkpoint
from quant import (
    GridSettings,
    QuantFireNet,
    QuantOptions,
    calibrate,
    measure_moments,
    save_qat,
    save_spec,
)
from training.config import ConfigError, ModelSection, QuantSection
from training.data import Sequence

SHADOWS = "best.qat.safetensors"
INTEGERS = "best.quantized.safetensors"


def network_on_grid(
    model: ModelSection, section: QuantSection, train: list[Sequence]
) -> QuantFireNet:
    """The network that quantization-aware training starts with.

    Args:
        model: which member of the family.
        section: bit widths and where to start.
        train: training sequences; the first few calibrate ranges.

    Raises:
        ConfigError: the checkpoint holds another model.
        QuantError: bit widths or ranges that make no integer network.
    """
    path = section.init or shipped_checkpoint(model.name)
    source = load_checkpoint(path)
    held = source.config
    if not isinstance(source, SpikingFireNet) or held.model != model.name:
        raise ConfigError(f"{path} holds {held.model}, and model.name is {model.name}")
    if held.channels != model.base_num_channels:
        raise ConfigError(
            f"{path} has {held.channels} channels, and model.base_num_channels is "
            f"{model.base_num_channels}"
        )
    # Learned scales start where a search finds them; the others have no choice.
    learned = section.weight_scale == "learned"
    options = QuantOptions(
        section.weight_bits,
        section.mem_bits,
        section.frac_bits,
        section.current,
        scale_search=learned,
        neuron=section.neuron,
    )
    chosen = train[: section.calibration_scenes]
    windows = [[torch.from_numpy(counts)[None].float() for counts in s.counts] for s in chosen]
    network = QuantFireNet.from_float(
        source,
        options,
        calibrate(source, *windows),
        measure_moments(source, *windows) if learned else None,
        settings=GridSettings(section.weight_scale, section.learn_range, section.neuron),
    )
    for group in section.freeze:
        for parameter in _group(network, group):
            parameter.requires_grad_(False)
    return network.train()


def _group(model: QuantFireNet, group: str) -> list[nn.Parameter]:
    if group == "head":
        return list(model.pred.parameters())
    layers = [layer for _, layer in model.named_layers()]
    if group == "decays":
        return [layer.beta for layer in layers]
    if group == "thresholds":
        return [layer.threshold for layer in layers]
    if group == "biases":
        return [layer.conv.bias for layer in layers]
    return [
        parameter
        for layer in layers
        for name, parameter in layer.conv.named_parameters()
        if name != "bias"
    ]


def save_on_grid(model: QuantFireNet, folder: Path, stem: str = "best") -> None:
    """Write shadows, from which training can go on, and integers, which are exported."""
    save_qat(model, folder / SHADOWS.replace("best", stem))
    save_spec(model.spec(), folder / INTEGERS.replace("best", stem))

"""What differs when the network trains on its integer grid: where it starts and what it leaves."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from models import load_checkpoint, shipped_checkpoint
from quant import (
    GridSettings,
    QuantFireNet,
    QuantOptions,
    calibrate,
    measure_moments,
    save_qat,
    save_spec,
)
from training.config import ConfigError, QuantSection
from training.data import Sequence

SHADOWS = "best.qat.safetensors"
INTEGERS = "best.quantized.safetensors"


def network_on_grid(name: str, section: QuantSection, train: list[Sequence]) -> QuantFireNet:
    """The network that quantization-aware training starts with.

    Args:
        name: model of the family.
        section: bit widths and where to start.
        train: training sequences; the first few calibrate ranges.

    Raises:
        ConfigError: the checkpoint holds another model.
        QuantError: bit widths or ranges that make no integer network.
    """
    path = section.init or shipped_checkpoint(name)
    source = load_checkpoint(path)
    if source.config.model != name:
        raise ConfigError(f"{path} holds {source.config.model}, and model.name is {name}")
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
    model = QuantFireNet.from_float(
        source,
        options,
        calibrate(source, *windows),
        measure_moments(source, *windows) if learned else None,
        settings=GridSettings(section.weight_scale, section.learn_range, section.neuron),
    )
    for group in section.freeze:
        for parameter in _group(model, group):
            parameter.requires_grad_(False)
    return model.train()


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


def save_on_grid(model: QuantFireNet, folder: Path) -> None:
    """Write shadows, from which training can go on, and integers, which are exported."""
    save_qat(model, folder / SHADOWS)
    save_spec(model.spec(), folder / INTEGERS)

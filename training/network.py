"""The network of a run: how it begins, what it is given, and how it is kept."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from models import (
    AnalogFireNet,
    ModelConfig,
    NeuronOptions,
    SpikingFireNet,
    build_network,
    load_network,
    save_checkpoint,
)
from quant import QuantFireNet
from training.config import ConfigError, ModelSection, NeuronSection, TrainingConfig
from training.data import Sequence
from training.quantized import network_on_grid, save_on_grid
from training.run_folder import RunFolder

Network = SpikingFireNet | AnalogFireNet | QuantFireNet

# event_flow uses thresholds of at least this.
LEAST_THRESHOLD = 0.01


def new_network(config: TrainingConfig, train: list[Sequence]) -> Network:
    """The network that a run starts with, in training mode.

    Fresh, from a checkpoint, or on its integer grid.

    Raises:
        ConfigError: options that this network does not have, or a checkpoint of another one.
    """
    if config.quant is not None:
        return network_on_grid(config.model, config.quant, train)
    section, neurons = config.model, config.model.spiking_neuron
    try:
        network = build_network(
            ModelConfig(
                model=section.name,
                encoding=section.encoding,
                num_bins=section.num_bins,
                channels=section.base_num_channels,
                kernel_size=section.kernel_size,
                reset="zero" if neurons.hard_reset else "subtract",
                flow_scaling=section.flow_scaling,
            ),
            norm=section.norm_in_use,
            time_steps=section.time_steps,
            neuron=_options(section),
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None
    if section.init is not None:
        start_from(network, section.init)
    elif neurons.distribution == "event_flow" and isinstance(network, SpikingFireNet):
        start_as_event_flow(network, neurons)
    return network.train()


def _options(section: ModelSection) -> NeuronOptions:
    neurons = section.spiking_neuron
    options = NeuronOptions(
        surrogate=section.surrogate,
        surrogate_width=section.surrogate_width,
        learn_leak=neurons.learn_leak,
        learn_threshold=neurons.learn_threshold,
        compiled=section.compiled,
    )
    if neurons.distribution == "event_flow":
        return options
    return options._replace(leak=neurons.leak, threshold=neurons.threshold)


def start_from(network: SpikingFireNet | AnalogFireNet, reference: Path | str) -> None:
    """Copy the parameters of a checkpoint; what the network does not have is left out, and named.

    So a network may start from a larger relative: one without recurrence from one with it.

    Args:
        network: gets the parameters.
        reference: file or ``runs:ID``.

    Raises:
        ConfigError: the checkpoint lacks a parameter, has it in another size, or means its numbers
            differently.
    """
    source = load_network(reference)
    ours, theirs = network.config, source.config
    for key in ("encoding", "reset", "flow_scaling"):
        if getattr(ours, key) != getattr(theirs, key):
            raise ConfigError(
                f"model.init: {reference} has {key} {getattr(theirs, key)}, and the "
                f"configuration {getattr(ours, key)}"
            )
    held, wanted = source.state_dict(), network.state_dict()
    for name, tensor in wanted.items():
        if name not in held or held[name].shape != tensor.shape:
            raise ConfigError(
                f"model.init: {reference} is a {theirs.model} with {theirs.channels} channels and "
                f"has no {name} of shape {list(tensor.shape)}"
            )
    if unused := sorted(held.keys() - wanted.keys()):
        warnings.warn(f"model.init: {ours.model} has no {', '.join(unused)}", stacklevel=2)
    network.load_state_dict({name: held[name] for name in wanted})


@torch.no_grad()
def start_as_event_flow(network: SpikingFireNet, section: NeuronSection) -> None:
    """Draw event_flow's raw leaks and thresholds and set decays and thresholds accordingly.

    Exactly its neurons (docs: "canonical neuron"): with leak a = sigmoid(raw), the decay is a, and
    the threshold, at least 0.01 there, is divided by 1 - a.
    """
    for _, layer in network.named_layers():
        raw = torch.empty(layer.channels, dtype=torch.float64)
        leak = torch.sigmoid(raw.normal_(*section.leak))
        threshold = raw.normal_(*section.threshold).clamp_min(LEAST_THRESHOLD)
        layer.beta.copy_(leak)
        layer.threshold.copy_(threshold / (1 - leak))


def standardise(inputs: Tensor) -> Tensor:
    """Non-zero values brought to mean 0 and standard deviation 1 over the whole tensor.

    As event_flow's ``norm_input``. Zeros stay zero; without at least two different non-zero values
    the input stays as it is.
    """
    active = inputs != 0
    values = inputs[active]
    if values.numel() < 2 or float(values.std()) == 0:
        return inputs
    return torch.where(active, (inputs - values.mean()) / values.std(), inputs)


def save_network(network: Network, folder: RunFolder, stem: str) -> None:
    """Write the network into the run's folder in the form its kind has.

    Args:
        network: float networks are folded to canonical form.
        folder: of the run.
        stem: name of the file, or files, without suffix.

    Raises:
        TrainingError: it cannot be written; what was there is intact.
    """
    with folder.writing(stem):
        if isinstance(network, QuantFireNet):
            save_on_grid(network, folder.path, stem)
        else:
            save_checkpoint(network.folded(), folder.path / f"{stem}.safetensors")

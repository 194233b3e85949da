"""The network of a run: how it begins, what it is given, and how it is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from models import (
    AnalogFireNet,
    ModelConfig,
    NeuronOptions,
    SpikingFireNet,
    build_network,
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
    """The network that a run starts with, in training mode: fresh, or on its integer grid.

    Raises:
        ConfigError: options that this network does not have.
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
    if neurons.distribution == "event_flow" and isinstance(network, SpikingFireNet):
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

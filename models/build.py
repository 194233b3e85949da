"""A network of any kind from its configuration."""

from __future__ import annotations

from models.analog import ANALOG_MODELS, AnalogFireNet
from models.firenet import TOPOLOGIES, SpikingFireNet
from models.lif import NeuronOptions
from models.network import ModelConfig

MODELS = (*TOPOLOGIES, *ANALOG_MODELS)


def build_network(
    config: ModelConfig,
    *,
    norm: str = "none",
    time_steps: int = 4,
    neuron: NeuronOptions = NeuronOptions(),  # noqa: B008 (immutable)
) -> SpikingFireNet | AnalogFireNet:
    """A freshly initialised network, with spikes or without.

    Args:
        config: its model is one of ``MODELS``.
        norm, time_steps, neuron: of spiking networks, see
            :class:`models.firenet.SpikingFireNet`. A non-spiking one has no neurons: options for
            them are without effect.

    Raises:
        ValueError: unknown model, a norm for a network that has none, or what the network refuses.
    """
    if config.model in TOPOLOGIES:
        return SpikingFireNet(config, norm=norm, time_steps=time_steps, neuron=neuron)
    if config.model not in ANALOG_MODELS:
        raise ValueError(f"unknown model {config.model!r}; one of {', '.join(MODELS)}")
    if norm != "none":
        raise ValueError(f"{config.model} is non-spiking and has no batch norm, got norm {norm!r}")
    return AnalogFireNet(config)

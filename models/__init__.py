"""The FireNet family with spikes, in canonical form, and without; checkpoints; shipped weights."""

from models.analog import ANALOG_MODELS, AnalogFireNet
from models.build import MODELS, build_network
from models.checkpoint import (
    load_checkpoint,
    load_network,
    save_checkpoint,
    shipped_checkpoint,
    shipped_checkpoints,
    untrained,
)
from models.errors import CheckpointError
from models.firenet import TOPOLOGIES, SpikingFireNet
from models.lif import ConvLIF, NeuronOptions, lif_step
from models.network import FlowNetwork, ModelConfig
from models.norms import NORMS
from models.states import HiddenState, LIFState, activity, detach, keep, restore
from models.surrogates import SURROGATES, Surrogate, surrogate_of

__all__ = [
    "ANALOG_MODELS",
    "MODELS",
    "NORMS",
    "SURROGATES",
    "TOPOLOGIES",
    "AnalogFireNet",
    "CheckpointError",
    "ConvLIF",
    "FlowNetwork",
    "HiddenState",
    "LIFState",
    "ModelConfig",
    "NeuronOptions",
    "SpikingFireNet",
    "Surrogate",
    "activity",
    "build_network",
    "detach",
    "keep",
    "lif_step",
    "load_checkpoint",
    "load_network",
    "restore",
    "save_checkpoint",
    "shipped_checkpoint",
    "shipped_checkpoints",
    "surrogate_of",
    "untrained",
]

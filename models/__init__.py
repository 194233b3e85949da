"""The LIFFireNet family in canonical form, checkpoint import, and the shipped weights."""

from models.checkpoint import load_checkpoint, save_checkpoint, shipped_checkpoint, untrained
from models.errors import CheckpointError
from models.firenet import TOPOLOGIES, ModelConfig, SpikingFireNet, detach
from models.lif import ConvLIF, LIFState, lif_step

__all__ = [
    "TOPOLOGIES",
    "CheckpointError",
    "ConvLIF",
    "LIFState",
    "ModelConfig",
    "SpikingFireNet",
    "detach",
    "lif_step",
    "load_checkpoint",
    "save_checkpoint",
    "shipped_checkpoint",
    "untrained",
]

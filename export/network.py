"""Which network a command exports: shared command-line arguments and their meaning."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from export.errors import ExportError
from models import TOPOLOGIES, SpikingFireNet, load_checkpoint, shipped_checkpoint, untrained

DEFAULT_MODEL = "LIFFireNet"
DEFAULT_CHANNELS = 32
MAX_CHANNELS = 1024
MAX_SEED = 2**63 - 1
MAX_SIDE = 4096
"""Pixels; beyond it, states alone fill the memory of a machine."""


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint, --model, --untrained, --channels and --seed."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="F",
        help="weights: our .safetensors, or an event_flow / snnTorch state dict "
        "(.pth, .pt, .npz, .safetensors), or runs:ID of an MLflow run; "
        "default: the shipped weights of --model",
    )
    group.add_argument(
        "--model",
        choices=sorted(TOPOLOGIES),
        help=f"member of the family (default: the checkpoint's, else {DEFAULT_MODEL})",
    )
    group.add_argument("--untrained", action="store_true", help="fresh weights instead of shipped")
    group.add_argument(
        "--channels", type=int, help=f"of an untrained network (default: {DEFAULT_CHANNELS})"
    )
    group.add_argument("--seed", type=int, default=0, help="of random weights and test vectors")


def load_network(arguments: argparse.Namespace) -> SpikingFireNet:
    """The network that the arguments name.

    Raises:
        ExportError: contradicting arguments.
        CheckpointError: an unusable checkpoint.
    """
    if not 0 <= arguments.seed <= MAX_SEED:
        raise ExportError(f"--seed must be 0 to {MAX_SEED}, got {arguments.seed}")
    name = arguments.model or DEFAULT_MODEL
    if arguments.untrained:
        if arguments.checkpoint is not None:
            raise ExportError("--untrained and --checkpoint exclude each other")
        channels = DEFAULT_CHANNELS if arguments.channels is None else arguments.channels
        if not 1 <= channels <= MAX_CHANNELS:
            raise ExportError(f"--channels must be 1 to {MAX_CHANNELS}, got {channels}")
        torch.manual_seed(arguments.seed)
        return untrained(name, channels=channels)
    if arguments.channels is not None:
        raise ExportError("--channels goes with --untrained; a checkpoint has its own")
    model = load_checkpoint(arguments.checkpoint or shipped_checkpoint(name))
    if arguments.model not in (None, model.config.model):
        raise ExportError(
            f"{arguments.checkpoint} holds {model.config.model}, not --model {arguments.model}"
        )
    return model


def positive_pair(values: list[int] | None, default: tuple[int, int]) -> tuple[int, int]:
    """(H, W) from a command line.

    Raises:
        ExportError: a side below 1 or above ``MAX_SIDE``.
    """
    if values is None:
        return default
    if min(values) < 1 or max(values) > MAX_SIDE:
        given = " ".join(map(str, values))
        raise ExportError(f"--resolution needs two numbers from 1 to {MAX_SIDE}, got {given}")
    return values[0], values[1]

"""Which network a command exports: shared command-line arguments and their meaning."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from export.errors import ExportError
from models import TOPOLOGIES, SpikingFireNet, load_checkpoint, shipped_checkpoint, untrained


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint, --model, --untrained, --channels and --seed."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="F",
        help="weights: our .safetensors, or an event_flow / snnTorch state dict "
        "(.pth, .pt, .npz, .safetensors); default: the shipped weights of --model",
    )
    group.add_argument(
        "--model",
        choices=sorted(TOPOLOGIES),
        default="LIFFireNet",
        help="member of the family (default: %(default)s)",
    )
    group.add_argument("--untrained", action="store_true", help="fresh weights instead of shipped")
    group.add_argument("--channels", type=int, default=32, help="of an untrained network")
    group.add_argument("--seed", type=int, default=0, help="of an untrained network")


def load_network(arguments: argparse.Namespace) -> SpikingFireNet:
    """The network that the arguments name.

    Raises:
        ExportError: contradicting arguments.
        CheckpointError: an unusable checkpoint.
    """
    if arguments.untrained:
        if arguments.checkpoint is not None:
            raise ExportError("--untrained and --checkpoint exclude each other")
        if arguments.channels < 1:
            raise ExportError(f"--channels must be positive, got {arguments.channels}")
        torch.manual_seed(arguments.seed)
        return untrained(arguments.model, channels=arguments.channels)
    return load_checkpoint(arguments.checkpoint or shipped_checkpoint(arguments.model))


def positive_pair(values: list[int] | None, default: tuple[int, int]) -> tuple[int, int]:
    """(H, W) from a command line.

    Raises:
        ExportError: a side below 1.
    """
    if values is None:
        return default
    if min(values) < 1:
        raise ExportError(f"--resolution needs two positive numbers, got {values}")
    return values[0], values[1]

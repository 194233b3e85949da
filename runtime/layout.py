"""Layouts of states and spikes: every one can be turned into channels first, one value a neuron."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import lif_op.spec
from runtime.metadata import Artifact, State
from runtime.runner import Array


def channels_first(artifact: Artifact, state: State, array: Array) -> Array:
    """A state's array as [N, C, H, W]; packed spikes become uint8, 0 or 1."""
    if state.layout == "packed32":
        return unpacked(array, artifact.layer(state.layer).channels)
    return array.transpose(0, 3, 1, 2) if state.layout == "NHWC" else array


def states_channels_first(artifact: Artifact, states: Mapping[str, Array]) -> dict[str, Array]:
    """Every state of an artifact as [N, C, H, W], by the name of its graph input."""
    return {s.input: channels_first(artifact, s, states[s.input]) for s in artifact.states}


def from_channels_first(state: State, array: Array) -> Array:
    """The inverse: an array [N, C, H, W] in the layout of a state."""
    if state.layout == "packed32":
        return lif_op.spec.pack_spikes(array.astype(np.uint8, copy=False))
    if state.layout == "NHWC":
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    return array


def unpacked(spikes: Array, channels: int) -> Array:
    """Spikes one value a neuron: packed words are unpacked, other arrays stay as they are."""
    if spikes.dtype != np.uint32:
        return spikes
    return lif_op.spec.unpack_spikes(spikes.astype(np.uint32, copy=False), channels)


def unpacked_layers(artifact: Artifact, spikes: dict[str, Array]) -> dict[str, Array]:
    """Spikes by layer, each [N, C, H, W]."""
    return {name: unpacked(array, artifact.layer(name).channels) for name, array in spikes.items()}

"""What an artifact says of its neurons: thresholds, decays and units, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper

from runtime.artifact import LoadedModel
from runtime.graph import spiking_op, subgraphs
from runtime.layout import channels_first
from runtime.metadata import Artifact, Layer, State
from runtime.runner import Array, Runner

Floats = npt.NDArray[np.float64]

DECAY_ONE = 256
"""Integer decays are in 256ths."""


@dataclass(frozen=True)
class LayerNeurons:
    """The neurons of one layer; None where the file does not tell.

    name, channels, reset: as in the metadata.
    dtype: element type of the membrane state, None where the layer has none.
    unit: float64 [C], real value of one unit of the membrane state; 1 where it is real already.
    threshold: float64 [C], in units of the membrane state. decay: float64 [C], as the file writes
        it, in 256ths where ``integer``. integer: whether the neuron computes in integers.
    """

    name: str
    channels: int
    reset: str
    dtype: str | None
    unit: Floats | None
    threshold: Floats | None
    decay: Floats | None
    integer: bool

    @property
    def threshold_real(self) -> Floats | None:
        """Float64 [C], thresholds as real numbers."""
        if self.threshold is None or self.unit is None:
            return None
        return self.threshold * self.unit

    @property
    def decay_real(self) -> Floats | None:
        """Float64 [C], the factor that a membrane keeps per step."""
        if self.decay is None:
            return None
        return self.decay / DECAY_ONE if self.integer else self.decay


def layer_neurons(loaded: LoadedModel) -> dict[str, LayerNeurons]:
    """The neurons of every layer, in the order of the metadata.

    Integer neurons (docs/artifact.md): a unit of the accumulator is ``weight_scale``, and the
    membrane has ``frac_bits`` more bits, so that its unit is weight_scale / 2**frac_bits. Float
    neurons: the constants that the graph's neuron reads; where the state is quantized behind it,
    the unit is the scale of the state's DequantizeLinear.
    """
    states = {s.layer: s for s in loaded.artifact.states if s.role == "mem"}
    constants = dict(_constants(loaded.model))
    return {
        layer.name: _neurons(loaded.model, layer, states.get(layer.name), constants)
        for layer in loaded.artifact.layers
    }


def _neurons(
    model: ModelProto, layer: Layer, state: State | None, constants: dict[str, Floats]
) -> LayerNeurons:
    dtype = None if state is None else state.dtype
    if layer.threshold is not None and layer.decay is not None:
        scale, bits = layer.weight_scale, layer.frac_bits
        known = scale is not None and bits is not None
        unit = np.asarray(scale, np.float64) / 2.0 ** (bits or 0) if known else None
        return LayerNeurons(
            layer.name, layer.channels, layer.reset, dtype, unit,
            np.asarray(layer.threshold, np.float64), np.asarray(layer.decay, np.float64), True,
        )  # fmt: skip
    decay, threshold = _float_parameters(model, state, constants, layer.channels)
    unit = _state_unit(model, state, constants, layer.channels)
    if threshold is not None:
        threshold = None if unit is None else threshold / unit
    return LayerNeurons(
        layer.name, layer.channels, layer.reset, dtype, unit, threshold, decay, False
    )


def _constants(model: ModelProto) -> Iterator[tuple[str, Floats]]:
    """Small constants of the main graph by tensor name: initializers and Constant nodes."""
    for tensor in model.graph.initializer:
        if len(tensor.dims) <= 4 and np.prod(tensor.dims) <= 1 << 16:
            yield tensor.name, numpy_helper.to_array(tensor).astype(np.float64)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.output[0], numpy_helper.to_array(attribute.t).astype(np.float64)


def _neuron_node(model: ModelProto, state: State) -> NodeProto | None:
    """The spiking node that reads a membrane state, directly or through its DequantizeLinear."""
    behind = {state.input} | {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] == state.input
    }
    for node in model.graph.node:
        op = spiking_op(node)
        if op is not None and not any(subgraphs(node)) and node.input[op.mem] in behind:
            return node
    return None


def _float_parameters(
    model: ModelProto, state: State | None, constants: dict[str, Floats], channels: int
) -> tuple[Floats | None, Floats | None]:
    """Decay and threshold that the neuron of a state reads, where they are constants."""
    node = None if state is None else _neuron_node(model, state)
    op = None if node is None else spiking_op(node)
    if node is None or op is None:
        return None, None
    names = node.input[op.first_parameter : op.first_parameter + 2]
    found = [_per_channel(constants.get(name), channels) for name in names]
    return (found[0], found[1]) if len(found) == 2 else (None, None)


def _state_unit(
    model: ModelProto, state: State | None, constants: dict[str, Floats], channels: int
) -> Floats | None:
    if state is None or state.dtype == "float32":
        return np.ones(channels)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == state.input:
            return _per_channel(constants.get(node.input[1]), channels)
    return None


def _per_channel(values: Floats | None, channels: int) -> Floats | None:
    if values is None or values.size not in (1, channels):
        return None
    return np.broadcast_to(values.ravel(), (channels,)).copy()


@dataclass(frozen=True)
class LayerMoment:
    """A layer after a step. membranes: [N, C, H, W], spikes: [N, C, H, W], nonzero where fired;
    None where the artifact does not show them."""

    membranes: Array | None
    spikes: Array | None


def look(artifact: Artifact, runner: Runner) -> dict[str, LayerMoment]:
    """Every layer after a diagnostic runner's last step, channels first whatever the layout."""
    states, spikes = runner.states(), runner.spikes()
    membranes = {
        state.layer: channels_first(artifact, state, states[state.input])
        for state in artifact.states
        if state.role == "mem"
    }
    return {
        layer.name: LayerMoment(membranes.get(layer.name), spikes.get(layer.name))
        for layer in artifact.layers
    }


def unavailable(neurons: dict[str, LayerNeurons], moments: dict[str, LayerMoment]) -> list[str]:
    """One sentence for everything that a file does not let anyone see."""
    notes = []
    for name, layer in neurons.items():
        moment = moments[name]
        missing = [
            what
            for what, absent in (
                ("membranes", moment.membranes is None),
                ("spikes", moment.spikes is None),
                ("thresholds", layer.threshold is None),
                ("decays", layer.decay is None),
                ("real units", layer.unit is None),
            )
            if absent
        ]
        if missing:
            notes.append(
                f"layer {name}: this file does not show its {', '.join(missing)}; "
                "model.float.onnx and model.int8.onnx of the same export show everything"
            )
    return notes

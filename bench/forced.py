"""Copies of an integer artifact whose every layer fires at a wanted density.

Decays become 0, so that a membrane is the current of this step alone, and each channel's threshold
becomes a quantile of its currents, layer by layer from the input on. The currents are read off the
network itself: a layer whose threshold is out of reach leaves them in its membrane. Layers with
recurrent spikes begin with random ones of that density, and all thresholds are chosen again on the
spikes that really come back. Nothing else of the artifact changes, so its time at a density is that
of the artifact at such spikes.

In clusters no threshold lies below the current of a neuron that nothing reaches, so that what is
quiet stays quiet. Above a quarter of all neurons there is no such thing any more, and it may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import lif_op.spec
from bench.errors import BenchError
from bench.spikes import check_density, draw, probability
from runtime.artifact import Artifact, LoadedModel
from runtime.graph import spiking_op
from runtime.graph_checks import EVENTS
from runtime.layout import channels_first
from runtime.metadata import State
from runtime.runner import Array

CALIBRATION_SIZE = (96, 96)
_PASSES = 8
_CLUSTERS_UP_TO = 0.25
_ERRORS_ONLY = 3

Thresholds = dict[str, npt.NDArray[np.int32]]


@dataclass(frozen=True)
class _Limits:
    """Lowest and highest threshold of a membrane type: (nearly) always fires, never fires."""

    always: int
    never: int


class Forcer:
    """Makes copies of one artifact."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Prepare a copy that takes its thresholds as inputs.

        Raises BenchError for an artifact that is not an integer one with a spiking node per layer.
        """
        self._loaded, self._artifact = loaded, loaded.artifact
        if self._artifact.kind != "int8":
            raise BenchError(f"{loaded.path}: densities are forced on integer artifacts only")
        self._mems = {s.layer: s for s in self._artifact.states if s.role == "mem"}
        self._order = _layers_in_order(loaded)
        self._limits = {layer: _limits(self._mems[layer]) for layer in self._order}
        self._session: ort.InferenceSession | None = None

    def force(self, density: float, pattern: str, seed: int = 0) -> LoadedModel:
        """A copy whose neurons fire at about this density on events of it.

        Args:
            density: share of neurons that fire per step, 0 to 1; 0 takes the highest thresholds
                and 1 the lowest.
            pattern: of the events, see ``bench.spikes``. seed: of the events it is made with.

        Raises:
            BenchError: a density outside 0..1.
        """
        check_density(density)
        if density in (0, 1):
            thresholds = {
                layer: self._constant(layer, limits.always if density else limits.never)
                for layer, limits in self._limits.items()
            }
        else:
            thresholds = self._quantiles(density, pattern, np.random.default_rng(seed))
        model = _with_parameters(self._loaded, self._order, thresholds)
        return replace(self._loaded, model=model, data=model.SerializeToString())

    def _constant(self, layer: str, value: int) -> npt.NDArray[np.int32]:
        return np.full(self._artifact.layer(layer).channels, value, np.int32)

    def _quantiles(
        self, density: float, pattern: str, generator: np.random.Generator
    ) -> Thresholds:
        size = CALIBRATION_SIZE if self._artifact.spatial_free else self._artifact.resolution
        chance = probability(size, density, pattern, generator)
        states = self._first_states(size, chance, generator)
        thresholds = {
            layer: self._constant(layer, limits.never) for layer, limits in self._limits.items()
        }
        floors = {
            layer: self._constant(layer, limits.always) for layer, limits in self._limits.items()
        }
        if pattern == "clustered" and density <= _CLUSTERS_UP_TO:
            floors = self._rests(size, thresholds)
        for _ in range(_PASSES):
            feed = {EVENTS: draw(chance, self._artifact.num_bins, generator), **states}
            for layer in self._order:
                thresholds[layer] = self._constant(layer, self._limits[layer].never)
                found = self._run(feed, thresholds)
                current = self._currents(layer, found)
                limit = self._limits[layer].always
                thresholds[layer] = choose(current, density, limit, floors[layer])
            found = self._run(feed, thresholds)
            states = {state.input: found[state.output] for state in self._artifact.states}
        return thresholds

    def _first_states(
        self,
        size: tuple[int, int],
        chance: npt.NDArray[np.float64],
        generator: np.random.Generator,
    ) -> dict[str, Array]:
        states: dict[str, Array] = {}
        for state in self._artifact.states:
            if state.role == "mem":
                states[state.input] = np.zeros(state.resolved_shape(1, *size), state.dtype)
                continue
            spikes = draw(chance, self._artifact.layer(state.layer).channels, generator)
            packed = state.layout == "packed32"
            states[state.input] = lif_op.spec.pack_spikes(spikes) if packed else spikes
        return states

    def _rests(self, size: tuple[int, int], never: Thresholds) -> Thresholds:
        """Currents of neurons that no event and no spike reaches, int32 [C] by layer."""
        states = {
            state.input: np.zeros(state.resolved_shape(1, *size), state.dtype)
            for state in self._artifact.states
        }
        silence = np.zeros((1, self._artifact.num_bins, *size), np.uint8)
        found = self._run({EVENTS: silence, **states}, never)
        return {
            layer: self._currents(layer, found)[0, :, 0, 0].astype(np.int32)
            for layer in self._order
        }

    def _currents(self, layer: str, found: Mapping[str, Any]) -> npt.NDArray[Any]:
        """Of a layer that did not fire, [N, C, H, W]."""
        state = self._mems[layer]
        return channels_first(self._artifact, state, found[state.output])

    def _run(self, feed: Mapping[str, Array], thresholds: Thresholds) -> dict[str, Any]:
        if self._session is None:
            self._session = _probe(self._loaded, self._order)
        inputs = dict(feed) | {_input(layer): array for layer, array in thresholds.items()}
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, inputs), strict=True))


def choose(
    current: npt.NDArray[Any],
    density: float,
    always: int,
    floors: npt.NDArray[np.int32],
) -> npt.NDArray[np.int32]:
    """Thresholds [C] that about ``density`` of the currents [N, C, H, W] exceed.

    Currents are integers, so a channel may not meet the density; the next one makes up for it.
    always: the lowest threshold. floors: the lowest threshold of each channel, [C].
    """
    owed, thresholds = 0.0, []
    channels = current.transpose(1, 0, 2, 3).reshape(current.shape[1], -1)
    for channel, floor in zip(channels, floors, strict=True):
        values, counts = np.unique(channel, return_counts=True)
        candidates = np.concatenate([[always], values])
        above = channel.size - np.concatenate([[0], np.cumsum(counts)])
        allowed = candidates >= min(int(floor), int(values[-1]))
        candidates, above = candidates[allowed], above[allowed]
        wanted = density * channel.size + owed
        best = int(np.argmin(np.abs(above - wanted)))
        owed = wanted - float(above[best])
        thresholds.append(int(candidates[best]))
    return np.array(thresholds, np.int32)


def forced_events(
    artifact: Artifact, size: tuple[int, int], density: float, pattern: str, count: int, seed: int
) -> list[Array]:
    """Windows of single events at a density, at most one per pixel and bin; clusters stay.

    Returns ``events`` tensors [1, num_bins, H, W] of the artifact's type.
    """
    generator = np.random.default_rng(seed)
    chance = probability(size, density, pattern, generator)
    return [
        draw(chance, artifact.num_bins, generator).astype(artifact.event_dtype)
        for _ in range(count)
    ]


def _layers_in_order(loaded: LoadedModel) -> dict[str, int]:
    """Position of each layer's spiking node, in the order in which they run."""
    states = {s.input: s for s in loaded.artifact.states if s.role == "mem"}
    found: dict[str, int] = {}
    for position, node in enumerate(loaded.model.graph.node):
        op = spiking_op(node)
        if op is not None and node.input[op.mem] in states:
            found[states[node.input[op.mem]].layer] = position
    absent = [layer.name for layer in loaded.artifact.layers if layer.name not in found]
    if absent:
        raise BenchError(
            f"{loaded.path}: layer {absent[0]!r} has no spiking node whose threshold could be "
            "set; use the file before its functions were inlined"
        )
    return found


def _limits(state: State) -> _Limits:
    """Only a membrane at its very lowest stays silent at the lowest threshold of its own type, and
    thresholds beyond that type would leave the fast kernels."""
    lo, hi = lif_op.spec.membrane_limits(state.dtype)
    return _Limits(lo, hi)


def _input(layer: str) -> str:
    return f"forced_threshold.{layer}"


def _decay(layer: str) -> str:
    return f"forced_decay.{layer}"


def _rewired(loaded: LoadedModel, order: Mapping[str, int]) -> ModelProto:
    """A copy whose neurons read the forced names; the decays behind them are there, all 0."""
    model = ModelProto()
    model.CopyFrom(loaded.model)
    for layer, position in order.items():
        node: NodeProto = model.graph.node[position]
        op = spiking_op(node)
        if op is None:
            raise BenchError(f"{loaded.path}: node {node.name!r} does not spike")
        node.input[op.first_parameter] = _decay(layer)
        node.input[op.first_parameter + 1] = _input(layer)
        zeros = np.zeros(loaded.artifact.layer(layer).channels, np.int32)
        model.graph.initializer.append(numpy_helper.from_array(zeros, _decay(layer)))
    return model


def _with_parameters(
    loaded: LoadedModel, order: Mapping[str, int], thresholds: Thresholds
) -> ModelProto:
    model = _rewired(loaded, order)
    for layer, array in thresholds.items():
        model.graph.initializer.append(numpy_helper.from_array(array, _input(layer)))
    return model


def _probe(loaded: LoadedModel, order: Mapping[str, int]) -> ort.InferenceSession:
    """A session that takes thresholds as inputs.

    Function bodies do: kernels pack their constants when the session is made.
    """
    model = _rewired(loaded, order)
    for layer in order:
        channels = loaded.artifact.layer(layer).channels
        model.graph.input.append(
            helper.make_tensor_value_info(_input(layer), TensorProto.INT32, [channels])
        )
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 1
    return _session(model, options, loaded)


def _session(
    model: onnx.ModelProto, options: ort.SessionOptions, loaded: LoadedModel
) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exception classes have no common base
        reason = " ".join(str(error).split())
        raise BenchError(f"{loaded.path}: no copy with other thresholds ({reason})") from error

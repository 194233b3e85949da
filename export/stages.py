"""Stage by stage from the float network to the final graph: what each one changes, and its bound.

Two neighbouring stages make the same steps. Where both compute in integers only, every spike,
membrane and flow accumulator has to be equal over the whole run. Where a stage still has a float
neuron, its layers are compared one at a time: both graphs get the later one's states and the later
one's spikes, so that no difference is carried on, and membranes are compared in units of their
last place (LSB) with a bound that follows from the arithmetic:

* float network to quantized weights: ``sum |x| |w - s w_q| + |b - s b_q|``, half a unit for a
  requantized current, and what rounding decay and membrane changes;
* float neuron to integer neuron: 1, for the truncation of the decayed membrane; with requantized
  currents another unit of the current, for ties;
* spikes may differ only where the silent neuron's membrane is within that bound of its threshold.

Currents and membranes at the end of their range are left out, and counted; float membranes have
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch.nn import functional

from export.deeploy import DialectTracer, is_dialect
from export.grids import artifact_of, constants
from export.stage import StageError
from export.trace import FORCED, Tracer, with_types
from models import SpikingFireNet
from quant.spec import LayerSpec, NetworkSpec, membrane_limits
from runtime.graph import spike_tensors
from runtime.graph_checks import EVENTS, FLOW, FLOW_ACC
from runtime.layout import channels_first, from_channels_first, unpacked
from runtime.metadata import Artifact

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Float64 = npt.NDArray[np.float64]

RESOLUTION = (20, 28)
STEPS = 4
FLOW_BOUND = 1e-5
"""Of ``flow`` between stages of the same weights; tanh is float32 everywhere."""

_EVENTS_PER_PIXEL = 0.15


@dataclass(frozen=True)
class Stage:
    """One stage against the one before.

    name: of the pass, or of the graph. changes: places rewritten. nodes: afterwards. relation:
    "equal" (integers, bit for bit) or "bounded". largest: largest difference of a membrane, in
    LSB. bound: the largest bound. flips: spikes that differ, all within the bound of their
    threshold. saturated: values left out at the end of a range. values: compared. flow: largest
    difference of the flow.
    """

    name: str
    changes: int
    nodes: int
    relation: str
    largest: float
    bound: float
    flips: int
    saturated: int
    values: int
    flow: float

    def to_dict(self) -> dict[str, Any]:
        """The stage as JSON values."""
        return asdict(self)


@dataclass
class _Tally:
    largest: float = 0.0
    bound: float = 0.0
    flips: int = 0
    saturated: int = 0
    values: int = 0
    flow: float = 0.0


class _Graph:
    """A stage's graph, with sizes left open and spikes that can be dictated."""

    def __init__(self, model: onnx.ModelProto, spikes: Sequence[str]) -> None:
        artifact = artifact_of(model)
        if artifact is None:
            raise StageError("a stage's graph has lost its artifact metadata")
        self.artifact = artifact
        self.model = _any_size(model, artifact)
        self.inputs = {
            value.name: np.dtype(
                onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            )
            for value in model.graph.input
        }
        self.spikes = [name for name in spikes]
        self._layers = spike_tensors(model, artifact)
        self._free: Tracer | DialectTracer | None = None
        self._forced: tuple[Tracer, dict[str, np.dtype[Any]]] | None = None

    @property
    def real_neurons(self) -> bool:
        """Whether a neuron computes in float32."""
        return any(layer.mem_bits is None for layer in self.artifact.layers)

    @property
    def real_weights(self) -> bool:
        """Whether weights are not quantized."""
        return self.artifact.kind == "float"

    @property
    def float_membranes(self) -> bool:
        """Whether membranes are float32 states, which do not saturate."""
        return all(s.dtype == "float32" for s in self.artifact.states if s.role == "mem")

    @property
    def exact(self) -> bool:
        """Whether all of it is integer arithmetic with one defined result."""
        if self.real_neurons:
            return False
        arrays = constants(self.model.graph)
        scales = [n.input[1] for n in self.model.graph.node if n.op_type == "QuantizeLinear"]
        return all(name in arrays and bool((arrays[name] == 1).all()) for name in scales)

    def run(self, inputs: Arrays) -> Arrays:
        if self._free is None:
            dialect = is_dialect(self.model)
            self._free = DialectTracer(self.model) if dialect else Tracer(self.model)
        return self._canonical(self._free.run(self._own(inputs)))

    def _own(self, inputs: Arrays) -> Arrays:
        """Inputs in the types and layouts of this graph."""
        given = dict(inputs)
        for state in self.artifact.states:
            if state.input in given:
                given[state.input] = from_channels_first(state, given[state.input])
        return {name: value.astype(self.inputs[name]) for name, value in given.items()}

    def _canonical(self, values: Arrays) -> Arrays:
        """States channels first, and the spikes of every layer, packed ones unpacked."""
        named = dict(values)
        for state in self.artifact.states:
            for name in (state.input, state.output):
                named[name] = channels_first(self.artifact, state, named[name])
        for layer, name in self._layers.items():
            spikes = unpacked(values[name], self.artifact.layer(layer).channels)
            named.setdefault(f"spike_out.{layer}", spikes)
        return named

    def run_forced(self, inputs: Arrays, spikes: Arrays) -> Arrays:
        """Run with the spikes that later layers read dictated."""
        if self._forced is None:
            seen = self.run(inputs)
            typed = {name: seen[name] for name in spikes if name in seen}
            kinds = {name: value.dtype for name, value in typed.items()}
            self._forced = Tracer(with_types(self.model, typed), kinds), kinds
        tracer, kinds = self._forced
        forced = {FORCED + name: spikes[name].astype(kind) for name, kind in kinds.items()}
        given = self._own(inputs) | {n: v for n, v in forced.items() if n in tracer.forced}
        return self._canonical(tracer.run(given))


def _any_size(model: onnx.ModelProto, artifact: Artifact) -> onnx.ModelProto:
    """A copy whose images may have any size; the graphs do not depend on it."""
    last = {name for s in artifact.states if s.layout != "NCHW" for name in (s.input, s.output)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in (*copy.graph.input, *copy.graph.output):
        sizes = value.type.tensor_type.shape.dim
        if len(sizes) == 4:
            for axis in (0, 1, 2) if value.name in last else (0, 2, 3):
                sizes[axis].Clear()
                sizes[axis].dim_param = f"{value.name}.{axis}"
    return copy


class Stages:
    """Collects the stages of one export.

    Args:
        spec: the integers of the network.
        network: the float network they come from; None where there is none.
        seed: of the events.
    """

    def __init__(self, spec: NetworkSpec, network: SpikingFireNet | None, seed: int = 0) -> None:
        self.spec = spec
        self.stages: list[Stage] = []
        self._network = network
        self._last: _Graph | None = None
        generator = np.random.default_rng(seed)
        shape = (1, spec.num_bins, *RESOLUTION)
        self._events = [
            np.minimum(generator.poisson(_EVENTS_PER_PIXEL * (k + 1), shape), 127).astype(np.uint8)
            for k in range(STEPS)
        ]

    def add(self, name: str, model: onnx.ModelProto, changes: int = 0) -> Stage | None:
        """Compare a graph with the stage before it; the first one has none.

        Raises:
            StageError: a difference beyond its bound, by stage, step, layer and value.
        """
        graph = _Graph(model, [f"spike_out.{layer.name}" for layer in self.spec.layers])
        before, self._last = self._last, graph
        if before is None:
            return None
        tally = _Tally()
        exact = before.exact and graph.exact
        if exact:
            self._equal(name, before, graph, tally)
        else:
            self._bounded(name, before, graph, tally)
        relation = "equal" if exact else "bounded"
        nodes = len(model.graph.node)
        stage = Stage(name, changes, nodes, relation, **asdict(tally))
        self.stages.append(stage)
        return stage

    def _zero_states(self, graph: _Graph) -> Arrays:
        return {
            state.input: np.zeros(
                (1, graph.artifact.layer(state.layer).channels, *RESOLUTION),
                "uint8" if state.layout == "packed32" else state.dtype,
            )
            for state in graph.artifact.states
        }

    def _equal(self, stage: str, before: _Graph, after: _Graph, tally: _Tally) -> None:
        states = self._zero_states(before), self._zero_states(after)
        for step, events in enumerate(self._events):
            left = before.run({EVENTS: events, **states[0]})
            right = after.run({EVENTS: events, **states[1]})
            names = [state.output for state in after.artifact.states]
            names += [name for name in (*before.spikes, FLOW_ACC) if name in left and name in right]
            for tensor in names:
                count = int((left[tensor] != right[tensor]).sum())
                if count:
                    raise StageError(
                        f"stage {stage}: {tensor} differs in {count} values at step {step}, and "
                        "both stages are integer graphs; run export.diff on them"
                    )
                tally.values += left[tensor].size
            _compare_flow(stage, step, left, right, None, tally)
            states = _next(before, left), _next(after, right)

    def _bounded(self, stage: str, before: _Graph, after: _Graph, tally: _Tally) -> None:
        states, endless = self._zero_states(after), before.float_membranes and after.float_membranes
        for step, events in enumerate(self._events):
            right = after.run({EVENTS: events, **states})
            spikes = {name: right[name] for name in after.spikes}
            given = {EVENTS: events, **self._converted(states, after, before)}
            left = before.run_forced(given, spikes)
            x: Array = events
            for layer in self.spec.layers:
                previous = states.get(f"spike.{layer.name}")
                bound = self._bound(layer, before, after, x, previous, states)
                sides = self._neuron(layer, left), self._neuron(layer, right)
                mem = self._units(layer, states[f"mem.{layer.name}"])
                where = f"stage {stage}: layer {layer.name} at step {step}"
                out = np.zeros(mem.shape, np.bool_)
                if not endless or _clipped_thresholds(layer):
                    out = _saturated(layer, sides[0], mem) | _saturated(layer, sides[1], mem)
                _compare_layer(where, layer, sides, out, bound, tally)
                x = right[f"spike_out.{layer.name}"]
            head = self._head_bound(before, x)
            _compare_flow(stage, step, left, right, head, tally)
            states = _next(after, right)

    def _neuron(self, layer: LayerSpec, values: Arrays) -> _Neuron:
        mem = self._units(layer, values[f"mem_out.{layer.name}"])
        return _Neuron(values[f"spike_out.{layer.name}"] > 0, mem)

    def _units(self, layer: LayerSpec, mem: Array) -> Float64:
        """A membrane in units of its last place."""
        if mem.dtype.kind == "f":
            return mem.astype(np.float64) / _column(layer.membrane_unit)
        return mem.astype(np.float64)

    def _converted(self, states: Arrays, after: _Graph, before: _Graph) -> Arrays:
        """States of the later stage as the earlier one takes them."""
        result = {}
        for name, value in states.items():
            wanted = before.inputs[name]
            if value.dtype.kind in "iu" and wanted.kind == "f" and name.startswith("mem."):
                layer = next(e for e in self.spec.layers if f"mem.{e.name}" == name)
                value = value * _column(layer.membrane_unit)
            result[name] = value.astype(wanted)
        return result

    def _bound(
        self,
        layer: LayerSpec,
        before: _Graph,
        after: _Graph,
        x: Array,
        previous: Array | None,
        states: Arrays,
    ) -> Float64:
        """Largest difference of a membrane before its reset, in LSB, that the two may have."""
        one_current = 2.0**layer.frac_bits if layer.current == "uint8" else 0.0
        bound: Float64 = np.full((1, 1, 1, 1), 1.0 + one_current)
        if not before.real_weights or self._network is None:
            return bound
        own = dict(self._network.named_layers())[layer.name]
        mem = np.abs(self._units(layer, states[f"mem.{layer.name}"]))
        beta = own.effective_beta().detach().double().numpy()
        decay = np.abs(beta - layer.decay / 256.0)
        scale = layer.conv.weight_scale
        error = _weight_error(own.weight, layer.conv.weight, scale, x, layer.conv.stride)
        if layer.weight_rec is not None and own.weight_rec is not None and previous is not None:
            error = error + _weight_error(own.weight_rec, layer.weight_rec, scale, previous, 1)
        bias = own.bias.detach().double().numpy()
        error = error + _column(np.abs(bias - layer.conv.bias * layer.conv.weight_scale))
        # 1e-3 covers the float32 sums of both graphs, which are far below one unit.
        return (
            bound + error / _column(layer.membrane_unit) + _column(decay) * mem + 1e-3 * (1 + mem)
        )

    def _head_bound(self, before: _Graph, x: Array) -> Float64 | None:
        if not before.real_weights or self._network is None:
            return None
        head, own = self.spec.head, self._network.pred
        bias = 0.0 if own.bias is None else own.bias.detach().double().numpy()
        error = _weight_error(own.weight, head.weight, head.weight_scale, x, 1)
        return error + _column(np.abs(bias - head.bias * head.weight_scale)) + FLOW_BOUND


@dataclass(frozen=True)
class _Neuron:
    """Spikes, and membranes after the reset in LSB."""

    spike: npt.NDArray[np.bool_]
    mem: Float64


def _compare_layer(
    where: str,
    layer: LayerSpec,
    sides: tuple[_Neuron, _Neuron],
    out: npt.NDArray[np.bool_],
    bound: Float64,
    tally: _Tally,
) -> None:
    """Membranes where neither fires, and distance from the threshold where one does; places that
    are ``out`` are not compared."""
    left, right = sides
    silent = ~left.spike & ~right.spike & ~out
    difference = np.where(silent, np.abs(left.mem - right.mem), 0.0)
    flipped = (left.spike != right.spike) & ~out
    quiet = np.where(left.spike, right.mem, left.mem)
    distance = np.where(flipped, np.abs(quiet - _column(layer.threshold)), 0.0)
    excess = (difference > bound) | (distance > bound + 1)
    if excess.any():
        place = tuple(int(i) for i in np.argwhere(excess)[0])
        kind = "spikes flip" if flipped[place] else "membranes differ"
        raise StageError(
            f"{where}: {kind} in {int(excess.sum())} places beyond the bound; first at channel "
            f"{place[1]}, y {place[2]}, x {place[3]}: {left.mem[place]:.3f} against "
            f"{right.mem[place]:.3f} LSB, bound {np.broadcast_to(bound, excess.shape)[place]:.3f}"
        )
    tally.largest = max(tally.largest, float(difference.max()))
    tally.bound = max(tally.bound, float(bound.max()))
    tally.flips += int(flipped.sum())
    tally.saturated += int(out.sum())
    tally.values += int((~out).sum())


def _clipped_thresholds(layer: LayerSpec) -> bool:
    """Whether a threshold was too large for the grid, and the float network's is another."""
    return bool((layer.threshold == membrane_limits(layer.mem_bits)[1]).any())


def _saturated(layer: LayerSpec, side: _Neuron, mem: Float64) -> npt.NDArray[np.bool_]:
    """Where a silent neuron's current or membrane is at the end of its range."""
    lo, hi = membrane_limits(layer.mem_bits)
    current = side.mem - _column(layer.decay / 256.0) * mem
    steps = 2.0**layer.frac_bits
    top = 127 * steps if layer.current == "uint8" else hi if steps < 1 else hi + 1 - steps
    edge = 1 + steps
    at_end = (side.mem >= hi - 1) | (side.mem <= lo + 1)
    at_end |= (current >= top - edge) | (current <= -top + edge)
    return at_end & ~side.spike


def _compare_flow(
    stage: str, step: int, left: Arrays, right: Arrays, bound: Float64 | None, tally: _Tally
) -> None:
    if FLOW not in left or FLOW not in right:
        return
    difference = np.abs(left[FLOW].astype(np.float64) - right[FLOW])
    allowed = FLOW_BOUND if bound is None else bound
    if (difference > allowed).any():
        raise StageError(
            f"stage {stage}: flow differs by {float(difference.max()):.2e} at step {step}, more "
            f"than {float(np.max(allowed)):.2e}, on equal spikes"
        )
    tally.flow = max(tally.flow, float(difference.max()))


def _weight_error(
    weight: torch.Tensor, integers: Array, scale: Float64, x: Array, stride: int
) -> Float64:
    """``sum |x| |w - s w_q|``: what rounding the weights can change in a current."""
    gap = np.abs(weight.detach().double().numpy() - integers * scale.reshape(-1, 1, 1, 1))
    padding = integers.shape[2] // 2
    counts = torch.from_numpy(np.abs(x.astype(np.float64)))
    sums = functional.conv2d(counts, torch.from_numpy(gap), stride=stride, padding=padding)
    return sums.numpy().astype(np.float64)


def _column(values: npt.ArrayLike) -> Float64:
    return np.asarray(values, np.float64).reshape(1, -1, 1, 1)


def _next(graph: _Graph, values: Arrays) -> Arrays:
    return {state.input: values[state.output] for state in graph.artifact.states}

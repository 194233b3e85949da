"""The synapses of an artifact: its convolutions, what each of them reads, and their weights.

Read from the graph, whatever its form: float, QDQ or integer, fused or not, functions inlined or
not. A layer is what lies between the convolutions behind ``mem_out.<layer>`` and that output. A
convolution over concatenated inputs is as many connections as it has inputs, so every form of a
network has the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bench.activity import Counts, Geometry
from bench.errors import BenchError
from runtime.artifact import LoadedModel
from runtime.graph import spiking_op
from runtime.graph_checks import EVENTS, FLOW, FLOW_ACC

HEAD = "flow head"
"""What the convolution that makes the flow is called in results."""


@dataclass(frozen=True)
class Connection:
    """The synapses from one source to one layer.

    source: "events" or a layer. previous: whether the spikes are those of the step before.
    nonzero: int64 [C, kh, kw], nonzero weights per input channel and tap.
    fanout: output channels that an input channel is connected with, zero weights included.
    integer: whether the weights are stored as integers.
    """

    source: str
    previous: bool
    nonzero: Counts
    fanout: int
    geometry: Geometry
    integer: bool


@dataclass(frozen=True)
class Receiver:
    """A layer, or the flow head, with all that reaches it.

    parameter_bytes: of weights, biases, scales and neuron parameters as the file stores them.
    integer: whether its neurons compute in integers; None for the flow head, which has none.
    """

    name: str
    connections: tuple[Connection, ...]
    parameter_bytes: int
    integer: bool | None


@dataclass(frozen=True)
class Network:
    """An artifact's layers in order, the flow head last.

    spikes: name of each layer's spike tensor. model: a copy whose outputs include all of them.
    """

    receivers: tuple[Receiver, ...]
    spikes: Mapping[str, str]
    model: ModelProto = field(repr=False)


@dataclass(frozen=True)
class _Operands:
    """Positions of a convolution's input, weight and weight zero point; ``same`` keeps the size."""

    x: int
    weight: int
    zero_point: int | None = None
    same: bool = False


_CONVOLUTIONS: Mapping[tuple[str, str], tuple[_Operands, ...]] = {
    ("", "Conv"): (_Operands(0, 1),),
    ("", "ConvInteger"): (_Operands(0, 1, 3),),
    ("", "QLinearConv"): (_Operands(0, 3, 5),),
    ("snn", "QConv"): (_Operands(0, 1),),
    ("snn", "QConvLIF"): (_Operands(0, 1),),
    ("snn", "QConvLIFRec"): (_Operands(0, 1), _Operands(3, 4, same=True)),
}
_KEEP_ZEROS = {
    ("", "Cast"),
    ("", "DequantizeLinear"),
    ("", "Identity"),
    ("", "QuantizeLinear"),
    ("snn", "PackSpikes"),
    ("snn", "UnpackSpikes"),
}
_OTHER_SYNAPSES = {
    ("", "ConvTranspose"),
    ("", "Einsum"),
    ("", "Gemm"),
    ("", "MatMul"),
    ("", "MatMulInteger"),
    ("", "QLinearMatMul"),
}


def read_network(loaded: LoadedModel) -> Network:
    """Find the connections of an artifact.

    Raises BenchError, naming the file and the place, for a graph whose synapses are not all
    convolutions of events and spikes with constant weights.
    """
    graph = _Graph(loaded)
    artifact = loaded.artifact
    regions = {
        state.layer: graph.region(state.layer, [state.output])
        for state in artifact.states
        if state.role == "mem"
    }
    types = {layer.name: graph.find_spikes(layer.name, regions) for layer in artifact.layers}
    receivers = [
        graph.receiver(layer.name, regions[layer.name], types[layer.name] != TensorProto.FLOAT)
        for layer in artifact.layers
    ]
    outputs = [name for name in (FLOW, FLOW_ACC) if name in graph.producers]
    receivers.append(graph.receiver(HEAD, graph.region(HEAD, outputs), None))
    return Network(tuple(receivers), graph.spike_names, graph.with_spikes(types))


@dataclass
class _Region:
    """Nodes between convolutions and some outputs.

    parameters: names of the constants they read. neurons: spiking nodes among them.
    """

    convolutions: list[NodeProto] = field(default_factory=list)
    neurons: list[NodeProto] = field(default_factory=list)
    parameters: set[str] = field(default_factory=set)


class _Graph:
    """A model's graph, seen from its outputs."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.model, self.artifact, self.where = loaded.model, loaded.artifact, loaded.path
        graph = self.model.graph
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if _key(node) == ("", "Constant") and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.previous = {s.input: s.layer for s in self.artifact.states if s.role == "spike"}
        self.spike_names: dict[str, str] = {}

    def error(self, problem: str) -> BenchError:
        return BenchError(f"{self.where}: {problem}")

    def region(self, name: str, outputs: Iterable[str]) -> _Region:
        """What lies between convolutions and the outputs of a layer."""
        found, pending, seen = _Region(), list(outputs), set[str]()
        while pending:
            tensor = pending.pop()
            node = self.producers.get(tensor)
            if tensor in self.constants:
                found.parameters.add(tensor)
            if tensor in self.constants or node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            if _key(node) in _OTHER_SYNAPSES:
                raise self.error(
                    f"{name} computes with {node.op_type} (node {node.name!r}); only convolutions "
                    "of events and spikes are counted"
                )
            operands = _CONVOLUTIONS.get(_key(node), ())
            if operands:
                found.convolutions.append(node)
            if spiking_op(node) is not None:
                found.neurons.append(node)
            activations = {operand.x for operand in operands}
            pending += [x for i, x in enumerate(node.input) if x and i not in activations]
        self._check_region(name, found)
        return found

    def _check_region(self, name: str, region: _Region) -> None:
        if len(region.neurons) > (0 if name == HEAD else 1):
            raise self.error(
                f"{name} reads spikes of another layer without a convolution (node "
                f"{region.neurons[-1].name!r}); only convolutions are counted"
            )
        if not region.convolutions:
            raise self.error(f"no convolution leads to {name}, so it has no synapses to count")

    def find_spikes(self, layer: str, regions: Mapping[str, _Region]) -> int:
        """Note the name of a layer's spike tensor and return its element type.

        Where the neuron's function was inlined, it is the tensor of that name which a Cast makes
        of the comparison with the threshold.
        """
        name = f"spike_out.{layer}"
        for node in regions[layer].neurons:
            op = spiking_op(node)
            if op is not None:
                self.spike_names[layer] = node.output[op.spike]
                return op.spike_type
        node = self.producers.get(name, NodeProto())
        if _key(node) != ("", "Cast"):
            raise self.error(
                f"layer {layer!r} has neither a spiking node nor a tensor {name!r}; count the "
                "file that this one was made of"
            )
        self.spike_names[layer] = name
        return next(int(a.i) for a in node.attribute if a.name == "to")

    def receiver(self, name: str, region: _Region, integer: bool | None) -> Receiver:
        connections = [
            connection
            for node in region.convolutions
            for operands in _CONVOLUTIONS[_key(node)]
            for connection in self._connections(node, operands)
        ]
        stored = sum(_stored_bytes(self.constants[name]) for name in region.parameters)
        return Receiver(name, tuple(sorted(connections, key=_order)), stored, integer)

    def _connections(self, node: NodeProto, operands: _Operands) -> list[Connection]:
        weight = self._value(node.input[operands.weight], node)
        if weight.ndim != 4:
            raise self.error(
                f"weight of node {node.name!r} has {weight.ndim} dimensions, expected "
                "[Cout, Cin, kh, kw]"
            )
        zero: npt.NDArray[Any] = np.zeros(1, weight.dtype)
        position = operands.zero_point
        if position is not None and len(node.input) > position and node.input[position]:
            zero = self._value(node.input[position], node)
        geometry, groups = self._geometry(node, operands, weight.shape)
        grouped = (weight != zero.reshape(-1, 1, 1, 1)).reshape(groups, -1, *weight.shape[1:])
        nonzero = grouped.sum(axis=1).reshape(-1, *weight.shape[2:]).astype(np.int64)
        parts = self._parts(node.input[operands.x], node)
        if sum(channels for _, _, channels in parts) != len(nonzero):
            raise self.error(
                f"node {node.name!r} has weights for {len(nonzero)} input channels and reads "
                f"{sum(channels for _, _, channels in parts)}"
            )
        integer = not self._stored_as_float(node.input[operands.weight])
        found, first = [], 0
        for source, previous, channels in parts:
            own = nonzero[first : first + channels]
            fanout = len(weight) // groups
            found.append(Connection(source, previous, own, fanout, geometry, integer))
            first += channels
        return found

    def _geometry(
        self, node: NodeProto, operands: _Operands, shape: tuple[int, ...]
    ) -> tuple[Geometry, int]:
        """Shape of a convolution, and its groups."""
        kernel = (shape[2], shape[3])
        if operands.same:
            top, left = kernel[0] // 2, kernel[1] // 2
            return Geometry(kernel, pads=(top, left, top, left)), 1
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if given.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise self.error(f"node {node.name!r} leaves its padding to auto_pad; write pads")
        return Geometry(
            kernel,
            tuple(given.get("strides", (1, 1))),
            tuple(given.get("pads", (0, 0, 0, 0))),
            tuple(given.get("dilations", (1, 1))),
        ), given.get("group", 1)

    def _parts(self, name: str, reader: NodeProto) -> list[tuple[str, bool, int]]:
        """What a tensor is made of, in the order of its channels: (source, previous, channels)."""
        if name == EVENTS:
            return [(EVENTS, False, self.artifact.num_bins)]
        if name in self.previous:
            layer = self.previous[name]
            return [(layer, True, self.artifact.layer(layer).channels)]
        for layer, tensor in self.spike_names.items():
            if tensor == name:
                return [(layer, False, self.artifact.layer(layer).channels)]
        node = self.producers.get(name, NodeProto())
        if _key(node) == ("", "Concat") and node.attribute[0].i in (1, -3):
            return [part for x in node.input for part in self._parts(x, reader)]
        if _key(node) not in _KEEP_ZEROS:
            raise self.error(
                f"node {reader.name!r} reads {name!r}, which is neither events nor spikes; "
                "synapses of other values are not counted"
            )
        parts = self._parts(node.input[0], reader)
        of_events = any(source == EVENTS for source, _, _ in parts)
        if of_events and node.op_type == "QuantizeLinear" and not self._is_unit(node):
            raise self.error(
                f"node {node.name!r} quantizes events with a scale other than 1, which turns "
                "some of them into 0; export event counts"
            )
        return parts

    def _is_unit(self, quantizer: NodeProto) -> bool:
        return bool((self._value(quantizer.input[1], quantizer) == 1).all())

    def _value(self, name: str, reader: NodeProto) -> npt.NDArray[Any]:
        """Value of a tensor that depends on constants alone."""
        if name in self.constants:
            return numpy_helper.to_array(self.constants[name])
        outputs, names = self._constant_nodes(name, reader)
        nodes = [n for n in self.model.graph.node if n.output and n.output[0] in outputs]
        result = helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
        graph = helper.make_graph(
            nodes, "constant", [], [result], [self.constants[constant] for constant in names]
        )
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        value: npt.NDArray[Any] = ReferenceEvaluator(model).run(None, {})[0]  # type: ignore[index]
        return value

    def _constant_nodes(self, name: str, reader: NodeProto) -> tuple[set[str], set[str]]:
        """First outputs of the nodes that make a constant tensor, and the constants they read."""
        outputs, names, pending = set[str](), set[str](), [name]
        while pending:
            tensor = pending.pop()
            if tensor in self.constants:
                names.add(tensor)
                continue
            node = self.producers.get(tensor)
            if node is None:
                raise self.error(
                    f"a weight of node {reader.name!r} depends on {tensor!r}, so it is no constant "
                    "whose zeros can be counted"
                )
            outputs.add(node.output[0])
            pending += [x for x in node.input if x]
        return outputs, names

    def _stored_as_float(self, name: str) -> bool:
        """Whether the largest constant behind a weight holds floats."""
        _, names = self._constant_nodes(name, NodeProto())
        largest = max((self.constants[x] for x in names), key=_stored_bytes)
        return largest.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

    def with_spikes(self, types: Mapping[str, int]) -> ModelProto:
        """A copy of the model that returns every layer's spikes; its computation is the same."""
        copy = ModelProto()
        copy.CopyFrom(self.model)
        present = {output.name for output in copy.graph.output}
        shapes = {s.layer: s.shape for s in self.artifact.states if s.role == "mem"}
        for layer, name in self.spike_names.items():
            if name not in present:
                op = spiking_op(self.producers[name])
                shape = shapes[layer] if op is None else op.spike_shape(shapes[layer])
                value = helper.make_tensor_value_info(name, types[layer], shape)
                copy.graph.output.append(value)
        return copy


def _key(node: NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _order(connection: Connection) -> bool:
    """Feed-forward connections come before recurrent ones."""
    return connection.previous


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's values; those of fewer than 8 bits are packed."""
    return numpy_helper.to_array(tensor).nbytes

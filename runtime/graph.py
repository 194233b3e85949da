"""What the runtime has to know about a graph: its spiking nodes, readers, and a diagnostic copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

import lif_op.spec
from runtime.metadata import Artifact, State


@dataclass(frozen=True)
class SpikingOp:
    """Where a spiking op keeps its tensors.

    mem, mem_out, spike: positions of the membrane input and of the two outputs.
    first_parameter: position of the decay; the threshold follows it.
    elementwise: the state inputs which the kernel reads only at the element it then writes, so
        that the same buffer may serve as that input and as ``mem_out``.
    spike_type: element type of the spike output; uint32 for spikes packed 32 to a word.
    """

    mem: int
    mem_out: int
    spike: int
    first_parameter: int
    elementwise: frozenset[int]
    spike_type: int

    @property
    def packed(self) -> bool:
        """Whether spikes are packed words [N, H, W, ceil(C / 32)] and membranes [N, H, W, C]."""
        return self.spike_type == TensorProto.UINT32

    @property
    def integer(self) -> bool:
        """Whether membrane, decay and threshold are integers."""
        return self.spike_type != TensorProto.FLOAT

    def spike_shape(self, mem: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """Shape of the spikes, given that of the membrane."""
        last = mem[-1]
        return (*mem[:-1], lif_op.spec.words(last)) if self.packed and type(last) is int else mem


SPIKING_OPS: Mapping[tuple[str, str], SpikingOp] = {
    ("snn", "LIF"): SpikingOp(1, 1, 0, 2, frozenset({1}), TensorProto.FLOAT),
    ("snn", "QLIF"): SpikingOp(1, 1, 0, 2, frozenset({1}), TensorProto.UINT8),
    ("snn", "QConvLIF"): SpikingOp(3, 1, 0, 4, frozenset({3}), TensorProto.UINT32),
    ("snn", "QConvLIFRec"): SpikingOp(5, 1, 0, 6, frozenset({5}), TensorProto.UINT32),
    ("SNN_implementation", "LIF"): SpikingOp(1, 1, 0, 2, frozenset({1}), TensorProto.FLOAT),
}
"""The spiking ops this version runs. A new op gets a row here, or the runtime refuses it."""

LIBRARY_DOMAINS = ("snn", "SNN_implementation")
"""Domains whose nodes the op library executes."""


def spiking_op(node: NodeProto) -> SpikingOp | None:
    """The table row of a node, or None when it does not spike."""
    return SPIKING_OPS.get((node.domain, node.op_type))


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes (the branches of If, the body of Loop and Scan)."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node of a graph, those of nested graphs included."""
    for node in graph.node:
        yield node
        for nested in subgraphs(node):
            yield from all_nodes(nested)


def uses_library(graph: GraphProto) -> bool:
    """Whether any node is left for the op library (after ONNX Runtime expanded the functions)."""
    return any(node.domain in LIBRARY_DOMAINS for node in all_nodes(graph))


def inplace_states(executed: GraphProto, states: Iterable[State]) -> frozenset[str]:
    """Inputs of the states whose buffer may be read and overwritten by one step.

    ``executed`` is the graph after optimisation, with native kernels for the spiking nodes. A
    state qualifies when its input has exactly one reader, that reader is a spiking node which
    reads it elementwise, and the very same node writes the state's output. Anything else could
    see new values in place of old ones, and nothing in ONNX Runtime would notice.
    """
    readers: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in all_nodes(executed):
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, position))
    passed_through = {output.name for output in executed.output}
    return frozenset(
        state.input
        for state in states
        if state.role == "mem"
        and state.input not in passed_through
        and len(readers.get(state.input, ())) == 1
        and _updates_in_place(*readers[state.input][0], state.output)
    )


def _updates_in_place(reader: NodeProto, position: int, output: str) -> bool:
    op = spiking_op(reader)
    return (
        op is not None
        and position in op.elementwise
        and len(reader.output) > op.mem_out
        and reader.output[op.mem_out] == output
    )


def spike_tensors(model: ModelProto, artifact: Artifact) -> dict[str, str]:
    """Name of each layer's spike tensor, in the order of the metadata's layers.

    A spiking node belongs to the layer whose membrane it reads, itself or through a
    DequantizeLinear. Where a graph has standard operators instead of such nodes, a layer's spikes
    are what a Cast writes as ``spike_out.<layer>`` (docs/artifact.md). Layers without either in the
    main graph are absent.
    """
    found = {layer: name for layer, (name, _) in _spikes(model, artifact).items()}
    return {layer.name: found[layer.name] for layer in artifact.layers if layer.name in found}


def _spikes(model: ModelProto, artifact: Artifact) -> dict[str, tuple[str, ValueInfoProto]]:
    """By layer, the name of its spike tensor and how it would be declared as an output."""
    membranes = {state.input: state for state in artifact.states if state.role == "mem"}
    plain = {
        f"spike_out.{s.layer}": s for s in artifact.states if s.role == "mem" and s.layout == "NCHW"
    }
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in membranes:
            membranes[node.output[0]] = membranes[node.input[0]]
    found, cast = {}, {}
    for node in model.graph.node:
        op = spiking_op(node)
        if op is not None and len(node.input) > op.mem and node.input[op.mem] in membranes:
            state, name = membranes[node.input[op.mem]], node.output[op.spike]
            found[state.layer] = (name, _value(name, op.spike_type, op.spike_shape(state.shape)))
        elif node.op_type == "Cast" and node.output[0] in plain:
            state, name = plain[node.output[0]], node.output[0]
            kind = next(a.i for a in node.attribute if a.name == "to")
            cast[state.layer] = (name, _value(name, kind, state.shape))
    return cast | found


def _value(name: str, kind: int, shape: tuple[int | str, ...]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def diagnostic_copy(model: ModelProto, artifact: Artifact) -> tuple[ModelProto, dict[str, str]]:
    """A copy of the model with every layer's spike tensor as an output.

    Returns:
        The copy, and the output's name for each layer. Nothing in the computation changes; the
        spikes of recurrent layers, outputs already, keep their name.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    spikes = _spikes(model, artifact)
    copy.graph.output.extend(value for name, value in spikes.values() if name not in present)
    return copy, spike_tensors(model, artifact)


def output_form(
    model: ModelProto, name: str, size: tuple[int, int, int]
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and NumPy type of a graph output; ``size`` (N, H, W) fills in its free dimensions."""
    free = dict(zip(("N", "H", "W"), size, strict=True))
    tensor = next(o for o in model.graph.output if o.name == name).type.tensor_type
    shape = tuple(free.get(d.dim_param, d.dim_value) for d in tensor.shape.dim)
    return shape, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def load_proto(data: bytes) -> ModelProto:
    """Parse a model; nothing outside ``data`` is opened. Raises DecodeError on broken bytes."""
    return onnx.load_model_from_string(data)

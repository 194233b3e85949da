"""Graph inputs and outputs that are integers become integer tensors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.passes.artifact import follow_graph
from export.passes.base import (
    GraphPass,
    free_name,
    is_op,
    producer,
    shared_constant,
)
from export.passes.quantizers import is_unit_grid, quantized_element
from lif_op.spec import DOMAIN
from runtime.graph_checks import FLOW

_BYTES = (ir.DataType.UINT8, ir.DataType.INT8)


class IntegerInputs(GraphPass):
    """Take the detour through float32 out of the graph's own inputs and outputs.

    Inputs, where every reader is a quantizer of scale 1 and zero point 0::

        events f32 -> QuantizeLinear(1, 0) -> ...      ==>   events u8 -> ...

    Outputs that are bytes dequantized with scale 1, a float32 copy of bytes, or a float neuron's
    spikes (0 or 1)::

        t u8 -> DequantizeLinear(1, 0) -> y f32        ==>   y u8
        snn::LIF -> spike_out f32                      ==>   snn::LIF -> Q(1, 0) -> spike_out u8

    A state changes with both its ends or not at all. Counts and spikes are whole numbers, so
    nothing is lost; a caller hands in bytes from then on.
    """

    name = "integer_inputs"
    summary = "events and spike states become bytes where they are only quantized with scale 1"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        graph = model.graph
        outputs = {value.name or "": value for value in graph.outputs if value.name != FLOW}
        changes = 0
        for value in list(graph.inputs):
            kind = _input_type(value)
            partner = outputs.pop(partner_of(value.name or ""), None)
            if partner is not None and partner.dtype == ir.DataType.FLOAT:
                if kind is None or not _make_integer(graph, partner, kind):
                    continue
                changes += 1
            if kind is not None:
                _retype(graph, value, kind)
                changes += 1
        changes += sum(_make_integer(graph, value, None) for value in outputs.values())
        if changes:
            follow_graph(model)
        return changes


def partner_of(name: str) -> str:
    """Name of the output that belongs to a state's input: ``mem.G1`` to ``mem_out.G1``."""
    role, dot, layer = name.partition(".")
    return f"{role}_out{dot}{layer}"


def _input_type(value: ir.Value) -> ir.DataType | None:
    """The byte type that every reader of a float input quantizes it to, if there is one."""
    uses = list(value.uses())
    if value.dtype != ir.DataType.FLOAT or not uses or value.is_graph_output():
        return None
    kinds = set()
    for node, position in uses:
        if not is_op(node, "QuantizeLinear") or position != 0 or not is_unit_grid(node):
            return None
        if node.outputs[0].is_graph_output():
            return None
        kinds.add(quantized_element(node))
    kind = kinds.pop()
    return kind if not kinds and kind in _BYTES else None


def _retype(graph: ir.Graph, value: ir.Value, kind: ir.DataType) -> None:
    quantizers = [node for node, _ in value.uses()]
    value.type = ir.TensorType(kind)
    for node in quantizers:
        node.outputs[0].replace_all_uses_with(value)
        graph.remove(node, safe=True)


def _make_integer(graph: ir.Graph, value: ir.Value, kind: ir.DataType | None) -> bool:
    """Make a float output a byte output, of the given type if one is given; whether it could be."""
    found = _integer_form(graph, value, kind) if value.dtype == ir.DataType.FLOAT else None
    if found is None:
        return False
    _swap(graph, value, *found)
    return True


def _integer_form(
    graph: ir.Graph, value: ir.Value, kind: ir.DataType | None
) -> tuple[ir.Value, ir.DataType] | None:
    """The bytes that a float output is a copy of, and their type."""
    source = producer(value, "DequantizeLinear")
    if source is not None and not is_unit_grid(source):
        return None
    source = source or producer(value, "Cast")
    if source is not None and (inner := source.inputs[0]) is not None:
        own = inner.dtype if is_op(source, "Cast") else quantized_element(source)
        interface = inner.is_graph_input() or inner.is_graph_output() or inner.is_initializer()
        fits = own in (_BYTES if kind is None else (kind,))
        return (inner, own) if own is not None and fits and not interface else None
    neuron = producer(value, "LIF", DOMAIN)
    if neuron is None or value is not neuron.outputs[0]:
        return None
    kind = ir.DataType.UINT8 if kind is None else kind
    return _quantized_spikes(graph, neuron, kind), kind


def _quantized_spikes(graph: ir.Graph, neuron: ir.Node, kind: ir.DataType) -> ir.Value:
    """A neuron's spikes as bytes: by a quantizer that is there, or one more."""
    spike = neuron.outputs[0]
    for node, position in spike.uses():
        if position == 0 and is_op(node, "QuantizeLinear") and is_unit_grid(node):
            inner = node.outputs[0]
            if quantized_element(node) == kind and not inner.is_graph_output():
                return inner
    one = shared_constant(graph, "unit.scale", np.array(1, np.float32))
    zero = shared_constant(graph, "unit.zero", np.array(0, kind.numpy()))
    node = ir.node("QuantizeLinear", [spike, one, zero], name=f"{spike.name}.q")
    graph.insert_after(neuron, node)
    return node.outputs[0]


def _swap(graph: ir.Graph, value: ir.Value, inner: ir.Value, kind: ir.DataType) -> None:
    """Let ``inner`` be the graph output in place of ``value``, under its name."""
    name = value.name
    value.name, inner.name = free_name(graph, f"{name}.real"), name
    inner.type, inner.shape = ir.TensorType(kind), value.shape
    for position, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[position] = inner
    source = value.producer()
    if not value.uses() and source is not None and source.op_type != "LIF":
        graph.remove(source, safe=True)

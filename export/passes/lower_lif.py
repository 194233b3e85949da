"""Float neurons on integer currents become integer neurons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.passes.artifact import follow_graph, read_artifact
from export.passes.base import (
    GraphPass,
    PassError,
    attribute,
    is_op,
    label,
    required_constant,
    shared_constant,
)
from export.passes.quantized_neuron import Current, Membrane, current_of, membrane_of
from export.passes.quantizers import is_unit_grid, quantized_element
from export.passes.rewiring import new_constant, register, remove_unread, take_place
from lif_op.spec import DOMAIN
from quant.errors import QuantError
from quant.spec import check_frac_bits, derive_decay, derive_threshold, membrane_limits
from runtime.metadata import Artifact, Layer


class LowerLif(GraphPass):
    """Let the neuron compute on the accumulator's integers.

    Before, with an integer membrane (or with a float one, which then takes ``mem_bits`` and
    ``frac_bits``)::

        acc i32 -> DQ(s_w, axis 1) --> snn::LIF -> spike f32 -> Q(1, 0) -> u8
        mem i16 -> DQ(s_m, axis 1) -/         \\-> Q(s_m, axis 1) -> mem_out i16

    After, f = log2(s_w / s_m), decay and threshold derived by :mod:`quant.spec`::

        acc i32 --> snn::QLIF(frac_bits = f) -> spike u8
        mem i16 -/                          \\-> mem_out i16

    A uint8 current ``DQ(q, s_y, 128)`` becomes ``Cast(q) - 128``, an accumulator of unit s_y. A
    reader that wants the spikes as float32 gets them through ``DequantizeLinear(1, 0)``. Neurons
    with a current that is not dequantized stay as they are.

    Args:
        mem_bits: bits of membranes that are float32 states.
        frac_bits: fractional bits of those.
    """

    name = "lower_lif"
    summary = "snn::LIF on dequantized integers becomes snn::QLIF"

    def __init__(self, *, mem_bits: int = 16, frac_bits: int = 0) -> None:
        membrane_limits(mem_bits)
        check_frac_bits(frac_bits, mem_bits)
        self._mem_bits = mem_bits
        self._frac_bits = frac_bits

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        artifact = read_artifact(model)
        layers = []
        changes = 0
        for node in list(model.graph):
            if not is_op(node, "LIF", DOMAIN):
                continue
            current = current_of(node)
            if current is None:
                continue
            neuron = self._derive(node, current)
            layer = _replace_neuron(model.graph, node, current, neuron)
            changes += 1
            if artifact is not None:
                layers += _layer_metadata(artifact, layer, current, neuron)
        if changes:
            follow_graph(model, layers)
        return changes

    def _derive(self, node: ir.Node, current: Current) -> _Neuron:
        mem = membrane_of(node, current, bits=self._mem_bits, frac_bits=self._frac_bits)
        beta = required_constant(node, 2, "beta")
        threshold = required_constant(node, 3, "threshold")
        unit = np.broadcast_to(current.scale, threshold.shape)
        try:
            check_frac_bits(mem.frac_bits, mem.bits)
            return _Neuron(
                mem,
                derive_decay(beta.astype(np.float64)),
                derive_threshold(threshold.astype(np.float64), unit, mem.frac_bits, mem.bits),
            )
        except QuantError as error:
            raise PassError(node, str(error), "quantize the network again") from error


@dataclass(frozen=True)
class _Neuron:
    """The parameters of an integer neuron."""

    mem: Membrane
    decay: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.int32]


def _replace_neuron(graph: ir.Graph, node: ir.Node, current: Current, neuron: _Neuron) -> str:
    """Put the integer neuron in place; returns the layer's name."""
    layer = (neuron.mem.value.name or label(node)).partition(".")[2] or (node.name or "neuron")
    parameters = [
        new_constant(f"{layer}.decay", neuron.decay),
        new_constant(f"{layer}.threshold", neuron.threshold),
    ]
    integer = ir.node(
        "QLIF",
        [_accumulator(graph, node, current, layer), neuron.mem.value, *parameters],
        {"frac_bits": neuron.mem.frac_bits, "reset": attribute(node, "reset")},
        domain=DOMAIN,
        num_outputs=2,
        name=f"{layer}.QLIF",
    )
    graph.insert_after(node, integer)
    mem_type = ir.TensorType(ir.DataType.from_numpy(np.dtype(f"int{neuron.mem.bits}")))
    spike, mem_out = integer.outputs
    spike.type = ir.TensorType(ir.DataType.UINT8)
    mem_out.type = neuron.mem.value.type = mem_type
    spike.shape, mem_out.shape = node.outputs[0].shape, node.outputs[1].shape
    _hand_over_membrane(graph, node, neuron, mem_out)
    _hand_over_spikes(graph, node, integer, spike)
    old = list(node.inputs)
    graph.remove(node, safe=True)
    remove_unread(graph, old)
    register(graph, parameters)
    return layer


def _accumulator(graph: ir.Graph, node: ir.Node, current: Current, layer: str) -> ir.Value:
    """The current as int32 around 0."""
    if current.zero == 0 and current.value.dtype != ir.DataType.UINT8:
        return current.value
    to = {"to": int(ir.DataType.INT32)}
    wide = ir.node("Cast", [current.value], to, name=f"{layer}.current_int")
    zero = shared_constant(graph, f"current.zero_{current.zero}", np.array(current.zero, np.int32))
    centred = ir.node("Sub", [wide.outputs[0], zero], name=f"{layer}.acc")
    for step in (wide, centred):
        step.outputs[0].name = step.name
    graph.insert_before(node, [wide, centred])
    return centred.outputs[0]


def _hand_over_membrane(graph: ir.Graph, node: ir.Node, neuron: _Neuron, mem_out: ir.Value) -> None:
    old = node.outputs[1]
    if neuron.mem.value is node.inputs[1]:
        take_place(old, mem_out)
        return
    ((quantizer, _),) = old.uses()
    take_place(quantizer.outputs[0], mem_out)
    graph.remove(quantizer, safe=True)


def _hand_over_spikes(graph: ir.Graph, node: ir.Node, integer: ir.Node, spike: ir.Value) -> None:
    """Quantizers of the spikes vanish; who reads them as float32 gets them dequantized."""
    real = node.outputs[0]
    spike.name, real.name = real.name, None
    last: ir.Node = integer
    for reader, _ in list(real.uses()):
        if not is_op(reader, "QuantizeLinear") or not is_unit_grid(reader):
            continue
        old, new = reader.outputs[0], spike
        kind = quantized_element(reader)
        if kind is None:
            continue
        if kind != ir.DataType.UINT8 or (old.is_graph_output() and spike.is_graph_output()):
            last = _convert(graph, last, "Cast", [spike], {"to": int(kind)})
            new = last.outputs[0]
            new.type, new.shape = ir.TensorType(kind), old.shape
        if old.is_graph_output() or new is not spike:
            take_place(old, new)
        else:
            old.replace_all_uses_with(new)
        graph.remove(reader, safe=True)
    if real.is_graph_output() or list(real.uses()):
        _dequantized(graph, real, spike, last)


def _convert(
    graph: ir.Graph, after: ir.Node, op_type: str, inputs: list[ir.Value], attributes: Any
) -> ir.Node:
    node = ir.node(op_type, inputs, attributes)
    graph.insert_after(after, node)
    return node


def _dequantized(graph: ir.Graph, real: ir.Value, spike: ir.Value, after: ir.Node) -> None:
    one = shared_constant(graph, "unit.scale", np.array(1, np.float32))
    zero = shared_constant(graph, "unit.zero", np.array(0, np.uint8))
    node = _convert(graph, after, "DequantizeLinear", [spike, one, zero], {})
    copy = node.outputs[0]
    copy.type, copy.shape = ir.TensorType(ir.DataType.FLOAT), real.shape
    if real.is_graph_output():
        copy.name, spike.name = spike.name, f"{spike.name}.integer"
    node.name = copy.name
    real.replace_all_uses_with(copy, replace_graph_outputs=True)


def _layer_metadata(
    artifact: Artifact, name: str, current: Current, neuron: _Neuron
) -> list[Layer]:
    """The layer of that name with its integers."""
    found = [layer for layer in artifact.layers if layer.name == name]
    scale = np.broadcast_to(current.scale, neuron.threshold.shape)
    return [
        replace(
            layer,
            frac_bits=neuron.mem.frac_bits,
            mem_bits=neuron.mem.bits,
            weight_bits=layer.weight_bits or 8,
            decay=tuple(int(v) for v in neuron.decay),
            threshold=tuple(int(v) for v in neuron.threshold),
            weight_scale=tuple(float(v) for v in scale),
        )
        for layer in found
    ]

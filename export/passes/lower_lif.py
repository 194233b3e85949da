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
    constant,
    is_op,
    label,
    producer,
    shared_constant,
)
from export.passes.integer_inputs import is_unit_grid, quantized_type
from export.passes.rewiring import new_constant, register, remove_unread, take_place
from lif_op.spec import DOMAIN
from quant.errors import QuantError
from quant.spec import check_frac_bits, derive_decay, derive_threshold, membrane_limits
from runtime.metadata import Artifact, Layer

Float64 = npt.NDArray[np.float64]

_MEM_BITS = {ir.DataType.INT8: 8, ir.DataType.INT16: 16}
_CANONICAL = "write it as DequantizeLinear(int32 accumulator or uint8 current) -> snn::LIF"


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
            current = _current(node)
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

    def _derive(self, node: ir.Node, current: _Current) -> _Neuron:
        mem, bits, frac_bits = self._membrane(node, current)
        beta, threshold = (constant(node.inputs[i]) for i in (2, 3))
        if beta is None or threshold is None:
            raise PassError(
                node, "its beta or threshold is computed in the graph", "make it an initializer"
            )
        unit = np.broadcast_to(current.scale, threshold.shape)
        try:
            check_frac_bits(frac_bits, bits)
            return _Neuron(
                mem,
                bits,
                frac_bits,
                derive_decay(beta.astype(np.float64)),
                derive_threshold(threshold.astype(np.float64), unit, frac_bits, bits),
            )
        except QuantError as error:
            raise PassError(node, str(error), "quantize the network again") from error

    def _membrane(self, node: ir.Node, current: _Current) -> tuple[ir.Value, int, int]:
        """The integer membrane, its bits and its fractional bits."""
        real = node.inputs[1]
        dequantize = producer(real, "DequantizeLinear")
        if dequantize is None:
            if real is None or not real.is_graph_input() or len(list(real.uses())) != 1:
                raise PassError(
                    node,
                    "its membrane is neither a dequantized integer nor a graph input of its own",
                    "make the membrane a state: a graph input that only this neuron reads",
                )
            return real, self._mem_bits, self._frac_bits
        mem = dequantize.inputs[0]
        bits = _MEM_BITS.get(quantized_type(dequantize))
        if mem is None or bits is None:
            raise PassError(node, "its membrane has neither 8 nor 16 bits", "use int8 or int16")
        scale = _grid(node, dequantize, "membrane")
        _check_written_back(node, scale)
        return mem, bits, _frac_bits(node, current.scale, scale)


@dataclass(frozen=True)
class _Current:
    """The integers a neuron receives: value int32, or uint8 around ``zero``; scale float64."""

    value: ir.Value
    scale: Float64
    zero: int


@dataclass(frozen=True)
class _Neuron:
    """The parameters of an integer neuron; mem: its membrane's value before the step."""

    mem: ir.Value
    mem_bits: int
    frac_bits: int
    decay: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.int32]


def _current(node: ir.Node) -> _Current | None:
    dequantize = producer(node.inputs[0], "DequantizeLinear")
    if dequantize is None or (value := dequantize.inputs[0]) is None:
        return None
    kind = quantized_type(dequantize)
    if kind == ir.DataType.INT32:
        return _Current(value, _grid(node, dequantize, "current"), 0)
    zero = constant(dequantize.inputs[2])
    if kind != ir.DataType.UINT8 or zero is None or zero.size != 1:
        raise PassError(node, f"its current is dequantized from {kind.name.lower()}", _CANONICAL)
    return _Current(value, _scale(node, dequantize, "current"), int(zero.item()))


def _grid(node: ir.Node, quantizer: ir.Node, what: str) -> Float64:
    """The scale of a (de)quantizer whose zero point is 0."""
    zero = constant(quantizer.inputs[2])
    if zero is None or zero.any():
        raise PassError(node, f"the zero point of its {what} is not 0", "quantize symmetrically")
    return _scale(node, quantizer, what)


def _scale(node: ir.Node, quantizer: ir.Node, what: str) -> Float64:
    """The scale, [C] or a scalar."""
    scale = constant(quantizer.inputs[1])
    if scale is None:
        raise PassError(node, f"the scale of its {what} is no constant", "make it an initializer")
    if scale.size > 1 and attribute(quantizer, "axis", 1) != 1:
        raise PassError(node, f"the scale of its {what} runs along another axis", "use axis 1")
    return scale.astype(np.float64) if scale.size > 1 else scale.astype(np.float64).reshape(())


def _check_written_back(node: ir.Node, scale: Float64) -> None:
    """The membrane leaves the neuron through a quantizer with the scale it came in with."""
    mem_out = node.outputs[1]
    readers = [reader for reader, _ in mem_out.uses()]
    fits = (
        not mem_out.is_graph_output()
        and len(readers) == 1
        and is_op(readers[0], "QuantizeLinear")
        and np.array_equal(_grid(node, readers[0], "new membrane"), scale)
    )
    if not fits:
        raise PassError(
            node,
            "its new membrane is not quantized as the old one was",
            "let mem_out go into one QuantizeLinear with the membrane's scale and nothing else",
        )


def _frac_bits(node: ir.Node, current: Float64, mem: Float64) -> int:
    """f of ``s_mem = s_current / 2^f``."""
    ratios = np.log2(np.broadcast_to(current, np.broadcast_shapes(current.shape, mem.shape)) / mem)
    frac_bits = int(np.rint(ratios.flat[0]))
    if not (ratios == frac_bits).all():
        raise PassError(
            node,
            "its membrane's scale is not the current's divided by one power of two",
            f"set it to the current's scale / 2^{frac_bits} in every channel",
        )
    return frac_bits


def _replace_neuron(graph: ir.Graph, node: ir.Node, current: _Current, neuron: _Neuron) -> str:
    """Put the integer neuron in place; returns the layer's name."""
    layer = (neuron.mem.name or label(node)).partition(".")[2] or (node.name or "neuron")
    parameters = [
        new_constant(f"{layer}.decay", neuron.decay),
        new_constant(f"{layer}.threshold", neuron.threshold),
    ]
    integer = ir.node(
        "QLIF",
        [_accumulator(graph, node, current, layer), neuron.mem, *parameters],
        {"frac_bits": neuron.frac_bits, "reset": attribute(node, "reset")},
        domain=DOMAIN,
        num_outputs=2,
        name=f"{layer}.QLIF",
    )
    graph.insert_after(node, integer)
    mem_type = ir.TensorType(ir.DataType.from_numpy(np.dtype(f"int{neuron.mem_bits}")))
    spike, mem_out = integer.outputs
    spike.type, mem_out.type, neuron.mem.type = ir.TensorType(ir.DataType.UINT8), mem_type, mem_type
    spike.shape, mem_out.shape = node.outputs[0].shape, node.outputs[1].shape
    _hand_over_membrane(graph, node, neuron, mem_out)
    _hand_over_spikes(graph, node, integer, spike)
    old = list(node.inputs)
    graph.remove(node, safe=True)
    remove_unread(graph, old)
    register(graph, parameters)
    return layer


def _accumulator(graph: ir.Graph, node: ir.Node, current: _Current, layer: str) -> ir.Value:
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
    if neuron.mem is node.inputs[1]:
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
        kind = quantized_type(reader)
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
    artifact: Artifact, name: str, current: _Current, neuron: _Neuron
) -> list[Layer]:
    """The layer of that name with its integers."""
    found = [layer for layer in artifact.layers if layer.name == name]
    scale = np.broadcast_to(current.scale, neuron.threshold.shape)
    return [
        replace(
            layer,
            frac_bits=neuron.frac_bits,
            mem_bits=neuron.mem_bits,
            weight_bits=layer.weight_bits or 8,
            decay=tuple(int(v) for v in neuron.decay),
            threshold=tuple(int(v) for v in neuron.threshold),
            weight_scale=tuple(float(v) for v in scale),
        )
        for layer in found
    ]

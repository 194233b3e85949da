"""Quantized operands: integers with their scale and zero point, as passes read and write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from export.arithmetic import along
from export.passes.base import Array, attribute, constant, is_op, producer, values

Dim = int | str | None
Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Quantized:
    """Integers and what one unit of them is worth: ``real = (value - zero) * scale``.

    scale: float32, scalar or [C], positive. zero: of the integers' type, scalar or [C].
    axis: of the channels, counted from the left; None with one scale for all.
    """

    value: ir.Value
    scale: Array
    zero: Array
    axis: int | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the integers."""
        return self.zero.dtype

    @property
    def eight_bit(self) -> bool:
        """Whether the integers have 8 bits."""
        return self.dtype.itemsize == 1

    @property
    def centred(self) -> bool:
        """Whether every zero point is 0."""
        return not np.any(self.zero)

    def same_grid(self, other: Quantized) -> bool:
        """Whether equal integers mean equal numbers: same type, scale, zero point and axis."""
        return (
            self.dtype == other.dtype
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
        )


def _parameters(node: ir.Node) -> tuple[Array, Array, int | None] | None:
    """Scale, zero point and axis of a canonical quantizer node; None where they are not constant.

    A scale that is zero, negative or not finite, blocks of scales, and an axis counted from the
    right are not canonical either.
    """
    if len(node.inputs) != 3 or attribute(node, "block_size", 0):
        return None
    scale, zero = constant(node.inputs[1]), constant(node.inputs[2])
    if scale is None or zero is None or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    if zero.dtype.kind not in "iu" or not (np.isfinite(scale) & (scale > 0)).all():
        return None
    axis = int(attribute(node, "axis", 1)) if scale.ndim else None
    return None if axis is not None and axis < 0 else (scale, zero, axis)


def dequantized(value: ir.Value | None) -> Quantized | None:
    """The integers behind a value that a canonical DequantizeLinear computes, else None."""
    node = producer(value, "DequantizeLinear")
    parameters = None if node is None else _parameters(node)
    if node is None or parameters is None or node.inputs[0] is None:
        return None
    return Quantized(node.inputs[0], *parameters)


def quantizer(node: ir.Node) -> Quantized | None:
    """The result of a canonical QuantizeLinear, else None."""
    parameters = _parameters(node) if is_op(node, "QuantizeLinear") else None
    return None if parameters is None else Quantized(node.outputs[0], *parameters)


@dataclass
class Facts:
    """What shape inference knows of a graph: dimensions and element types by value."""

    shapes: dict[ir.Value, Shape] = field(default_factory=dict)
    types: dict[ir.Value, int] = field(default_factory=dict)

    def rank(self, value: ir.Value) -> int | None:
        """Number of dimensions, None where unknown."""
        shape = self.shapes.get(value)
        return None if shape is None else len(shape)

    def inherit(self, value: ir.Value, old: ir.Value) -> None:
        """A value that stands for an old one has its shape and type."""
        if old in self.shapes:
            self.shapes[value] = self.shapes[old]
        if old in self.types:
            self.types[value] = self.types[old]


def infer(model: ir.Model) -> Facts:
    """Run ONNX shape inference beside the model, which stays as it is."""
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    known: dict[str, onnx.TypeProto.Tensor] = {}
    graph = inferred.graph
    for entry in [*graph.input, *graph.output, *graph.value_info]:
        if entry.type.HasField("tensor_type"):
            known[entry.name] = entry.type.tensor_type
    facts = Facts()
    for value in values(model.graph):
        array = constant(value)
        if array is not None:
            facts.shapes[value] = tuple(array.shape)
            facts.types[value] = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        elif value.name in known:
            tensor = known[value.name]
            facts.types[value] = tensor.elem_type
            if tensor.HasField("shape"):
                facts.shapes[value] = tuple(_dim(d) for d in tensor.shape.dim)
    return facts


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None


class Emitter:
    """Makes nodes and constants for a graph; they wait until they are placed.

    Scales and zero points that the graph already has are used again.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._taken = {value.name for value in values(graph)}
        self._shared: dict[tuple[Any, ...], ir.Value] = {}
        self.pending: list[ir.Node] = []
        self._pending_constants: list[ir.Value] = []
        for node in graph:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                for value in node.inputs[1:]:
                    array = constant(value)
                    if value is not None and array is not None:
                        self._shared.setdefault(_key(array), value)

    def _unique(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name

    def constant(self, name: str, array: Array) -> ir.Value:
        """Register an initializer, or return a quantization parameter of equal content."""
        if _key(array) in self._shared:
            return self._shared[_key(array)]
        unique = self._unique(name)
        contiguous = array if array.ndim == 0 else np.ascontiguousarray(array)
        value = ir.val(unique, const_value=ir.tensor(contiguous, name=unique))
        self._graph.register_initializer(value)
        self._pending_constants.append(value)
        return value

    def parameter(self, name: str, array: Array) -> ir.Value:
        """The same for a scale or zero point, which later ones share."""
        return self._shared.setdefault(_key(array), self.constant(name, array))

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        num_outputs: int = 1,
    ) -> list[ir.Value]:
        """Add a node; it and its outputs are called after ``name``."""
        node = ir.node(
            op_type, inputs, attributes, domain=domain, num_outputs=num_outputs, name=name
        )
        for output in node.outputs:
            output.name = self._unique(name)
        node.name = node.outputs[0].name
        self.pending.append(node)
        return list(node.outputs)

    def dequantize(self, operand: Quantized, name: str) -> ir.Value:
        """DequantizeLinear of an operand in canonical spelling."""
        scale, zero = operand.scale, operand.zero
        if operand.axis is not None:
            zero = np.broadcast_to(zero, scale.shape)
        inputs = [
            operand.value,
            self.parameter(f"{name}.scale", scale),
            self.parameter(f"{name}.zero", zero),
        ]
        attributes = {} if operand.axis is None else {"axis": operand.axis}
        return self.op("DequantizeLinear", inputs, name, attributes)[0]

    def quantize(self, x: ir.Value, scale: Array, zero: Array, name: str) -> ir.Value:
        """QuantizeLinear with one scale for all, in canonical spelling."""
        inputs = [
            x,
            self.parameter(f"{name}.scale", scale),
            self.parameter(f"{name}.zero", zero),
        ]
        return self.op("QuantizeLinear", inputs, name)[0]

    def widen(self, operand: Quantized, rank: int | None, name: str) -> ir.Value | None:
        """The operand's integers as int32 with zero point 0; None if the rank has to be known."""
        if operand.dtype == np.int32 and operand.centred:
            return operand.value
        zero = operand.zero.astype(np.int32)
        if zero.ndim and not operand.centred:
            if rank is None or operand.axis is None:
                return None
            zero = along(zero, operand.axis, rank)
        array = constant(operand.value)
        if array is not None:
            zero = np.zeros((), np.int32) if operand.centred else zero
            return self.constant(f"{name}.int32", array.astype(np.int32) - zero)
        wide = self.op("Cast", [operand.value], f"{name}.int32", {"to": int(ir.DataType.INT32)})[0]
        if operand.centred:
            return wide
        offset = self.constant(f"{name}.offset", zero)
        return self.op("Sub", [wide, offset], f"{name}.centred")[0]

    def place(self, node: ir.Node, results: Sequence[ir.Value]) -> None:
        """Insert what is pending before a node and let results stand for its outputs.

        What only the node read is removed with it, so that readers can be counted.
        """
        self._graph.insert_before(node, self.pending)
        self.pending, self._pending_constants = [], []
        for before, after in zip(node.outputs, results, strict=True):
            name, before.name = before.name, None
            after.name = name
            after.type = before.type if after.type is None else after.type
            after.shape = before.shape if after.shape is None else after.shape
            before.replace_all_uses_with(after, replace_graph_outputs=True)
        self._remove(node)

    def _remove(self, node: ir.Node) -> None:
        """Remove a node and what nobody reads any more without it."""
        sources = {source for value in node.inputs if value and (source := value.producer())}
        self._graph.remove(node, safe=True)
        for source in sources:
            read = any(list(out.uses()) or out.is_graph_output() for out in source.outputs)
            if source.graph is self._graph and not read:
                self._remove(source)

    def discard(self) -> None:
        """Forget what is pending."""
        for node in reversed(self.pending):
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        for value in self._pending_constants:
            self._shared = {k: v for k, v in self._shared.items() if v is not value}
            if value.name is not None:
                del self._graph.initializers[value.name]
        self.pending, self._pending_constants = [], []


def _key(array: Array) -> tuple[Any, ...]:
    return array.dtype.str, array.shape, array.tobytes()

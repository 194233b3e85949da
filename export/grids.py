"""What the integers of a graph stand for: the scale and zero point of each tensor.

A tensor's grid is written where it is quantized or dequantized; a quantizer of scale 1 whose result
is read in another unit only rounds. Operators that only move values carry a grid on, forward and
backward. Of artifacts, the metadata adds the grids that no node needs:
those of accumulators and membranes of the integer neurons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from runtime.errors import ArtifactError
from runtime.graph_checks import EVENTS, FLOW_ACC
from runtime.metadata import Artifact, Layer

Array = npt.NDArray[Any]

_ELEMENTWISE = frozenset({"Cast", "Clip", "Identity", "Max", "Min", "Relu"})
_SHAPES = frozenset({"Flatten", "MaxPool", "Pad", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
MOVES = _ELEMENTWISE | _SHAPES | {"Concat", "Gather", "Slice", "Split"}
"""Operators that choose, limit or move values and leave their unit as it is."""

_NEURONS = frozenset({"QLIF", "QLif"})


@dataclass(frozen=True)
class Grid:
    """real = (integer - zero) * scale.

    scale: float64, a scalar or one value per entry of ``axis``. zero: integer, likewise.
    """

    scale: Array
    zero: Array
    axis: int

    def real(self, values: Array) -> npt.NDArray[np.float64]:
        """The real values that integers on this grid stand for."""
        return self.units(values).astype(np.float64) * self.spread(values.ndim)

    def units(self, values: Array) -> npt.NDArray[np.int64]:
        """Integers relative to the zero point."""
        return values.astype(np.int64) - self.offset(values.ndim)

    def offset(self, rank: int) -> Array:
        """The zero point, shaped to broadcast over a tensor of that rank."""
        return _spread(self.zero, self.axis, rank)

    def spread(self, rank: int) -> Array:
        """The scale, shaped to broadcast over a tensor of that rank."""
        return _spread(self.scale, self.axis, rank)

    def same_scale(self, other: Grid) -> bool:
        """Whether one unit is the same real value on both grids, within float32's precision."""
        if self.scale.size != other.scale.size and 1 not in (self.scale.size, other.scale.size):
            return False
        return bool(np.allclose(self.scale, other.scale, rtol=2.0**-22, atol=0))


def grid(scale: npt.ArrayLike, zero: npt.ArrayLike = 0, axis: int = 1) -> Grid:
    """A grid from scalars or arrays."""
    return Grid(
        np.squeeze(np.asarray(scale, np.float64)), np.squeeze(np.asarray(zero, np.int64)), axis
    )


def _spread(values: Array, axis: int, rank: int) -> Array:
    if values.ndim == 0 or rank == 0:
        return values
    shape = [1] * rank
    shape[axis % rank] = values.size
    return values.reshape(shape)


def constants(graph: onnx.GraphProto) -> dict[str, Array]:
    """Arrays of the initializers and Constant tensors of a graph."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def artifact_of(model: onnx.ModelProto) -> Artifact | None:
    """The metadata of an artifact, or None for any other model."""
    try:
        return Artifact.from_model(model)
    except ArtifactError:
        return None


def find_grids(model: onnx.ModelProto) -> dict[str, Grid]:
    """The grid of every tensor that has one, by the tensor's name."""
    finder = _Finder(model)
    for node in model.graph.node:
        finder.rounded(node)
    for node in model.graph.node:
        finder.read(node)
    before = -1
    while len(finder.found) != before:
        before = len(finder.found)
        for node in model.graph.node:
            finder.forward(node)
        for node in reversed(model.graph.node):
            finder.backward(node)
    return finder.found


def find_roundings(model: onnx.ModelProto) -> dict[str, tuple[str, Grid]]:
    """What each quantized tensor, limited or not, was rounded from, and the grid it was rounded to,
    which is not the tensor's own where a requantization is spelled out; by the tensor's name."""
    finder = _Finder(model)
    found = {}
    for node in model.graph.node:
        entry = finder.written(node, 1, 2, _axis(node))
        if node.op_type == "QuantizeLinear" and entry is not None:
            found[node.output[0]] = node.input[0], entry
        elif node.op_type == "Clip" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


class _Finder:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = constants(model.graph)
        self.found: dict[str, Grid] = {}
        artifact = artifact_of(model)
        self._layers: dict[str, Layer] = {}
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        if artifact is not None:
            integer = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
            one = [name for name, kind in types.items() if kind in integer]
            for name in one:
                if name == EVENTS or name.startswith("spike."):
                    self.add(name, grid(1.0))
            self._layers = {state.input: artifact.layer(state.layer) for state in artifact.states}
            if "weight_scale" in artifact.head:
                self.add(FLOW_ACC, grid(artifact.head["weight_scale"]))

    def add(self, name: str, entry: Grid | None) -> None:
        if entry is not None and name and name not in self.constants:
            self.found.setdefault(name, entry)

    def rounded(self, node: onnx.NodeProto) -> None:
        """The grid that a quantizer with a scale of its own writes."""
        if node.op_type == "QuantizeLinear":
            entry = self.written(node, 1, 2, _axis(node))
            if entry is not None and not (entry.scale == 1).all():
                self.add(node.output[0], entry)

    def read(self, node: onnx.NodeProto) -> None:
        """The grid that a dequantizer reads."""
        if node.op_type == "DequantizeLinear":
            self.add(node.input[0], self.written(node, 1, 2, _axis(node)))

    def written(self, node: onnx.NodeProto, scale: int, zero: int, axis: int) -> Grid | None:
        """The grid of a node's scale and zero point, by their positions among its inputs."""
        if len(node.input) <= scale or node.input[scale] not in self.constants:
            return None
        offset = self.constants.get(node.input[zero]) if len(node.input) > zero else np.array(0)
        return None if offset is None else grid(self.constants[node.input[scale]], offset, axis)

    def forward(self, node: onnx.NodeProto) -> None:
        """What a node's inputs and parameters tell about its outputs."""
        if node.op_type == "QuantizeLinear":
            self.add(node.output[0], self.written(node, 1, 2, _axis(node)))
        elif node.op_type in ("QLinearConv", "QLinearMatMul"):
            self.add(node.output[0], self.written(node, 6, 7, 1))
        elif node.op_type in _NEURONS:
            self.add(node.output[0], grid(1.0))
            self._neuron(node)
        elif node.op_type in MOVES:
            self._move(node)
        elif node.op_type in ("Add", "Sub"):
            self._shift(node)
        elif node.op_type == "RequantShift":
            self._requant_shift(node)

    def backward(self, node: onnx.NodeProto) -> None:
        """What a node's outputs and parameters tell about its inputs."""
        if node.op_type in _NEURONS:
            self._neuron(node)
        elif node.op_type in (*MOVES, "Add") and node.op_type not in ("Slice", "Gather"):
            self._carry_back(node)

    def _carry_back(self, node: onnx.NodeProto) -> None:
        entry = self.found.get(node.output[0])
        data = node.input if node.op_type in ("Concat", "Add") else node.input[:1]
        if any(name in self.constants for name in data) or entry is None:
            return
        if node.op_type in ("Concat", "Reshape", "Transpose") and entry.scale.ndim:
            return
        for name in data:
            self.add(name, entry)

    def _move(self, node: onnx.NodeProto) -> None:
        several = node.op_type in ("Concat", "Max", "Min")
        entries = [self.found.get(name) for name in (node.input if several else node.input[:1])]
        first = entries[0] if entries else None
        if first is None or any(e is None or not _equal(e, first) for e in entries):
            return
        if first.scale.ndim and node.op_type in ("Concat", "Reshape", "Transpose", "Flatten"):
            return
        for name in node.output:
            self.add(name, first)

    def _shift(self, node: onnx.NodeProto) -> None:
        """A constant added moves the zero point; two tensors of one grid add on it."""
        first, second = (self.found.get(name) for name in node.input)
        offset = self.constants.get(node.input[1])
        if first is not None and offset is not None and offset.dtype.kind in "iu":
            if offset.size == 1:
                sign = 1 if node.op_type == "Add" else -1
                zero = first.zero + sign * int(offset.reshape(-1)[0])
                self.add(node.output[0], Grid(first.scale, zero, first.axis))
            elif not first.zero.any() and node.op_type == "Add":
                self.add(node.output[0], first)
        elif first is not None and second is not None and _equal(first, second):
            self.add(node.output[0], first)

    def _neuron(self, node: onnx.NodeProto) -> None:
        """The current's grid, else the metadata's, gives the membrane's."""
        layer = self._layers.get(node.input[1])
        current, mem, mem_out = node.input[0], node.input[1], node.output[1]
        if layer is not None and layer.weight_scale is not None and layer.frac_bits is not None:
            # The dialect's current is already in the membrane's unit.
            bits = 0 if node.op_type == "QLif" else layer.frac_bits
            self.add(current, grid(np.array(layer.weight_scale) / 2.0 ** (layer.frac_bits - bits)))
            membrane = self.found.get(current)
            if membrane is not None:
                self.add(mem, grid(membrane.scale / 2.0**bits))
        for one, other in ((mem, mem_out), (mem_out, mem)):
            self.add(one, self.found.get(other))

    def _requant_shift(self, node: onnx.NodeProto) -> None:
        """Backward and forward at once: the factor mul / div is known."""
        mul = self.constants.get(node.input[1])
        if mul is None:
            return
        divisor = next(a for a in node.attribute if a.name == "div")
        factor = np.squeeze(mul.astype(np.float64)) / float(numpy_helper.to_array(divisor.t))
        source, result = self.found.get(node.input[0]), self.found.get(node.output[0])
        if source is not None:
            self.add(node.output[0], grid(source.scale / factor))
        elif result is not None and not result.zero.any():
            self.add(node.input[0], grid(result.scale * factor))


def _equal(a: Grid, b: Grid) -> bool:
    return (
        a.axis == b.axis
        and a.scale.shape == b.scale.shape
        and np.array_equal(a.zero, b.zero)
        and a.same_scale(b)
    )


def _axis(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)

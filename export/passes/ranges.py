"""What values a tensor can hold, as far as the graph proves it."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

import lif_op.spec
from calib_data.encodings import COUNT_LIMIT
from export.arithmetic import quantize
from export.passes.artifact import read_artifact
from export.passes.base import constant, is_op
from export.passes.quantizers import (
    DEQUANTIZE,
    MOVES,
    QUANTIZE,
    is_standard_integer,
    moved_inputs,
    parameters,
    value_type,
)
from runtime.graph_checks import EVENTS

Range = tuple[float, float]

_EVERYTHING: Range = (-math.inf, math.inf)
_UNIT = frozenset(["Sigmoid", "HardSigmoid", "Softmax"])
_LIBRARY = (lif_op.spec.DOMAIN, lif_op.spec.FOREIGN_DOMAIN)


class Ranges:
    """Ranges of a model's values, each worked out once.

    Of artifacts, event counts end at 127 because the encoder saturates there, and previous spikes
    are 0 or 1. Everything else follows from the operators.
    """

    def __init__(self, model: ir.Model) -> None:
        self._known: dict[ir.Value, Range] = {}
        artifact = read_artifact(model)
        if artifact is None:
            return
        spikes = {s.input for s in artifact.states if s.role == "spike" and s.layout == "NCHW"}
        for value in model.graph.inputs:
            if value.name in spikes:
                self._known[value] = (0, 1)
            elif value.name == EVENTS and artifact.encoding == "cnt":
                self._known[value] = (0, COUNT_LIMIT)

    def of(self, value: ir.Value | None) -> Range:
        """(lowest, highest) value of a tensor; infinite where nothing is known."""
        if value is None:
            return _EVERYTHING
        if value not in self._known:
            low, high = _type_range(value)
            below, above = self._computed(value)
            self._known[value] = (max(low, below), min(high, above))
        return self._known[value]

    def _computed(self, value: ir.Value) -> Range:
        array, node = constant(value), value.producer()
        if array is not None:
            numbers = array.dtype.kind in "iuf" and array.size
            return (float(array.min()), float(array.max())) if numbers else _EVERYTHING
        if node is None:
            return _EVERYTHING
        if node.domain in _LIBRARY:
            spikes = node.op_type.endswith("LIF") and value.index() == 0
            return (0, 1) if spikes or node.op_type == "UnpackSpikes" else _EVERYTHING
        if node.domain or not node.inputs:
            return _EVERYTHING
        if node.op_type in MOVES:
            holds_elements = value.index() == 0 or node.op_type == "Split"
            return self._union(moved_inputs(node)) if holds_elements else _EVERYTHING
        if node.op_type in _UNIT:
            return (0, 1)
        if is_op(node, QUANTIZE) or is_op(node, DEQUANTIZE):
            return self._quantizer(node)
        return self._elementwise(node)

    def _elementwise(self, node: ir.Node) -> Range:
        low, high = self.of(node.inputs[0])
        if node.op_type == "Relu":
            return max(low, 0), max(high, 0)
        if node.op_type == "Abs":
            return 0, max(abs(low), abs(high))
        if node.op_type == "Clip":
            floor, ceiling = clip_bounds(node)
            return min(max(low, floor), ceiling), max(min(high, ceiling), floor)
        return _EVERYTHING

    def _union(self, sources: list[ir.Value]) -> Range:
        ranges = [self.of(source) for source in sources]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def _quantizer(self, node: ir.Node) -> Range:
        given = parameters(node)
        if given is None or not given.per_tensor or not is_standard_integer(given.zero.dtype):
            return _EVERYTHING
        ends = np.array(self.of(node.inputs[0]), np.float64)
        if is_op(node, DEQUANTIZE):
            real = (ends - float(given.zero)) * float(given.scale)
            return float(real[0]), float(real[1])
        levels = quantize(ends.astype(np.float32), given.scale, given.zero)
        return float(levels[0]), float(levels[1])


def _type_range(value: ir.Value) -> Range:
    dtype = value_type(value)
    if dtype is None or not is_standard_integer(dtype):
        return _EVERYTHING
    info = np.iinfo(dtype)
    return float(info.min), float(info.max)


def clip_bounds(node: ir.Node) -> Range:
    """The constant bounds of a Clip; infinite where absent or computed."""
    low, high = (_bound(node, position) for position in (1, 2))
    return -math.inf if low is None else low, math.inf if high is None else high


def limits_of(node: ir.Node | None) -> Range | None:
    """What a Relu or Clip limits to; None for other operators and for bounds that are computed."""
    if node is not None and is_op(node, "Relu"):
        return 0, math.inf
    if node is None or not is_op(node, "Clip"):
        return None
    given = [n for n in (1, 2) if n < len(node.inputs) and node.inputs[n] is not None]
    return None if any(_bound(node, n) is None for n in given) else clip_bounds(node)


def _bound(node: ir.Node, position: int) -> float | None:
    array = constant(node.inputs[position]) if position < len(node.inputs) else None
    return None if array is None or array.size != 1 else float(array.reshape(()))

"""Quantizers, clips and rectifiers that change no value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.arithmetic import quantize
from export.passes.base import Array, GraphPass, is_op, producer
from export.passes.quantizers import (
    DEQUANTIZE,
    QUANTIZE,
    is_quantizer,
    is_standard_integer,
    parameters,
    value_type,
)
from export.passes.ranges import Ranges, limits_of

_SMALLEST_SCALE = 1e-30
"""Above it, no product of a level and the scale is a subnormal float32."""


class RemoveRedundantQuantizers(GraphPass):
    """Remove what provably computes nothing.

    Before -> after::

        Q(s, z) -> DQ(s, z) -> Q(s, z)                     -> Q(s, z)
        Q -> Clip that keeps all that Q can produce -> DQ  -> Q -> DQ
        Relu | Clip whose bounds Q saturates at anyway -> Q  -> Q
        two Q (or DQ) of one value with equal parameters   -> one

    Every quantized value stays the same, bit for bit (a NaN in front of a Relu apart). A quantizer
    whose output has a name on the graph's interface that cannot go over to another tensor stays.
    """

    name = "remove_redundant_quantizers"
    summary = "quantizers, clips and Relu that change no value removed, duplicates merged"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        changes, before = 0, -1
        while changes != before:
            before = changes
            for step in (_cancel, _clips, _rectifiers, _duplicates):
                changes += step(model)
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


def _substitute(old: ir.Value, new: ir.Value) -> int:
    """Let the readers of one value read another; 0 where the interface forbids it."""
    if old.is_graph_output():
        if new.producer() is None or new.is_graph_output():
            return 0
        name, old.name = old.name, None
        new.name = name
        new.type = old.type if new.type is None else new.type
        new.shape = old.shape if new.shape is None else new.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    return 1


def _each(
    model: ir.Model, matches: Callable[[ir.Node], bool], change: Callable[[ir.Node], int]
) -> int:
    changes = 0
    for node in list(model.graph):
        if matches(node) and (list(node.outputs[0].uses()) or node.outputs[0].is_graph_output()):
            changes += change(node)
    return changes


def _cancel(model: ir.Model) -> int:
    """``DQ -> Q`` with equal parameters; exact because levels of 16 bits are few."""

    def change(node: ir.Node) -> int:
        source = producer(node.inputs[0], DEQUANTIZE)
        mine, other = parameters(node), parameters(source)
        if source is None or mine is None or other is None or not mine.equals(other):
            return 0
        small = is_standard_integer(mine.zero.dtype) and mine.zero.dtype.itemsize <= 2
        level = source.inputs[0]
        usable = np.isfinite(mine.scale).all() and (mine.scale > _SMALLEST_SCALE).all()
        if level is None or not small or not usable:
            return 0
        return _substitute(node.outputs[0], level)

    return _each(model, lambda node: is_op(node, QUANTIZE), change)


def _clips(model: ir.Model) -> int:
    """Integer Clip that does not bind."""
    ranges = Ranges(model)

    def change(node: ir.Node) -> int:
        value = node.inputs[0]
        if value is None or not is_standard_integer(value_type(value)):
            return 0
        limits = limits_of(node)
        if limits is None:
            return 0
        low, high = ranges.of(value)
        floor, ceiling = limits
        return _substitute(node.outputs[0], value) if floor <= low and high <= ceiling else 0

    return _each(model, lambda node: is_op(node, "Clip"), change)


def _rectifiers(model: ir.Model) -> int:
    """Relu or Clip on the real tensor in front of a Q that saturates at the same values."""

    def change(node: ir.Node) -> int:
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        given = parameters(node)
        if source is None or given is None or not is_standard_integer(given.zero.dtype):
            return 0
        bounds = limits_of(source)
        if bounds is None:
            return 0
        info = np.iinfo(given.zero.dtype)
        low, high = (_level(bound, given.scale, given.zero) for bound in bounds)
        if not ((low == info.min).all() and (high == info.max).all()):
            return 0
        node.replace_input_with(0, source.inputs[0])
        return 1

    return _each(model, lambda node: is_op(node, QUANTIZE), change)


def _level(bound: float, scale: Array, zero: Array) -> Array:
    """The level of one real number, for each channel."""
    return quantize(np.full(scale.shape, bound, np.float32), scale, zero, 0)


def _duplicates(model: ir.Model) -> int:
    kept: dict[ir.Value, list[ir.Node]] = {}

    def change(node: ir.Node) -> int:
        value, mine = node.inputs[0], parameters(node)
        if value is None or mine is None:
            return 0
        for other in kept.setdefault(value, []):
            given = parameters(other)
            if other.op_type == node.op_type and given is not None and mine.equals(given):
                return _substitute(node.outputs[0], other.outputs[0])
        kept[value].append(node)
        return 0

    return _each(model, is_quantizer, change)

"""Operators that keep every element and change where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from export.passes.base import Array, constant
from export.passes.dequantized import Quantized, Shape
from export.passes.moves.site import ZERO32, Illegal, Site


def _count(dims: Shape) -> tuple[int, tuple[str, ...]]:
    """Number of elements as a known factor and the names of the free ones."""
    if None in dims:
        raise Illegal("a dimension before the channels is not known")
    known = int(np.prod([d for d in dims if isinstance(d, int)], dtype=np.int64))
    return known, tuple(sorted(d for d in dims if isinstance(d, str)))


def _axis_after(before: Shape, after: Shape, axis: int) -> int:
    """Where the channels are after a change of shape that keeps the order of elements."""
    for position, size in enumerate(after):
        if size == before[axis] and _count(after[:position]) == _count(before[:axis]):
            return position
    raise Illegal("the channels do not keep an axis of their own")


def reshape(site: Site) -> Sequence[Quantized]:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    x = site.operand()
    axis = x.axis
    if axis is not None:
        axis = _axis_after(site.shape(site.input(0)), site.shape(site.node.outputs[0]), axis)
    return [replace(x, value=site.with_integers(x)[0], axis=axis)]


def identity(site: Site) -> Sequence[Quantized]:
    """Identity: gone."""
    return [site.operand()]


def transpose(site: Site) -> Sequence[Quantized]:
    """Transpose: the axis follows."""
    x = site.operand()
    axis = x.axis
    if axis is not None:
        perm = site.attribute("perm") or list(range(site.rank(site.input(0))))[::-1]
        axis = list(perm).index(axis)
    array = constant(x.value)
    if array is not None:
        moved = np.transpose(array, site.attribute("perm"))
        return [
            replace(x, value=site.emit.constant(f"{x.value.name}.transposed", moved), axis=axis)
        ]
    return [replace(x, value=site.with_integers(x)[0], axis=axis)]


def concat(site: Site) -> Sequence[Quantized]:
    """Concat of operands on one grid, widened to int32 where zero points or types differ."""
    operands = [site.operand(i) for i in range(len(site.node.inputs))]
    axis = int(site.attribute("axis"))
    if axis < 0:
        axis += site.rank(site.input(0))
    scale, scale_axis = _concat_scale(site, operands, axis)
    first = operands[0]
    zeros = {(o.dtype, o.zero.tobytes(), o.zero.ndim) for o in operands}
    if len(zeros) == 1 and (first.zero.ndim == 0 or first.centred):
        parts, zero = [o.value for o in operands], np.asarray(first.zero.reshape(-1)[0])
    else:
        parts, zero = [], ZERO32
        for i, operand in enumerate(operands):
            wide = site.emit.widen(operand, site.facts.rank(operand.value), f"{site.name}.{i}")
            if wide is None:
                raise Illegal("the rank of an input is not known")
            parts.append(wide)
    value = site.clone(parts)[0]
    if zero.dtype == np.int32:
        site.bounds[value] = max(site.bound(operand) for operand in operands)
    return [Quantized(value, scale, zero, scale_axis)]


def _concat_scale(site: Site, operands: Sequence[Quantized], axis: int) -> tuple[Array, int | None]:
    first = operands[0]
    if all(o.axis is None and o.scale == first.scale for o in operands):
        return first.scale, None
    if axis not in {o.axis for o in operands} or {o.axis for o in operands} - {None, axis}:
        same = all(o.axis == first.axis and np.array_equal(o.scale, first.scale) for o in operands)
        if same and first.axis != axis:
            return first.scale, first.axis
        raise Illegal("its inputs have different scales")
    scales = []
    for index, operand in enumerate(operands):
        size = site.shape(site.input(index))[axis]
        if not isinstance(size, int):
            raise Illegal("the number of channels of an input is not fixed")
        scales.append(np.broadcast_to(operand.scale, (size,)))
    return np.concatenate(scales), axis

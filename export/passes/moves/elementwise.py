"""Arithmetic on the elements at one place, and rectification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.passes.base import Array
from export.passes.dequantized import Quantized, dequantized
from export.passes.moves.site import ZERO32, Illegal, Site


def relu(site: Site) -> Sequence[Quantized]:
    """Relu to the maximum with the zero point; nothing where the type ends there already."""
    x = site.operand()
    if x.dtype == np.int32:
        if not x.centred:
            raise Illegal("an int32 zero point is not 0")
        return [replace(x, value=site.with_integers(x)[0])]
    if x.zero.ndim and np.any(x.zero != x.zero.flat[0]):
        raise Illegal("zero points differ between channels")
    zero = x.zero.reshape(-1)[0]
    if zero == np.iinfo(x.dtype).min:
        return [x]
    if not x.eight_bit:
        raise Illegal(f"no integer Clip of {x.dtype}")
    low = site.emit.parameter(f"{site.name}.zero", np.asarray(zero))
    return [replace(x, value=site.emit.op("Clip", [x.value, low], f"{site.name}.int")[0])]


@dataclass(frozen=True)
class _Pair:
    """Two operands of a broadcasting operator. axis: of the result's channels."""

    a: Quantized
    b: Quantized
    axis: int | None

    def wide(self, site: Site) -> list[ir.Value]:
        """Both as int32 with zero point 0."""
        values = []
        for index, operand in enumerate((self.a, self.b)):
            rank = site.facts.rank(operand.value)
            if rank is None:
                given = site.input(index)
                rank = None if given is None else site.facts.rank(given)
            value = site.emit.widen(operand, rank, f"{site.name}.{'ab'[index]}")
            if value is None:
                raise Illegal("the rank of an input is not known")
            values.append(value)
        return values


def _pair(site: Site) -> _Pair:
    """The two operands; their channels have to lie on the same axis of the result."""
    a, b = site.operand(0), site.operand(1)
    if a.axis is None and b.axis is None:
        return _Pair(a, b, None)
    ranks = site.rank(site.input(0)), site.rank(site.input(1))
    # Broadcasting aligns shapes at their end.
    from_end = {
        rank - operand.axis
        for operand, rank in zip((a, b), ranks, strict=True)
        if operand.axis is not None
    }
    if len(from_end) != 1:
        raise Illegal("the channels of the two inputs lie on different axes")
    return _Pair(a, b, max(ranks) - from_end.pop())


def add_or_sub(site: Site) -> Sequence[Quantized]:
    """Add and Sub of two dequantized tensors of one scale."""
    pair = _pair(site)
    a, b = pair.a.scale, pair.b.scale
    if np.any(a != b):
        raise Illegal("the two inputs have different scales")
    wide = pair.wide(site)
    bound = site.bound(pair.a) + site.bound(pair.b)
    total = site.emit.op(site.node.op_type, wide, f"{site.name}.int")[0]
    scale = a if a.ndim else b
    return [Quantized(site.accumulator(total, bound), scale, ZERO32, pair.axis)]


def mul(site: Site) -> Sequence[Quantized]:
    """Mul of two dequantized tensors."""
    pair = _pair(site)
    if pair.a.axis is not None and pair.b.axis is not None:
        raise Illegal("both inputs have a scale per channel")
    bound = site.bound(pair.a) * site.bound(pair.b)
    product = site.emit.op("Mul", pair.wide(site), f"{site.name}.int")[0]
    scale = np.asarray(pair.a.scale * pair.b.scale)
    return [Quantized(site.accumulator(product, bound), scale, ZERO32, pair.axis)]


def _factor(site: Site, index: int) -> np.float32:
    array = site.array(index, f"input {index}")
    if array.size != 1 or (array.ndim and array.ndim > site.rank(site.input(1 - index))):
        raise Illegal("the factor is not a scalar")
    factor = np.float32(array.reshape(()))
    if not (np.isfinite(factor) and factor > 0):
        raise Illegal("the factor is not positive")
    return factor


def _scaled(x: Quantized, scale: Array) -> Sequence[Quantized]:
    scale = np.asarray(scale, np.float32)
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise Illegal("the product of scale and factor is not a positive float32")
    return [replace(x, scale=scale)]


def mul_constant(site: Site) -> Sequence[Quantized]:
    """Mul by a positive constant: into the scale."""
    index = 0 if dequantized(site.input(0)) is not None else 1
    x = site.operand(index)
    return _scaled(x, x.scale * _factor(site, 1 - index))


def div_constant(site: Site) -> Sequence[Quantized]:
    """Div by a positive constant: into the scale."""
    x = site.operand(0)
    return _scaled(x, x.scale / _factor(site, 1))

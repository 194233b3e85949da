"""Quantized convolutions in front of a requantization, in whichever way they are spelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

import lif_op.spec
from export.passes.base import Array, constant, only_user, producer
from export.passes.dequantized import Emitter, Facts, dequantized
from export.passes.moves.linear import convolution
from export.passes.moves.site import Illegal, Site

_ONE = np.ones((), np.float32)


@dataclass(frozen=True)
class Operands:
    """Operands of a convolution, from x to bias, and its attributes.

    The scales are float32: of x a scalar, of the weight a scalar or [C]. rectified: a Relu of
    int32 follows.
    """

    x: ir.Value
    x_scale: Array
    x_zero: Array
    weight: ir.Value
    weight_scale: Array
    weight_zero: Array
    bias: Array | ir.Value | None
    attributes: Mapping[str, Any]
    rectified: bool = False


def convolution_behind(value: ir.Value, facts: Facts, emit: Emitter) -> Operands | None:
    """The convolution whose dequantized result a value is, if nothing else reads its sums.

    Raises:
        PassError: its sums may not fit in 32 bits.
    """
    if only_user(value) is None:
        return None
    return _of_dequantized(value, facts, emit) or _accumulated(value)


def _of_dequantized(value: ir.Value, facts: Facts, emit: Emitter) -> Operands | None:
    """A Conv whose operands are still dequantized."""
    node = producer(value, "Conv")
    if node is None:
        return None
    site = Site(node, facts, {}, emit)
    try:
        found = convolution(site)
    except Illegal:
        return None
    site.accumulator(value, found.bound)
    return Operands(
        found.x.value,
        found.x.scale,
        found.x.zero,
        found.weight.value,
        found.weight.scale,
        found.weight.zero,
        found.bias,
        dict(node.attributes),
    )


def _accumulated(value: ir.Value) -> Operands | None:
    """The integer convolution behind a dequantized accumulator that has no other reader."""
    source = dequantized(value)
    reader = value.producer()
    if source is None or reader is None or source.dtype != np.int32 or source.axis not in (None, 1):
        return None
    acc = source.value
    relu = producer(acc, "Relu") if only_user(acc) is reader else None
    if relu is not None and relu.inputs[0] is not None:
        acc, reader = relu.inputs[0], relu
    if only_user(acc) is not reader:
        return None
    found = _qconv(acc, source.scale) or _conv_integer(acc, source.scale)
    return None if found is None else replace(found, rectified=relu is not None)


def _qconv(acc: ir.Value, scale: Array) -> Operands | None:
    node = producer(acc, "QConv", lif_op.spec.DOMAIN)
    if node is None:
        return None
    x, weight, bias = node.inputs
    assert x is not None and weight is not None
    zeros = np.zeros((), np.uint8), np.zeros((), np.int8)
    attributes = dict(node.attributes)
    return Operands(x, _ONE, zeros[0], weight, scale, zeros[1], bias, attributes)


def _conv_integer(acc: ir.Value, scale: Array) -> Operands | None:
    bias: Array | None = None
    add = producer(acc, "Add")
    if add is not None:
        inner, column = add.inputs
        array = constant(column)
        if inner is None or array is None or only_user(inner) is not add:
            return None
        if array.ndim < 3 or array.size != array.shape[1]:
            return None
        acc, bias = inner, array.reshape(-1)
    node = producer(acc, "ConvInteger")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return None
    weight = constant(node.inputs[1])
    zeros = [constant(x) for x in node.inputs[2:]]
    if weight is None or not zeros or any(z is None or z.size != 1 for z in zeros):
        return None
    x_zero = zeros[0]
    weight_zero = zeros[1] if len(zeros) > 1 else np.zeros((), weight.dtype)
    assert x_zero is not None and weight_zero is not None
    return Operands(
        node.inputs[0],
        _ONE,
        x_zero.reshape(()),
        node.inputs[1],
        scale,
        weight_zero.reshape(()),
        bias,
        dict(node.attributes),
    )

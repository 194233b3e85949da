"""Sums of products: convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

import lif_op.spec
from export.arithmetic import along
from export.passes.base import Array, constant
from export.passes.dequantized import Quantized
from export.passes.moves.site import ZERO32, Illegal, Site

# Two ways of writing s_x * s_w in float32 differ by a rounding; more is another scale.
_BIAS_SCALE_TOLERANCE = 2.0**-22


def _weight(site: Site, index: int, axis: int) -> tuple[Quantized, Array]:
    """A constant 8-bit operand whose channels, if any, lie on that axis."""
    weight = site.operand(index)
    array = constant(weight.value)
    if array is None:
        raise Illegal(f"input {index} (the weight) is not constant")
    if not weight.eight_bit:
        raise Illegal(f"input {index} (the weight) is {weight.dtype}, not 8 bits")
    if weight.axis is not None and weight.axis != axis:
        raise Illegal(f"the weight's scales lie on axis {weight.axis}, which is summed over")
    return weight, array


def _bias(site: Site, index: int, scale: Array) -> tuple[ir.Value | None, Array]:
    """The int32 bias in units of the accumulator: its value and array; (None, 0) if absent."""
    if site.input(index) is None:
        return None, ZERO32
    bias = site.operand(index)
    array = constant(bias.value)
    if array is None or bias.dtype != np.int32 or not bias.centred:
        raise Illegal("the bias is not a constant int32 with zero point 0")
    if bias.axis not in (None, 0) or array.ndim != 1:
        raise Illegal("the bias is not one number per output channel")
    if bias.axis is not None and bias.scale.shape not in ((), (1,), scale.shape):
        raise Illegal("the bias has another number of scales than the weight")
    if not np.allclose(bias.scale, scale, rtol=_BIAS_SCALE_TOLERANCE, atol=0):
        raise Illegal("the bias's scale is not the input's times the weight's")
    return bias.value, array


def _product_scale(x: Quantized, weight: Quantized) -> Array:
    return np.asarray(np.float32(x.scale) * weight.scale.astype(np.float32))


def _largest(site: Site, x: Quantized, centred: Array, bias: Array) -> int:
    """Bound of ``sum |w| * x_max + |b|``; centred: [channels, terms]."""
    sums = np.abs(centred.astype(np.int64)).sum(axis=1) * site.bound(x)
    return int((sums + np.abs(bias.astype(np.int64))).max(initial=0))


@dataclass(frozen=True)
class Convolution:
    """A quantized convolution. scale: of its sums. bias: None if absent. bound: of its sums."""

    x: Quantized
    weight: Quantized
    weight_array: Array
    bias: ir.Value | None
    bias_array: Array
    scale: Array
    bound: int


def convolution(site: Site) -> Convolution:
    """What a Conv of dequantized operands computes.

    Raises:
        Illegal: it is no integer convolution.
    """
    x = site.narrow(0)
    weight, array = _weight(site, 1, 0)
    if not array.size:
        raise Illegal("the weight is empty")
    zero = weight.zero.astype(np.int64)
    if zero.ndim and zero.any():
        raise Illegal("the weight has a zero point per channel")
    scale = _product_scale(x, weight)
    bias, bias_array = _bias(site, 2, scale)
    centred = (array.astype(np.int64) - (zero if zero.ndim == 0 else 0)).reshape(len(array), -1)
    bound = _largest(site, x, centred, bias_array)
    return Convolution(x, weight, array, bias, bias_array, scale, bound)


def conv(site: Site) -> Sequence[Quantized]:
    """Conv to snn::QConv where that operator can say it, else ConvInteger and Add."""
    found = convolution(site)
    emit = _qconv if _qconv_can_say_it(site, found) else _conv_integer
    acc = site.accumulator(emit(site, found), found.bound)
    return [Quantized(acc, found.scale, ZERO32, 1 if found.scale.ndim else None)]


def _qconv_can_say_it(site: Site, found: Convolution) -> bool:
    return (
        found.x.dtype == np.uint8
        and found.x.centred
        and found.weight.dtype == np.int8
        and found.weight.centred
        and found.weight_array.ndim == 4
        and site.attribute("group", 1) == 1
        and set(site.attribute("dilations", [1])) == {1}
        and site.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _qconv(site: Site, found: Convolution) -> ir.Value:
    rank, bias = found.weight_array.ndim - 2, found.bias
    if bias is None:
        zeros = np.zeros(len(found.weight_array), np.int32)
        bias = site.emit.constant(f"{site.name}.bias", zeros)
    pads = list(site.attribute("pads", [0] * (2 * rank)))
    if site.attribute("auto_pad", "NOTSET") == "VALID":
        pads = [0] * (2 * rank)
    attributes = {"strides": list(site.attribute("strides", [1] * rank)), "pads": pads}
    inputs = [found.x.value, found.weight.value, bias]
    domain = lif_op.spec.DOMAIN
    return site.emit.op("QConv", inputs, f"{site.name}.acc", attributes, domain=domain)[0]


def _conv_integer(site: Site, found: Convolution) -> ir.Value:
    x, weight = found.x, found.weight
    inputs = [x.value, weight.value, site.emit.parameter(f"{site.name}.x_zero", x.zero)]
    if not weight.centred:
        inputs.append(site.emit.parameter(f"{site.name}.w_zero", weight.zero))
    name = f"{site.name}.acc"
    acc = site.emit.op("ConvInteger", inputs, name, dict(site.node.attributes))[0]
    if not found.bias_array.any():
        return acc
    shaped = along(found.bias_array, 1, found.weight_array.ndim)
    column = site.emit.constant(f"{site.name}.bias", shaped)
    return site.emit.op("Add", [acc, column], f"{site.name}.biased")[0]


def gemm(site: Site) -> Sequence[Quantized]:
    """Gemm to MatMulInteger and Add."""
    if site.attribute("alpha", 1.0) != 1.0 or site.attribute("beta", 1.0) != 1.0:
        raise Illegal("alpha or beta is not 1")
    transposed = bool(site.attribute("transB", 0))
    x = site.narrow(0)
    weight, array = _weight(site, 1, 0 if transposed else 1)
    scale = _product_scale(x, weight)
    bias, bias_array = _bias(site, 2, scale)
    array = array.T if transposed else array
    left = x.value
    if site.attribute("transA", 0):
        left = site.emit.op("Transpose", [left], f"{site.name}.a", {"perm": [1, 0]})[0]
    right = weight.value
    if transposed:
        right = site.emit.constant(f"{right.name}.transposed", array)
    acc = _matmul_integer(site, left, x, right, weight)
    if bias is not None and bias_array.any():
        acc = site.emit.op("Add", [acc, bias], f"{site.name}.biased")[0]
    bound = _largest(site, x, (array.astype(np.int64) - weight.zero).T, bias_array)
    axis = 1 if scale.ndim else None
    return [Quantized(site.accumulator(acc, bound), scale, ZERO32, axis)]


def _matmul_integer(
    site: Site, left: ir.Value, a: Quantized, right: ir.Value, b: Quantized
) -> ir.Value:
    inputs = [left, right, site.emit.parameter(f"{site.name}.a_zero", a.zero)]
    if not b.centred:
        inputs.append(site.emit.parameter(f"{site.name}.b_zero", b.zero))
    return site.emit.op("MatMulInteger", inputs, f"{site.name}.acc")[0]


def matmul(site: Site) -> Sequence[Quantized]:
    """MatMul to MatMulInteger; the second factor constant or computed."""
    a = site.narrow(0)
    array = constant(site.operand(1).value)
    if array is None:
        b = site.narrow(1)
        terms = site.shape(site.input(1))[-2:][0]
        if not isinstance(terms, int):
            terms = site.shape(site.input(0))[-1]
        if not isinstance(terms, int):
            raise Illegal("the number of terms of its sums is not known")
        bound = terms * site.bound(a) * site.bound(b)
        scale, axis = np.asarray(a.scale * b.scale), None
    else:
        b, array = _weight(site, 1, array.ndim - 1)
        if b.axis is not None and array.ndim != 2:
            raise Illegal("a weight with scales per channel has to be a matrix")
        if not b.centred and b.zero.ndim:
            raise Illegal("the weight has a zero point per channel")
        scale = _product_scale(a, b)
        axis = site.rank(site.input(0)) - 1 if scale.ndim else None
        # [..., K, N] or [K]: one row per sum.
        rows = array.reshape(1, -1) if array.ndim == 1 else np.moveaxis(array, -2, -1)
        centred = (rows.astype(np.int64) - b.zero.astype(np.int64).max()).reshape(
            -1, rows.shape[-1]
        )
        bound = _largest(site, a, centred, ZERO32)
    acc = _matmul_integer(site, a.value, a, b.value, b)
    return [Quantized(site.accumulator(acc, bound), scale, ZERO32, axis)]

"""Sums of products."""

from __future__ import annotations

import numpy as np

import lif_op.spec
from export import arithmetic
from export.oracle.arguments import Array, Attributes, Inputs, optional, text


def _conv(attributes: Attributes, x: Array, weight: Array, x_zero: Array, w_zero: Array) -> Array:
    rank = x.ndim - 2
    strides = attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    mode = text(attributes, "auto_pad", "NOTSET")
    pads = attributes.get("pads", [0] * (2 * rank))
    if mode != "NOTSET":
        pads = arithmetic.auto_pads(mode, x.shape[2:], weight.shape[2:], strides, dilations)
    return arithmetic.conv(
        x,
        weight,
        np.asarray(x_zero).reshape(()),
        np.asarray(w_zero),
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=attributes.get("group", 1),
    )


def conv_integer(attributes: Attributes, inputs: Inputs) -> Array:
    x, weight = inputs[0], inputs[1]
    x_zero = optional(inputs, 2, np.zeros((), x.dtype))
    return _conv(attributes, x, weight, x_zero, optional(inputs, 3, np.zeros((), weight.dtype)))


def qlinear_conv(attributes: Attributes, inputs: Inputs) -> Array:
    x, x_scale, x_zero, weight, w_scale, w_zero, y_scale, y_zero = inputs[:8]
    acc = _conv(attributes, x, weight, x_zero, w_zero)
    bias = optional(inputs, 8)
    if bias is not None:
        acc = acc + arithmetic.along(bias, 1, acc.ndim)
    return arithmetic.requantize(acc, x_scale, w_scale, y_scale, y_zero)


def matmul_integer(attributes: Attributes, inputs: Inputs) -> Array:
    a, b = inputs[0], inputs[1]
    a_zero = optional(inputs, 2, np.zeros((), a.dtype))
    return arithmetic.matmul(a, b, a_zero, optional(inputs, 3, np.zeros((), b.dtype)))


def qlinear_matmul(attributes: Attributes, inputs: Inputs) -> Array:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    acc = arithmetic.matmul(a, b, a_zero, b_zero)
    return arithmetic.requantize(acc, a_scale, b_scale, y_scale, y_zero, axis=acc.ndim - 1)


def qconv(attributes: Attributes, inputs: Inputs) -> Array:
    x, weight, bias = inputs
    if x.dtype == np.uint32:
        x = lif_op.spec.unpack_spikes(x, weight.shape[1])
    acc = _conv(attributes, x, weight, np.zeros((), x.dtype), np.zeros((), weight.dtype))
    return acc + arithmetic.along(bias, 1, acc.ndim)

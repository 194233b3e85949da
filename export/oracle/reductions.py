"""Sums and maxima over axes or windows."""

from __future__ import annotations

from export import arithmetic
from export.oracle.arguments import Array, Attributes, Inputs, optional, text


def reduce_sum(attributes: Attributes, inputs: Inputs) -> Array:
    x, axes = inputs[0], optional(inputs, 1)
    if axes is None and attributes.get("noop_with_empty_axes", 0):
        return x
    over = None if axes is None else tuple(int(a) for a in axes)
    return x.sum(axis=over, keepdims=bool(attributes.get("keepdims", 1)), dtype=x.dtype)


def max_pool(attributes: Attributes, inputs: Inputs) -> Array:
    x, kernel = inputs[0], attributes["kernel_shape"]
    strides = attributes.get("strides", [1] * len(kernel))
    dilations = attributes.get("dilations", [1] * len(kernel))
    mode = text(attributes, "auto_pad", "NOTSET")
    pads = attributes.get("pads", [0] * (2 * len(kernel)))
    if mode != "NOTSET":
        pads = arithmetic.auto_pads(mode, x.shape[2:], kernel, strides, dilations)
    ceil_mode = bool(attributes.get("ceil_mode", 0))
    return arithmetic.max_pool(x, kernel, strides, pads, dilations, ceil_mode)

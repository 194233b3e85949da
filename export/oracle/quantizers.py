"""Between real numbers and levels."""

from __future__ import annotations

import numpy as np

from export import arithmetic
from export.oracle.arguments import Array, Attributes, Inputs, optional


def _zero(inputs: Inputs, like: Array | None) -> Array:
    return optional(inputs, 2, np.zeros((), np.uint8 if like is None else like.dtype))


def quantize(attributes: Attributes, inputs: Inputs) -> Array:
    axis = attributes.get("axis", 1)
    return arithmetic.quantize(inputs[0], inputs[1], _zero(inputs, None), axis)


def dequantize(attributes: Attributes, inputs: Inputs) -> Array:
    axis = attributes.get("axis", 1)
    return arithmetic.dequantize(inputs[0], inputs[1], _zero(inputs, inputs[0]), axis)

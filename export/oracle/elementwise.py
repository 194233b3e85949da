"""Integers, truth values and real numbers place by place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from export.oracle.arguments import Array, Attributes, Inputs, Rule, optional, text


def _divide(a: Array, b: Array) -> Array:
    """Division; of integers, truncated toward zero."""
    if a.dtype.kind == "f":
        return a / b
    quotient = np.floor_divide(a, b)
    return (quotient + ((a % b != 0) & ((a < 0) != (b < 0)))).astype(a.dtype)


_BINARY: Mapping[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Equal": np.equal,
    "And": np.logical_and,
    "Or": np.logical_or,
}


def _folded(function: Callable[[Array, Array], Array]) -> Rule:
    def rule(attributes: Attributes, inputs: Inputs) -> Array:
        result = inputs[0]
        for other in inputs[1:]:
            result = function(result, other)
        return result

    return rule


BINARY: Mapping[str, Rule] = {name: _folded(function) for name, function in _BINARY.items()}
"""Rules of operators that NumPy has a function of two arrays for; more inputs are folded in."""


def mod(attributes: Attributes, inputs: Inputs) -> Array:
    if attributes.get("fmod", 0):
        return np.fmod(inputs[0], inputs[1])
    return np.mod(inputs[0], inputs[1])


def relu(attributes: Attributes, inputs: Inputs) -> Array:
    return np.maximum(inputs[0], np.zeros((), inputs[0].dtype))


def clip(attributes: Attributes, inputs: Inputs) -> Array:
    result, low, high = inputs[0], optional(inputs, 1), optional(inputs, 2)
    result = result if low is None else np.maximum(result, low)
    return result if high is None else np.minimum(result, high)


def neg(attributes: Attributes, inputs: Inputs) -> Array:
    return np.negative(inputs[0])


def not_(attributes: Attributes, inputs: Inputs) -> Array:
    return np.logical_not(inputs[0])


def where(attributes: Attributes, inputs: Inputs) -> Array:
    condition, yes, no = inputs
    return np.asarray(np.where(condition, yes, no))


def cast(attributes: Attributes, inputs: Inputs) -> Array:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    if inputs[0].dtype.kind == "f" and np.dtype(dtype).kind in "iu":
        return inputs[0].astype(np.int64).astype(dtype)
    return inputs[0].astype(dtype)


def cast_like(attributes: Attributes, inputs: Inputs) -> Array:
    return inputs[0].astype(inputs[1].dtype)


def bit_shift(attributes: Attributes, inputs: Inputs) -> Array:
    left = text(attributes, "direction", "LEFT") == "LEFT"
    return np.left_shift(*inputs) if left else np.right_shift(*inputs)


def identity(attributes: Attributes, inputs: Inputs) -> Array:
    return inputs[0]

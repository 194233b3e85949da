"""Float islands."""

from __future__ import annotations

import numpy as np

from export.oracle.arguments import Array, Attributes, Inputs


def tanh(attributes: Attributes, inputs: Inputs) -> Array:
    return np.tanh(inputs[0])


def sigmoid(attributes: Attributes, inputs: Inputs) -> Array:
    one = np.float32(1)
    return one / (one + np.exp(-inputs[0]))


def softmax(attributes: Attributes, inputs: Inputs) -> Array:
    axis = attributes.get("axis", -1)
    powers = np.exp(inputs[0] - inputs[0].max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)

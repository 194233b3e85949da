"""Chains of multiplications and additions by constants, per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.passes.base import PassError, attribute, constant

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AffineChain:
    """``current = gain * source + shift``; nodes from the neuron upwards, gain [C] or scalar."""

    nodes: Sequence[ir.Node]
    source: ir.Value
    gain: Float64
    shift: Float64


def affine_chain(current: ir.Value, channels: int) -> AffineChain:
    """The affine operators behind a value.

    Raises:
        PassError: one of them has a gain of 0, or one that is not finite.
    """
    value, gain, shift = current, np.ones(()), np.zeros(())
    nodes: list[ir.Node] = []
    while True:
        step = _affine(value, channels)
        if step is None:
            return AffineChain(nodes, value, gain, shift)
        below, value, own_gain, own_shift = step
        _check_gain(below, own_gain)
        gain, shift = gain * own_gain, gain * own_shift + shift
        nodes.append(below)


def _affine(value: ir.Value, channels: int) -> tuple[ir.Node, ir.Value, Float64, Float64] | None:
    """The node behind a value, its varying input, gain and shift, if it is affine per channel."""
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "BatchNormalization":
        return _batch_norm(node)
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    left, right = node.inputs
    one, zero = np.ones(()), np.zeros(())
    first, second = (per_channel(side, channels) for side in (left, right))
    if second is not None and left is not None:
        effect = {
            "Mul": (second, zero),
            "Div": (1 / np.where(second == 0, np.nan, second), zero),
            "Add": (one, second),
            "Sub": (one, -second),
        }[node.op_type]
        return node, left, *effect
    if first is not None and right is not None and node.op_type != "Div":
        effect = {"Mul": (first, zero), "Add": (one, first), "Sub": (-one, first)}[node.op_type]
        return node, right, *effect
    return None


def per_channel(value: ir.Value | None, channels: int) -> Float64 | None:
    """A constant that is one value, or one per channel, as float64 scalar or [C]; else None."""
    array = constant(value)
    if array is None:
        return None
    if array.size == 1:
        return array.astype(np.float64).reshape(())
    along = array.ndim >= 3 and array.shape[-3] == array.size == channels
    return array.astype(np.float64).reshape(-1) if along else None


def _batch_norm(node: ir.Node) -> tuple[ir.Node, ir.Value, Float64, Float64] | None:
    parameters = [constant(value) for value in node.inputs[1:5]]
    x = node.inputs[0]
    if x is None or attribute(node, "training_mode", 0) or len(parameters) != 4:
        return None
    if any(parameter is None for parameter in parameters):
        return None
    scale, bias, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    gain = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return node, x, gain, bias - gain * mean


def _check_gain(node: ir.Node, gain: Float64) -> None:
    bad = ~np.isfinite(gain) | (gain == 0)
    if bad.any():
        channel = int(np.flatnonzero(np.atleast_1d(bad))[0])
        raise PassError(
            node,
            f"its gain is 0 or not finite in channel {channel}, so the current there does not "
            "depend on the input",
            "remove that channel, or give it a gain",
        )

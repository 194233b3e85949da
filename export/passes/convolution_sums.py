"""How large the sums of integer convolutions can become."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.passes.base import attribute, producer, required_constant
from export.passes.quantizers import value_type
from export.passes.ranges import Ranges
from lif_op.spec import DOMAIN

Int64 = npt.NDArray[np.int64]

CONVOLUTIONS = {"QConv": (1, 2, None), "QConvLIF": (1, 2, None), "QConvLIFRec": (1, 2, 4)}
"""Where the library's convolutions have weight, bias and recurrent weight."""

_BYTE = float(np.iinfo(np.uint8).max)


def largest_sums(node: ir.Node, ranges: Ranges) -> Int64:
    """The largest magnitude of every channel's sum, bias included, int64 [Cout].

    That is ``x_max * sum|w| + |b|``, where x_max is 1 for spikes, 127 for the event counts of an
    artifact, and what the graph proves for other bytes; channels are told apart where spikes and
    counts are concatenated.

    Args:
        node: one of ``CONVOLUTIONS``.
        ranges: of its model.

    Raises:
        PassError: a weight or bias is computed in the graph.
    """
    at_weight, at_bias, at_recurrent = CONVOLUTIONS[node.op_type]
    bias = required_constant(node, at_bias, "bias").astype(np.int64)
    sums: Int64 = largest_products(node, at_weight, ranges) + np.abs(bias)
    if at_recurrent is not None:
        sums += _magnitudes(node, at_recurrent).sum(axis=1)
    return sums


def largest_products(node: ir.Node, position: int, ranges: Ranges) -> Int64:
    """The same without the bias, for a convolution with the weight at that position.

    Raises:
        PassError: the weight is computed in the graph.
    """
    magnitudes = _magnitudes(node, position)
    products: Int64 = magnitudes @ _limits(node.inputs[0], magnitudes.shape[1], ranges)
    return products


def _magnitudes(node: ir.Node, position: int) -> Int64:
    """Sum of magnitudes for each output and input channel, [Cout, Cin]."""
    weight = required_constant(node, position, "weight").astype(np.int64)
    magnitudes: Int64 = np.abs(weight).reshape(*weight.shape[:2], -1).sum(axis=2)
    return magnitudes


def _limits(x: ir.Value | None, channels: int, ranges: Ranges) -> Int64:
    """The largest value of every input channel, [Cin]."""
    concat = producer(x, "Concat")
    if concat is None or attribute(concat, "axis") != 1:
        return np.full(channels, _largest(x, ranges), np.int64)
    largest = [_largest(part, ranges) for part in concat.inputs]
    sizes = [_channels(part) for part in concat.inputs]
    if sizes.count(None) == 1:
        rest = channels - sum(size for size in sizes if size is not None)
        sizes = [rest if size is None else size for size in sizes]
    known = [size for size in sizes if size is not None and size >= 0]
    if len(known) < len(sizes) or sum(known) != channels:
        return np.full(channels, max(largest), np.int64)
    return np.repeat(largest, known)


def _largest(x: ir.Value | None, ranges: Ranges) -> int:
    """Packed spikes are words, of which the convolution reads the bits."""
    packed = x is not None and value_type(x) == np.uint32
    if packed or producer(x, "PackSpikes", DOMAIN) is not None:
        return 1
    return int(min(ranges.of(x)[1], _BYTE))


def _channels(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None or value.shape.rank() < 2:
        return None
    size = value.shape[1]
    return size if isinstance(size, int) else None

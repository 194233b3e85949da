"""Multipliers and shifts that stand for a requantization in 32-bit arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.deeploy import INT32_LIMIT
from export.passes.base import Array, PassError

Int64 = npt.NDArray[np.int64]

_LARGEST_ADD = 500
"""Deeploy's generic target rounds ``add / mul`` where it is this large or larger."""


@dataclass(frozen=True)
class Shift:
    """``clip(floor((acc * mul + add + div / 2) / div))``: see ``export.deeploy.requant_shift``.

    mul, add: [C]. div: a power of two. n_levels, signed: of the result.
    """

    mul: Int64
    add: Int64
    div: int
    n_levels: int
    signed: bool

    def peak(self, reach: Int64) -> int:
        """Largest magnitude of ``acc * mul + add`` and half a step, for sums up to reach [C]."""
        return int((reach * self.mul + np.abs(self.add)).max()) + self.div // 2


def exact_shift(node: ir.Node, bias: Array, reach: Int64, frac_bits: int, bits: int) -> Shift:
    """The neuron's current: ``clamp(floor((acc + b + half) / 2^-f))``, multiplied through.

    Args:
        node: for messages.
        bias: int32 [C].
        reach: largest magnitude of every channel's sum without bias, [C].
        frac_bits: f.
        bits: of the membrane, which are the levels; 32 for an accumulator as it is.

    Raises:
        PassError: f is positive, or a value does not fit int32.
    """
    if frac_bits > 0:
        raise PassError(
            node,
            f"frac_bits {frac_bits} scales the current up after its clamp, which no RequantShift "
            "does",
            "quantize with --frac-bits 0 or less",
        )
    # The factor cancels; it only keeps add / mul small enough for the generic target.
    mul = 1
    while int(np.abs(bias).max(initial=0)) >= _LARGEST_ADD * mul:
        mul *= 2
    shift = Shift(
        np.full(len(bias), mul, np.int64),
        bias.astype(np.int64) * mul,
        mul * 2**-frac_bits,
        2**bits,
        True,
    )
    peak = shift.peak(reach)
    if peak >= INT32_LIMIT:
        raise PassError(
            node,
            f"acc * mul + add can reach {peak}, beyond int32",
            "use fewer weight bits or smaller biases",
        )
    return shift


def nearest_shift(
    node: ir.Node,
    factor: npt.NDArray[np.float64],
    bias: Array,
    zero: Array,
    reach: Int64,
) -> Shift:
    """``mul / div`` nearest to a factor, with as many bits as keep every value in int32.

    Args:
        node: for messages.
        factor: [C], positive.
        bias: int32 [C].
        zero: of the result, int8 or uint8.
        reach: largest magnitude of every channel's sum without bias, [C].

    Raises:
        PassError: there is none with a positive ``mul`` in every channel.
    """
    for exponent in range(30, -1, -1):
        mul = np.rint(factor * 2.0**exponent).astype(np.int64)
        add = bias.astype(np.int64) * mul + int(zero) * 2**exponent
        shift = Shift(mul, add, 2**exponent, 2**8, zero.dtype == np.int8)
        if mul.min() > 0 and shift.peak(reach) < INT32_LIMIT:
            return shift
    raise PassError(
        node,
        "no multiplier keeps its sums in int32 in every channel",
        "use fewer weight bits or per-tensor weight scales",
    )

"""Factors of requantized currents as integers, without any loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from export.microcontroller.network import FLOAT32_EXACT

_SATURATED = 129
"""Levels from here on are clipped to 8 bits, whatever they are."""
_LARGEST = 256.0


@dataclass(frozen=True)
class Factor:
    """``mantissa / 2**shift`` is the float32 factor; sums from ``largest`` on saturate."""

    mantissa: int
    shift: int
    largest: int


def integer_factor(multiplier: np.float32) -> Factor:
    """A positive float32 multiplier as the C code takes it.

    Sums reach 2^24 at most, so smaller factors than 2^-26 are nothing, and with larger ones than
    256 every sum but 0 saturates.
    """
    value = min(float(multiplier), _LARGEST)
    if value * FLOAT32_EXACT < 0.25:
        return Factor(0, 1, 1)
    fraction, exponent = math.frexp(value)
    largest = min(math.floor(_SATURATED / value) + 1, FLOAT32_EXACT)
    return Factor(int(fraction * 2**24), 24 - exponent, largest)

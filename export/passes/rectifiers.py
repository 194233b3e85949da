"""Relu and Clip in front of a quantizer, as limits in its steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.arithmetic import quantize
from export.passes.base import only_user
from export.passes.dequantized import Quantized
from export.passes.ranges import limits_of


@dataclass(frozen=True)
class Limits:
    """Limits of a chain of Relu and Clip, in quantized steps."""

    low: int
    high: int

    def then(self, low: int, high: int) -> Limits:
        """These limits, applied after others that lie closer to the source."""
        return Limits(min(max(low, self.low), self.high), min(max(high, self.low), self.high))


def limits_before(node: ir.Node, result: Quantized) -> tuple[ir.Value, Limits]:
    """The value behind the Relus and Clips before a quantizer, and their limits in its steps."""
    info = np.iinfo(result.dtype)
    limits = Limits(int(info.min), int(info.max))
    value, reader = node.inputs[0], node
    while value is not None and only_user(value) is reader:
        limiter = value.producer()
        bounds = limits_of(limiter)
        if limiter is None or bounds is None or not bounds[0] <= bounds[1]:
            break
        steps = [int(quantize(np.array(b, np.float32), result.scale, result.zero)) for b in bounds]
        limits = limits.then(*steps)
        value, reader = limiter.inputs[0], limiter
    assert value is not None
    return value, limits

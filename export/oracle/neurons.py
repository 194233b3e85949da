"""Spiking neurons, as ``lif_op.spec`` defines them."""

from __future__ import annotations

import lif_op.spec
from export.oracle.arguments import Array, Attributes, Inputs, text


def qlif(attributes: Attributes, inputs: Inputs) -> tuple[Array, Array]:
    acc, mem, decay, threshold = inputs
    reset = text(attributes, "reset", "zero")
    return lif_op.spec.qlif(acc, mem, decay, threshold, attributes["frac_bits"], reset)


def lif(attributes: Attributes, inputs: Inputs) -> tuple[Array, Array]:
    current, mem, beta, threshold = inputs
    return lif_op.spec.lif(current, mem, beta, threshold, text(attributes, "reset", "zero"))

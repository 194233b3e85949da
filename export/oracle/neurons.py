"""Spiking neurons, as ``lif_op.spec`` defines them."""

from __future__ import annotations

from typing import Any

import lif_op.spec
from export.oracle.arguments import Array, Attributes, Inputs, text


def qlif(attributes: Attributes, inputs: Inputs) -> tuple[Array, Array]:
    acc, mem, decay, threshold = inputs
    reset = text(attributes, "reset", "zero")
    return lif_op.spec.qlif(acc, mem, decay, threshold, attributes["frac_bits"], reset)


def lif(attributes: Attributes, inputs: Inputs) -> tuple[Array, Array]:
    current, mem, beta, threshold = inputs
    return lif_op.spec.lif(current, mem, beta, threshold, text(attributes, "reset", "zero"))


def qconv_lif(attributes: Attributes, inputs: Inputs) -> tuple[Array, Array]:
    return lif_op.spec.qconv_lif(*inputs, **_fused(attributes))


def qconv_lif_rec(attributes: Attributes, inputs: Inputs) -> tuple[Array, Array]:
    return lif_op.spec.qconv_lif_rec(*inputs, **_fused(attributes))


def _fused(attributes: Attributes) -> dict[str, Any]:
    return {
        "strides": tuple(attributes["strides"]),
        "pads": tuple(attributes["pads"]),
        "frac_bits": attributes["frac_bits"],
        "reset": text(attributes, "reset", "zero"),
    }


def pack_spikes(attributes: Attributes, inputs: Inputs) -> Array:
    return lif_op.spec.pack_spikes(inputs[0])


def unpack_spikes(attributes: Attributes, inputs: Inputs) -> Array:
    return lif_op.spec.unpack_spikes(inputs[0], attributes["channels"])

"""Which bit widths a network is quantized to, for all layers or layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from quant.errors import QuantError
from quant.spec import CURRENTS, NEURONS, membrane_limits, weight_limit

HEAD = "pred"
"""Name of the flow head, which has weight bits only."""


@dataclass(frozen=True)
class LayerOptions:
    """Exceptions for one layer; None takes the network's value."""

    weight_bits: int | None = None
    mem_bits: int | None = None
    frac_bits: int | None = None


class LayerBits(NamedTuple):
    """What holds for one layer; frac_bits None is chosen by calibration."""

    weight_bits: int
    mem_bits: int
    frac_bits: int | None


@dataclass(frozen=True)
class QuantOptions:
    """How to quantize.

    weight_bits: 2 to 8. mem_bits: 8 or 16. frac_bits: one value for every layer, or None: 0 with
    16-bit membranes and currents "accumulator", else calibrated. current: "accumulator" or
    "uint8". scale_search: choose each channel's weight scale by search instead of by its largest
    weight. layers: exceptions by layer name; the flow head is "pred". per_tensor: one weight scale
    per layer instead of one per output channel. neuron: "integer", or "float" to quantize the
    convolutions only; there are then no integer membranes or uint8 currents to choose.
    """

    weight_bits: int = 7
    mem_bits: int = 16
    frac_bits: int | None = None
    current: str = "accumulator"
    scale_search: bool = False
    layers: Mapping[str, LayerOptions] = field(default_factory=lambda: MappingProxyType({}))
    per_tensor: bool = False
    neuron: str = "integer"

    def of(self, name: str) -> LayerBits:
        """What holds for a layer."""
        own = self.layers.get(name, LayerOptions())
        return LayerBits(
            self.weight_bits if own.weight_bits is None else own.weight_bits,
            self.mem_bits if own.mem_bits is None else own.mem_bits,
            self.frac_bits if own.frac_bits is None else own.frac_bits,
        )

    def check(self, names: list[str]) -> None:
        """Refuse options that no network of these layers can have.

        Raises:
            QuantError: impossible bits, an unknown current mode or neuron, an exception for a layer
                that is not there, or a choice that float neurons do not have.
        """
        if self.neuron not in NEURONS:
            raise QuantError(f"neuron must be {' or '.join(NEURONS)}, got {self.neuron!r}")
        if self.current not in CURRENTS:
            raise QuantError(f"current must be one of {', '.join(CURRENTS)}, got {self.current!r}")
        if self.per_tensor and self.scale_search:
            raise QuantError("a scale search chooses scales per channel; leave out per_tensor")
        known = [*names, HEAD]
        for name in self.layers:
            if name not in known:
                raise QuantError(f"no layer {name!r}; layers: {', '.join(known)}")
        for name in known:
            bits = self.of(name)
            weight_limit(bits.weight_bits)
            membrane_limits(bits.mem_bits)
            if self.neuron == "float":
                _check_float_neuron(name, bits, self.current)


def _check_float_neuron(name: str, bits: LayerBits, current: str) -> None:
    """Refuse what only integer neurons have."""
    if current != "accumulator":
        raise QuantError("float neurons take the accumulator; uint8 currents need neuron integer")
    if (bits.mem_bits, bits.frac_bits) != (16, None):
        raise QuantError(
            f"layer {name!r}: float neurons have float32 membranes; leave mem_bits at 16 and "
            "frac_bits open, or use neuron integer"
        )


DEFAULT_OPTIONS = QuantOptions()

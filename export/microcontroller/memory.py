"""The memory of a network: the arrays of its state, and how many bytes everything takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from export.microcontroller.constants import constant_bytes
from export.microcontroller.flow_head import FixedHead
from export.microcontroller.network import Network
from export.microcontroller.schedule import Schedule, state_pad, word_bits, words


@dataclass(frozen=True)
class Sizes:
    """Bytes of a network. state and buffers make up the arena; constants lie in flash."""

    state: int
    buffers: int
    constants: int

    @property
    def arena(self) -> int:
        """State and buffers."""
        return self.state + self.buffers


@dataclass(frozen=True)
class StateArray:
    """One array of the arena's state.

    name: in C. label: as in the artifact. rows: of the image. elements: of one row that mean
    something, from ``pad`` elements on; stride: of one row with both pads.
    """

    name: str
    label: str
    kind: str
    rows: int
    elements: int
    stride: int
    pad: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.rows * self.stride * element_bytes(self.kind)


def element_bytes(kind: str) -> int:
    """Bytes of an integer type of C, such as int16_t."""
    return int(re.sub(r"\D", "", kind)) // 8


def word_type(channels: int) -> str:
    """Type of C that holds a pixel's spikes, or 32 of them."""
    return f"uint{word_bits(channels)}_t"


def state_arrays(network: Network) -> tuple[StateArray, ...]:
    """The states in the artifact's order of layers, spikes before membranes."""
    height, width = network.resolution
    found = []
    for number, layer in enumerate(network.layers):
        if layer.recurrent is not None:
            per_pixel, pad = words(layer.channels), state_pad(network, number)
            found.append(
                StateArray(
                    f"{layer.identifier}_spikes",
                    f"spike.{layer.identifier}",
                    word_type(layer.channels),
                    height,
                    width * per_pixel,
                    (width + 2 * pad) * per_pixel,
                    pad * per_pixel,
                )
            )
        elements = width * layer.channels
        found.append(
            StateArray(
                f"{layer.identifier}_mem",
                f"mem.{layer.identifier}",
                f"int{layer.mem_bits}_t",
                height,
                elements,
                elements,
                0,
            )
        )
    return tuple(found)


def _aligned(size: int) -> int:
    return -(-size // 4) * 4


def memory_sizes(network: Network, schedule: Schedule, fixed: FixedHead | None) -> Sizes:
    """Bytes of arena and constants."""
    state = _aligned(sum(array.size for array in state_arrays(network)))
    constants = constant_bytes(network)
    constants += sum(count * bits // 8 for bits, count in zero_rows(network, schedule).items())
    constants += 8 if fixed is None else fixed.tables.size * 2
    return Sizes(state, schedule.plan.size, constants)


def zero_rows(network: Network, schedule: Schedule) -> dict[int, int]:
    """Longest row of zeros that is needed, in elements, by their bits."""
    longest: dict[int, int] = {}
    for rows in schedule.rows():
        if rows.pad:
            bits = rows.element_bits
            longest[bits] = max(longest.get(bits, 0), rows.width)
    for array in state_arrays(network):
        if array.kind.startswith("u"):
            bits = 8 * element_bytes(array.kind)
            longest[bits] = max(longest.get(bits, 0), array.stride)
    return longest

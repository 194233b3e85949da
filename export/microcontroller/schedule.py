"""In which order rows are computed, and which buffers live when.

A layer computes a row of its output as soon as the rows of its input that the row depends on are
there, so between two layers only as many rows are kept as the kernel is high. The spikes of a
recurrent layer are kept as a whole anyway, for the next step; there the chain is cut. All rows of
the first part are computed before those of the second, and the line buffers of the two parts share
their memory.

Within a part, one round reads or computes one row of every stage. Stage j is ``lag`` rows behind
the first, the sum of the reaches of the kernels up to its own::

    round t: row t - lag of every stage for which there is one
"""

from __future__ import annotations

from dataclasses import dataclass

from export.microcontroller.network import Network, SpikingLayer
from export.microcontroller.planner import Buffer, Plan, plan_buffers

WORD_BITS = 32
EVENTS = "events"
PRED = "pred"


@dataclass(frozen=True)
class Rows:
    """A number of rows kept as a ring: row r of the image is at r modulo ``count``.

    name: in C. element_bits: 8, 16 or 32. pad: columns of zeros on each side. width: elements of a
    row, both pads included.
    """

    name: str
    count: int
    width: int
    element_bits: int
    pad: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.width * self.element_bits // 8


@dataclass(frozen=True)
class Stage:
    """What computes rows: the reader of counts, a layer or the flow head.

    name: in C. lag: rows behind the first stage of its part. writes: where its rows go, or None
    for a recurrent layer, which writes its state. keeps: rows of the step before that a recurrent
    layer overwrites and still needs.
    """

    name: str
    layer: SpikingLayer | None
    lag: int
    writes: Rows | None
    keeps: Rows | None = None


@dataclass(frozen=True)
class Part:
    """Stages that run side by side, row by row. name: in C."""

    name: str
    stages: tuple[Stage, ...]

    @property
    def lag(self) -> int:
        """Rows by which its last stage is behind its first."""
        return self.stages[-1].lag


@dataclass(frozen=True)
class Schedule:
    """Everything that runs in a step, and where its buffers are."""

    parts: tuple[Part, ...]
    buffers: tuple[Buffer, ...]
    plan: Plan

    def rows(self) -> tuple[Rows, ...]:
        """Every ring, in the order in which they are first used."""
        found = [
            rows
            for part in self.parts
            for stage in part.stages
            for rows in (stage.keeps, stage.writes)
            if rows is not None
        ]
        return tuple(found)


def word_bits(channels: int) -> int:
    """Bits of the type that holds a pixel's spikes, or one of several: 8, 16 or 32."""
    return next((bits for bits in (8, 16) if channels <= bits), WORD_BITS)


def words(channels: int) -> int:
    """Elements of that type per pixel."""
    return -(-channels // WORD_BITS)


def state_pad(network: Network, number: int) -> int:
    """Columns of zeros beside the spikes that layer ``number``, a recurrent one, keeps."""
    layer = network.layers[number]
    own = layer.recurrent.reach if layer.recurrent is not None else 0
    return max(own, _consumer_reach(network, number))


def _consumer_reach(network: Network, number: int) -> int:
    """Reach of the kernel that reads the spikes of a layer."""
    if number + 1 < len(network.layers):
        return network.layers[number + 1].convolution.reach
    return network.head.convolution.reach


def make_schedule(network: Network) -> Schedule:
    """Order the rows of a network and place its line buffers."""
    parts = _parts(network)
    buffers = tuple(_lifetimes(parts, network.resolution[0]))
    return Schedule(parts, buffers, plan_buffers(buffers))


def _parts(network: Network) -> tuple[Part, ...]:
    width = network.resolution[1]
    reach = network.layers[0].convolution.reach
    events = _ring("events", reach, width, network.bins, 8)
    parts: list[Part] = []
    stages = [Stage(EVENTS, None, 0, events)]
    for number, layer in enumerate(network.layers):
        lag = stages[-1].lag + layer.convolution.reach if stages else 0
        if layer.recurrent is None:
            reach, bits = _consumer_reach(network, number), word_bits(layer.channels)
            name = f"{layer.identifier}_spikes"
            ring = _ring(name, reach, width, words(layer.channels), bits)
            stages.append(Stage(layer.identifier, layer, lag, ring))
        else:
            kept = _kept(network, number, layer.recurrent.reach)
            stages.append(Stage(layer.identifier, layer, lag, None, kept))
            parts.append(_part(stages))
            stages = []
    reach = network.head.convolution.reach
    lag = stages[-1].lag + reach if stages else 0
    stages.append(Stage(PRED, None, lag, Rows("pred_sums", 1, 2 * width, 32, 0)))
    parts.append(_part(stages))
    return tuple(parts)


def _part(stages: list[Stage]) -> Part:
    names = [stages[0].name, stages[-1].name]
    return Part("_to_".join(dict.fromkeys(names)), tuple(stages))


def _ring(name: str, reach: int, width: int, elements: int, bits: int) -> Rows:
    return Rows(name, 2 * reach + 1, (width + 2 * reach) * elements, bits, reach)


def _kept(network: Network, number: int, reach: int) -> Rows:
    layer = network.layers[number]
    pad = state_pad(network, number)
    elements = (network.resolution[1] + 2 * pad) * words(layer.channels)
    return Rows(f"{layer.identifier}_before", reach + 1, elements, word_bits(layer.channels), pad)


def _lifetimes(parts: tuple[Part, ...], height: int) -> list[Buffer]:
    """Moments at which every ring is first written and last read.

    Every row of every stage is a moment of its own. A part clears its padded rings before its first
    row, which is a moment too.
    """
    moment = 0
    found: dict[str, Buffer] = {}
    for part in parts:
        used: dict[Rows, tuple[int, int]] = {
            stage.writes: (moment, moment)
            for stage in part.stages
            if stage.writes is not None and stage.writes.pad
        }
        moment += 1
        for turn in range(height + part.lag):
            for number, stage in enumerate(part.stages):
                if not 0 <= turn - stage.lag < height:
                    continue
                before = part.stages[number - 1].writes if number else None
                for rows in (before, stage.keeps, stage.writes):
                    if rows is not None:
                        used[rows] = (used.get(rows, (moment, moment))[0], moment)
                moment += 1
        for rows, (first, last) in used.items():
            found[rows.name] = Buffer(rows.name, rows.size, first, last)
    return list(found.values())

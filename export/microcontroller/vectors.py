"""Inputs and expected results of the self-test, from the integer graph itself.

The graph runs in ONNX Runtime without the op library, by the function bodies it carries.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.microcontroller.constants import array_text
from export.microcontroller.flow_head import FixedHead
from export.microcontroller.network import Network
from export.microcontroller.schedule import word_bits
from lif_op.spec import pack_spikes
from runtime.artifact import LoadedModel
from runtime.layout import states_channels_first
from runtime.session import StatefulSession

Counts = npt.NDArray[np.uint8]

FEWEST_STEPS = 6
MOST_STEPS = 40
_SAMPLES = 24
_COUNT_LIMIT = 127


@dataclass(frozen=True)
class Step:
    """events: uint8 [1, bins, H, W]. states: by label, as the arrays of the arena. sums: int32
    [1, 2, H, W], the flow head's accumulator. flow: float32 of that shape."""

    events: Counts
    states: Mapping[str, npt.NDArray[np.generic]]
    sums: npt.NDArray[np.int32]
    flow: npt.NDArray[np.float32]

    def trace(self, fixed: FixedHead | None) -> list[tuple[str, int]]:
        """CRC-32 of every state, of the sums and of a fixed-point flow, by name."""
        found = [(name, crc(array)) for name, array in self.states.items()]
        found.append(("sums", crc(self.sums[0].transpose(1, 2, 0))))
        if fixed is not None:
            found.append(("flow", crc(fixed.values(self.sums)[0].transpose(1, 2, 0))))
        return found


@dataclass(frozen=True)
class Vectors:
    """steps: what was run. silent: layers that never fired in them."""

    steps: tuple[Step, ...]
    silent: tuple[str, ...]


def crc(array: npt.NDArray[np.generic]) -> int:
    """CRC-32 of an array's values in little-endian order."""
    little = array.astype(array.dtype.newbyteorder("<"))
    return zlib.crc32(np.ascontiguousarray(little).tobytes())


def synthetic_counts(
    bins: int, resolution: tuple[int, int], steps: int, seed: int = 0
) -> Iterator[Counts]:
    """An edge that moves over a background which grows busier, uint8 [1, bins, H, W] per step."""
    random = np.random.default_rng(seed)
    height, width = resolution
    for step in range(steps):
        counts = random.poisson(0.02 + 0.02 * step, (1, bins, height, width))
        columns = (np.arange(3) + 2 * step) % width
        counts[0, step // 4 % bins][:, columns] += random.poisson(1.5, (height, 3))
        if step % 5 == 4:
            y, x = random.integers(height), random.integers(width)
            counts[0, :, y, x] = _COUNT_LIMIT
        yield np.minimum(counts, _COUNT_LIMIT).astype(np.uint8)


def run_reference(
    loaded: LoadedModel, network: Network, inputs: Iterable[Counts]
) -> Iterator[tuple[Step, frozenset[str]]]:
    """Every step with the layers that fired in it."""
    session = StatefulSession(loaded, resolution=network.resolution, library="never")
    stream = session.diagnostic()
    for events in inputs:
        flow = stream.step(events)
        first = states_channels_first(network.artifact, stream.states())
        states = _arena_states(network, first)
        fired = {name for name, spikes in stream.spikes().items() if spikes.any()}
        sums = stream.outputs()["flow_acc"].astype(np.int32, copy=False)
        yield Step(events, states, sums, np.array(flow)), frozenset(fired)


def _arena_states(
    network: Network, states: Mapping[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.generic]]:
    """States as the arena has them, in its order: channels last, spikes as bits."""
    found: dict[str, npt.NDArray[np.generic]] = {}
    for layer in network.layers:
        if layer.recurrent is not None:
            spikes = states[f"spike.{layer.name}"].astype(np.uint8)
            kind = f"uint{word_bits(layer.channels)}"
            found[f"spike.{layer.identifier}"] = pack_spikes(spikes)[0].astype(kind)
        membranes = states[f"mem.{layer.name}"][0].transpose(1, 2, 0)
        found[f"mem.{layer.identifier}"] = np.ascontiguousarray(membranes)
    return found


def make_vectors(
    loaded: LoadedModel, network: Network, recorded: Iterable[Counts] | None = None
) -> Vectors:
    """Run the reference until every layer has fired, six steps at least.

    Args:
        loaded, network: the artifact.
        recorded: counts of a recording's windows; without them, synthetic ones.
    """
    inputs = recorded
    if inputs is None:
        inputs = synthetic_counts(network.bins, network.resolution, MOST_STEPS)
    steps: list[Step] = []
    waiting = {layer.name for layer in network.layers}
    for step, fired in run_reference(loaded, network, inputs):
        steps.append(step)
        waiting -= fired
        if len(steps) >= MOST_STEPS or (not waiting and len(steps) >= FEWEST_STEPS):
            break
    silent = tuple(layer.name for layer in network.layers if layer.name in waiting)
    return Vectors(tuple(steps), silent)


def encode_events(steps: Iterable[Step]) -> npt.NDArray[np.uint8]:
    """Events of all steps in pairs: a number of zeros, then a count, or 0 for none.

    The order is that of the rows as the network reads them: [step][row][column][bin].
    """
    stream = np.concatenate([step.events[0].transpose(1, 2, 0).reshape(-1) for step in steps])
    pairs: list[int] = []
    at = 0
    for position in [*np.flatnonzero(stream).tolist(), stream.size]:
        while position - at > 255:
            pairs += [255, 0]
            at += 255
        pairs += [position - at, int(stream[position]) if position < stream.size else 0]
        at = position + 1
    return np.array([*pairs, 0, 0], np.uint8)


def trace_text(vectors: Vectors, fixed: FixedHead | None) -> str:
    """What the self-test prints where everything is equal."""
    lines = [
        f"step {number} " + " ".join(f"{name} {value:08x}" for name, value in step.trace(fixed))
        for number, step in enumerate(vectors.steps)
    ]
    return "\n".join([*lines, f"0 differences in {len(lines)} steps", ""])


def vectors_header(vectors: Vectors, fixed: FixedHead | None) -> str:
    """``selftest_vectors.h``."""
    expected = [value for step in vectors.steps for _, value in step.trace(fixed)]
    sums = np.array(expected, np.uint32)
    events = encode_events(vectors.steps)
    samples = _samples(vectors, fixed)
    return "\n".join(
        [
            "/* Events and expected results of the self-test, from the integer graph. */",
            "#ifndef SELFTEST_VECTORS_H",
            "#define SELFTEST_VECTORS_H",
            "",
            "#include <stdint.h>",
            "",
            '#include "net.h"',
            "",
            f"#define SELFTEST_STEPS {len(vectors.steps)}u",
            f"#define SELFTEST_SAMPLES {len(samples)}",
            f"#define SELFTEST_EXACT_FLOW {int(fixed is not None)}",
            "",
            "/* Flow at single pixels, where it is largest. */",
            "typedef struct {",
            "    uint32_t step;",
            "    int32_t row, column, component;",
            "    net_flow flow;",
            "} selftest_sample;",
            "static const selftest_sample selftest_samples[SELFTEST_SAMPLES] = {",
            *samples,
            "};",
            "",
            array_text("uint8_t", "selftest_events", events),
            "/* CRC-32 of every state and of the sums, step by step. */",
            array_text("uint32_t", "selftest_expected", sums, hexadecimal=True),
            "#endif",
            "",
        ]
    )


def _samples(vectors: Vectors, fixed: FixedHead | None) -> list[str]:
    """The largest flows of the last steps, as rows of the table."""
    found = []
    for number, step in list(enumerate(vectors.steps))[-4:]:
        order = np.argsort(-np.abs(step.sums), axis=None, kind="stable")[: _SAMPLES // 4]
        flow = step.flow if fixed is None else fixed.values(step.sums)
        for place in order.tolist():
            _, component, row, column = np.unravel_index(place, step.sums.shape)
            value = flow[0, component, row, column]
            text = f"{float(value):.9g}" if fixed is None else str(int(value))
            if fixed is None:
                text += "f" if any(mark in text for mark in ".e") else ".0f"
            found.append(f"    {{{number}u, {row}, {column}, {component}, {text}}},")
    return found

"""How much of an integer artifact's work is quiet, and how much at rest, on recordings.

    python -m bench.rest model.int8.onnx [--folder DIR] [--windows N] [--json]

The fused kernels work on tiles of sixteen neighbouring pixels of a row. A tile is *quiet* in a step
without spikes or events in reach, those of the step before included where a layer is recurrent:
kernels skip its convolution. It is *at rest* where, besides, no neuron fires and no membrane
changes, and *known* to be where it was at rest in the step before as well: there the neurons could
be skipped too, by a kernel that remembered it. Recordings are looked for as by
``bench.recordings``; the first windows are not counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper
from rich.table import Table

from bench.errors import BenchError
from bench.recordings import EVENTS_PER_PIXEL, WARMUP, data_folder
from calib_data import console
from calib_data.events import EventSource
from calib_data.npz import open_events
from calib_data.windows import iterate_windows
from runtime.arguments import positive
from runtime.artifact import LoadedModel, load_model
from runtime.evaluate import table_console
from runtime.house import start_command
from runtime.session import StatefulSession

TILE = 16
_RECURRENT = "QConvLIFRec"
_FUSED = ("QConvLIF", _RECURRENT)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shares:
    """Shares of a layer's tiles, 0 to 1."""

    quiet: float
    rest: float
    known: float


def in_reach(
    active: Mask,
    kernel: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] | None = None,
) -> Mask:
    """Which outputs of a convolution see an active input.

    Args:
        active: bool [H, W]. kernel, strides: (vertical, horizontal).
        pads: (top, left, bottom, right); None keeps the size of an odd kernel with stride 1.

    Returns:
        bool [H of the outputs, W of the outputs].
    """
    top, left, bottom, right = pads or (kernel[0] // 2, kernel[1] // 2) * 2
    padded = np.pad(active, ((top, bottom), (left, right)))
    rows, columns = (padded.shape[axis] - kernel[axis] + 1 for axis in (0, 1))
    seen = np.zeros((rows, columns), bool)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            seen |= padded[i : i + rows, j : j + columns]
    return seen[:: strides[0], :: strides[1]]


def any_in_tile(pixels: Mask) -> Mask:
    """bool [H, W] to [H, tiles of a row]: whether any pixel of a tile is set."""
    whole: Mask = np.logical_or.reduceat(pixels, np.arange(0, pixels.shape[1], TILE), axis=1)
    return whole


class _Layer:
    """Counts the tiles of one fused node."""

    def __init__(self, node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.name = node.output[1].removeprefix("mem_out.")
        self.source = node.input[0]
        self.spikes = node.output[0]
        self._recurrent = node.op_type == _RECURRENT
        self._strides, self._pads = attributes["strides"], attributes["pads"]
        self._kernel = shapes[node.input[1]][2:]
        self._own_kernel = shapes[node.input[4]][2:] if self._recurrent else None
        self._at_rest: Mask | None = None
        self._counts = np.zeros(4, np.int64)  # tiles, quiet, at rest, known

    def look(self, seen: Mask, before: Mask, fired: Mask, same: Mask, *, count: bool) -> None:
        """Take in a step: input pixels with spikes or events, own pixels that fired in the step
        before and in this one, own pixels whose membranes stayed."""
        active = in_reach(seen, self._kernel, self._strides, self._pads)
        if self._own_kernel is not None:
            active = active | in_reach(before, self._own_kernel)
        quiet = ~any_in_tile(active)
        rest = quiet & ~any_in_tile(fired | ~same)
        known = np.zeros_like(rest) if self._at_rest is None else rest & self._at_rest
        self._at_rest = rest
        if count:
            self._counts += (rest.size, quiet.sum(), rest.sum(), known.sum())

    def shares(self) -> Shares:
        return Shares(*(float(n) for n in self._counts[1:] / self._counts[0]))


def measure_clip(
    loaded: LoadedModel, file: EventSource, windows: int | None = None
) -> dict[str, Shares]:
    """Drive an integer artifact over a recording, state carried.

    Args:
        loaded: with fused layers. file: the recording.
        windows: how many at most are counted; None: all.

    Returns:
        The shares by layer.

    Raises:
        BenchError: no fused layers, or a recording too short to count a window.
    """
    nodes = [node for node in loaded.model.graph.node if node.op_type in _FUSED]
    if not nodes:
        raise BenchError(f"{loaded.path}: has no fused layers; give a model.int8.onnx")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in loaded.model.graph.initializer}
    layers = [_Layer(node, shapes) for node in nodes]
    height, width = file.resolution
    stream = StatefulSession(loaded, resolution=file.resolution).diagnostic()
    states, fired = stream.states(), {layer.name: np.zeros(1, bool) for layer in layers}
    number = -1
    length = round(EVENTS_PER_PIXEL * height * width)
    last = None if windows is None else WARMUP + windows
    for number, window in enumerate(islice(iterate_windows(file, "events", length), last)):
        events = stream.encode(window.events)
        stream.step(events)
        after = stream.states()
        before = fired
        fired = {name: (spikes[0] != 0).any(axis=0) for name, spikes in stream.spikes().items()}
        seen = {layer.spikes: fired[layer.name] for layer in layers}
        for layer in layers:
            mem = f"mem.{layer.name}"
            own = fired[layer.name]
            layer.look(
                seen.get(layer.source, (events[0] != 0).any(axis=0)),
                before[layer.name] if number else np.zeros_like(own),
                own,
                (states[mem][0] == after[mem][0]).all(axis=-1),
                count=number >= WARMUP,
            )
        states = after
    if number < WARMUP:
        raise BenchError(f"{file.path}: shorter than {WARMUP + 1} windows")
    return {layer.name: layer.shares() for layer in layers}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    loaded = load_model(arguments.model)
    folder = data_folder(arguments.folder)
    paths = sorted((folder / "events").glob("*.npz")) if folder else []
    if not paths:
        raise BenchError("no recordings: set SNN_DATA or pass --folder (it needs events/*.npz)")
    found: dict[str, dict[str, Shares]] = {}
    for path in console.progress(paths, "clips", quiet=arguments.json):
        with open_events(path) as file:
            height, width = file.resolution
            if file.num_events >= (WARMUP + 1) * EVENTS_PER_PIXEL * height * width:
                found[path.stem] = measure_clip(loaded, file, arguments.windows)
    if arguments.json:
        values: dict[str, Any] = {
            clip: {name: asdict(shares) for name, shares in layers.items()}
            for clip, layers in found.items()
        }
        print(json.dumps(values))
        return 0
    table_console().print(_table(found))
    return 0


def _table(found: Mapping[str, Mapping[str, Shares]]) -> Table:
    """Shares by clip, the mean over the layers."""
    table = Table(title=f"tiles of {TILE} pixels, all layers")
    table.add_column("clip")
    for heading in ("quiet", "at rest", "known"):
        table.add_column(heading, justify="right")
    for clip, layers in found.items():
        means = np.mean([(s.quiet, s.rest, s.known) for s in layers.values()], axis=0)
        table.add_row(clip, *(f"{100 * mean:.1f} %" for mean in means))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rest",
        description="Shares of quiet tiles and of tiles at rest on recordings.",
        epilog="example: SNN_DATA=folder python -m bench.rest model.int8.onnx",
    )
    parser.add_argument("model", type=Path, metavar="model.int8.onnx")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="recordings (bench.recordings)")
    parser.add_argument(
        "--windows", type=positive, metavar="N", help="count so many at most (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print the shares by layer as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

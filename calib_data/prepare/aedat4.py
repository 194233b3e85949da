"""AEDAT4 files of iniVation cameras, read by the package ``aedat``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.prepare.recording import (
    BLOCK,
    Block,
    Found,
    Recording,
    demand_resolution,
    each,
    reader,
)


def find(root: Path, *, resolution: tuple[int, int] | None = None, **_: object) -> list[Found]:
    """Every .aedat4 file at or below ``root``, in the order of their names."""
    paths = [root] if root.is_file() else sorted(root.rglob("*.aedat4"))
    return each(paths, lambda path: _recording(path, resolution))


def _recording(path: Path, given: tuple[int, int] | None) -> Recording:
    streams = _open(path).id_to_stream()
    events = [(n, s) for n, s in sorted(streams.items()) if s.get("type") == "events"]
    if not events:
        raise DataError(f"{path}: no stream of events")
    stream, info = events[0]
    found = (int(info["height"]), int(info["width"])) if "height" in info else None
    size = demand_resolution(path, found, given)
    base = Recording(path.stem, (path,), size, lambda: _events(path, stream))
    frames = [n for n, s in sorted(streams.items()) if s.get("type") == "frame"]
    return replace(base, images=lambda: _images(path, frames[0])) if frames else base


def _open(path: Path) -> Any:
    decoder = reader("aedat", "reading AEDAT4 files").Decoder
    try:
        return decoder(str(path))
    except Exception as error:  # the package raises its own and plain exceptions
        raise DataError(f"{path}: no readable AEDAT4 file ({error})") from error


def _packets(path: Path, stream: int, kind: str) -> Iterator[Any]:
    packets = iter(_open(path))
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except Exception as error:  # as in _open
            raise DataError(f"{path}: cannot be read to its end ({error})") from error
        if packet["stream_id"] == stream and kind in packet:
            yield packet[kind]


def _events(path: Path, stream: int) -> Iterator[Block]:
    held: list[NDArray[Any]] = []
    for events in _packets(path, stream, "events"):
        held.append(events)
        if sum(map(len, held)) >= BLOCK:
            yield _block(held)
            held = []
    if held:
        yield _block(held)


def _block(held: list[NDArray[Any]]) -> Block:
    events = np.concatenate(held)
    return Block(events["x"], events["y"], events["t"].astype(np.float64) / 1e6, events["on"])


def _images(path: Path, stream: int) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    for frame in _packets(path, stream, "frame"):
        if frame["format"] == "L":
            yield float(frame["t"]) / 1e6, frame["pixels"]

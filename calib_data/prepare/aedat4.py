"""AEDAT4 files of iniVation cameras, read by the package ``aedat``."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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

_MAGIC = b"#!AER-DAT4.0\r\n"


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
    _check_description(path)
    with _one_error(f"{path}: no readable AEDAT4 file"):
        return decoder(str(path))


@contextlib.contextmanager
def _one_error(what: str) -> Iterator[None]:
    """Whatever the package raises becomes a DataError, its panics included."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic is no Exception
        raise DataError(f"{what} ({error})") from error


def _check_description(path: Path) -> None:
    """Refuse a file without a whole description of its streams, on which the package may abort.

    The description lies in a FlatBuffers table of the type IOHE behind the file's first line.
    """
    with open(path, "rb") as file:
        line, size = file.read(len(_MAGIC)), file.read(4)
        data = file.read(int.from_bytes(size, "little"))
    try:
        if line != _MAGIC or data[4:8] != b"IOHE" or len(data) < int.from_bytes(size, "little"):
            raise ValueError("no AEDAT 4.0 header, or it is cut off")
        (table,) = struct.unpack_from("<I", data)
        (back,) = struct.unpack_from("<i", data, table)
        (place,) = struct.unpack_from("<H", data, max(table - back, 0) + 8)
        (offset,) = struct.unpack_from("<I", data, table + place)
        start = table + place + offset
        (length,) = struct.unpack_from("<I", data, start)
        text = data[start + 4 : start + 4 + length]
        if len(text) < length or not place:
            raise ValueError("no description of its streams")
        ElementTree.fromstring(text.decode("utf-8"))
    except (ValueError, struct.error, ElementTree.ParseError) as error:
        raise DataError(f"{path}: no readable AEDAT4 file ({error})") from error


def _packets(path: Path, stream: int, kind: str) -> Iterator[Any]:
    packets = iter(_open(path))
    while True:
        with _one_error(f"{path}: cannot be read to its end"):
            packet = next(packets, None)
        if packet is None:
            return
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

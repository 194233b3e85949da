"""Prophesee RAW (EVT2, EVT3) and DAT files.

EVT2 and DAT are decoded by ``expelliarmus``. EVT3 is decoded here: on a real stream with triggers
that package (1.1.12) stops at the first of them, and without them gives twice the time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from calib_data.errors import DataError
from calib_data.prepare import evt3
from calib_data.prepare.recording import BLOCK, Block, Recording, demand_resolution, reader

SUFFIXES = (".raw", ".dat")
_HEADER_LIMIT = 1 << 16
_PIECE = 1 << 20
"""Bytes of EVT3 decoded at a time."""

_SIZES = (
    (re.compile(r"height=(\d+)"), re.compile(r"width=(\d+)")),
    (re.compile(r"% Height (\d+)"), re.compile(r"% Width (\d+)")),
)
_GEOMETRY = re.compile(r"% geometry (\d+)x(\d+)")


def find(root: Path, *, resolution: tuple[int, int] | None = None, **_: object) -> list[Recording]:
    """Every .raw and .dat file at or below ``root``, in the order of their names."""
    paths = [root] if root.is_file() else sorted(p for s in SUFFIXES for p in root.rglob(f"*{s}"))
    return [_recording(path, resolution) for path in paths]


def _recording(path: Path, resolution: tuple[int, int] | None) -> Recording:
    header = _header(path)
    encoding = _encoding(path, header)
    size = demand_resolution(path, _size(header), resolution)
    return Recording(path.stem, (path,), size, lambda: blocks(path, encoding))


def blocks(path: Path, encoding: str) -> Iterator[Block]:
    """Blocks of a file; seconds on the sensor's clock."""
    if encoding == "evt3":
        yield from _evt3_blocks(path)
        return
    wizard = reader("expelliarmus", "reading Prophesee files").Wizard
    try:
        reading = wizard(encoding=encoding, fpath=path, chunk_size=BLOCK)
        for events in reading.read_chunk():
            yield Block(
                events["x"].copy(), events["y"].copy(), events["t"] / 1e6, events["p"].copy()
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be decoded as {encoding} ({error})") from error


def _evt3_blocks(path: Path) -> Iterator[Block]:
    decoder = evt3.Decoder()
    with open(path, "rb") as file:
        file.seek(_header_size(file.read(_HEADER_LIMIT)))
        while data := file.read(_PIECE):
            yield decoder.decode(data)


def _header_size(data: bytes) -> int:
    """Bytes of the lines that start with '%'."""
    size = 0
    while data.startswith(b"%", size):
        end = data.find(b"\n", size)
        if end < 0:
            break
        line, size = data[size:end], end + 1
        if line.strip() == b"% end":
            break
    return size


def _header(path: Path) -> str:
    """The lines that start with '%', as text."""
    with open(path, "rb") as file:
        data = file.read(_HEADER_LIMIT)
    return data[: _header_size(data)].decode("ascii", "replace")


def _encoding(path: Path, header: str) -> str:
    """evt2, evt3 or dat."""
    if path.suffix.lower() == ".dat":
        return "dat"
    for name, marks in (
        ("evt2", ("% evt 2.0", "format EVT2;", "EVT2")),
        ("evt3", ("% evt 3.0", "format EVT3;", "EVT3")),
    ):
        if any(mark in header for mark in marks):
            return name
    raise DataError(
        f"{path}: its header names neither EVT2 nor EVT3 ({header.splitlines()[:1] or 'no header'})"
    )


def _size(header: str) -> tuple[int, int] | None:
    """(H, W) where the header tells it."""
    for height, width in _SIZES:
        rows, columns = height.search(header), width.search(header)
        if rows and columns:
            return int(rows[1]), int(columns[1])
    geometry = _GEOMETRY.search(header)
    return (int(geometry[2]), int(geometry[1])) if geometry else None

"""Prophesee RAW (EVT2, EVT3) and DAT files, decoded by ``expelliarmus``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from calib_data.errors import DataError
from calib_data.prepare.recording import BLOCK, Block, Recording, demand_resolution, reader

SUFFIXES = (".raw", ".dat")
_HEADER_LIMIT = 1 << 16
_EVT3_KNOWN = np.isin(np.arange(16), (0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8))
"""Kinds of EVT3 words that carry changes of brightness and their times; triggers and others go."""

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
    return Recording(path.stem, (path,), size, lambda: blocks(path, encoding, path))


def blocks(path: Path, encoding: str, where: Path) -> Iterator[Block]:
    """Blocks of a file; seconds on the sensor's clock. where: the file that errors name."""
    wizard = reader("expelliarmus", "reading Prophesee files").Wizard
    try:
        reading = wizard(encoding=encoding, fpath=path, chunk_size=BLOCK)
        for events in reading.read_chunk():
            yield Block(
                events["x"].copy(), events["y"].copy(), events["t"] * 1e-6, events["p"].copy()
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"{where}: cannot be decoded as {encoding} ({error})") from error


def evt3_header(resolution: tuple[int, int]) -> bytes:
    """The text in front of EVT3 data."""
    height, width = resolution
    return (
        f"% evt 3.0\n% format EVT3;height={height};width={width}\n"
        f"% geometry {width}x{height}\n% end\n"
    ).encode()


def evt3_changes(data: bytes) -> bytes:
    """EVT3 words without those of triggers and monitoring, which the decoder does not know."""
    words = np.frombuffer(data, "<u2", len(data) // 2)
    return words[_EVT3_KNOWN[words >> 12]].tobytes()


def _header(path: Path) -> str:
    """The lines that start with '%', as text."""
    with open(path, "rb") as file:
        data = file.read(_HEADER_LIMIT)
    lines = []
    for line in data.split(b"\n"):
        if not line.startswith(b"%"):
            break
        lines.append(line.decode("ascii", "replace").strip())
        if line.strip() == b"% end":
            break
    return "\n".join(lines)


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

"""Prophesee RAW (EVT2, EVT3) and DAT files.

EVT2 has 32-bit words: the top four bits tell the kind, 0 and 1 an event (darker, brighter) with the
low 6 bits of its time in microseconds and 11 bits each of x and y, 8 the time's high 28 bits. DAT
has eight bytes per event: microseconds in 32 bits, then x and y in 14 bits each and the polarity.
Source: Prophesee's published descriptions of the formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from calib_data.errors import DataError
from calib_data.prepare import evt3
from calib_data.prepare.recording import Block, Found, Recording, demand_resolution, each

SUFFIXES = (".raw", ".dat")
_HEADER_LIMIT = 1 << 16
_PIECE = 1 << 20
"""Bytes decoded at a time."""

_WORD = {"evt2": 4, "evt3": 2, "dat": 8}
_SIZES = (
    (re.compile(r"height=(\d+)"), re.compile(r"width=(\d+)")),
    (re.compile(r"% Height (\d+)"), re.compile(r"% Width (\d+)")),
)
_GEOMETRY = re.compile(r"% geometry (\d+)x(\d+)")
_FORMATS = {"evt2": re.compile(r"% evt 2\.0|EVT2\b"), "evt3": re.compile(r"% evt 3\.0|EVT3\b")}
_EVENT_KINDS = (0x00, 0x0C)


def find(root: Path, *, resolution: tuple[int, int] | None = None, **_: object) -> list[Found]:
    """Every .raw and .dat file at or below ``root``, in the order of their names."""
    paths = [root] if root.is_file() else sorted(p for s in SUFFIXES for p in root.rglob(f"*{s}"))
    return each(paths, lambda path: _recording(path, resolution))


def _recording(path: Path, resolution: tuple[int, int] | None) -> Recording:
    head = _head(path)
    header = head[: _header_size(head)].decode("ascii", "replace")
    encoding = _encoding(path, header)
    size = demand_resolution(path, _size(header), resolution)
    start = _header_size(head)
    if encoding == "dat":
        _check_dat(path, head[start : start + 2])
        start += 2
    rest = (path.stat().st_size - start) % _WORD[encoding]
    notes = (f"ends with {rest} bytes of an event: the recording was cut off",) if rest else ()
    return Recording(path.stem, (path,), size, lambda: _blocks(path, start, encoding), notes=notes)


def _blocks(path: Path, start: int, encoding: str) -> Iterator[Block]:
    """Blocks of a file whose data begins at byte ``start``; seconds on the sensor's clock."""
    decoders: dict[str, Callable[[], evt3.Decoder | Evt2Decoder | DatDecoder]] = {
        "evt2": Evt2Decoder, "evt3": evt3.Decoder, "dat": DatDecoder,
    }  # fmt: skip
    decoder = decoders[encoding]()
    rest = b""
    with open(path, "rb") as file:
        file.seek(start)
        while data := file.read(_PIECE):
            data = rest + data
            whole = len(data) - len(data) % _WORD[encoding]
            rest = data[whole:]
            yield decoder.decode(data[:whole])


class Evt2Decoder:
    """Decodes EVT2 words piece by piece; events before the first high time are dropped."""

    def __init__(self) -> None:
        self._high = -1

    def decode(self, data: bytes) -> Block:
        """Events of whole words: xs, ys int64, ts float64 seconds, ps bool."""
        words = np.frombuffer(data, "<u4").astype(np.int64)
        kinds = words >> 28
        marks = np.where(kinds == 8, words & 0xFFFFFFF, -1)
        at = np.maximum.accumulate(np.where(marks >= 0, np.arange(len(words)), -1))
        high = np.where(at >= 0, marks[at.clip(0)], self._high)
        self._high = int(high[-1]) if len(high) else self._high
        events = (kinds <= 1) & (high >= 0)
        words, high = words[events], high[events]
        micros = high << 6 | words >> 22 & 0x3F
        return Block(words >> 11 & 0x7FF, words & 0x7FF, micros / 1e6, words >> 28 == 1)


class DatDecoder:
    """Decodes DAT events piece by piece; the time begins again every 2**32 microseconds."""

    def __init__(self) -> None:
        self._turns = 0
        self._last = 0

    def decode(self, data: bytes) -> Block:
        """Events of whole records: xs, ys int64, ts float64 seconds, ps bool."""
        micros, words = np.frombuffer(data, "<u4").astype(np.int64).reshape(-1, 2).T
        before = np.concatenate([[self._last], micros[:-1]])
        turns = self._turns + np.cumsum(micros < before - (1 << 31))
        if len(micros):
            self._turns, self._last = int(turns[-1]), int(micros[-1])
        ts = (micros + (turns << 32)) / 1e6
        return Block(words & 0x3FFF, words >> 14 & 0x3FFF, ts, words >> 28 & 1 == 1)


def _check_dat(path: Path, kind: bytes) -> None:
    """The two bytes after the header: kind and size of an event."""
    if len(kind) < 2 or kind[0] not in _EVENT_KINDS or kind[1] != _WORD["dat"]:
        raise DataError(f"{path}: no DAT file of events (its records are of kind {kind.hex()})")


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEADER_LIMIT)


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


def _encoding(path: Path, header: str) -> str:
    """evt2, evt3 or dat."""
    if path.suffix.lower() == ".dat":
        return "dat"
    for name, mark in _FORMATS.items():
        if mark.search(header):
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

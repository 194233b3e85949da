"""Text recordings of the RPG and UZH-FPV data sets: ``events.txt`` in a folder or a .zip file.

A line is ``seconds x y polarity``; lines that start with # are comments. What lies beside it,
``groundtruth.txt`` (poses of the camera) and ``imu.txt``, is not flow and is left.
"""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from calib_data.errors import DataError
from calib_data.npz import ARCHIVE_ERRORS
from calib_data.prepare.recording import Block, Found, Recording, demand_resolution, each

_PIECE = 1 << 23
_PNG_HEADER = 24


def find(root: Path, *, resolution: tuple[int, int] | None = None, **_: object) -> list[Found]:
    """A .txt or .zip file, or every events.txt and .zip with one below ``root``.

    The sensor's size is that of the first PNG image beside the events, else ``resolution``.
    """
    if root.is_file():
        return each([root], lambda path: _recording(path, resolution))
    found = [*root.rglob("events.txt"), *(z for z in root.rglob("*.zip") if not _is_other(z))]
    return each(sorted(found), lambda path: _recording(path, resolution))


def _is_other(path: Path) -> bool:
    """Whether it is an archive of something else."""
    with contextlib.suppress(DataError):
        return _member(path) is None
    return False


def _recording(path: Path, given: tuple[int, int] | None) -> Recording:
    if path.suffix == ".zip" and _member(path) is None:
        raise DataError(f"{path}: no events.txt in the archive")
    name = path.resolve().parent.name if path.name == "events.txt" else path.stem
    size = demand_resolution(path, _image_size(path), given)
    return Recording(name, (path,), size, lambda: _events(path), notes=_notes(path))


def _notes(path: Path) -> tuple[str, ...]:
    """That poses beside the events, where there are any, are no flow."""
    member = _member(path) if path.suffix == ".zip" else None
    if member is not None:
        with zipfile.ZipFile(path) as archive:
            there = f"{member.removesuffix('events.txt')}groundtruth.txt" in archive.namelist()
    else:
        there = path.with_name("groundtruth.txt").is_file()
    if not there:
        return ()
    return ("groundtruth.txt holds poses of the camera, not flow: written without flow",)


def _member(path: Path) -> str | None:
    """The events in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return next((n for n in archive.namelist() if n.split("/")[-1] == "events.txt"), None)
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path}: no readable zip file ({error})") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix != ".zip":
        with open(path, "rb") as file:
            yield file
        return
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_member(path) or "") as file:
            yield file
    except DataError:
        raise
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path}: cannot be read to its end ({error})") from error


def _events(path: Path) -> Iterator[Block]:
    """Blocks of whole lines."""
    rest, line = b"", 1
    with _opened(path) as file:
        while data := file.read(_PIECE):
            text, _, rest = (rest + data).rpartition(b"\n")
            yield from _parsed(path, text, line)
            line += text.count(b"\n") + 1
        yield from _parsed(path, rest, line)


def _parsed(path: Path, text: bytes, line: int) -> Iterator[Block]:
    if not text.strip():
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # nothing but comments
            rows = np.loadtxt(io.BytesIO(text), np.float64, ndmin=2)
    except ValueError as error:
        raise DataError(f"{path}: from line {line} on: {error}; not 'seconds x y p'") from error
    if not rows.size:
        return
    if rows.shape[1] != 4 or not np.isfinite(rows).all() or (rows[:, 1:] % 1).any():
        raise DataError(f"{path}: from line {line} on: expected lines of 'seconds x y polarity'")
    columns = rows.astype(np.int64)
    yield Block(columns[:, 1], columns[:, 2], rows[:, 0], columns[:, 3])


def _image_size(path: Path) -> tuple[int, int] | None:
    """(H, W) of the first PNG image beside the events, from its header."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in sorted(archive.namelist()) if n.endswith(".png")), None)
            head = b"" if name is None else archive.open(name).read(_PNG_HEADER)
    else:
        folders = ("images", "img")
        first = next((p for f in folders for p in sorted((path.parent / f).glob("*.png"))), None)
        head = b"" if first is None else first.read_bytes()[:_PNG_HEADER]
    if not head.startswith(b"\x89PNG") or len(head) < _PNG_HEADER:
        return None
    return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")

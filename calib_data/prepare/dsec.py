"""DSEC: events, and ground-truth flow of the rectified view.

``SEQUENCE/events/left/events.h5`` holds ``events/{x, y, p, t}`` (t in microseconds), ``t_offset``
(microseconds to add to t) and ``ms_to_idx`` (not needed here); beside it ``rectify_map.h5`` holds
``rectify_map`` float32 [480, 640, 2], the undistorted (x, y) of every pixel. Flow lies in
``SEQUENCE/flow/forward/*.png``, and in ``flow/forward_timestamps.txt``, a line per picture,
the beginning and the end of its interval in microseconds, about 100 ms apart. A picture has 16 bits
and three channels: flow in x and y as 128 * pixels + 2**15, and whether it is valid.

Source: the data set's page on its data format, and its public loaders.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.prepare.columns import dataset, opened
from calib_data.prepare.recording import BLOCK, Block, Found, Recording, each, reader

SENSOR = (480, 640)

KNOWN_ZERO = 2.0**-20
"""Written as x of a valid pixel without any motion, for 0 in both means "not known", pixels."""

_PICTURES = "reading 16-bit PNG files"
_ZERO, _PER_PIXEL = 2**15, 128
_EVENT_FOLDERS = {"train_events": "train_optical_flow", "test_events": "test_optical_flow"}


def find(
    root: Path,
    *,
    resolution: tuple[int, int] | None = None,
    camera: str = "left",
    rectify: bool = False,
    **_: object,
) -> list[Found]:
    """A file, or every SEQUENCE/events/left/events.h5 below ``root`` (right: ``camera``).

    rectify: move events to the nearest pixel of the undistorted image and drop those outside it.
    Flow, which exists for the left camera and belongs to that image, is written with it only.
    """
    paths = [root] if root.is_file() else sorted(root.rglob(f"{camera}/events.h5"))
    return each(
        paths,
        lambda path: _with_flow(_recording(path, resolution or SENSOR, rectify), rectify),
        _name,
    )


def _name(path: Path) -> str:
    """SEQUENCE of SEQUENCE/events/left/events.h5; else the file's name."""
    parts = path.resolve().parts
    return parts[-4] if path.stem == "events" and len(parts) > 4 else path.stem


def _recording(path: Path, resolution: tuple[int, int], rectify: bool) -> Recording:
    with opened(path) as file:
        lengths = {name: len(dataset(path, file, f"events/{name}")) for name in "xypt"}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: event columns differ in length ({lengths})")
    maps = path.with_name("rectify_map.h5")
    files = (path, maps) if rectify else (path,)
    if rectify and not maps.is_file():
        raise FileNotFoundError(2, "no such file, which --rectify needs", str(maps))
    return Recording(
        _name(path),
        files,
        resolution,
        lambda: _events(path, maps if rectify else None, resolution),
        total=lengths["t"],
        attributes={"rectified": rectify},
    )


def _with_flow(recording: Recording, rectify: bool) -> Recording:
    """The recording with its ground truth, or with a note why it has none."""
    path = recording.files[0]
    stated = "events are rectified" if rectify else "events are not rectified"
    folder = _flow_folder(path)
    if folder is None:
        why = f"no flow/forward_timestamps.txt for {path}: written without flow"
        return replace(recording, notes=(f"{stated}; {why}",))
    if not rectify:
        why = "flow belongs to the rectified view: written without it; pass --rectify"
        return replace(recording, notes=(f"{stated}; {why}",))
    reader("cv2", _PICTURES)  # so that it is missed before the work, not after it
    stamps, pictures = folder / "forward_timestamps.txt", sorted((folder / "forward").glob("*.png"))
    return replace(
        recording,
        files=(*recording.files, stamps, *pictures),
        intervals=lambda: PngFlow(stamps, pictures, recording.resolution),
        notes=(stated,),
    )


def _flow_folder(events: Path) -> Path | None:
    """The folder of a sequence's flow: beside its events, or where the archives unpack to."""
    parts = events.resolve().parts
    if parts[-3:-1] != ("events", "left"):
        return None
    sequence = Path(*parts[:-3])
    folders = [sequence / "flow"]
    if (other := _EVENT_FOLDERS.get(sequence.parent.name)) is not None:
        folders.append(sequence.parent.parent / other / sequence.name / "flow")
    return next((f for f in folders if (f / "forward_timestamps.txt").is_file()), None)


def _intact(data: bytes) -> bool:
    """Whether a PNG file's pieces are whole to its end and have their checksums."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        return False
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


class PngFlow:
    """Flow of a sequence: a ``FlowIntervals``.

    stamps: the text file of intervals. pictures: one PNG per line. resolution: (H, W). Raises
    DataError for anything that does not fit together.
    """

    def __init__(self, stamps: Path, pictures: list[Path], resolution: tuple[int, int]) -> None:
        self._reader = reader("cv2", _PICTURES)
        try:
            micros = np.loadtxt(stamps, np.int64, delimiter=",", ndmin=2)
        except ValueError as error:
            raise DataError(f"{stamps}: expected lines of 'from, to' ({error})") from error
        if micros.shape[1:] != (2,) or len(micros) != len(pictures):
            raise DataError(
                f"{stamps}: {len(micros)} lines of {micros.shape[-1]} numbers for {len(pictures)} "
                "pictures in forward/; expected two numbers per picture"
            )
        self.starts, self.ends = micros[:, 0] / 1e6, micros[:, 1] / 1e6
        bounds = micros.ravel()
        if (bounds[1:] < bounds[:-1]).any() or (self.ends <= self.starts).any():
            raise DataError(f"{stamps}: intervals overlap or run backwards; the file is damaged")
        self._pictures, self._resolution = pictures, resolution

    def read(self, index: int) -> NDArray[np.float32]:
        """Map ``index``: float32 [2, H, W], pixels; 0 in both where it is not valid."""
        path = self._pictures[index]
        data = path.read_bytes()
        pixels = np.frombuffer(data, np.uint8)
        found = None
        if _intact(data):  # the library would write its own complaints
            found = self._reader.imdecode(pixels, self._reader.IMREAD_UNCHANGED)
        if found is None:
            raise DataError(f"{path}: no readable PNG file, it is damaged or cut off")
        if found.dtype != np.uint16 or found.shape != (*self._resolution, 3):
            raise DataError(
                f"{path}: {found.dtype} {found.shape}, expected uint16 {(*self._resolution, 3)}"
            )
        # The library gives the channels in the order blue, green, red.
        valid, y, x = np.moveaxis(found, -1, 0)
        flow = (np.stack([x, y]).astype(np.float32) - _ZERO) / np.float32(_PER_PIXEL)
        flow[0, ~flow.any(axis=0)] = KNOWN_ZERO
        flow[:, valid == 0] = 0
        return flow


def _events(path: Path, maps: Path | None, resolution: tuple[int, int]) -> Iterator[Block]:
    table = None
    if maps is not None:
        with opened(maps) as file:
            places = np.asarray(dataset(maps, file, "rectify_map")[()], np.float64)
        if places.shape != (*resolution, 2):
            raise DataError(f"{maps}: rectify_map is {places.shape}, expected {(*resolution, 2)}")
        # -1 is outside, as is whatever lies further away or is not a number.
        table = np.rint(np.where(np.abs(places) < 1 << 15, places, -1)).astype(np.int64)
    with opened(path) as file:
        offset = _offset(path, file)
        columns = [dataset(path, file, f"events/{name}") for name in "xytp"]
        for start in range(0, columns[0].shape[0], BLOCK):
            xs, ys, ts, ps = (column[start : start + BLOCK] for column in columns)
            block = Block(xs, ys, (ts.astype(np.int64) + offset) / 1e6, ps)
            yield block if table is None else _rectified(block, table)


def _offset(path: Path, file: h5py.File) -> int:
    """Microseconds that the file's times count from."""
    if "t_offset" not in file:
        return 0
    data = dataset(path, file, "t_offset")
    if data.size != 1 or data.dtype.kind not in "iu":
        raise DataError(f"{path}: t_offset is {data.dtype} {data.shape}, expected one integer")
    return int(np.asarray(data[()]).reshape(()))


def _rectified(block: Block, table: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Block:
    height, width = table.shape[:2]
    if len(block.ts) and (block.xs.max() >= width or block.ys.max() >= height):
        raise DataError(f"events outside the rectification map of {width} x {height} pixels")
    xs, ys = table[block.ys, block.xs].T
    inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
    return Block(xs[inside], ys[inside], block.ts[inside], block.ps[inside])

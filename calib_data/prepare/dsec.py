"""DSEC: ``events.h5`` with ``events/{x, y, p, t}`` (t in microseconds), ``t_offset`` and
``ms_to_idx``; beside it ``rectify_map.h5`` with the undistorted place of every pixel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from calib_data.errors import DataError
from calib_data.prepare.columns import dataset, opened
from calib_data.prepare.recording import BLOCK, Block, Recording

SENSOR = (480, 640)


def find(
    root: Path,
    *,
    resolution: tuple[int, int] | None = None,
    camera: str = "left",
    rectify: bool = False,
    **_: object,
) -> list[Recording]:
    """A file, or every SEQUENCE/events/left/events.h5 below ``root`` (right: ``camera``).

    rectify: move events to the nearest pixel of the undistorted image and drop those outside it.
    """
    paths = [root] if root.is_file() else sorted(root.rglob(f"{camera}/events.h5"))
    return [_recording(path, resolution or SENSOR, rectify) for path in paths]


def _recording(path: Path, resolution: tuple[int, int], rectify: bool) -> Recording:
    with opened(path) as file:
        lengths = {name: len(dataset(path, file, f"events/{name}")) for name in "xypt"}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: event columns differ in length ({lengths})")
    name = path.stem
    if name == "events" and len(path.resolve().parts) > 4:
        name = path.resolve().parents[2].name
    maps = path.with_name("rectify_map.h5")
    files = (path, maps) if rectify else (path,)
    if rectify and not maps.is_file():
        raise FileNotFoundError(2, "no such file, which --rectify needs", str(maps))
    return Recording(
        name,
        files,
        resolution,
        lambda: _events(path, maps if rectify else None, resolution),
        total=lengths["t"],
    )


def _events(path: Path, maps: Path | None, resolution: tuple[int, int]) -> Iterator[Block]:
    table = None
    if maps is not None:
        with opened(maps) as file:
            table = np.rint(dataset(maps, file, "rectify_map")[()]).astype(np.int64)
        if table.shape != (*resolution, 2):
            raise DataError(f"{maps}: rectify_map is {table.shape}, expected {(*resolution, 2)}")
    with opened(path) as file:
        offset = int(file["t_offset"][()]) if "t_offset" in file else 0
        columns = [dataset(path, file, f"events/{name}") for name in "xytp"]
        for start in range(0, columns[0].shape[0], BLOCK):
            xs, ys, ts, ps = (column[start : start + BLOCK] for column in columns)
            block = Block(xs, ys, (ts.astype(np.int64) + offset) / 1e6, ps)
            yield block if table is None else _rectified(block, table)


def _rectified(block: Block, table: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Block:
    height, width = table.shape[:2]
    if len(block.ts) and (block.xs.max() >= width or block.ys.max() >= height):
        raise DataError(f"events outside the rectification map of {width} x {height} pixels")
    xs, ys = table[block.ys, block.xs].T
    inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
    return Block(xs[inside], ys[inside], block.ts[inside], block.ps[inside])

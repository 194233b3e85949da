"""MVSEC: the official HDF5 files, ROS bags, and ground-truth flow as HDF5 or NumPy archive.

The structure is that of the public converter of the data set (``mvsec_h5py.py``) and of its page on
the data format.

``NAME_data.hdf5`` holds ``davis/left/events`` float64 [N, 4] (x, y, seconds, polarity -1 or 1),
``image_raw`` uint8 [M, 260, 346] and ``image_raw_ts`` float64 [M] (likewise ``davis/right``).
``NAME_gt.hdf5`` holds ``davis/left/flow_dist`` [K, 2, 260, 346] and ``flow_dist_ts`` [K];
``NAME_gt_flow_dist.npz`` the same as ``x_flow_dist``, ``y_flow_dist`` [K, 260, 346] and
``timestamps`` [K]. ``NAME_data.bag`` (or a folder ``NAME_data``, the bag brought to ROS 2) has
``/davis/left/events`` of ``dvs_msgs/EventArray`` and ``/davis/left/image_raw``; ``NAME_gt.bag`` has
depth and poses, but no flow.
"""

from __future__ import annotations

import abc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.hdf5_trust import member
from calib_data.npz import ARCHIVE_ERRORS
from calib_data.prepare import rosbag
from calib_data.prepare.columns import NpzMaps, dataset, opened
from calib_data.prepare.recording import BLOCK, Block, FlowMaps, Found, Recording, each

DATA_SUFFIXES = ("_data.hdf5", "_data.bag", "_data")
SENSOR = (260, 346)
_CACHED_MAPS = 16
_LARGEST = 1 << 15


def find(root: Path, *, camera: str = "left", **_: object) -> list[Found]:
    """Every sequence at or below ``root``, in the order of their names.

    camera: "left" or "right" (ground truth exists for the left one). A sequence without a file of
    flow is written without. HDF5 is preferred to a bag of the same name.
    """
    found: dict[str, Path] = {}
    paths = rosbag.bags(root, "*_data.bag", "*_data")
    if root.is_dir():
        paths += sorted(root.rglob("*_data.hdf5"))
    for suffix in DATA_SUFFIXES:
        for path in paths:
            if path.name.endswith(suffix):
                found.setdefault(path.name.removesuffix(suffix), path)
    names = {path: name for name, path in sorted(found.items())}
    return each(names, lambda path: _sequence(names[path], path, camera), names.__getitem__)


def _sequence(name: str, path: Path, camera: str) -> Recording:
    if path.suffix != ".hdf5":
        base = rosbag.dvs_recording(
            name,
            path,
            events_topic=f"/davis/{camera}/events",
            images_topic=f"/davis/{camera}/image_raw",
            resolution=SENSOR,
        )
    else:
        base = _hdf5_sequence(name, path, f"davis/{camera}")
    if camera == "right":
        note = "ground-truth flow exists for the left camera: written without flow"
        return replace(base, notes=(note,))
    flow = _ground_truth(name, path.parent)
    if flow is None:
        note = f"no {name}_gt.hdf5 or {name}_gt_flow_dist.npz beside it: written without flow"
        if (path.parent / f"{name}_gt.bag").exists():
            note += f" ({name}_gt.bag holds depth and poses, not flow)"
        return replace(base, notes=(note,))
    file, opener = flow
    return replace(base, files=(*base.files, file), flow=opener)


def _hdf5_sequence(name: str, path: Path, group: str) -> Recording:
    with opened(path) as file:
        events = dataset(path, file, f"{group}/events")
        if len(events.shape) != 2 or events.shape[1] != 4 or events.dtype.kind != "f":
            raise DataError(
                f"{path}: {group}/events is {events.dtype} {events.shape}, expected float [N, 4]"
            )
        total = int(events.shape[0])
        images = member(path, file, f"{group}/image_raw")
        has_images = isinstance(images, h5py.Dataset) and len(images.shape) == 3
        resolution = (int(images.shape[1]), int(images.shape[2])) if has_images else SENSOR
    base = Recording(
        name, (path,), resolution, lambda: _events(path, f"{group}/events"), total=total
    )
    if not has_images:
        return base
    return replace(
        base,
        images=lambda: _images(path, group),
        image_times=lambda: _times(path, f"{group}/image_raw_ts"),
    )


def _events(path: Path, name: str) -> Iterator[Block]:
    with opened(path) as file:
        data = dataset(path, file, name)
        for start in range(0, data.shape[0], BLOCK):
            rows = data[start : start + BLOCK]
            whole = (rows[:, [0, 1, 3]] % 1 == 0) & (np.abs(rows[:, [0, 1, 3]]) < _LARGEST)
            if not whole.all():
                at = int((~whole.all(axis=1)).argmax())
                listed = ", ".join(f"{value:g}" for value in rows[at])
                raise DataError(
                    f"{path}: row {start + at} of {name} is ({listed}), expected whole x, y and p; "
                    "the file is damaged"
                )
            yield Block(
                rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 2], rows[:, 3]
            )


def _images(path: Path, group: str) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    with opened(path) as file:
        images = dataset(path, file, f"{group}/image_raw")
        stamps = dataset(path, file, f"{group}/image_raw_ts")
        if images.dtype != np.uint8 or len(stamps) != len(images):
            raise DataError(
                f"{path}: {group}/image_raw is {images.dtype} with {len(images)} images and "
                f"{len(stamps)} stamps, expected uint8 and as many stamps"
            )
        for number, stamp in enumerate(stamps[()]):
            yield float(stamp), images[number]


def _times(path: Path, name: str) -> NDArray[np.float64]:
    with opened(path) as file:
        data = dataset(path, file, name)
        if data.dtype.kind not in "fiu":
            raise DataError(f"{path}: {name} is {data.dtype}, expected float64 seconds")
        stamps: NDArray[np.float64] = np.asarray(data[()], np.float64)
    return stamps


# --- ground truth ---------------------------------------------------------------------------------


def _ground_truth(name: str, folder: Path) -> tuple[Path, Callable[[], FlowMaps]] | None:
    """The file of a sequence's flow and how to open it; HDF5 first, where it holds flow."""
    hdf5 = folder / f"{name}_gt.hdf5"
    if hdf5.is_file() and _holds_flow(hdf5):
        return hdf5, lambda: Hdf5Flow(hdf5)
    npz = folder / f"{name}_gt_flow_dist.npz"
    if npz.is_file():
        return npz, lambda: NpzFlow(npz)
    return None


def _holds_flow(path: Path) -> bool:
    with opened(path) as file:
        return member(path, file, "davis/left/flow_dist") is not None


class _CachedFlow(abc.ABC):
    """Shared by both forms: checks stamps, keeps the maps that the next interval reads again."""

    def __init__(self, path: Path, stamps: NDArray[np.float64], count: int) -> None:
        if stamps.shape != (count,) or count < 2:
            raise DataError(
                f"{path}: {count} flow maps with stamps {stamps.shape}; expected at least two, one "
                "stamp each"
            )
        later = (stamps[1:] > stamps[:-1]) & np.isfinite(stamps[1:]) & np.isfinite(stamps[:-1])
        if not later.all():
            at = int(later.argmin()) + 1
            raise DataError(
                f"{path}: flow map {at} has stamp {stamps[at]} s, the one before it "
                f"{stamps[at - 1]} s; stamps must increase"
            )
        self.path, self.stamps = path, stamps
        self._cache: OrderedDict[int, NDArray[np.float32]] = OrderedDict()

    def read(self, index: int) -> NDArray[np.float32]:
        """Map ``index``: float32 [2, H, W], pixels until the next; NaN becomes "not known"."""
        if index not in self._cache:
            with np.errstate(over="ignore"):
                flow = np.asarray(self._load(index), np.float32)
            self._cache[index] = np.where(np.isfinite(flow).all(axis=0), flow, np.float32(0))
            while len(self._cache) > _CACHED_MAPS:
                self._cache.popitem(last=False)
        return self._cache[index]

    @abc.abstractmethod
    def _load(self, index: int) -> NDArray[np.floating]: ...


class Hdf5Flow(_CachedFlow):
    """``NAME_gt.hdf5``: a ``FlowMaps``."""

    def __init__(self, path: Path) -> None:
        with opened(path) as file:
            maps = dataset(path, file, "davis/left/flow_dist")
            if len(maps.shape) != 4 or maps.shape[1] != 2:
                raise DataError(f"{path}: flow_dist is {maps.shape}, expected [M, 2, H, W]")
            super().__init__(path, _times(path, "davis/left/flow_dist_ts"), int(maps.shape[0]))
        self._file = h5py.File(path, "r")

    def _load(self, index: int) -> NDArray[np.floating]:
        try:
            values: NDArray[np.floating] = self._file["davis/left/flow_dist"][index]
        except (OSError, RuntimeError) as error:
            raise DataError(f"{self.path}: flow map {index} cannot be read ({error})") from error
        return values

    def check(self) -> None:
        """Nothing to do: reading finds damage as far as HDF5 can."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class NpzFlow(_CachedFlow):
    """``NAME_gt_flow_dist.npz``: a ``FlowMaps``."""

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as archive:
                stamps = np.asarray(archive["timestamps"], np.float64)
            self._x, self._y = NpzMaps(path, "x_flow_dist"), NpzMaps(path, "y_flow_dist")
        except ARCHIVE_ERRORS as error:
            raise DataError(
                f"{path}: expected arrays x_flow_dist, y_flow_dist and timestamps ({error})"
            ) from error
        if self._x.shape != self._y.shape or self._x.count != self._y.count:
            raise DataError(f"{path}: x_flow_dist and y_flow_dist differ in shape")
        super().__init__(path, stamps, self._x.count)

    def _load(self, index: int) -> NDArray[np.floating]:
        return np.stack([self._x.read(index), self._y.read(index)])

    def check(self) -> None:
        """Raise DataError unless the archive's checksums are right."""
        self._x.check()
        self._y.check()

    def close(self) -> None:
        """Close the archive."""
        self._x.close()
        self._y.close()

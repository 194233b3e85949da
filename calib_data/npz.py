"""Recordings in .npz files, and opening a recording whatever its format."""

from __future__ import annotations

import errno
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.events import Events, EventSource, check_kinds, check_resolution, checked_events
from calib_data.hdf5 import EventFile

MAX_CLIP_BYTES = 4 << 30
"""Clips are loaded as a whole; longer recordings are HDF5 files."""

HDF5_SUFFIXES = (".h5", ".hdf5")

ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    AttributeError,
    KeyError,
    ValueError,
    SyntaxError,  # these two of an array's head
    tokenize.TokenError,
    NotImplementedError,  # of an unknown compression
    RuntimeError,  # of an encrypted archive
)
"""What Python and NumPy raise for a damaged .zip or .npz file."""


class NpzEvents:
    """Events from a NumPy archive: the interface of ``EventFile``, without flow and images.

    The archive holds ``xs, ys`` (integers), ``ts`` (float64, seconds since the start) and ``ps``
    (bool), and may hold ``sensor_size`` [H, W] and ``t0`` (absolute seconds of the start). Such
    clips are short: the whole archive is loaded and checked at once.

    resolution: (H, W), needed only where the archive has no sensor_size. Raises FileNotFoundError,
    or DataError for an archive that holds something else.
    """

    path: Path
    resolution: tuple[int, int]
    t0: float
    duration: float
    num_events: int

    def __init__(
        self, path: str | os.PathLike[str], resolution: tuple[int, int] | None = None
    ) -> None:
        self.path = Path(path)
        arrays = _load(self.path)
        missing = [name for name in ("xs", "ys", "ts", "ps") if name not in arrays]
        if missing:
            raise DataError(
                f"{self.path}: no array '{missing[0]}'; expected xs, ys, ts, ps, sensor_size, t0"
            )
        columns = arrays["xs"], arrays["ys"], arrays["ts"], arrays["ps"]
        check_kinds(str(self.path), *columns)
        self.resolution = self._find_resolution(arrays, resolution)
        self._events = checked_events(
            str(self.path), columns, first=0, clock=0.0, resolution=self.resolution
        )
        self.num_events = len(self._events)
        self.t0 = self._find_t0(arrays)
        self.duration = float(self._events.ts[-1]) if self.num_events else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open; here so that both formats are closed alike."""

    def read(self, start: int, stop: int) -> Events:
        """Events start..stop-1, ts in seconds since t0; DataError for a range outside the clip."""
        if not 0 <= start <= stop <= self.num_events:
            raise DataError(
                f"{self.path}: events {start}..{stop} asked for, the file has {self.num_events}"
            )
        return self._events.slice(start, stop)

    def index_at(self, seconds: float) -> int:
        """Number of the first event with ts >= seconds; num_events if none."""
        return int(np.searchsorted(self._events.ts, seconds, side="left"))

    def flow_times(self, dt: str) -> NDArray[np.float64]:
        """Always DataError: these clips carry no flow."""
        raise self._lacks("ground-truth flow")

    def read_flow(self, dt: str, index: int) -> NDArray[np.float32]:
        """Always DataError: these clips carry no flow."""
        raise self._lacks("ground-truth flow")

    def image_times(self) -> NDArray[np.float64]:
        """Always DataError: these clips carry no images."""
        raise self._lacks("images")

    def read_image(self, index: int) -> NDArray[np.uint8]:
        """Always DataError: these clips carry no images."""
        raise self._lacks("images")

    def _lacks(self, what: str) -> DataError:
        return DataError(f"{self.path}: .npz clips have no {what}; use mode 'events' or 'time'")

    def _find_t0(self, arrays: dict[str, NDArray[Any]]) -> float:
        if "t0" not in arrays:
            return 0.0
        t0 = arrays["t0"]
        if t0.size != 1 or t0.dtype.kind not in "iuf" or not np.isfinite(t0).all():
            raise DataError(f"{self.path}: t0 is not a number of seconds")
        return float(t0.reshape(()))

    def _find_resolution(
        self, arrays: dict[str, NDArray[Any]], given: tuple[int, int] | None
    ) -> tuple[int, int]:
        if "sensor_size" not in arrays:
            if given is None:
                raise DataError(
                    f"{self.path}: no array 'sensor_size'; pass the resolution (H W) instead"
                )
            return check_resolution(str(self.path), given)
        size = arrays["sensor_size"]
        if size.shape != (2,) or size.dtype.kind not in "iu":
            raise DataError(f"{self.path}: sensor_size is not [H, W]")
        return check_resolution(str(self.path), (int(size[0]), int(size[1])))


def open_events(
    path: str | os.PathLike[str], resolution: tuple[int, int] | None = None
) -> EventSource:
    """Open a recording for reading by its suffix: .h5 and .hdf5 (EventFile) or .npz (NpzEvents).

    resolution: (H, W), for files that do not tell their own. Raises FileNotFoundError, or DataError
    for another suffix or an unusable file.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npz":
        return NpzEvents(path, resolution)
    if suffix in HDF5_SUFFIXES:
        return EventFile(path, resolution)
    raise DataError(
        f"{path}: unknown kind of recording; expected .h5, .hdf5 or .npz "
        "(python -m calib_data.prepare makes .h5 files of others)"
    )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an archive; nothing in it is unpickled."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        with zipfile.ZipFile(path) as listed:
            size = sum(entry.file_size for entry in listed.infolist())
        if size > MAX_CLIP_BYTES:
            raise DataError(
                f"{path}: holds {size:,} bytes when unpacked, more than a clip's "
                f"{MAX_CLIP_BYTES:,}; bring it to .h5, which is streamed"
            )
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except MemoryError as error:
        raise DataError(f"{path}: an array claims more than memory holds; it is damaged") from error
    except DataError:
        raise
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path}: no readable .npz archive, it may be cut off ({error})") from error
    for name, array in arrays.items():
        # NumPy hands on the bytes of what does not begin like an array.
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path}: {name!r} is no array; the archive is damaged")
    return arrays

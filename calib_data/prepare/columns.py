"""Reading columns and maps out of HDF5 and NumPy files block by block."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.hdf5_trust import member, names
from calib_data.npz import ARCHIVE_ERRORS


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file opened for reading; whatever the library raises inside becomes a DataError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read, it is damaged or cut off ({error})") from error


def dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset by name; DataError when there is none, or none that can be trusted and read."""
    node = member(path, file, name)
    if not isinstance(node, h5py.Dataset):
        present = ", ".join(names(path, file)) or "nothing"
        raise DataError(f"{path}: no dataset '{name}' (at the top the file has: {present})")
    return node


class NpzMaps:
    """An array [M, ...] inside an .npz archive, read map by map in increasing order.

    Memory holds one map, whether the archive is compressed or not. Going back starts again from the
    first map. Raises DataError for what is no such array.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._stream: IO[bytes] | None = None
        self._archive = zipfile.ZipFile(path)
        self._restart()

    def read(self, index: int) -> NDArray[Any]:
        """Map ``index`` [...]."""
        if not 0 <= index < self.count:
            raise DataError(f"{self._path}: {self._name} has {self.count} maps, {index} asked for")
        if index < self._next:
            self._restart()
        assert self._stream is not None
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        try:
            while self._next < index:
                self._stream.read(size)
                self._next += 1
            data = self._stream.read(size)
        except ARCHIVE_ERRORS as error:
            raise DataError(f"{self._path}: {self._name} cannot be read ({error})") from error
        self._next += 1
        if len(data) != size:
            raise DataError(f"{self._path}: {self._name} ends before map {index}")
        values: NDArray[Any] = np.frombuffer(data, self.dtype).reshape(self.shape)
        return values

    def check(self) -> None:
        """Read to the end, where the archive's checksum is compared; DataError if it is wrong."""
        assert self._stream is not None
        try:
            while self._stream.read(1 << 22):
                pass
        except ARCHIVE_ERRORS as error:
            raise DataError(f"{self._path}: {self._name} is damaged ({error})") from error
        self._next = self.count

    def close(self) -> None:
        """Close the archive."""
        if self._stream is not None:
            self._stream.close()
        self._archive.close()

    def _restart(self) -> None:
        if self._stream is not None:
            self._stream.close()
        try:
            self._stream = self._archive.open(f"{self._name}.npy")
            version = np.lib.format.read_magic(self._stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = read_header(self._stream)
        except ARCHIVE_ERRORS as error:
            raise DataError(f"{self._path}: no readable array '{self._name}' ({error})") from error
        if fortran or len(shape) < 2 or dtype.kind not in "f":
            raise DataError(
                f"{self._path}: {self._name} is {dtype} {shape}, expected floating-point maps "
                "one after another"
            )
        self.count, self.shape, self.dtype = shape[0], shape[1:], dtype
        self._next = 0

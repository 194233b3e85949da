"""What of a stranger's HDF5 file is read: what lies in the file itself, and no more than it holds.

HDF5 can point elsewhere in four ways: links to other files, links by name inside one, data sets
whose bytes are stored in another file, and virtual ones composed of others. It can also claim more
than there is: a data set whose chunks were never written takes no room and reads as fill values,
billions of them.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from pathlib import Path
from typing import Any

import h5py

from calib_data.errors import DataError

MAX_CHUNK_BYTES = 256 << 20
"""A chunk is decompressed as a whole, whatever part of it is asked for."""

MAX_RATIO = 4096
"""Values per stored byte that no compression of real columns reaches (deflate ends near 1032)."""

SMALL_BYTES = 1 << 20
"""What a data set may hold without any stored byte, such as a column of fill values."""


def member(path: Path, group: h5py.Group, name: str) -> Any:
    """The group or data set of that name, or None where there is none.

    Args:
        path: of the file, for messages.
        group: where to start; the file itself, for example.
        name: with ``/`` between the levels.

    Raises:
        DataError: the way there is a link, or the data set is none of :func:`check_dataset`.
    """
    node: Any = group
    for part in name.split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise DataError(
                f"{path}: '{name}' is a link to {_target(link)}, which is not followed; copy the "
                "data into the file"
            )
        node = node[part]
    if isinstance(node, h5py.Dataset):
        check_dataset(path, node)
    return node


def names(path: Path, group: h5py.Group) -> list[str]:
    """Names of a group's members, in order; DataError for one that is no text."""
    found = list(group)
    if not all(isinstance(name, str) for name in found):
        raise DataError(f"{path}: a name in {group.name} is not UTF-8; the file is damaged")
    return sorted(found)


def _target(link: Any) -> str:
    if isinstance(link, h5py.ExternalLink):
        return f"'{link.path}' in the file '{link.filename}'"
    return f"'{link.path}'" if isinstance(link, h5py.SoftLink) else "another place"


def check_dataset(path: Path, data: h5py.Dataset) -> None:
    """Refuse a data set whose values lie elsewhere, are fewer than it claims, or unreadable here.

    Raises:
        DataError: naming file, data set and what to do.
    """
    if data.external or data.is_virtual:
        raise DataError(
            f"{path}: {data.name} keeps its values in other files, which are not opened; copy "
            "them into this one (h5repack)"
        )
    if data.chunks is not None and math.prod(data.chunks) * data.dtype.itemsize > MAX_CHUNK_BYTES:
        raise DataError(
            f"{path}: {data.name} has chunks of {data.chunks} values, more than "
            f"{MAX_CHUNK_BYTES >> 20} MiB each; write it with smaller ones (h5repack)"
        )
    claimed = math.prod(data.shape or ()) * data.dtype.itemsize
    stored = data.id.get_storage_size()
    if claimed > SMALL_BYTES + MAX_RATIO * stored:
        raise DataError(
            f"{path}: {data.name} claims {claimed:,} bytes of values, but the file holds "
            f"{stored:,} for it; it is cut off or damaged"
        )
    check_filters(path, data)


def check_filters(path: Path, data: h5py.Dataset) -> None:
    """Raise DataError for a dataset compressed with a filter that this HDF5 library lacks."""
    plist = data.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(number)
        if h5py.h5z.filter_avail(code):
            continue
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # registers its filters with h5py
        if not h5py.h5z.filter_avail(code):
            label = name.decode(errors="replace") or "unnamed"
            raise DataError(
                f"{path}: {data.name} is compressed with HDF5 filter {code} ({label}), which is "
                "not installed; pip install hdf5plugin"
            )

"""What every source format is brought to before it is written: blocks of events, images, flow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.events import check_resolution

BLOCK = 1 << 19
"""Events held in memory at a time."""

EXTRA = "io"


class Block(NamedTuple):
    """Events as a source holds them: xs, ys integers; ts float64, seconds on the source's clock;
    ps bool, {0, 1} or {-1, 1}. All [N]."""

    xs: NDArray[Any]
    ys: NDArray[Any]
    ts: NDArray[np.float64]
    ps: NDArray[Any]


class FlowMaps(Protocol):
    """Ground-truth maps of a source.

    stamps: float64 [M], seconds on the clock of the events, increasing. Map m holds where each
    pixel at stamps[m] has gone until stamps[m + 1], in pixels.
    """

    stamps: NDArray[np.float64]

    def read(self, index: int) -> NDArray[np.float32]:
        """Map ``index``: float32 [2, H, W] (x right, y down); both 0 where nothing is known."""
        ...

    def check(self) -> None:
        """Called after the last map was read: raise DataError where one was damaged."""
        ...

    def close(self) -> None: ...


class FlowIntervals(Protocol):
    """Ground-truth maps of a source that come with their own intervals.

    starts, ends: float64 [M], seconds on the clock of the events; no interval begins before the one
    before it has ended. Map m holds where each pixel at starts[m] has gone until ends[m], pixels.
    """

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]

    def read(self, index: int) -> NDArray[np.float32]:
        """Map ``index``: as of ``FlowMaps``."""
        ...


def _no_images() -> Iterator[tuple[float, NDArray[np.uint8]]]:
    return iter(())


@dataclass(frozen=True)
class Recording:
    """One sequence of a source format, opened when its parts are asked for.

    name: of the sequence; the output is NAME.h5. files: what it is read from. resolution: (H, W).
    events: gives the blocks. total: events in all, where it is known beforehand. images: gives
    (seconds, uint8 [H, W]) in time order. image_times: float64 [M], where they are known without
    reading images. flow: opens the ground truth that is brought to the images; intervals: that
    which is taken as it is. notes: told in the summary. attributes: written into the file.
    """

    name: str
    files: tuple[Path, ...]
    resolution: tuple[int, int]
    events: Callable[[], Iterator[Block]]
    total: int | None = None
    images: Callable[[], Iterator[tuple[float, NDArray[np.uint8]]]] = _no_images
    image_times: Callable[[], NDArray[np.float64]] | None = None
    flow: Callable[[], FlowMaps] | None = None
    intervals: Callable[[], FlowIntervals] | None = None
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unreadable:
    """A source in which no recording could be opened, and why."""

    name: str
    error: Exception


Found = Recording | Unreadable


def each(
    paths: Iterable[Path],
    opener: Callable[[Path], Recording],
    name: Callable[[Path], str] = lambda path: path.stem,
) -> list[Found]:
    """The recordings at ``paths``; a damaged one does not keep the others from being opened."""
    found: list[Found] = []
    for path in paths:
        try:
            found.append(opener(path))
        except (DataError, OSError) as error:
            found.append(Unreadable(name(path), error))
    return found


class MissingReader(ImportError):
    """The package that reads a format is not installed."""

    user_error = True


def reader(package: str, what: str) -> ModuleType:
    """Import the package that reads a format; MissingReader names the extra that brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingReader(
            f"{what} needs the package {package!r}, which is not installed; "
            f"pip install 'spikedeploy[{EXTRA}]'"
        ) from error


def demand_resolution(
    where: Path, found: tuple[int, int] | None, given: tuple[int, int] | None
) -> tuple[int, int]:
    """The sensor's size: what the source tells, else what the user gave, else DataError."""
    size = found or given
    if size is None:
        raise DataError(f"{where}: does not tell its sensor's size; pass --resolution H W")
    return check_resolution(str(where), size)

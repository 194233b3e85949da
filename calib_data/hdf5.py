"""Recordings in the HDF5 layout of event_flow: streamed reading and writing.

One file per recording::

    events/xs, events/ys   int16   [N]    column and row
    events/ts              float64 [N]    seconds on an absolute clock, non-decreasing
    events/ps              bool    [N]    True where the pixel became brighter
    flow_dt1/flow%09d      float   [2,H,W], attribute timestamp; likewise flow_dt4
    images/image%09d       uint8   [H,W], attribute timestamp
    root attributes        t0, duration [s], sensor_resolution [H, W]

Flow is the displacement in pixels (x right, y down) over the interval that ends at the map's
timestamp; a pixel whose two components are exactly 0 has no ground truth. Maps and images are
taken in the order of their names, so names are zero-padded.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.events import Events, check_kinds, check_resolution, checked_events
from calib_data.files import atomic_path
from calib_data.hdf5_trust import member, names

FLOW_GROUPS = {"dt1": "flow_dt1", "dt4": "flow_dt4"}

COMPRESSIONS = ("gzip", "lzf", "blosc")

SEARCH_BLOCK = 4096
"""Timestamps read at once when a time is searched on disk."""

WRITE_CHUNK = 65536
"""Events per HDF5 chunk in files that are written here."""

_KINDS: dict[str, type[np.generic]] = {
    "xs": np.int16,
    "ys": np.int16,
    "ts": np.float64,
    "ps": np.bool_,
}


class EventFile:
    """A recording opened for reading; events are streamed, never all loaded.

    path: the file. resolution: (H, W), needed only where the file does not tell its own (attribute
    ``sensor_resolution``, else the shape of a flow map, else of an image).

    A file without ``t0`` starts its clock at the first event; one without ``duration`` lasts until
    the last. A file whose last event lies before ``t0`` was written with times already relative to
    it (a known converter does that), and nothing is subtracted.

    Raises FileNotFoundError, or DataError for what is not such a recording.
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
        self._file = _open(self.path)
        try:
            with self._reading("the structure"):
                self._columns = self._event_columns()
                self.num_events = int(self._columns["ts"].shape[0])
                self._members: dict[str, tuple[list[str], NDArray[np.float64]]] = {}
                self._probes: dict[int, float] = {}
                self.resolution = self._find_resolution(resolution)
                self.t0, self._clock, self.duration = self._find_clock()
        except BaseException:
            self._file.close()
            raise

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
        """Close the file; reading afterwards is an error."""
        self._file.close()

    # --- events -------------------------------------------------------------------------------

    def read(self, start: int, stop: int) -> Events:
        """Events start..stop-1, ts in seconds since t0.

        Raises DataError for a range outside the file, a coordinate outside the sensor, or a
        timestamp that is not finite or goes back (the event before ``start`` is compared too).
        """
        if not 0 <= start <= stop <= self.num_events:
            raise DataError(
                f"{self.path}: events {start}..{stop} asked for, the file has {self.num_events}"
            )
        if start == stop:
            return Events.empty()
        before = max(start - 1, 0)
        with self._reading("events"):
            xs, ys, ts, ps = (self._columns[name][before:stop] for name in ("xs", "ys", "ts", "ps"))
        events = checked_events(
            str(self.path),
            (xs, ys, ts, ps),
            first=before,
            clock=self._clock,
            resolution=self.resolution,
        )
        return events.slice(start - before, stop - before)

    def index_at(self, seconds: float) -> int:
        """Number of the first event with ts >= seconds (seconds since t0); num_events if none."""
        low, high = 0, -(-self.num_events // SEARCH_BLOCK)
        # Invariant: the first event of every block below `low` is earlier than `seconds`, that
        # of block `high` and of every later block is not. Times are compared since t0, as stamps
        # are: adding t0 back to one would round it past the event it belongs to.
        while low < high:
            middle = (low + high) // 2
            if self._probe(middle) < seconds:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return 0
        start = (low - 1) * SEARCH_BLOCK
        with self._reading("events/ts"):
            block = self._columns["ts"][start : min(start + SEARCH_BLOCK, self.num_events)]
        return start + int(np.searchsorted(block - self._clock, seconds, side="left"))

    def _probe(self, block: int) -> float:
        """Time of the first event of a search block, in seconds since t0, remembered."""
        if block not in self._probes:
            at = block * SEARCH_BLOCK
            with self._reading("events/ts"):
                value = float(self._columns["ts"][at])
            if not np.isfinite(value):
                raise DataError(f"{self.path}: event {at} has timestamp {value}; remove it")
            self._probes[block] = value - self._clock
        return self._probes[block]

    # --- flow and images ----------------------------------------------------------------------

    def flow_times(self, dt: str) -> NDArray[np.float64]:
        """Stamps of the flow maps of ``dt`` ("dt1" or "dt4"): float64 [M], seconds since t0.

        Raises DataError when the file has no such maps or a stamp is missing or out of order.
        """
        return self._group(_flow_group(dt))[1] - self._clock

    def read_flow(self, dt: str, index: int) -> NDArray[np.float32]:
        """Flow map ``index`` of ``dt``: float32 [2, H, W], pixels over the interval ending there.

        Both components 0 means no ground truth. Raises DataError for a wrong index, shape or NaN.
        """
        found = self._member(_flow_group(dt), index, "f", (2, *self.resolution))
        flow: NDArray[np.float32] = found.astype(np.float32)
        if not np.isfinite(flow).all():
            raise DataError(
                f"{self.path}: {_flow_group(dt)} map {index} holds NaN or infinity; set "
                "pixels without ground truth to 0"
            )
        return flow

    def image_times(self) -> NDArray[np.float64]:
        """Stamps of the images: float64 [M], seconds since t0; DataError when there are none."""
        return self._group("images")[1] - self._clock

    def read_image(self, index: int) -> NDArray[np.uint8]:
        """Grey image ``index``: uint8 [H, W]; DataError for a wrong index, shape or type."""
        image: NDArray[np.uint8] = self._member("images", index, "u", self.resolution)
        if image.dtype != np.uint8:
            raise DataError(f"{self.path}: image {index} is {image.dtype}, expected uint8")
        return image

    def _group(self, group: str) -> tuple[list[str], NDArray[np.float64]]:
        """Names and absolute stamps of a group's members, in the order of their names."""
        if group not in self._members:
            with self._reading(group):
                node = member(self.path, self._file, group)
                if not isinstance(node, h5py.Group) or not len(node):
                    present = ", ".join(names(self.path, self._file)) or "nothing"
                    raise DataError(
                        f"{self.path}: no group '{group}' with members (the file has: {present}); "
                        "choose another mode or another file"
                    )
                self._members[group] = self._stamped(group, node)
        return self._members[group]

    def _stamped(self, group: str, node: h5py.Group) -> tuple[list[str], NDArray[np.float64]]:
        found = names(self.path, node)
        stamps = np.array([self._stamp(node, group, name) for name in found])
        if (stamps[1:] <= stamps[:-1]).any():
            at = int((stamps[1:] <= stamps[:-1]).argmax()) + 1
            raise DataError(
                f"{self.path}: the timestamp of {group}/{found[at]} is not later than that of "
                f"{group}/{found[at - 1]}; name the members in time order, zero-padded"
            )
        return found, stamps

    def _stamp(self, node: h5py.Group, group: str, name: str) -> float:
        found = member(self.path, node, name)
        if found is None:
            raise DataError(f"{self.path}: {group} has a member {name!r} that is not there")
        return _number(self.path, f"{group}/{name}", found.attrs, "timestamp")

    def _member(self, group: str, index: int, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
        found = self._group(group)[0]
        if not 0 <= index < len(found):
            raise DataError(
                f"{self.path}: {group} has members 0..{len(found) - 1}, {index} asked for"
            )
        name = f"{group}/{found[index]}"
        with self._reading(name):
            node = member(self.path, self._file, name)
            if not isinstance(node, h5py.Dataset) or node.dtype.kind != kind:
                wanted = {"f": "a floating-point array", "u": "a uint8 array"}[kind]
                raise DataError(f"{self.path}: {name} is not {wanted}")
            if node.shape != shape:
                raise DataError(f"{self.path}: {name} has shape {node.shape}, expected {shape}")
            return np.asarray(node[()])

    # --- opening ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn the HDF5 library's errors into one DataError naming the file and the dataset."""
        if not self._file:
            raise DataError(f"{self.path}: the file was closed; open it again to read {what}")
        try:
            yield
        except DataError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{self.path}: {what} cannot be read, the file is damaged or cut off ({error})"
            ) from error

    def _event_columns(self) -> dict[str, h5py.Dataset]:
        columns: dict[str, h5py.Dataset] = {}
        for name in ("xs", "ys", "ts", "ps"):
            node = member(self.path, self._file, f"events/{name}")
            if not isinstance(node, h5py.Dataset):
                raise DataError(
                    f"{self.path}: no dataset 'events/{name}'; expected the event_flow layout "
                    "(events/xs, events/ys, events/ts, events/ps), which "
                    "python -m calib_data.prepare brings recordings to"
                )
            columns[name] = node
        check_kinds(str(self.path), columns["xs"], columns["ys"], columns["ts"], columns["ps"])
        return columns

    def _find_resolution(self, given: tuple[int, int] | None) -> tuple[int, int]:
        found = self._own_resolution() or given
        if found is None:
            raise DataError(
                f"{self.path}: the file does not tell its sensor's size; pass the resolution (H W)"
            )
        return check_resolution(str(self.path), found)

    def _own_resolution(self) -> tuple[int, ...] | None:
        """What the file says of its sensor's size: attribute, else a flow map, else an image."""
        if "sensor_resolution" in self._file.attrs:
            value = np.asarray(self._file.attrs["sensor_resolution"])
            known = value.shape == (2,) and value.dtype.kind in "iuf" and np.isfinite(value).all()
            if not known:
                raise DataError(f"{self.path}: attribute sensor_resolution is not [H, W]")
            return tuple(int(size) for size in value)
        for group in (*FLOW_GROUPS.values(), "images"):
            node = member(self.path, self._file, group)
            if isinstance(node, h5py.Group) and len(node):
                first = member(self.path, node, names(self.path, node)[0])
                if isinstance(first, h5py.Dataset) and len(first.shape) >= 2:
                    return tuple(int(size) for size in first.shape[-2:])
        return None

    def _find_clock(self) -> tuple[float, float, float]:
        """(t0, seconds to subtract from every stamp, duration)."""
        attributes = self._file.attrs
        first = last = 0.0
        if self.num_events:
            first = float(self._columns["ts"][0])
            last = float(self._columns["ts"][self.num_events - 1])
            if not np.isfinite([first, last]).all():
                raise DataError(f"{self.path}: the first or last timestamp is not finite")
        t0 = _number(self.path, "the file", attributes, "t0") if "t0" in attributes else first
        clock = 0.0 if self.num_events and last < t0 else t0
        duration = max(last - clock, 0.0)
        if "duration" in attributes:
            duration = _number(self.path, "the file", attributes, "duration")
        return t0, clock, duration


class EventFileWriter:
    """Streaming writer of the same layout; the file appears under its name only once complete.

    path: the file to write (replaced if it exists). resolution: (H, W). t0: absolute time in
    seconds that second 0 stands for. compression: None, "gzip", "lzf" or "blosc" (faster; needs
    hdf5plugin, here and where the file is read). attributes: further root attributes. Used as a
    context manager; an exception inside leaves nothing behind.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: tuple[int, int],
        *,
        t0: float = 0.0,
        compression: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.resolution = resolution
        self.t0 = t0
        self._compression = _compression(self.path, compression)
        self._last = -np.inf
        self._positive = 0
        self._counts: dict[str, int] = {}
        self._last_stamp: dict[str, float] = {}
        self._stack = contextlib.ExitStack()
        temporary = self._stack.enter_context(atomic_path(self.path))
        with self._dropped_on_error():
            self._sink = self._stack.enter_context(_Sink(temporary, self.path))
            self._file = self._stack.enter_context(h5py.File(self._sink, "w"))
            self._file.attrs["t0"] = float(t0)
            self._file.attrs["sensor_resolution"] = np.array(resolution, np.int64)
            for name, value in (attributes or {}).items():
                self._file.attrs[name] = value
            self._columns = {name: self._column(name, kind) for name, kind in _KINDS.items()}

    def _column(self, name: str, kind: type[np.generic]) -> h5py.Dataset:
        return self._file.create_dataset(
            f"events/{name}",
            (0,),
            kind,
            maxshape=(None,),
            chunks=(WRITE_CHUNK,),
            **self._compression,
        )

    @contextlib.contextmanager
    def _dropped_on_error(self) -> Iterator[None]:
        """Close and delete the temporary file when the block fails."""
        try:
            yield
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._stack.__exit__(kind, error, trace)

    @property
    def num_events(self) -> int:
        """Events written so far."""
        return int(self._columns["ts"].shape[0])

    def append(self, events: Events) -> None:
        """Add events, ts in seconds since t0, none earlier than those added before."""
        if not len(events):
            return
        checked_events(
            str(self.path),
            (events.xs, events.ys, events.ts, events.ps),
            first=self.num_events,
            clock=0.0,
            resolution=self.resolution,
        )
        if events.ts[0] < self._last:
            raise DataError(f"{self.path}: events appended out of time order")
        self._last = float(events.ts[-1])
        self._positive += int((events.ps > 0).sum())
        start = self.num_events
        values = {
            "xs": events.xs,
            "ys": events.ys,
            "ts": events.ts + self.t0,
            "ps": events.ps > 0,
        }
        for name, column in self._columns.items():
            column.resize((start + len(events),))
            column[start:] = values[name]
            self._sink.check()

    def add_flow(self, dt: str, seconds: float, flow: NDArray[np.floating[Any]]) -> None:
        """Add the flow map [2, H, W] of the interval that ends at ``seconds`` since t0."""
        if flow.shape != (2, *self.resolution):
            raise DataError(
                f"{self.path}: flow map of shape {flow.shape}, expected {(2, *self.resolution)}"
            )
        self._add(_flow_group(dt), "flow", seconds, flow.astype(np.float32))

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set further root attributes, known only once events were seen."""
        for name, value in attributes.items():
            self._file.attrs[name] = value

    def add_image(self, seconds: float, image: NDArray[np.uint8]) -> None:
        """Add a grey image, uint8 [H, W], taken ``seconds`` since t0."""
        if image.shape != self.resolution or image.dtype != np.uint8:
            raise DataError(
                f"{self.path}: image is {image.dtype} {image.shape}, "
                f"expected uint8 {self.resolution}"
            )
        self._add("images", "image", seconds, image)

    def close(self, duration: float | None = None) -> None:
        """Write the totals and put the file in place; a second call does nothing.

        duration: seconds; by default until the last event, map or image.
        """
        if not self._file:
            return
        last = max([self._last, *self._last_stamp.values(), 0.0])
        with self._dropped_on_error():
            self._file.attrs["duration"] = float(last if duration is None else duration)
            self._file.attrs["num_events"] = self.num_events
            self._file.attrs["num_pos"] = self._positive
            self._file.attrs["num_neg"] = self.num_events - self._positive
            self._file.attrs["num_imgs"] = self._counts.get("images", 0)
            self._file.close()
            self._sink.check()
        self._stack.close()

    def _add(self, group: str, prefix: str, seconds: float, values: NDArray[Any]) -> None:
        if seconds <= self._last_stamp.get(group, -np.inf):
            raise DataError(f"{self.path}: {group} stamps must increase, got {seconds} s")
        number = self._counts.get(group, 0)
        data = self._file.create_dataset(
            f"{group}/{prefix}{number:09d}", data=values, **self._compression
        )
        data.attrs["timestamp"] = seconds + self.t0
        self._sink.check()
        self._counts[group] = number + 1
        self._last_stamp[group] = seconds


class _Sink(io.RawIOBase):
    """A file for the HDF5 library to write to, which it can close even when the disk is full.

    The library, told that a write failed, keeps the file open for ever and ends the process with a
    crash. So a failure is kept for ``check`` to raise, and what is written after it is dropped.
    """

    def __init__(self, temporary: Path, target: Path) -> None:
        super().__init__()
        self._target = target
        self._raw = open(temporary, "w+b", buffering=0)  # noqa: SIM115
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the OSError of the first write that failed, naming the file."""
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror, str(self._target))

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._raw.readinto(buffer) or 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self._error is None and done < len(view):
                done += self._raw.write(view[done:])
        except OSError as error:
            self._error = error
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def close(self) -> None:
        self._raw.close()
        super().close()


def _open(path: Path) -> h5py.File:
    """Open for reading; a file that is missing keeps its OSError, anything else is a DataError."""
    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    if path.is_dir():
        raise DataError(f"{path} is a folder; name one .h5 file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path}: no readable HDF5 file, it may be cut off; write or fetch it again ({error})"
        ) from error


def _compression(path: Path, name: str | None) -> dict[str, Any]:
    """Arguments of create_dataset for a compression by name."""
    if name not in (None, *COMPRESSIONS):
        raise DataError(f"{path}: compression must be None or one of {', '.join(COMPRESSIONS)}")
    if name != "blosc":
        return {"compression": name}
    try:
        plugin = importlib.import_module("hdf5plugin")
    except ImportError as error:
        raise DataError(f"{path}: compression blosc needs hdf5plugin; pip install it") from error
    filters: dict[str, Any] = dict(plugin.Blosc(cname="zstd", clevel=5, shuffle=1))
    return filters


def _flow_group(dt: str) -> str:
    if dt not in FLOW_GROUPS:
        raise DataError(f"unknown flow interval '{dt}'; choose one of {', '.join(FLOW_GROUPS)}")
    return FLOW_GROUPS[dt]


def _number(path: Path, where: str, attributes: h5py.AttributeManager, name: str) -> float:
    """A finite scalar attribute, or a DataError naming it."""
    if name not in attributes:
        raise DataError(f"{path}: {where} has no attribute '{name}'")
    value = np.asarray(attributes[name])
    if value.size != 1 or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise DataError(f"{path}: attribute '{name}' of {where} is not a finite number")
    return float(value.reshape(()))

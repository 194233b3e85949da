"""Writing one recording in the event_flow layout: streamed, verified and summed up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from calib_data.console import progress
from calib_data.errors import DataError
from calib_data.events import Events
from calib_data.hdf5 import FLOW_GROUPS, EventFile, EventFileWriter
from calib_data.prepare.accumulation import flow_between
from calib_data.prepare.ordering import REORDER_S, TimeOrder
from calib_data.prepare.recording import BLOCK, Block, Recording
from calib_data.statistics import EventStatistics

LAYOUT_VERSION = 2
"""Raised when the same source and options would give another file; resumed runs then redo it."""

FRAMES_PER_MAP = {"dt1": 1, "dt4": 4}

HOT_PIXELS_KEPT = 100
"""Hot pixels written into the file's attributes, the most active first."""


@dataclass(frozen=True)
class Options:
    """How a recording is written.

    crop: (H, W) about the sensor's centre, None for the whole sensor. compression: of
    ``EventFileWriter``. reorder_s, drop_late: of ``TimeOrder``. start, stop: the part to write,
    seconds since the first event; stop None for all. images: whether to write them.
    """

    crop: tuple[int, int] | None = None
    compression: str | None = "gzip"
    reorder_s: float = REORDER_S
    drop_late: bool = False
    start: float = 0.0
    stop: float | None = None
    images: bool = True


@dataclass(frozen=True)
class Summary:
    """What was written: counts, seconds, events per second, and what was left out and why."""

    name: str
    path: str
    resolution: tuple[int, int]
    t0: float
    events: int
    duration_s: float
    rate_hz: float
    positive_share: float
    hot_pixels: tuple[tuple[int, int, float], ...]
    flow_maps_dt1: int
    flow_maps_dt4: int
    images: int
    outside_crop: int
    reordered: int
    dropped_late: int
    bytes: int
    verified: bool
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON: NaN, which JSON has not, becomes None."""
        values = asdict(self)
        return {name: None if value != value else value for name, value in values.items()}


class _Window:
    """The part of the sensor that is kept: offsets and size, and events and arrays cut to it."""

    def __init__(self, where: Path, sensor: tuple[int, int], crop: tuple[int, int] | None) -> None:
        self.height, self.width = crop or sensor
        if self.height > sensor[0] or self.width > sensor[1] or min(self.height, self.width) < 1:
            raise DataError(
                f"{where}: crop of {self.width} x {self.height} pixels does not fit the sensor of "
                f"{sensor[1]} x {sensor[0]} (W x H); choose a smaller one, or --full"
            )
        self.where, self.sensor = where, sensor
        self.top = (sensor[0] - self.height) // 2
        self.left = (sensor[1] - self.width) // 2

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def events(self, where: str, block: Block, first: int, t0: float) -> Events:
        """The block's events inside, in the window's coordinates, seconds since t0."""
        self._check(where, block, first)
        xs, ys = block.xs.astype(np.int64) - self.left, block.ys.astype(np.int64) - self.top
        inside = (xs >= 0) & (xs < self.width) & (ys >= 0) & (ys < self.height)
        return Events(
            xs[inside].astype(np.int16),
            ys[inside].astype(np.int16),
            block.ts[inside] - t0,
            np.where(block.ps[inside] > 0, 1, -1).astype(np.int8),
        )

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """The window of an array [..., H, W] of the whole sensor."""
        if array.shape[-2:] != self.sensor:
            raise DataError(
                f"{self.where}: a map or image of {array.shape[-2:]} (H, W), the sensor has "
                f"{self.sensor}"
            )
        return array[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def _check(self, where: str, block: Block, first: int) -> None:
        known = np.isin(block.ps, (-1, 0, 1))
        if not known.all():
            at = int((~known).argmax())
            raise DataError(
                f"{where}: about event {first + at} has polarity {block.ps[at]}, expected 0 or 1 "
                "(or -1 or 1); the file is damaged"
            )
        for name, values, limit in (
            ("x", block.xs, self.sensor[1]),
            ("y", block.ys, self.sensor[0]),
        ):
            outside = (values < 0) | (values >= limit)
            if outside.any():
                at = int(outside.argmax())
                raise DataError(
                    f"{where}: about event {first + at} has {name} = {values[at]}, outside the "
                    f"sensor of {self.sensor[1]} x {self.sensor[0]} pixels; give the right "
                    "--resolution, or the file is damaged"
                )


def fingerprint(recording: Recording, options: Options) -> str:
    """Text that changes with the source files (name, size, time) and the options."""
    files = [
        [path.name, stat.st_size, stat.st_mtime_ns]
        for path, stat in ((path, path.stat()) for path in recording.files)
    ]
    return json.dumps(
        {
            "layout": LAYOUT_VERSION,
            "files": files,
            "resolution": list(recording.resolution),
            "options": asdict(options),
        }
    )


def is_done(recording: Recording, options: Options, out: Path) -> bool:
    """Whether ``out`` is the finished output of the same source with the same options."""
    try:
        with h5py.File(out, "r") as file:
            return bool(file.attrs.get("prepared_from") == fingerprint(recording, options))
    except OSError:
        return False


def convert(
    recording: Recording,
    out: Path,
    options: Options,
    *,
    verify: bool = False,
    quiet: bool = True,
) -> Summary:
    """Write ``recording`` to ``out``, which appears only once complete.

    verify: read the file back and compare it with what was written. quiet: no progress bar. Raises
    DataError or OSError for a source that cannot be read, and leaves nothing behind then.
    """
    writing = _Writing(recording, out, options, quiet)
    writing.run()
    if verify:
        writing.verify()
    return writing.summary(verify)


class _Writing:
    """The state of one conversion."""

    def __init__(self, recording: Recording, out: Path, options: Options, quiet: bool) -> None:
        self.recording, self.out, self.options, self.quiet = recording, out, options, quiet
        self.where = str(recording.files[0])
        self.window = _Window(recording.files[0], recording.resolution, options.crop)
        self.order = TimeOrder(self.where, options.reorder_s, drop_late=options.drop_late)
        self.statistics = EventStatistics(self.window.size)
        self.outside = 0
        self.maps = dict.fromkeys(FLOW_GROUPS, 0)
        self.images = 0
        self.notes = list(recording.notes)
        self.t0 = 0.0
        self.digest = _Digest()

    def run(self) -> None:
        """Write everything."""
        blocks = self.order.sort(self._source())
        first = next(blocks, None)
        if first is None:
            part = self.options.start > 0 or self.options.stop is not None
            raise DataError(f"{self.where}: no events{' between --start and --stop' * part}")
        self.t0 = float(first.ts[0])
        with EventFileWriter(
            self.out,
            self.window.size,
            t0=self.t0,
            compression=self.options.compression,
            attributes=self._attributes(),
        ) as writer:
            self._add(writer, first, 0)
            self._write_events(writer, blocks, len(first.ts))
            if not self.statistics.num_events:
                raise DataError(f"{self.where}: no events inside the crop")
            self._write_flow(writer)
            self._write_intervals(writer)
            self._write_images(writer)
            writer.set_attributes(self._hot_attributes())

    def verify(self) -> None:
        """Read the output back; DataError when it is not what was written."""
        found = _Digest()
        with EventFile(self.out) as file:
            for start in range(0, file.num_events, BLOCK):
                found.events(file.read(start, min(start + BLOCK, file.num_events)))
            for dt in (dt for dt in FLOW_GROUPS if self.maps[dt]):
                for number, seconds in enumerate(file.flow_times(dt)):
                    found.array(float(seconds), file.read_flow(dt, number))
            for number, seconds in enumerate(file.image_times() if self.images else ()):
                found.array(float(seconds), file.read_image(number))
        if found.text() != self.digest.text():
            raise DataError(
                f"{self.out}: what was read back is not what was written; check the disk and "
                "convert again"
            )

    def summary(self, verified: bool) -> Summary:
        statistics = self.statistics
        return Summary(
            name=self.recording.name,
            path=str(self.out),
            resolution=self.window.size,
            t0=self.t0,
            events=statistics.num_events,
            duration_s=statistics.duration,
            rate_hz=statistics.rate,
            positive_share=statistics.positive_share,
            hot_pixels=tuple(statistics.hot_pixels()),
            flow_maps_dt1=self.maps["dt1"],
            flow_maps_dt4=self.maps["dt4"],
            images=self.images,
            outside_crop=self.outside,
            reordered=self.order.reordered,
            dropped_late=self.order.dropped,
            bytes=self.out.stat().st_size,
            verified=verified,
            notes=tuple(self.notes),
        )

    # --- events -------------------------------------------------------------------------------

    def _source(self) -> Iterator[Block]:
        """The blocks asked for, with a progress bar."""
        total = None if self.recording.total is None else -(-self.recording.total // BLOCK)
        blocks = progress(
            self.recording.events(), f"{self.recording.name}: events", total, quiet=self.quiet
        )
        origin: float | None = None
        for block in blocks:
            if not len(block.ts):
                continue
            origin = float(block.ts[0]) if origin is None else origin
            seconds = block.ts - origin
            if self.options.stop is not None and seconds.min() >= self.options.stop:
                return
            # What is not a number is kept, to be found; so is what comes late and lies before 0.
            keep = ~(seconds < self.options.start) | (self.options.start == 0)
            if self.options.stop is not None:
                keep &= ~(seconds >= self.options.stop)
            yield block if keep.all() else Block(*(column[keep] for column in block))

    def _write_events(self, writer: EventFileWriter, blocks: Iterator[Block], first: int) -> None:
        for block in blocks:
            self._add(writer, block, first)
            first += len(block.ts)

    def _add(self, writer: EventFileWriter, block: Block, first: int) -> None:
        events = self.window.events(self.where, block, first, self.t0)
        self.outside += len(block.ts) - len(events)
        self.statistics.add(events.xs, events.ys, events.ts, events.ps)
        writer.append(events)
        self.digest.events(replace(events, ts=(events.ts + self.t0) - self.t0))

    # --- flow and images ----------------------------------------------------------------------

    def _write_flow(self, writer: EventFileWriter) -> None:
        """Maps at camera frames; the first one, without ground truth, begins the first interval."""
        if self.recording.flow is None:
            return
        frames = self._frame_times()
        maps = self.recording.flow()
        try:
            inside = (frames >= maps.stamps[0]) & (frames <= maps.stamps[-1])
            if inside.sum() < 2:
                self._tell_outside(maps.stamps[0], maps.stamps[-1], len(maps.stamps))
            for dt, step in FRAMES_PER_MAP.items():
                stamps = frames[inside][::step]
                if len(stamps) < 2:
                    continue
                self._add_map(writer, dt, float(stamps[0]), np.zeros((2, *self.window.size)))
                pairs = list(pairwise(stamps))
                label = f"{self.recording.name}: flow {dt}"
                for start, end in progress(pairs, label, len(pairs), quiet=self.quiet):
                    flow = flow_between(maps, float(start), float(end))
                    self._add_map(writer, dt, float(end), self.window.cut(flow))
            maps.check()
        finally:
            maps.close()

    def _write_intervals(self, writer: EventFileWriter) -> None:
        """Maps as they come; where one begins after the end of another, an empty one lies between.

        The first map, without ground truth, begins the first interval.
        """
        if self.recording.intervals is None:
            return
        maps = self.recording.intervals()
        inside = [
            number
            for number, bounds in enumerate(zip(maps.starts, maps.ends, strict=True))
            if all(self._in_part(float(stamp)) for stamp in bounds)
        ]
        last: float | None = None
        label = f"{self.recording.name}: flow"
        for number in progress(inside, label, len(inside), quiet=self.quiet):
            start, end = float(maps.starts[number]), float(maps.ends[number])
            if start != last:
                self._add_map(writer, "dt1", start, np.zeros((2, *self.window.size)))
            self._add_map(writer, "dt1", end, self.window.cut(maps.read(number)))
            last = end
        self._tell_outside(maps.starts[0], maps.ends[-1], len(maps.starts) - len(inside))

    def _tell_outside(self, start: float, end: float, count: int) -> None:
        """Note maps that had no events to go with."""
        if count:
            last = self.t0 + self.statistics.last
            self.notes.append(
                f"{count} flow maps left out: they cover {start:.6f} s to {end:.6f} s, the events "
                f"{self.t0:.6f} s to {last:.6f} s"
            )

    def _add_map(
        self, writer: EventFileWriter, dt: str, stamp: float, flow: NDArray[np.floating[Any]]
    ) -> None:
        flow = flow.astype(np.float32)
        seconds = stamp - self.t0
        writer.add_flow(dt, seconds, flow)
        self.digest.array(seconds + self.t0 - self.t0, flow)
        self.maps[dt] += 1

    def _write_images(self, writer: EventFileWriter) -> None:
        if not self.options.images:
            return
        last, unordered = -np.inf, 0
        for stamp, image in self.recording.images():
            unordered += not stamp > last
            if not stamp > last or not self._in_part(stamp):
                continue
            last = stamp
            cut = np.ascontiguousarray(self.window.cut(image))
            seconds = stamp - self.t0
            writer.add_image(seconds, cut)
            self.digest.array(seconds + self.t0 - self.t0, cut)
            self.images += 1
        if unordered:
            self.notes.append(f"{unordered} images left out: their stamps do not increase")

    def _frame_times(self) -> NDArray[np.float64]:
        """Stamps of the frames inside the part that is written, increasing."""
        if self.recording.image_times is None:
            raise DataError(f"{self.where}: no frame times, which the flow maps are brought to")
        stamps = np.unique(self.recording.image_times())
        return stamps[[self._in_part(float(stamp)) for stamp in stamps]]

    def _in_part(self, stamp: float) -> bool:
        return self.t0 <= stamp <= self.t0 + self.statistics.last

    # --- attributes ---------------------------------------------------------------------------

    def _attributes(self) -> dict[str, Any]:
        return {
            "generator": "calib_data.prepare",
            "prepared_from": fingerprint(self.recording, self.options),
            "original_resolution": np.array(self.recording.resolution, np.int64),
            "crop_method": "center" if self.options.crop else "none",
            "flow_anchor": "start",
            **self.recording.attributes,
        }

    def _hot_attributes(self) -> dict[str, Any]:
        hot = self.statistics.hot_pixels()[:HOT_PIXELS_KEPT]
        return {
            "hot_pixels": np.array([pixel[:2] for pixel in hot], np.int64).reshape(-1, 2),
            "hot_pixel_rates": np.array([pixel[2] for pixel in hot], np.float64),
        }


class _Digest:
    """A checksum of events, maps and images that does not depend on how they are cut in blocks.

    Times go in as a reader will get them: moved to the absolute clock and back, which may round.
    """

    def __init__(self) -> None:
        self._columns = [hashlib.blake2b() for _ in range(4)]
        self._arrays = hashlib.blake2b()

    def events(self, events: Events) -> None:
        columns = (events.xs, events.ys, events.ts, events.ps)
        for digest, column in zip(self._columns, columns, strict=True):
            digest.update(np.ascontiguousarray(column).tobytes())

    def array(self, seconds: float, values: NDArray[Any]) -> None:
        self._arrays.update(np.float64(seconds).tobytes())
        self._arrays.update(np.ascontiguousarray(values).tobytes())

    def text(self) -> str:
        return "".join(digest.hexdigest() for digest in (*self._columns, self._arrays))

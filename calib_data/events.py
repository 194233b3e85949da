"""Events in memory and the checks that every source of events shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError

MAX_PIXELS = 1 << 24
"""Pixels of the largest sensor that is believed; ten times those that exist."""


def check_resolution(where: str, resolution: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) of a sensor; DataError naming ``where`` for what can be none."""
    sides = len(resolution) == 2 and 1 <= min(resolution) <= max(resolution) < 1 << 15
    if not sides or resolution[0] * resolution[1] > MAX_PIXELS:
        raise DataError(f"{where}: {tuple(resolution)} is not a resolution (H, W)")
    return int(resolution[0]), int(resolution[1])


@dataclass(frozen=True)
class Events:
    """A run of events in time order.

    xs: int16 [N], column, 0 at the left.
    ys: int16 [N], row, 0 at the top.
    ts: float64 [N], seconds since the recording's t0, non-decreasing.
    ps: int8 [N], +1 where the pixel became brighter, -1 where it became darker.
    """

    xs: NDArray[np.int16]
    ys: NDArray[np.int16]
    ts: NDArray[np.float64]
    ps: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.ts)

    def slice(self, start: int, stop: int) -> Events:
        """Events start..stop-1 of this run, sharing its memory."""
        part = slice(start, stop)
        return Events(self.xs[part], self.ys[part], self.ts[part], self.ps[part])

    @staticmethod
    def empty() -> Events:
        """A run of no events."""
        return Events(
            np.zeros(0, np.int16), np.zeros(0, np.int16), np.zeros(0), np.zeros(0, np.int8)
        )


class EventSource(Protocol):
    """What windows, encodings and runtimes need of a recording, whatever its format.

    ``calib_data.hdf5.EventFile`` and ``calib_data.npz.NpzEvents`` read files, ``runtime.cut.Cut``
    is a part of either; ``calib_data.npz.open_events`` picks a reader by suffix.
    """

    path: Path
    resolution: tuple[int, int]
    t0: float
    duration: float
    num_events: int

    def read(self, start: int, stop: int) -> Events: ...
    def index_at(self, seconds: float) -> int: ...
    def flow_times(self, dt: str) -> NDArray[np.float64]: ...
    def read_flow(self, dt: str, index: int) -> NDArray[np.float32]: ...
    def image_times(self) -> NDArray[np.float64]: ...
    def read_image(self, index: int) -> NDArray[np.uint8]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def check_kinds(where: str, xs: Any, ys: Any, ts: Any, ps: Any) -> None:
    """Refuse arrays or datasets that are not four equally long columns of the right kind.

    Each needs ``shape`` and ``dtype``: xs, ys integers; ts floating point (seconds); ps bool or
    integer. Raises DataError naming ``where`` and the column.
    """
    columns = {"xs": (xs, "iu"), "ys": (ys, "iu"), "ts": (ts, "f"), "ps": (ps, "biu")}
    wanted = {"iu": "integers", "f": "float64 seconds", "biu": "bool (True = brighter)"}
    for name, (column, kinds) in columns.items():
        if column.shape is None or len(column.shape) != 1:
            raise DataError(f"{where}: events/{name} has shape {column.shape}, expected [N]")
        if column.dtype.kind not in kinds:
            raise DataError(
                f"{where}: events/{name} is {column.dtype}, expected {wanted[kinds]}; "
                "convert the recording"
            )
    lengths = {name: column.shape[0] for name, (column, _) in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{where}: event columns differ in length ({listed}); write the file again")


def checked_events(
    where: str,
    columns: tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]],
    *,
    first: int,
    clock: float,
    resolution: tuple[int, int],
) -> Events:
    """Turn raw columns (xs, ys, ts, ps) into Events, or raise DataError for the first bad event.

    first: number of the first event, for messages. clock: seconds to subtract from ts.
    resolution: (H, W) of the sensor.
    """
    xs, ys, ts, ps = columns
    check_times(where, ts, first)
    for name, values, limit in (("x", xs, resolution[1]), ("y", ys, resolution[0])):
        outside = (values < 0) | (values >= limit)
        if outside.any():
            at = int(outside.argmax())
            raise DataError(
                f"{where}: event {first + at} has {name} = {values[at]}, outside the sensor of "
                f"{resolution[1]} x {resolution[0]} pixels; give the right resolution or crop"
            )
    return Events(
        xs.astype(np.int16),
        ys.astype(np.int16),
        ts.astype(np.float64) - clock,
        _signs(where, ps, first),
    )


def check_times(where: str, ts: NDArray[Any], first: int) -> None:
    """Raise DataError unless the timestamps are finite and never go back."""
    finite = np.isfinite(ts)
    if not finite.all():
        at = int((~finite).argmax())
        raise DataError(f"{where}: event {first + at} has timestamp {ts[at]}; remove such events")
    back = ts[1:] < ts[:-1]
    if back.any():
        at = int(back.argmax()) + 1
        raise DataError(
            f"{where}: timestamps go back at event {first + at} ({float(ts[at - 1])!r} s, then "
            f"{float(ts[at])!r} s); sort the events by time"
        )


def _signs(where: str, ps: NDArray[Any], first: int) -> NDArray[np.int8]:
    """Polarities as int8 in {-1, +1} from bool, {0, 1} or {-1, 1}."""
    if ps.dtype.kind != "b":
        known = (ps >= -1) & (ps <= 1) if ps.dtype.kind == "i" else ps <= 1
        if not known.all():
            at = int((~known).argmax())
            raise DataError(
                f"{where}: event {first + at} has polarity {ps[at]}, expected 0 or 1 (or -1 or 1)"
            )
    return np.where(ps > 0, 1, -1).astype(np.int8)

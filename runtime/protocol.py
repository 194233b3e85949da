"""Evaluation protocols as data: what is scored, by name and hash.

Published errors on one data set differ by factors because protocols do, so every result carries
its protocol. ``protocols.json`` holds the named ones; any other choice is called "custom" and has
a hash too. Fields that hold for every protocol here: a pixel is scored where an event fell and
ground truth is not (0, 0); events before the first ground-truth map of the range are dropped in
the gtflow modes; states are reset between recordings only.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from calib_data.events import EventSource
from runtime.cut import Cut
from runtime.errors import EvaluationError
from runtime.pooling import Pooling
from runtime.sequence import Drive, default_window

CUSTOM = "custom"
FILE = "protocols.json"


CUT_SLACK = 0.5
"""Seconds by which a file that was cut to a range may differ from the range's length."""


class Part(NamedTuple):
    """source: what is scored of a recording. what: in words, and how that is known."""

    source: EventSource
    what: str


@dataclass(frozen=True)
class Protocol:
    """One protocol.

    mode, window: as in ``calib_data.windows``; None is the mode's default for the sensor.
    resolution: (H, W) that a recording must have, None for any. hot_pixels, few_events, warmup,
    limit: as in ``runtime.sequence.Drive``. flow_scaling: pixels per window for an output of 1 that
    an artifact must state, None for any. rows: rows to score from the top, by the beginning of a
    recording's name; others score all. input_resolution, pooling: (h, w) that networks run at, if
    below the recording's, and how events are pooled to it (``runtime.pooling``). ranges: (start,
    stop) in seconds since t0 by the beginning of a name, None for an open end. source: where it is
    from.
    """

    name: str
    mode: str = "gtflow_dt1"
    window: float | None = 1.0
    resolution: tuple[int, int] | None = None
    hot_pixels: bool = False
    few_events: int = 0
    warmup: int = 0
    limit: int | None = None
    flow_scaling: float | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    input_resolution: tuple[int, int] | None = None
    pooling: Pooling | None = None
    source: str = ""

    def settings(self) -> dict[str, Any]:
        """What it fixes, without name and source, as JSON values."""
        values = asdict(self)
        del values["name"], values["source"]
        encoded: dict[str, Any] = json.loads(json.dumps(values))
        return encoded

    @property
    def hash(self) -> str:
        """The first 12 hexadecimal digits of SHA-256 over the settings as sorted JSON."""
        text = json.dumps(self.settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Name, hash, settings and source as JSON values."""
        return {"name": self.name, "hash": self.hash, **self.settings(), "source": self.source}

    def source_of(self, file: EventSource, *, already_cut: bool = False) -> EventSource:
        """The part of a recording that is scored; see ``part_of``."""
        return self.part_of(file, already_cut=already_cut).source

    def part_of(self, file: EventSource, *, already_cut: bool = False) -> Part:
        """The part of a recording that is scored.

        A file that ends before the range begins has a clock of its own. It is taken whole, as the
        range that somebody cut out before, if its events span the range's length to half a second,
        or if ``already_cut`` says so. A file that kept the whole recording's clock needs no rule.

        Raises EvaluationError for another resolution, or a recording that lacks the range.
        """
        if self.resolution is not None and tuple(file.resolution) != tuple(self.resolution):
            raise EvaluationError(
                f"{file.path} has {file.resolution[0]} x {file.resolution[1]} pixels, protocol "
                f"{self.name} wants {self.resolution[0]} x {self.resolution[1]}; crop it with "
                "calib_data.prepare"
            )
        start, stop = by_name(self.ranges, Path(file.path), (None, None))
        if start is None and stop is None:
            return Part(file, "the whole recording")
        start, stop = start or 0.0, math.inf if stop is None else stop
        named = f"{start:g} s on" if math.isinf(stop) else f"{start:g} to {stop:g} s"
        first, last = _span(file)
        if not file.num_events or last > start:
            return Part(Cut(file, start, stop), f"its range, {named} since t0")
        seconds = last - first
        if already_cut:
            return Part(file, f"all {seconds:.1f} s, said to be the range {named}")
        if abs(seconds - (stop - start)) <= CUT_SLACK:
            return Part(file, f"all {seconds:.1f} s, which is the length of the range {named}")
        raise EvaluationError(
            f"{file.path} ends at {last:.1f} s and protocol {self.name} scores from {start:g} s "
            "on; if it is that range already, say so with --already-cut, otherwise rename it or "
            "use another protocol"
        )

    def plan(self, file: EventSource, fwl_events: int | None = None) -> Drive:
        """How to drive a recording, as ``source_of`` gave it."""
        window = self.window or default_window(self.mode, file.resolution)
        start = file.start if isinstance(file, Cut) else 0.0
        return Drive(
            mode=self.mode,
            window=window,
            warmup=self.warmup,
            limit=self.limit,
            fwl_events=fwl_events,
            first=math.ceil(start / window) if self.mode == "time" else 0,
            rows=by_name(self.rows, Path(file.path), None),
            hot_pixels=self.hot_pixels,
            few_events=self.few_events,
        )


def _span(file: EventSource) -> tuple[float, float]:
    """Times of the first and the last event, seconds since t0; 0 without events."""
    if not file.num_events:
        return 0.0, 0.0
    ends = (file.read(at, at + 1).ts[0] for at in (0, file.num_events - 1))
    first, last = map(float, ends)
    return first, last


def by_name(table: Mapping[str, Any], path: Path, default: Any) -> Any:
    """The entry whose key a recording's name begins with, the longest such key's."""
    keys = [key for key in table if path.name.startswith(key)]
    return table[max(keys, key=len)] if keys else default


def named_protocols() -> dict[str, Protocol]:
    """All protocols of ``protocols.json``."""
    text = resources.files("runtime").joinpath(FILE).read_text()
    return {name: _protocol(name, values) for name, values in json.loads(text).items()}


def find_protocol(name: str) -> Protocol:
    """A protocol by name; EvaluationError with the nearest where there is none."""
    known = named_protocols()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1) or list(known)
        raise EvaluationError(f"no protocol is called {name!r}; nearest: {', '.join(near)}")
    return known[name]


def _protocol(name: str, values: dict[str, Any]) -> Protocol:
    taken = dict(values)
    taken["resolution"] = tuple(taken["resolution"])
    taken["rows"] = taken["rows"] or {}
    taken["ranges"] = {key: tuple(ends) for key, ends in taken["ranges"].items()}
    return Protocol(name=name, **taken)

"""``python -m calib_data.prepare FORMAT SOURCE OUT``: recordings to the event_flow layout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from calib_data.console import one_line
from calib_data.errors import DataError
from calib_data.files import check_writable, held
from calib_data.hdf5 import COMPRESSIONS
from calib_data.prepare import aedat4, dsec, mvsec, prophesee, rosbag, text
from calib_data.prepare.conversion import Options, Summary, convert, is_done
from calib_data.prepare.ordering import REORDER_S
from calib_data.prepare.recording import Found, Recording, Unreadable

Finder = Callable[..., list[Found]]

FORMATS: dict[str, tuple[Finder, str]] = {
    "mvsec": (
        mvsec.find,
        "NAME_data.hdf5 or NAME_data.bag, flow from NAME_gt.hdf5 or *_gt_flow_dist.npz",
    ),
    "dsec": (dsec.find, "SEQUENCE/events/left/events.h5, flow from SEQUENCE/flow with --rectify"),
    "text": (text.find, "events.txt of RPG and UZH-FPV, in a folder or a .zip file"),
    "aedat4": (aedat4.find, "AEDAT4 files"),
    "prophesee": (prophesee.find, "RAW (EVT2, EVT3) and DAT files"),
    "rosbag": (rosbag.find, "ROS 1 bags and ROS 2 folders of dvs_msgs/EventArray or EVT3 packets"),
}

DEFAULT_CROPS: dict[str, tuple[int, int]] = {"mvsec": (256, 256)}
"""What published figures use: MVSEC is evaluated on the centre of its sensor."""

EXIT_SOME_FAILED = 1


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 when every sequence was written, 1 when one could not be."""
    arguments = _parser().parse_args(argv)
    options = _options(arguments)
    recordings = _find(arguments)
    check_writable(arguments.out / "x.h5")
    results = _Results(arguments)
    for found in recordings:
        results.add(found, options)
    return results.report()


def _find(arguments: argparse.Namespace) -> list[Found]:
    """The sequences asked for; DataError when none can be opened or one is not there."""
    source: Path = arguments.source
    if not source.exists():
        raise FileNotFoundError(2, "no such file or folder", str(source))
    finder = FORMATS[arguments.format][0]
    found = finder(
        source,
        resolution=None if arguments.resolution is None else tuple(arguments.resolution),
        camera=arguments.camera,
        topic=arguments.topic,
        rectify=arguments.rectify,
    )
    if not found:
        raise DataError(f"{source}: no recording of this kind ({FORMATS[arguments.format][1]})")
    if not any(isinstance(recording, Recording) for recording in found):
        raise next(recording.error for recording in found if isinstance(recording, Unreadable))
    names = [recording.name for recording in found]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DataError(f"{source}: several recordings are called {doubled[0]}; convert them apart")
    if arguments.sequences is None:
        return found
    missing = sorted(set(arguments.sequences) - set(names))
    if missing:
        raise DataError(f"{source}: no sequence {missing[0]}; there are {', '.join(names)}")
    return [recording for recording in found if recording.name in arguments.sequences]


class _Results:
    """Converts sequence after sequence, remembers what came of each and prints it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._out: Path = arguments.out
        self._json: bool = arguments.json
        self._resume: bool = arguments.resume
        self._verify: bool = arguments.verify
        self._written: list[Summary] = []
        self._skipped: list[str] = []
        self._failed: dict[str, str] = {}

    def add(self, recording: Found, options: Options) -> None:
        """Convert one; a failure is told at once and does not stop the others."""
        path = self._out / f"{recording.name}.h5"
        try:
            if isinstance(recording, Unreadable):
                raise recording.error
            with held(path):
                self._convert(recording, path, options)
        except (DataError, OSError) as error:
            self._failed[recording.name] = one_line(error)
            print(f"error: {recording.name}: {self._failed[recording.name]}", file=sys.stderr)

    def _convert(self, recording: Recording, path: Path, options: Options) -> None:
        if self._resume and is_done(recording, options, path):
            self._skipped.append(recording.name)
            self._tell(f"{path}: finished before, left as it is")
            return
        summary = convert(recording, path, options, verify=self._verify, quiet=self._json)
        self._written.append(summary)
        self._tell(describe(summary))

    def report(self) -> int:
        """Print the totals; returns the exit status."""
        if self._json:
            print(
                json.dumps(
                    {
                        "written": [summary.plain() for summary in self._written],
                        "skipped": self._skipped,
                        "failed": self._failed,
                    }
                )
            )
        elif len(self._written) + len(self._skipped) + len(self._failed) > 1:
            print(
                f"{len(self._written)} written, {len(self._skipped)} finished before, "
                f"{len(self._failed)} failed"
            )
        return EXIT_SOME_FAILED if self._failed else 0

    def _tell(self, text: str) -> None:
        if not self._json:
            print(text, flush=True)


def describe(summary: Summary) -> str:
    """A few lines of text about one converted sequence."""
    height, width = summary.resolution
    lines = [
        f"{summary.path}: {summary.events:,} events in {summary.duration_s:.3f} s "
        f"({summary.rate_hz:,.0f} per s, {100 * summary.positive_share:.1f} % brighter) at "
        f"{width} x {height} pixels, {summary.bytes / 1e6:.1f} MB",
        f"  flow maps {summary.flow_maps_dt1} (dt1), {summary.flow_maps_dt4} (dt4); "
        f"{summary.images} images; {len(summary.hot_pixels)} hot pixels"
        + (
            f", the worst at x {summary.hot_pixels[0][0]}, y {summary.hot_pixels[0][1]}"
            if summary.hot_pixels
            else ""
        ),
    ]
    for count, what in (
        (summary.outside_crop, "events outside the crop"),
        (summary.reordered, "events brought into time order"),
        (summary.dropped_late, "events left out as too late"),
    ):
        if count:
            lines.append(f"  {count:,} {what}")
    lines += [f"  {note}" for note in summary.notes]
    if summary.verified:
        lines.append("  read back and found equal")
    return "\n".join(lines)


def _options(arguments: argparse.Namespace) -> Options:
    crop = DEFAULT_CROPS.get(arguments.format)
    if arguments.crop is not None:
        crop = (arguments.crop[0], arguments.crop[1])
    if arguments.full:
        crop = None
    if not arguments.reorder_ms >= 0:
        raise DataError(f"--reorder-ms must not be negative, got {arguments.reorder_ms}")
    stop = float("inf") if arguments.stop is None else arguments.stop
    if not 0 <= arguments.start < stop:
        raise DataError("--start must be 0 or later, and --stop later than --start")
    return Options(
        crop=crop,
        compression=None if arguments.compression == "none" else arguments.compression,
        reorder_s=arguments.reorder_ms / 1000,
        drop_late=arguments.drop_late,
        start=arguments.start,
        stop=arguments.stop,
        images=not arguments.no_images,
    )


def _parser() -> argparse.ArgumentParser:
    formats = "\n".join(f"  {name:<12}{what}" for name, (_, what) in FORMATS.items())
    parser = argparse.ArgumentParser(
        prog="python -m calib_data.prepare",
        description="Bring recordings to the HDF5 layout that everything here reads "
        f"(docs/recordings_prepare.md).\n\nformats:\n{formats}",
        epilog="example: python -m calib_data.prepare mvsec MVSEC/indoor_flying prepared --resume "
        "--verify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("format", choices=FORMATS, help="of the source")
    add("source", type=Path, help="a file, or a folder that is searched")
    add("out", type=Path, help="folder for one NAME.h5 per sequence")
    add("--sequences", nargs="+", metavar="NAME", help="only these")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--crop", type=int, nargs=2, metavar=("H", "W"),
        help="centre of the sensor to keep (mvsec: 256 256, else all)",
    )  # fmt: skip
    size.add_argument("--full", action="store_true", help="keep the whole sensor")
    add("--resolution", type=int, nargs=2, metavar=("H", "W"), help="where the source tells none")
    add("--camera", choices=("left", "right"), default="left", help="of stereo data (left)")
    add(
        "--rectify",
        action="store_true",
        help="dsec: undistort with rectify_map.h5, and write the flow",
    )
    add("--topic", metavar="NAME", help="of a bag's events, where it has several")
    add("--start", type=float, default=0.0, metavar="S", help="seconds from the first event (0)")
    add("--stop", type=float, metavar="S", help="seconds from the first event (the end)")
    add("--no-images", action="store_true", help="leave grey images out")
    add(
        "--compression", choices=(*COMPRESSIONS, "none"), default="gzip",
        help="gzip (default), lzf, blosc (faster; readers need hdf5plugin) or none",
    )  # fmt: skip
    add(
        "--reorder-ms", type=float, default=1000 * REORDER_S, metavar="MS",
        help="events that come late by this much are sorted in (%(default)g)",
    )  # fmt: skip
    add("--drop-late", action="store_true", help="leave out events that come later still")
    add("--resume", action="store_true", help="leave sequences that are finished")
    add("--verify", action="store_true", help="read every file back and compare")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser

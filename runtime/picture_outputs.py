"""The options ``--report``, ``--video`` and ``--gif`` of commands that drive recordings."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_data.files import check_writable
from runtime.arguments import positive_length
from runtime.artifact import LoadedModel
from runtime.errors import PictureError
from runtime.html_report import ReportBuilder
from runtime.live import LiveWindow
from runtime.report_data import SequenceReport, layer_thresholds
from runtime.runner import Runner
from runtime.sequence import StepRecord
from runtime.video import Film, GifWriter, Mp4Writer, Writer

if TYPE_CHECKING:
    from runtime.evaluation import Evaluation, Observer

DEFAULT_RATE = 20.0
_MAKERS: dict[str, Callable[[Path, float], Writer]] = {".mp4": Mp4Writer, ".gif": GifWriter}


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --report, --report-windows, --video, --gif, --live, --frame-rate and --flow-scale."""
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--report", type=Path, metavar="F",
        help="write a self-contained HTML report, or report.html in this folder",
    )  # fmt: skip
    group.add_argument(
        "--report-windows", type=_numbers, default=(), metavar="N,...",
        help="windows that the report pictures (default: a few, evenly spread)",
    )  # fmt: skip
    group.add_argument("--video", type=Path, metavar="F.mp4", help="write a video of the windows")
    group.add_argument("--gif", type=Path, metavar="F.gif", help="write an animated picture")
    group.add_argument(
        "--live", action="store_true",
        help="show windows on the screen while they are driven (needs matplotlib and a display)",
    )  # fmt: skip
    group.add_argument(
        "--frame-rate", type=positive_length, default=DEFAULT_RATE, metavar="N",
        help=f"windows per second of --video and --gif ({DEFAULT_RATE:g})",
    )  # fmt: skip
    group.add_argument(
        "--flow-scale", type=positive_length, metavar="PX",
        help="flow at full colour in --video, --gif and --live (default: from the first windows)",
    )  # fmt: skip


class Observers:
    """Passes records on to all."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def __call__(self, record: StepRecord) -> None:
        for observe in self._observers:
            observe(record)

    def finish(self, evaluation: Evaluation) -> None:
        """Give the report the sequence's scores."""
        for observer in self._observers:
            if isinstance(observer, SequenceReport):
                observer.finish(evaluation)


class PictureOutputs:
    """The pictures of one run of a command: an observer per sequence, and the files at the end.

    With several sequences each has a film of its own, with the sequence's name in the file's.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        models: Mapping[str, LoadedModel],
        *,
        several: bool = False,
    ) -> None:
        """Find out before long work whether everything can be written.

        Args:
            arguments: with the options of ``add_picture_arguments``.
            models: the driven files, by network.
            several: whether more than one sequence will be driven.

        Raises:
            PictureError: a package is missing, a file has another suffix, or no window can be
            opened. OSError: a place cannot be written to.
        """
        self._rate: float = arguments.frame_rate
        self._scale: float | None = arguments.flow_scale
        self._several = several
        self._taken: set[Path] = set()
        self._artifacts = {
            n: {"file": str(m.path)} | m.artifact.to_dict() for n, m in models.items()
        }
        self._report = _report_path(arguments.report)
        self._films = [p for p in (arguments.video, arguments.gif) if p is not None]
        for path, suffix in ((arguments.video, ".mp4"), (arguments.gif, ".gif")):
            if path is not None and path.suffix.lower() != suffix:
                raise PictureError(f"{path}: expected a file that ends in {suffix}")
        for path in filter(None, [self._report, *self._films]):
            check_writable(path)
        for path in self._films:
            _MAKERS[path.suffix.lower()](path, self._rate)
        self._live = LiveWindow() if arguments.live else None
        thresholds = {n: layer_thresholds(m.model, m.artifact) for n, m in models.items()}
        self._builder = (
            ReportBuilder(thresholds, arguments.report_windows) if self._report else None
        )

    @contextlib.contextmanager
    def sequence(
        self, name: str, resolution: tuple[int, int], runners: Mapping[str, Runner], mode: str
    ) -> Iterator[Observers]:
        """Context whose value observes the sequence's records; films are made when it ends well."""
        with contextlib.ExitStack() as stack:
            observers: list[Observer] = []
            if self._builder is not None:
                observers.append(self._builder.sequence(name, resolution, runners))
            places = [(path, self._film_path(path, name)) for path in self._films]
            writers = [_MAKERS[path.suffix.lower()](place, self._rate) for path, place in places]
            writers += [self._live] if self._live is not None else []
            for writer in writers:
                film = Film(
                    writer, resolution, runners,
                    ground_truth=mode.startswith("gtflow"), max_magnitude=self._scale,
                )  # fmt: skip
                observers.append(stack.enter_context(film))
            yield Observers(observers)

    def finish(
        self,
        *,
        title: str = "Evaluation",
        protocol: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """Write the report of the sequences so far, if one was asked for."""
        if self._builder is not None and self._report is not None:
            self._builder.write(
                self._report, title=title, protocol=protocol, artifacts=self._artifacts,
                warnings=warnings,
            )  # fmt: skip

    def _film_path(self, path: Path, name: str) -> Path:
        """The sequence's own file, numbered where an earlier sequence has the same name."""
        if not self._several:
            return path
        plain = re.sub(r"[^\w.-]+", "_", name)
        numbers = ["", *(f"-{number}" for number in range(2, len(self._taken) + 3))]
        names = (path.with_name(f"{path.stem}-{plain}{n}{path.suffix}") for n in numbers)
        free = next(place for place in names if place not in self._taken)
        self._taken.add(free)
        return free


def _report_path(given: Path | None) -> Path | None:
    """The file: a folder gets a report.html."""
    if given is None or given.suffix.lower() in (".html", ".htm"):
        return given
    return given / "report.html"


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (-1,)
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"expected window numbers such as 10,20, got {text!r}")
    return numbers

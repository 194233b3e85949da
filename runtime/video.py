"""Driven windows as a film: MP4 through FFmpeg (extra ``video``) or an animated GIF (pillow).

A frame shows, from left to right, the events, the ground truth where there is one, each network's
flow where events fell, and the error of the last one, or with two networks and no ground truth
their difference. The scales of colour are fixed after the first windows, so that frames compare.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from calib_data.files import atomic_path
from runtime.errors import PictureError
from runtime.page import pillow
from runtime.pictures import Rgb
from runtime.runner import Runner
from runtime.sequence import StepRecord
from runtime.snapshots import Scales, Snapshot, common_scales, snapshot, strip_images
from runtime.streaming import Spread

GAP = 4
GIF_FRAMES = 100
_WINDOWS_FOR_SCALES = 12
_SMALLEST_SIDE = 192
_MARGIN = 1.25
_TITLE_HEIGHT = 18
_INK, _PAPER = (29, 36, 48), 255


class Writer(Protocol):
    """Takes frames of one size, uint8 [H, W, 3], and makes the file when closed."""

    def add(self, frame: Rgb) -> None: ...
    def close(self, failed: bool = False) -> None: ...


def tile(images: Sequence[Rgb]) -> Rgb:
    """Images of one size side by side, small ones enlarged by a whole factor, on white.

    Returns uint8 [H, W, 3] with even H and W, as video needs them. Raises PictureError for images
    of different sizes, or none.
    """
    if not images or len({image.shape for image in images}) != 1:
        raise PictureError("a frame needs images of one size")
    height, width = images[0].shape[:2]
    factor = max(1, -(-_SMALLEST_SIDE // min(height, width)))
    gap = np.full((height * factor, GAP, 3), _PAPER, np.uint8)
    parts = [part for image in images for part in (gap, _enlarged(image, factor))][1:]
    row = np.concatenate(parts, axis=1)
    even = [(0, row.shape[0] % 2), (0, row.shape[1] % 2), (0, 0)]
    return np.pad(row, even, constant_values=_PAPER)


def _enlarged(image: Rgb, factor: int) -> Rgb:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def titled(frame: Rgb, titles: Sequence[str], note: str) -> Rgb:
    """A frame under a line of titles, one over each image, with a note at the line's right end."""
    drawing = importlib.import_module("PIL.ImageDraw")
    line = pillow().new("RGB", (frame.shape[1], _TITLE_HEIGHT), (_PAPER,) * 3)
    draw = drawing.Draw(line)
    step = (frame.shape[1] + GAP) / len(titles)
    left = frame.shape[1] - draw.textlength(note) - 4
    for number, title in enumerate(titles):
        room = step * (number + 1) if number + 1 < len(titles) else left
        draw.text((step * number + 2, 3), _fitting(draw, title, room - step * number - 6), _INK)
    draw.text((left, 3), note, _INK)
    return np.concatenate([np.asarray(line, np.uint8), frame])


def _fitting(draw: Any, text: str, room: float) -> str:
    """As much of a text as there is room for; pillow's own font has Latin letters only."""
    text = text.encode("ascii", "replace").decode("ascii")
    while text and draw.textlength(text) > room:
        text = text[:-1]
    return text


class Film:
    """Observer of one sequence: call it with every record; leaving the context makes the file."""

    def __init__(
        self,
        writer: Writer,
        resolution: tuple[int, int],
        runners: Mapping[str, Runner],
        *,
        ground_truth: bool,
        max_magnitude: float | None = None,
    ) -> None:
        """ground_truth: whether to show the windows that are scored, and no others, or those that
        are not. max_magnitude: pixels at full saturation; default: from the first windows.
        """
        self._ground_truth = ground_truth
        self._writer = writer
        self._resolution = resolution
        self._runners = runners
        self._magnitude = max_magnitude
        self._scales: Scales | None = None
        self._waiting: list[Snapshot] = []

    def __call__(self, record: StepRecord) -> None:
        """Take the record of one window in."""
        shot = snapshot(record, self._runners, self._resolution, warp=False)
        if shot is None or (shot.ground_truth is not None) != self._ground_truth:
            return
        if self._scales is not None:
            self._draw(shot)
            return
        self._waiting.append(shot)
        if len(self._waiting) == _WINDOWS_FOR_SCALES:
            self._flush()

    def close(self, failed: bool = False) -> None:
        """Make the file; nothing is left of it where ``failed``."""
        if not failed:
            self._flush()
        self._writer.close(failed)

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=kind is not None)

    def _flush(self) -> None:
        if self._scales is None and self._waiting:
            self._scales = _fixed_scales(self._waiting, self._magnitude)
        for shot in self._waiting:
            self._draw(shot)
        self._waiting.clear()

    def _draw(self, shot: Snapshot) -> None:
        if self._scales is None:
            raise ValueError("scales are not chosen yet")
        images = film_images(shot, self._scales)
        self._writer.add(titled(tile(list(images.values())), list(images), f"{shot.seconds:.2f} s"))


def film_images(shot: Snapshot, scales: Scales) -> dict[str, Rgb]:
    """The images of a frame by title: those of a strip, of the errors the last only."""
    images = strip_images(shot, scales)
    last = list(shot.predictions)[-1]
    errors = [t for t in images if t.startswith("error of ") and t != f"error of {last}"]
    differences = [t for t in images if t.startswith("difference of ")]
    left_out = {*errors, *(differences if shot.ground_truth is not None else [])}
    return {title: image for title, image in images.items() if title not in left_out}


def _fixed_scales(shots: Sequence[Snapshot], magnitude: float | None) -> Scales:
    """Scales for a whole film from its first windows, with a margin for faster ones to come."""
    seen = common_scales(shots)
    flow = magnitude if magnitude is not None else seen.flow * _MARGIN
    return Scales(flow, seen.error * _MARGIN, seen.difference * _MARGIN, seen.events)


class Mp4Writer:
    """H.264 in an MP4 file, frame after frame, in constant memory."""

    def __init__(self, path: str | os.PathLike[str], frames_per_second: float) -> None:
        """Raises PictureError where imageio-ffmpeg is not installed."""
        try:
            self._ffmpeg = importlib.import_module("imageio_ffmpeg")
        except ImportError as error:
            raise PictureError(
                f"{path}: writing video needs imageio-ffmpeg; pip install 'spikedeploy[video]'"
            ) from error
        self._rate = frames_per_second
        self._path = Path(path)
        self._place = contextlib.ExitStack()
        self._send: Any = None

    def add(self, frame: Rgb) -> None:
        """Write a frame; all of one size, with even sides. Raises PictureError if FFmpeg fails."""
        try:
            if self._send is None:
                self._start(frame)
            self._send.send(np.ascontiguousarray(frame))
        except OSError as error:
            raise PictureError(f"{self._path}: FFmpeg failed ({_last_line(error)})") from error

    def _start(self, frame: Rgb) -> None:
        temporary = self._place.enter_context(atomic_path(self._path))
        height, width = frame.shape[:2]
        self._send = self._ffmpeg.write_frames(
            os.fspath(temporary), (width, height), fps=self._rate, codec="libx264",
            quality=None, macro_block_size=2, ffmpeg_log_level="error",
            output_params=["-crf", "20", "-movflags", "+faststart", "-f", "mp4"],
        )  # fmt: skip
        self._send.send(None)

    def close(self, failed: bool = False) -> None:
        """Finish the file; warns and writes none where no frame came."""
        if self._send is None:
            if not failed:
                _warn_of_nothing(self._path)
            return
        with contextlib.suppress(_Discard), self._place:
            self._send.close()
            if failed:
                raise _Discard


class _Discard(Exception):
    """Makes ``atomic_path`` delete what was written."""


class NothingToShow(UserWarning):
    """A film without a single window; everything else that was asked for is still made."""

    user_note = True


def _warn_of_nothing(path: Path) -> None:
    warnings.warn(f"{path}: not written, no window could be shown", NothingToShow, stacklevel=3)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class GifWriter:
    """An animated GIF of at most ``2 * GIF_FRAMES`` frames: longer sequences are thinned evenly."""

    def __init__(self, path: str | os.PathLike[str], frames_per_second: float) -> None:
        """Raises PictureError where pillow is not installed."""
        self._image = pillow()
        self._path = Path(path)
        self._rate = frames_per_second
        self._frames = Spread[Any](GIF_FRAMES)

    def add(self, frame: Rgb) -> None:
        """Keep a frame, in 256 colours; all of one size."""
        if self._frames.due():
            self._frames.add(self._image.fromarray(frame).quantize(256))
        else:
            self._frames.skip()

    def close(self, failed: bool = False) -> None:
        """Write the file; warns and writes none where no frame came."""
        if failed:
            return
        if not self._frames.items:
            _warn_of_nothing(self._path)
            return
        first, *rest = self._frames.items
        milliseconds = max(20, round(1e3 * self._frames.stride / self._rate))
        with atomic_path(self._path) as temporary:
            first.save(
                temporary, format="GIF", save_all=True, append_images=rest, loop=0,
                duration=milliseconds, optimize=False,
            )  # fmt: skip

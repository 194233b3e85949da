"""A window that shows what is being driven, with matplotlib (extra ``report``) and its backend."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import PictureError

Rgb = npt.NDArray[np.uint8]

_DOTS_PER_INCH = 100
_SMALLEST_WIDTH = 900


class LiveWindow:
    """A writer of films (``runtime.video``) whose frames appear on the screen.

    One window for all sequences of a run. A person who closes it ends the showing, nothing else.
    """

    def __init__(self) -> None:
        """Open the window.

        Raises PictureError where matplotlib is not installed or no window can be opened.
        """
        try:
            self._pyplot: Any = importlib.import_module("matplotlib.pyplot")
        except ImportError as error:
            raise PictureError(
                "a live window needs matplotlib; pip install 'spikedeploy[report]'"
            ) from error
        try:
            self._figure = self._pyplot.figure("spikedeploy", dpi=_DOTS_PER_INCH)
        except Exception as error:  # every toolkit has its own for a display that it cannot reach
            raise PictureError(_refusal(self._pyplot)) from error
        if not is_interactive(self._figure.canvas):
            self._pyplot.close(self._figure)
            raise PictureError(_refusal(self._pyplot))
        self._image: Any = None
        self.frames = 0

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed it."""
        return bool(self._pyplot.fignum_exists(self._figure.number))

    def add(self, frame: Rgb) -> None:
        """Show a frame; does nothing once the window was closed."""
        if not self.is_open:
            return
        if self._image is None or self._image.get_array().shape != frame.shape:
            self._start(frame)
        else:
            self._image.set_data(frame)
        self._figure.canvas.draw()
        self._figure.canvas.flush_events()
        self.frames += 1

    def close(self, failed: bool = False) -> None:
        """End of a sequence: the window stays for the next one."""

    def _start(self, frame: Rgb) -> None:
        height, width = frame.shape[:2]
        larger = max(width, _SMALLEST_WIDTH)
        inches = larger / _DOTS_PER_INCH, larger * height / width / _DOTS_PER_INCH
        # A window that has not been laid out yet misjudges its borders when it is resized.
        self._figure.canvas.flush_events()
        self._figure.clear()
        self._figure.set_size_inches(*inches)
        axes = self._figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        self._image = axes.imshow(frame, interpolation="antialiased")
        if not self.frames:
            self._pyplot.show(block=False)


def is_interactive(canvas: Any) -> bool:
    """Whether a canvas belongs to a toolkit with windows."""
    return getattr(canvas, "required_interactive_framework", None) is not None


def _refusal(pyplot: Any) -> str:
    return (
        f"no window can be opened: matplotlib uses the backend {pyplot.get_backend()!r}, for there "
        "is no display, no toolkit (such as pip install PyQt6), or MPLBACKEND says so; --video or "
        "--report show the same"
    )

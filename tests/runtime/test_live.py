"""The live window: refused without a display, and what it draws, on a canvas that has none."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import console
from runtime import PictureError, evaluate, live
from runtime.live import LiveWindow

pyplot = pytest.importorskip("matplotlib.pyplot")


def run(*arguments: object) -> int:
    return console.run(evaluate.main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def without_display() -> Any:
    before = pyplot.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")
    pyplot.switch_backend(before)


@pytest.fixture
def shown(monkeypatch: Any) -> list[LiveWindow]:
    """Windows drawn on Agg's canvas as if it had a screen."""
    pytest.importorskip("PIL")
    opened: list[LiveWindow] = []
    begin = LiveWindow.__init__

    def remembered(self: LiveWindow) -> None:
        begin(self)
        opened.append(self)

    monkeypatch.setattr(LiveWindow, "__init__", remembered)
    monkeypatch.setattr(live, "is_interactive", lambda canvas: True)
    return opened


def test_without_a_display_it_is_one_clear_error(
    make_file: Any, recording: Path, capsys: Any
) -> None:
    assert run(make_file(), "--data", recording, "--live") == 2
    printed = capsys.readouterr()
    assert "error: no window can be opened: matplotlib uses the backend 'agg'" in printed.err
    assert len(printed.err.splitlines()) == 1 and not printed.out
    assert not pyplot.get_fignums()


def test_a_toolkit_that_fails_and_a_missing_package(monkeypatch: Any) -> None:
    def fails(*given: Any, **options: Any) -> None:
        raise ImportError("Cannot load backend 'TkAgg'")

    monkeypatch.setattr(pyplot, "figure", fails)
    with pytest.raises(PictureError, match="no window can be opened"):
        LiveWindow()
    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(PictureError, match="live window needs matplotlib"):
        LiveWindow()


def test_windows_are_shown_one_recording_after_the_other(
    make_file: Any, recording: Path, tmp_path: Path, shown: list[LiveWindow]
) -> None:
    other = tmp_path / "other.h5"
    other.write_bytes(recording.read_bytes())
    assert run(make_file(), "--data", recording, other, "--live") == 0
    (window,) = shown
    assert window.is_open and window.frames == 2 * 6
    image = np.asarray(window._image.get_array())
    assert image.ndim == 3 and image.std() > 10


def test_closing_the_window_ends_the_showing_only(
    make_file: Any, recording: Path, shown: list[LiveWindow], monkeypatch: Any
) -> None:
    add = LiveWindow.add

    def closed_after_three(self: LiveWindow, frame: Any) -> None:
        add(self, frame)
        if self.frames == 3:
            pyplot.close("all")

    monkeypatch.setattr(LiveWindow, "add", closed_after_three)
    assert run(make_file(), "--data", recording, "--live") == 0
    assert not shown[0].is_open and shown[0].frames == 3


def test_frames_of_another_size_are_taken(shown: list[LiveWindow]) -> None:
    window = LiveWindow()
    for size in ((20, 30), (20, 30), (40, 10)):
        window.add(np.zeros((*size, 3), np.uint8))
    assert window.frames == 3 and window._image.get_array().shape == (40, 10, 3)


def test_it_is_refused_in_a_batch(make_file: Any, recording: Path, capsys: Any) -> None:
    model = make_file(resolution=None)
    assert run(model, "--data", recording, "--live", "--batch", 2) == 2
    assert "leave --batch out" in capsys.readouterr().err

"""Pictures and the report, by their contents."""

from __future__ import annotations

import importlib
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_pages import parsed

from calib_data import EventFile
from runtime import PictureError, StatefulSession, charts, pictures, report
from runtime.evaluate import evaluate
from runtime.sequence import Drive


def constant(x: float, y: float, shape: tuple[int, int] = (6, 8)) -> np.ndarray[Any, Any]:
    flow = np.zeros((2, *shape), np.float32)
    flow[0], flow[1] = x, y
    return flow


def test_wheel_has_the_published_colours() -> None:
    wheel = pictures.colour_wheel()
    assert wheel.shape == (55, 3) and wheel.min() == 0 and wheel.max() == 1
    corners = {
        0: (1, 0, 0),
        15: (1, 1, 0),
        21: (0, 1, 0),
        25: (0, 1, 1),
        36: (0, 0, 1),
        49: (1, 0, 1),
    }
    for place, colour in corners.items():
        assert tuple(wheel[place]) == colour
    assert (np.ptp(np.diff(wheel, axis=0), axis=1) < 0.3).all()


@pytest.mark.parametrize(
    ("x", "y", "channels"),
    [(1, 0, "r"), (0, 1, "rg"), (-1, 0.0, "gb"), (0, -1, "b")],
)
def test_direction_is_hue(x: float, y: float, channels: str) -> None:
    red, green, blue = pictures.flow_image(constant(x, y), 1.0)[0, 0].astype(int)
    bright = {"r": red > 127, "g": green > 127, "b": blue > 127}
    # Middlebury: right is red, down is yellow, left is cyan, up is blue to violet.
    assert [c for c in "rgb" if bright[c]] == list(channels)


def test_length_is_saturation() -> None:
    assert (pictures.flow_image(constant(0, 0), 1.0) == 255).all()
    pale, full, beyond = (pictures.flow_image(constant(x, 0), 4.0)[0, 0] for x in (1, 4, 8))
    assert tuple(pale) == (255, 191, 191) and tuple(full) == (255, 0, 0)
    assert tuple(beyond) == (191, 0, 0)


def test_equal_scales_give_equal_colours() -> None:
    small, big = constant(1, 1), constant(1, 1)
    big[:, 0] = 100
    a, b = pictures.flow_image(small, 3.0), pictures.flow_image(big, 3.0)
    assert np.array_equal(a[1:], b[1:])


def test_missing_values_are_white() -> None:
    assert (pictures.flow_image(constant(np.nan, 1), 1.0)[..., 0] > 0).all()


def test_wheel_legend_is_a_disc() -> None:
    image = pictures.wheel_image(51, 2.0)
    assert image.shape == (51, 51, 3) and (image[0, 0] == 255).all()
    assert tuple(image[25, 50]) == (255, 0, 0)


def test_event_image() -> None:
    counts = np.zeros((2, 2, 2), np.uint8)
    counts[0, 0, 0], counts[1, 0, 1] = 9, 1
    image = pictures.event_image(counts)
    assert (image[1] == 255).all()
    assert image[0, 0, 2] > image[0, 0, 0] and image[0, 1, 0] > image[0, 1, 2]
    assert image[0, 1].sum() > image[0, 0].sum()


def test_error_image() -> None:
    error = np.array([[0.0, 1.0, 2.0, 9.0]])
    image = pictures.error_image(error, 2.0, np.array([[True, True, True, False]]))
    assert tuple(image[0, 0]) == (0, 0, 4) and tuple(image[0, 2]) == (252, 255, 164)
    assert tuple(image[0, 3]) == (235, 235, 235)
    assert image[0, 0].sum() < image[0, 1].sum() < image[0, 2].sum()


@pytest.mark.parametrize(
    "call",
    [
        lambda: pictures.flow_image(np.zeros((3, 4, 4), np.float32), 1.0),
        lambda: pictures.flow_image(constant(1, 0), 0.0),
        lambda: pictures.flow_image(constant(1, 0), float("nan")),
        lambda: pictures.event_image(np.zeros((4, 4))),
        lambda: pictures.error_image(np.zeros((4, 4)), -1.0),
    ],
)
def test_wrong_arguments(call: Any) -> None:
    with pytest.raises(PictureError):
        call()


def frame(*titles: str, shape: tuple[int, int] = (6, 8)) -> pictures.Frame:
    counts = np.ones((2, *shape), np.uint8)
    flows = {title: constant(1, 0, shape) for title in titles}
    return pictures.Frame(counts, constant(1, 1, shape), flows, 0.25)


def png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_strip(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one = pictures.strip(tmp_path / "one.png", [frame("float", "integer")], title="t")
    two = pictures.strip(tmp_path / "two.png", [frame("float", "integer")] * 2)
    width, height = png_size(one.read_bytes())
    assert width > 1000 and height > 200
    assert png_size(two.read_bytes())[1] > 1.5 * height
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_strip_refuses_what_does_not_match(tmp_path: Path) -> None:
    for frames in ([], [frame()], [frame("a"), frame("b")], [frame("a"), frame("a", shape=(4, 4))]):
        with pytest.raises(PictureError):
            pictures.strip(tmp_path / "x.png", frames)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_there_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(PictureError, match=r"pip install 'spikedeploy\[report\]'"):
        pictures.strip(tmp_path / "x.png", [frame("a")])


# --- charts and report --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 0.037, [0, 0.01, 0.02, 0.03, 0.04]),
        (0, 730, [0, 200, 400, 600, 800]),
        (5, 5, [5, 5.2, 5.4, 5.6, 5.8, 6]),
    ],
)
def test_nice_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert charts.nice_ticks(low, high) == pytest.approx(ticks)


def test_line_chart_breaks_at_missing_values() -> None:
    svg = charts.line_chart(
        [0, 1, 2, 3, 4], {"a": [1.0, 2.0, None, 3.0, 4.0], "b": [1.0, float("nan"), 1.0, 1.0, 1.0]},
        x_label="s", y_label="px",
    )  # fmt: skip
    assert svg.count("<polyline") == 3 and svg.count("<circle") == 1
    points = [p for run in re.findall(r'points="([^"]+)"', svg) for p in run.split()]
    for point in points:
        x, y = map(float, point.split(","))
        assert 0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT
    assert "no values" in charts.line_chart([], {}, x_label="", y_label="")


def test_bar_chart_lengths_are_proportional() -> None:
    svg = charts.bar_chart({"a": {"x": 0.1, "y": 0.05}, "b": {"x": 0.0}}, unit="%", scale=100)
    widths = [float(w) for w in re.findall(r'<rect[^>]*width="([\d.]+)"', svg)]
    assert len(widths) == 3 and widths[0] == pytest.approx(2 * widths[2])
    assert "10 %" in svg


EVIL = "<script>alert('x')</script>&\"'"


def test_report_escapes_everything_and_fetches_nothing(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"0" * 20
    results = {
        "title": EVIL, "subtitle": EVIL, "notes": [EVIL],
        "artifacts": [{"name": EVIL, "kind": EVIL, "parity": EVIL, "aee": 1.0, "bytes": 2000}],
        "yardsticks": {"zero_aee": 2.0, "mean_aee": None},
        "picture": png, "picture_caption": EVIL,
        "timeline": {"seconds": [0.0, 1.0], "series": {EVIL: [1.0, 2.0]}},
        "spike_rates": {EVIL: {EVIL: 0.1}},
        "latency": {EVIL: {"p50_ms": 3.0}},
        "metadata": {EVIL: {EVIL: EVIL, "list": [EVIL] * 9, "dict": {EVIL: [EVIL] * 9}}},
    }  # fmt: skip
    path = report.write_report(tmp_path / "report.html", results)
    text = path.read_text()
    page = parsed(text)
    assert "script" not in page.tags
    assert text.count("<svg") == 2
    assert len(page.links) == 2 and all(link.startswith("data:") for link in page.links)
    assert "http:" not in text and "https:" not in text
    assert "2.000" in text and "1.000" in text


def test_report_shows_missing_values_as_dashes() -> None:
    text = report.report_html(
        {"artifacts": [{"name": "a", "aee": None, "latency_ms": 1.0}, {"name": "b", "aee": 2.0}]}
    )
    parsed(text)
    assert text.count("<td>–</td>") == 2  # noqa: RUF001
    assert "Error over time" not in text and "Pictures" not in text


def test_report_refusals(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="artifacts"):
        report.report_html({})
    with pytest.raises(PictureError, match="must be a PNG"):
        report.report_html({"artifacts": [], "picture": b"GIF89a"})
    with pytest.raises(FileNotFoundError):
        report.report_html({"artifacts": [], "picture": tmp_path / "absent.png"})


def test_report_of_an_evaluation(make_file: Any, recording: Path) -> None:
    frames: list[pictures.Frame] = []

    def keep(record: Any) -> None:
        found = pictures.frame_of(record)
        if found is not None:
            frames.append(found)

    with EventFile(recording) as file:
        runners = {"int8": StatefulSession(make_file()).diagnostic()}
        result = evaluate(file, runners, Drive(warmup=1), observe=keep, quiet=True)
    assert len(frames) == 5 and frames[0].scored.sum() > 0
    assert sum(int(frame.counts.sum()) for frame in frames) < result.events
    values = report.from_evaluation(result)
    text = report.report_html({"artifacts": [{"name": "int8"}], **values})
    parsed(text)
    assert "zero flow" in text and "head" in text and "predicting zero" in text

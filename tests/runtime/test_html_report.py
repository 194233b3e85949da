"""The evaluation report: what stands in it, that it is safe to open, that it stays small."""

from __future__ import annotations

import hashlib
import re
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
from html_pages import parsed

from calib_data import EventFile, Events, console, event_mask
from calib_data.windows import Window
from runtime import PictureError, evaluate, page
from runtime.artifact import load_model
from runtime.html_report import ReportBuilder
from runtime.metadata import Artifact
from runtime.report_data import layer_thresholds, relative_membranes
from runtime.sequence import Drive, NetworkStep, StepRecord, drive
from runtime.session import StatefulSession
from runtime.snapshots import (
    Scales,
    Snapshot,
    common_scales,
    snapshot,
    strip_images,
    warped_counts,
    warped_images,
)

EVIL = "<script>alert('x')</script>&\"'"


class Still:
    """A runner that is only asked for its metadata and its (absent) states."""

    resolution: tuple[int, int] | None = (4, 4)

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    def states(self) -> dict[str, Any]:
        return {}


def constant(x: float, y: float) -> np.ndarray[Any, Any]:
    flow = np.zeros((2, 4, 4), np.float32)
    flow[0], flow[1] = x, y
    return flow


def events_of(*rows: tuple[int, int, float, int]) -> Events:
    xs, ys, ts, ps = zip(*rows, strict=True)
    return Events(np.array(xs), np.array(ys), np.array(ts, float), np.array(ps))


def column(polarity: int) -> Events:
    """An edge that moves one pixel to the right from the window's start to its end."""
    return events_of((1, 0, 0.0, polarity), (1, 1, 0.0, polarity), (2, 0, 1.0, polarity))


def window(index: int, events: Events, flow: Any = None) -> Window:
    return Window(
        index=index, start=0, stop=len(events), events=events, t_start=float(index),
        t_stop=index + 1.0, dt_input=1.0, dt_gt=1.0 if flow is not None else 0.0, flow=flow,
        interval_end=flow is not None,
    )  # fmt: skip


def record(index: int, events: Events, prediction: Any, truth: Any = None) -> StepRecord:
    pixels = prediction if truth is not None else None
    step = NetworkStep(prediction / np.float32(128), pixels, None, {}, {}, None, 0.001)
    return StepRecord(window(index, events, truth), {"net": step})


@pytest.fixture
def still(make_model: Any) -> Still:
    return Still(Artifact.from_model(make_model()))


# --- one window ----------------------------------------------------------------------------------


def test_right_flow_gathers_an_edge(still: Still) -> None:
    shot = snapshot(record(3, column(1), constant(1, 0), constant(1, 0)), {"net": still}, (4, 4))
    assert shot is not None and shot.index == 3 and shot.seconds == 4.0
    assert shot.counts[0].sum() == 3 and shot.counts[1].sum() == 0
    after = shot.warped["net"]
    assert after[0, 0, 2] == 2 and after[0, 1, 2] == 1 and after.sum() == 3
    assert np.array_equal(after, shot.warped["ground truth"])
    assert (
        shot.sharpness["net"]
        > 1
        == pytest.approx(
            snapshot(record(0, column(1), constant(0, 0)), {"net": still}, (4, 4)).sharpness["net"]
        )
    )


def test_warping_keeps_polarities_apart_and_drops_what_leaves() -> None:
    events = events_of((3, 0, 0.0, 1), (0, 3, 0.0, -1), (0, 2, 1.0, -1))
    counts = warped_counts(events, constant(1, 0))
    assert counts.shape == (2, 4, 4) and counts.dtype == np.uint16
    assert counts[0].sum() == 0 and counts[1, 3, 1] == 1 and counts[1, 2, 0] == 1


def test_stretched_windows_are_warped_by_their_own_motion(still: Still) -> None:
    """Ground truth over an interval of twice the window: half of it happens in the window."""
    whole = record(0, column(1), constant(2, 0), constant(2, 0))
    half = replace(whole, window=replace(whole.window, dt_gt=2.0))
    shot = snapshot(half, {"net": still}, (4, 4))
    assert shot is not None and shot.warped["net"][0, 0, 2] == 2


def test_windows_without_ground_truth_are_in_pixels_per_window(still: Still) -> None:
    shot = snapshot(record(0, column(-1), constant(1, 0)), {"net": still}, (4, 4))
    assert shot is not None and shot.ground_truth is None and not shot.aee
    assert np.allclose(shot.predictions["net"], constant(1, 0))
    assert list(strip_images(shot, common_scales([shot]))) == ["events", "flow of net"]


def test_flow_of_another_size_is_not_pictured(still: Still) -> None:
    assert snapshot(record(0, column(1), constant(1, 0)), {"net": still}, (8, 8)) is None


def golden() -> Snapshot:
    """Flows along the axes with round lengths, so that every colour is exact."""
    truth = constant(2, 0)
    truth[:, 3] = 0
    counts = np.zeros((2, 4, 4), np.uint16)
    counts[0, 0], counts[1, 3], counts[0, 1, 1] = 1, 2, 9
    flows = {"a": constant(0, 0), "b": constant(0, -1)}
    warped = {"a": counts[:, ::-1].copy(), "b": counts}
    return Snapshot(0, 1.0, counts, truth, flows, {"a": 2.0}, warped, {"a": 1.0, "b": 1.5})


def digest(image: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


GOLDEN = {
    "events": "f71bd267874ca41a",
    "ground truth": "a7eecab89cf7af20",
    "flow of a": "80a76a18acf8cb64",
    "flow of b": "2928aa0490ea3df7",
    "error of a": "c4e468b575622136",
    "error of b": "b3ad2abfd75bbe1f",
    "difference of a and b": "fa143d70dcb92f3d",
    "as they fell": "4455aa5debdaf6bd",
    "along a": "b15d39be409b3f62",
    "along b": "4455aa5debdaf6bd",
}


def test_images_are_the_golden_ones() -> None:
    scales = Scales(flow=2.0, error=4.0, difference=1.0, events=4)
    images = {**strip_images(golden(), scales), **warped_images(golden(), scales)}
    assert all(image.shape == (4, 4, 3) and image.dtype == np.uint8 for image in images.values())
    assert tuple(images["ground truth"][0, 0]) == (255, 0, 0)
    assert tuple(images["difference of a and b"][0, 0]) == (252, 255, 164)
    assert tuple(images["error of a"][3, 0]) == tuple(images["error of b"][2, 2]) == (235,) * 3
    assert (images["flow of b"][2] == 255).all() and images["flow of b"][0, 0, 2] == 255
    assert {title: digest(image) for title, image in images.items()} == GOLDEN


def test_scales_suit_all_windows() -> None:
    shot = golden()
    fast = replace(shot, ground_truth=shot.ground_truth * 3)
    assert common_scales([shot]).flow == pytest.approx(2)
    assert common_scales([shot, fast]).flow == pytest.approx(6)
    assert common_scales([shot]).difference == pytest.approx(1)
    assert common_scales([shot]).error == pytest.approx(np.hypot(2, 1))
    assert common_scales([shot]).events >= 3


# --- gathering -----------------------------------------------------------------------------------


def test_thresholds_come_from_the_graph(make_file: Any, counts: Any) -> None:
    for kind, dtype in (("float", np.float32), ("int8", np.uint8)):
        loaded = load_model(make_file(f"{kind}.onnx", kind=kind))
        limits = layer_thresholds(loaded.model, loaded.artifact)
        assert set(limits) == {"head", "G1"} and limits["G1"].shape == (4,)
        if kind == "int8":
            assert tuple(limits["G1"]) == loaded.artifact.layer("G1").threshold
        session = StatefulSession(loaded)
        for step in counts(8, dtype):
            session.step(step)
        states = session.states()
        found = relative_membranes(loaded.artifact, states, limits)
        # After the reset no neuron is above its threshold, and some are near it.
        assert all(values.max() <= 1 for values in found.values()) and found["head"].max() > 0.9
        raw = states["mem.G1"][0, 2]
        assert found["G1"][0, 2] == pytest.approx(raw / limits["G1"][2])


def test_membranes_of_large_images_are_thinned(make_file: Any) -> None:
    loaded = load_model(make_file(resolution=None))
    limits = layer_thresholds(loaded.model, loaded.artifact)
    for layout, shape in (("NCHW", (1, 4, 300, 260)), ("NHWC", (1, 300, 260, 4))):
        states = tuple(replace(state, layout=layout) for state in loaded.artifact.states)
        arrays = {s.input: np.full(shape, 7, np.int16) for s in states}
        found = relative_membranes(replace(loaded.artifact, states=states), arrays, limits)["G1"]
        channels = found if layout == "NCHW" else np.moveaxis(found, -1, 1)
        assert channels.shape == (1, 4, 100, 87)
        assert channels[0, :, 5, 5] == pytest.approx(7 / limits["G1"])


def test_flow_that_is_not_finite_is_pictured_nonetheless(still: Still) -> None:
    wild = constant(1, 0)
    wild[:, 1] = np.nan
    shots = [snapshot(record(0, column(1), wild, constant(1, 1)), {"net": still}, (4, 4))]
    scales = common_scales([shot for shot in shots if shot is not None])
    assert all(np.isfinite([scales.flow, scales.error, scales.difference]))
    assert shots[0] is not None and len(strip_images(shots[0], scales)) == 4


def test_report_gathers_what_the_evaluation_scores(make_file: Any, recording: Path) -> None:
    model = make_file()
    loaded = load_model(model)
    runners = {"int8": StatefulSession(loaded).diagnostic()}
    builder = ReportBuilder({"int8": layer_thresholds(loaded.model, loaded.artifact)})
    with EventFile(recording) as file:
        observe = builder.sequence("first", file.resolution, runners)
        result = evaluate.evaluate(file, runners, Drive(warmup=1), observe=observe, quiet=True)
        observe.finish(result)
        masks = [
            event_mask(r.window.events, file.resolution) & (r.window.flow != 0).any(axis=0)
            for r in drive(file, runners, Drive(warmup=1))
        ][1:]
    times, series = observe.timeline.series()
    network = result.networks["int8"]
    assert times == pytest.approx(network.times) and series["int8"] == pytest.approx(network.aee)
    assert series["zero flow"] == pytest.approx(result.zero_timeline())
    traces = observe.traces["int8"]
    assert traces.seconds.total == 6 and traces.seconds.percentile(50) > 0
    assert traces.rates["G1"].total == 6
    assert np.array_equal(traces.errors.frames, np.sum(masks, axis=0))
    errors = (traces.errors.mean() * traces.errors.frames).sum() / traces.errors.frames.sum()
    assert errors == pytest.approx(network.score.by_pixels()["aee"])
    assert traces.membranes["head"].total == 2 * 4 * 12 * 16
    assert [shot.index for shot in observe.snapshots()] == [1, 2, 4, 5]


def test_windows_can_be_chosen(make_file: Any, recording: Path) -> None:
    runners = {"int8": StatefulSession(make_file())}
    builder = ReportBuilder(windows=(0, 4, 99))
    with EventFile(recording) as file:
        observe = builder.sequence("s", file.resolution, runners)
        observe.finish(evaluate.evaluate(file, runners, Drive(), observe=observe, quiet=True))
    assert [shot.index for shot in observe.snapshots()] == [0, 4]


def long_records(total: int) -> Iterator[StepRecord]:
    for index in range(total):
        yield record(index, column(1), constant(1, 0), constant(1, 0))


def test_memory_does_not_grow_with_the_sequence(still: Still) -> None:
    def held(total: int) -> int:
        observe = ReportBuilder().sequence("s", (4, 4), {"net": still})
        tracemalloc.start()
        for item in long_records(total):
            observe(item)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(observe.snapshots()) == 4
        return size

    held(10)
    assert held(1200) < held(300) * 1.2 + 20_000


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture
def report(make_file: Any, recording: Path, tmp_path: Path) -> Callable[..., Path]:
    """report(*options) -> the report of two artifacts driven by the command."""

    def make(*options: object) -> Path:
        out = tmp_path / "report.html"
        integer, real = make_file(), make_file("model.float.onnx", kind="float")
        arguments = [real, "--data", recording, "--against", integer, "--report", out, *options]
        assert console.run(evaluate.main, [str(a) for a in [*arguments, "--no-library"]]) == 0
        return out

    return make


def test_command_writes_the_whole_report(report: Callable[..., Path]) -> None:
    text = report("--metrics", "aee,rsat", "--fwl", 200).read_text()
    found = parsed(text)
    for heading in (
        "recording", "Scores", "Error over time", "Flow", "Error maps",
        "Events before and after compensation", "Activity by layer", "Time per step", "Protocol",
        "Artifacts", "G1: membranes after reset", "head: spike rates of windows",
    ):  # fmt: skip
        assert heading in found.texts, heading
    titles = " ".join(filter(None, found.alts))
    for title in (
        "events", "ground truth", "flow of model.float.onnx", "flow of model.int8.onnx",
        "difference of model.float.onnx and model.int8.onnx", "colour wheel", "as they fell",
        "along ground truth", "mean error of model.int8.onnx",
    ):  # fmt: skip
        assert title in titles, title
    # Four windows of seven panels and four warped images, two maps, one wheel.
    assert found.tags.count("img") == 4 * (7 + 4) + 2 + 1
    # Errors and two metrics over time; bars, two histograms of two layers, latencies.
    assert found.tags.count("svg") == 1 + 2 + 1 + 2 * 2 + 1
    assert "zero flow" in found.texts and "gtflow_dt1" in found.texts and "rsat" in text


def test_metrics_asked_for_have_lines_over_time(report: Callable[..., Path]) -> None:
    text = report("--metrics", "outliers,naae_published,fwl", "--fwl", 200).read_text()
    found = parsed(text)
    charts = text[text.index("Metrics over time") : text.index(">Flow<")]
    for name in ("outliers, share", "naae_published, rad/px", "fwl, 1"):
        assert f'aria-label="{name} against time, s"' in charts
    assert "|F - G| &gt; 3 px and &gt; 5 % of |G|; lower is better" in charts
    # A line for each network in each chart, named; frames are few, so none is joined.
    assert charts.count("<title>model.int8.onnx</title>") == 3
    assert charts.count("<title>model.float.onnx</title>") == 3
    assert "Each point is the mean" not in charts
    assert "Metrics over time" in found.texts
    assert "Metrics over time" not in report().read_text()


def test_metrics_of_several_sequences_stand_together(
    make_file: Any, recording: Path, tmp_path: Path
) -> None:
    other, out = tmp_path / "other.h5", tmp_path / "report.html"
    other.write_bytes(recording.read_bytes())
    given = ["--data", recording, other, "--report", out, "--metrics", "aae,fwl", "--fwl", 200]
    assert console.run(evaluate.main, [str(a) for a in [make_file(), *given]]) == 0
    top = out.read_text().split('id="sequence-0"')[0]
    assert parsed(out.read_text()).texts.count("Metrics over time") == 2
    for name in ("aae in deg, every frame weighing the same", "fwl in 1, every frame"):
        assert name in top


def test_report_is_readable_in_light_and_dark_and_at_any_width(report: Callable[..., Path]) -> None:
    text = report("--limit", 2).read_text()
    assert "color-scheme:light dark" in text and "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text and '<html lang="en">' in text
    ink, paper = (re.search(rf"--{name}:#(\w+)", text).group(1) for name in ("soft", "page"))  # type: ignore[union-attr]
    assert contrast(ink, paper) >= 4.5
    dark = text[text.index("prefers-color-scheme: dark") :]
    ink, paper = (re.search(rf"--{name}:#(\w+)", dark).group(1) for name in ("soft", "page"))  # type: ignore[union-attr]
    assert contrast(ink, paper) >= 4.5


def contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2 of two colours."""

    def luminance(text: str) -> float:
        parts = np.array([int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_command_without_ground_truth(report: Callable[..., Path]) -> None:
    found = parsed(report("--mode", "events", "--window", 100, "--fwl", 200).read_text())
    assert "Flow" in found.texts and "FWL" in found.texts and "no ground truth" in str(found.texts)
    assert "Error maps" not in found.texts and "Error over time" not in found.texts
    assert not any("ground truth" in (alt or "") for alt in found.alts)


def test_windows_that_are_not_scored_say_so(report: Callable[..., Path]) -> None:
    found = parsed(report("--window", 0.5, "--report-windows", "4,7").read_text())
    assert found.texts.count("Not scored: its flow is in pixels per window.") == 1
    alts = [alt or "" for alt in found.alts]
    assert any(alt.startswith("error of model.int8.onnx, window 7") for alt in alts)
    assert not any("error of model.int8.onnx, window 4" in alt for alt in alts)


def test_a_folder_gets_report_html(make_file: Any, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    arguments = [make_file(), "--data", recording, "--report", out, "--limit", 2]
    assert console.run(evaluate.main, [str(a) for a in arguments]) == 0
    found = parsed((out / "report.html").read_text())
    assert not any("difference" in (alt or "") for alt in found.alts)


def test_everything_from_outside_is_escaped(
    make_file: Any, recording: Path, tmp_path: Path
) -> None:
    runners = {EVIL: StatefulSession(make_file()), "b": StatefulSession(make_file())}
    builder = ReportBuilder()
    with EventFile(recording) as file:
        for name in (EVIL, "second"):
            observe = builder.sequence(name, file.resolution, runners)
            result = evaluate.evaluate(file, runners, Drive(limit=2), observe=observe, quiet=True)
            observe.finish(result)
    builder.sequence("unfinished", (12, 16), runners)
    path = builder.write(
        tmp_path / "r.html", title=EVIL, protocol={EVIL: EVIL, "nested": {EVIL: [EVIL] * 9}},
        artifacts={EVIL: {EVIL: EVIL}}, warnings=[EVIL],
    )  # fmt: skip
    text = path.read_text()
    found = parsed(text)
    assert "<script" not in text and EVIL in found.texts
    assert found.links.count("#sequence-0") == 1 and "All sequences" in found.texts
    assert "unfinished" not in text


def test_report_of_nothing_says_so(tmp_path: Path) -> None:
    found = parsed(ReportBuilder().write(tmp_path / "r.html", warnings=["cut short"]).read_text())
    assert "No sequence was evaluated." in found.texts and "cut short" in found.texts


def test_mistakes_are_found_before_the_work(
    make_file: Any, recording: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    start = [make_file(), "--data", recording]
    for options in (
        ["--report", tmp_path / "file" / "report.html"],
        ["--video", tmp_path / "x.avi"],
        ["--gif", tmp_path / "x.mp4"],
    ):
        assert console.run(evaluate.main, [str(a) for a in [*start, *options]]) == 2
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(PictureError, match=r"pip install 'spikedeploy\[report\]'"):
        page.pillow()
    assert console.run(evaluate.main, [str(a) for a in [*start, "--report", tmp_path / "r"]]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("error: ") for line in lines)


def test_opens_in_a_browser_without_a_request_or_a_complaint(
    report: Callable[..., Path], tmp_path: Path
) -> None:
    program = browser.find()
    if program is None:
        pytest.skip("NO BROWSER: install chromium to open the report in it (apt install chromium)")
    path = report()
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    seen = browser.visit(program, path, tmp_path / "good")
    assert seen.served == ["/report.html"] and not seen.requests and not seen.complaints
    assert "Error over time" in seen.dom
    # The same eyes see both in a page that has them.
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<!doctype html><img src="http://other.invalid/x.png"><script>console.error("no")</script>'
    )
    seen = browser.visit(program, bad, tmp_path / "bad")
    assert "http://other.invalid/x.png" in seen.requests and seen.complaints

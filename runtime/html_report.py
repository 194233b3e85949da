"""The report of an evaluation: one self-contained HTML file, gathered while windows are driven.

A ``ReportBuilder`` hands out one observer per sequence (``runtime.report_data``). Arrays become PNG
with pillow (extra ``report``); charts are inline SVG.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_data.files import atomic_path
from runtime import page
from runtime.charts import bar_chart, histogram_chart, line_chart
from runtime.metrics import METRICS
from runtime.pictures import Rgb, error_image, wheel_image
from runtime.report_data import ZERO, SequenceReport, Thresholds
from runtime.runner import Runner
from runtime.snapshots import Snapshot, common_scales, strip_images, warped_images
from runtime.streaming import Histogram

if TYPE_CHECKING:
    from runtime.evaluation import Evaluation, NetworkResult

_WHEEL_PIXELS = 141
_HALF_WIDTH = 460

_ERRORS: tuple[page.Column, ...] = (
    ("AEE px", "aee", 1.0, 3),
    ("AEE by frames", "aee_frames", 1.0, 3),
    ("outliers %", "outliers", 100.0, 1),
    ("AAE °", "aae", 1.0, 1),
    ("NEE", "nee", 1.0, 3),
    ("spikes %", "spike_rate", 100.0, 2),
    ("FWL", "fwl", 1.0, 3),
)
_METRICS: tuple[page.Column, ...] = (
    ("metric", "metric", None, 0),
    ("by frames", "by_frames", 1.0, 4),
    ("by pixels", "by_pixels", 1.0, 4),
    ("values", "values", 1.0, 0),
    ("unit", "unit", None, 0),
)
_LATENCIES: tuple[page.Column, ...] = (
    ("p5 ms", "p5", 1e3, 2),
    ("p50 ms", "p50", 1e3, 2),
    ("p95 ms", "p95", 1e3, 2),
    ("steps", "steps", 1.0, 0),
)


class ReportBuilder:
    """Gathers sequences and writes the report."""

    def __init__(
        self, thresholds: Mapping[str, Thresholds] | None = None, windows: Collection[int] = ()
    ) -> None:
        """thresholds: by network, for histograms of membranes. windows: numbers of the windows to
        picture in every sequence; empty spreads a few evenly.

        Raises PictureError where pillow is not installed.
        """
        page.pillow()
        self._thresholds = thresholds or {}
        self._windows = windows
        self.sequences: list[SequenceReport] = []

    def sequence(
        self, name: str, resolution: tuple[int, int], runners: Mapping[str, Runner]
    ) -> SequenceReport:
        """The observer of the next sequence; it is in the report once it is finished."""
        self.sequences.append(
            SequenceReport(name, resolution, runners, self._thresholds, self._windows)
        )
        return self.sequences[-1]

    def write(
        self,
        path: str | os.PathLike[str],
        *,
        title: str = "Evaluation",
        protocol: Mapping[str, Any] | None = None,
        artifacts: Mapping[str, Mapping[str, Any]] | None = None,
        warnings: Sequence[str] = (),
    ) -> Path:
        """Write the report.

        Args:
            path: the HTML file.
            title: its heading.
            protocol: how windows were cut and scored, as names and JSON values.
            artifacts: by network, what its file says about itself, as JSON values.
            warnings: sentences shown at the top: what is missing, that a run was cut short.

        Raises OSError if it cannot be written.
        """
        done = [sequence for sequence in self.sequences if sequence.evaluation is not None]
        parts = [f"<h1>{page.text(title)}</h1>"]
        parts += [page.paragraph(warning, "warning") for warning in warnings]
        if not done:
            parts.append(page.paragraph("No sequence was evaluated."))
        if len(done) > 1:
            parts += [_contents(done), _summary(done)]
        for number, sequence in enumerate(done):
            parts += _sequence(sequence, number)
        if protocol:
            parts.append(page.section("Protocol", page.details("protocol", protocol, opened=True)))
        if artifacts:
            folds = "".join(page.details(name, values) for name, values in artifacts.items())
            parts.append(page.section("Artifacts", folds))
        with atomic_path(path) as temporary:
            temporary.write_text(page.page(title, parts), encoding="utf-8")
        return Path(path)


def _contents(sequences: Sequence[SequenceReport]) -> str:
    links = "".join(
        f'<li><a href="#sequence-{number}">{page.text(sequence.name)}</a></li>'
        for number, sequence in enumerate(sequences)
    )
    return f'<nav aria-label="sequences"><ul>{links}</ul></nav>'


def _summary(sequences: Sequence[SequenceReport]) -> str:
    """AEE, and the metrics asked for, of every network on every sequence."""
    names = list(dict.fromkeys(n for s in sequences for n in _evaluated(s).networks))
    rows = []
    for sequence in sequences:
        networks = _evaluated(sequence).networks
        values = {f"network {n}": _error_row(n, networks[n])["aee"] for n in networks}
        zero = _evaluated(sequence).yardsticks()["zero_aee"]
        rows.append({"name": sequence.name, "zero": zero, **values})
    columns: list[page.Column] = [(name, f"network {name}", 1.0, 3) for name in names]
    columns.append((ZERO, "zero", 1.0, 3))
    caption = "AEE in pixels, every scored pixel weighing the same"
    body = page.table(rows, columns, caption=caption)
    for metric in _asked(sequences):
        rows = [_metric_row(sequence, metric) for sequence in sequences]
        caption = f"{metric} in {METRICS[metric].unit}, every frame weighing the same"
        body += page.table(rows, columns[:-1], caption=caption)
    return page.section("All sequences", body)


def _asked(sequences: Sequence[SequenceReport]) -> list[str]:
    """Names of the metrics asked for."""
    results = [result for s in sequences for result in _evaluated(s).networks.values()]
    return list(dict.fromkeys(name for result in results for name in result.metrics.values()))


def _metric_row(sequence: SequenceReport, metric: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": sequence.name}
    for name, result in _evaluated(sequence).networks.items():
        value = result.metrics.values().get(metric)
        known = value is not None and math.isfinite(value.by_frames)
        row[f"network {name}"] = value.by_frames if value is not None and known else None
    return row


def _evaluated(sequence: SequenceReport) -> Evaluation:
    if sequence.evaluation is None:
        raise ValueError(f"sequence {sequence.name} is not finished")
    return sequence.evaluation


def _sequence(sequence: SequenceReport, number: int) -> list[str]:
    evaluation = _evaluated(sequence)
    plan = evaluation.plan
    heading = (
        f'<h2 class="sequence" id="sequence-{number}">{page.text(sequence.name)}</h2>'
        + page.paragraph(
            f"{evaluation.windows} windows, mode {plan.mode}, length {plan.window:g}, "
            f"{evaluation.resolution[0]} x {evaluation.resolution[1]} pixels, "
            f"{evaluation.events} events, {evaluation.events_per_pixel:.3f} per pixel and window"
        )
        + page.paragraph(_driven(evaluation))
    )
    return [heading, _scores(evaluation), _over_time(sequence), _metrics_over_time(evaluation),
            *_pictures(sequence),
            _activity(sequence), _latency(sequence)]  # fmt: skip


def _driven(evaluation: Evaluation) -> str:
    if evaluation.span is None:
        return "No window was driven."
    first, last = evaluation.span
    return f"Driven: {first:.3f} to {last:.3f} s since t0; {evaluation.scored}."


def _scores(evaluation: Evaluation) -> str:
    rows: list[dict[str, Any]] = [_error_row(n, r) for n, r in evaluation.networks.items()]
    marks = evaluation.yardsticks()
    labels = (("zero_aee", ZERO), ("mean_aee", "mean true flow of the frame"))
    rows += [{"name": t, "aee": marks[k], "dim": True} for k, t in labels if marks[k] is not None]
    columns = [c for c in _ERRORS if any(row.get(c[1]) is not None for row in rows)]
    frames = max(result.score.frames for result in evaluation.networks.values())
    caption = f"{frames} scored frames, every pixel weighing the same unless stated"
    body = page.table(rows, columns, caption=caption if frames else "no ground truth was scored")
    asked = [
        {"name": name, "metric": metric, "unit": METRICS[metric].unit, "values": value.values,
         "by_frames": value.by_frames, "by_pixels": value.by_pixels}
        for name, result in evaluation.networks.items()
        for metric, value in result.metrics.values().items()
    ]  # fmt: skip
    if asked:
        body += page.table(asked, _METRICS, caption="metrics asked for; see docs/metrics.md")
    return page.section("Scores", body, 3)


def _error_row(name: str, result: NetworkResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name, "spike_rate": result.spike_rate(), "fwl": result.mean_fwl()
    }  # fmt: skip
    if result.score.frames:
        pixels = result.score.by_pixels()
        row |= {key: pixels[key] for key in ("aee", "outliers", "aae", "nee")}
        row["aee_frames"] = result.score.by_frames()["aee"]
    return {key: row.get(key) for key in ("name", *(key for _, key, _, _ in _ERRORS))}


def _over_time(sequence: SequenceReport) -> str:
    times, series = sequence.timeline.series()
    if not times:
        return ""
    ordered = {name: series[name] for name in [*sequence.traces, ZERO]}
    body = line_chart(times, ordered, x_label="time, s", y_label="AEE, px")
    if sequence.timeline.values_per_point > 1:
        body += page.paragraph(
            f"Each point is the mean of {sequence.timeline.values_per_point} scored frames."
        )
    return page.section("Error over time", body, 3)


def _metrics_over_time(evaluation: Evaluation) -> str:
    """A small chart for every metric asked for, with a line per network."""
    charts, joined = "", 1
    for name, line in evaluation.metric_lines.items():
        times, series = line.series()
        metric = METRICS[name]
        joined = max(joined, line.values_per_point)
        chart = line_chart(
            times, series, x_label="time, s", y_label=f"{name}, {metric.unit}",
            chart_width=_HALF_WIDTH,
        )  # fmt: skip
        better = {"lower": "lower is better", "higher": "higher is better"}.get(metric.better, "")
        note = "; ".join(filter(None, (metric.definition, better)))
        charts += page.section(name, page.paragraph(note) + chart, 4)
    if not charts:
        return ""
    body = f'<div class="charts">{charts}</div>'
    if joined > 1:
        body += page.paragraph(f"Each point is the mean of up to {joined} values.")
    return page.section("Metrics over time", body, 3)


def _pictures(sequence: SequenceReport) -> list[str]:
    shots = sequence.snapshots()
    if not shots:
        return []
    scales = common_scales(shots)
    scored = any(shot.ground_truth is not None for shot in shots)
    unit = "px" if scored else "px per window"
    explained = (
        f"Flow: hue is direction, saturation is length, full at {scales.flow:.3g} {unit}, white is "
        "no motion; predictions are shown where events fell. Events: blue became brighter, red "
        "darker."
    )
    if scored:
        explained += (
            f" Errors: black is none, yellow {scales.error:.3g} px or more, grey is not scored."
        )
    if len(sequence.traces) > 1:
        explained += f" Differences: yellow is {scales.difference:.2g} {unit} or more."
    wheel = page.png_bytes(wheel_image(_WHEEL_PIXELS))
    alt = "flow colour wheel: right is red, down yellow, left cyan, up blue"
    body = page.paragraph(explained)
    body += (
        f'<div class="key-image">{page.figure(wheel, alt, f"rim: {scales.flow:.3g} {unit}")}</div>'
    )
    for shot in shots:
        notes = [f"{name}: {value:.2f} px" for name, value in shot.aee.items()]
        note = f"AEE of {', '.join(notes)}" if notes else ""
        if scored and shot.ground_truth is None:
            note = "Not scored: its flow is in pixels per window."
        grid = _grid(strip_images(shot, scales), _place(shot), kind="strip")
        body += page.section(_place(shot), page.paragraph(note) + grid if note else grid, 4)
    return [page.section("Flow", body, 3), _error_maps(sequence, scales.error), _warped(shots)]


def _place(shot: Snapshot) -> str:
    return f"window {shot.index}, {shot.seconds:.2f} s"


def _grid(
    images: Mapping[str, Rgb],
    where: str,
    notes: Mapping[str, str] | None = None,
    kind: str = "large",
) -> str:
    figures = (
        page.figure(
            page.png_bytes(image),
            f"{title}, {where}",
            " ".join(filter(None, (title, (notes or {}).get(title)))),
        )
        for title, image in images.items()
    )
    return f'<div class="{kind}">{"".join(figures)}</div>'


def _warped(shots: Sequence[Snapshot]) -> str:
    scales = common_scales(shots)
    body = page.paragraph(
        "Events of one window as they fell, and moved along a flow to the end of the window: right "
        "flow makes edges sharp. The number is the flow warp loss of this window alone, above 1 is "
        f"sharper; full colour is {scales.events} events on a pixel."
    )
    for shot in shots:
        notes = {f"along {n}": f"({page.number(v, 1, 2)})" for n, v in shot.sharpness.items()}
        images = _grid(warped_images(shot, scales), _place(shot), notes)
        body += page.section(_place(shot), images, 4)
    return page.section("Events before and after compensation", body, 3)


def _error_maps(sequence: SequenceReport, worst: float) -> str:
    images = {}
    for name, traces in sequence.traces.items():
        seen = traces.errors.frames > 0
        if seen.any():
            images[f"mean error of {name}"] = error_image(traces.errors.mean(), worst, seen)
    if not images:
        return ""
    note = page.paragraph(
        f"Mean end-point error of each pixel over the frames that score it; yellow is {worst:.3g} "
        "px or more, light grey was never scored."
    )
    return page.section("Error maps", note + _grid(images, sequence.name), 3)


def _activity(sequence: SequenceReport) -> str:
    results = _evaluated(sequence).networks
    rates = {name: result.spike_rates() for name, result in results.items()}
    body = ""
    if any(rates.values()):
        body += page.section("Neurons that fire per step", bar_chart(rates, unit="%", scale=100), 4)
    traces = sequence.traces
    charts = ""
    for layer in _layers(
        [gathered for t in traces.values() for gathered in (t.rates, t.membranes)]
    ):
        rates_of = {n: _outline(t.rates.get(layer), 100.0) for n, t in traces.items()}
        charts += _chart(f"{layer}: spike rates of windows", rates_of, "neurons that fire, %", {})
        membranes = {n: _outline(t.membranes.get(layer), 1.0) for n, t in traces.items()}
        if any(edges for edges, _ in membranes.values()):
            heading, marks = f"{layer}: membranes after reset", {"fires above": 1.0}
            charts += _chart(heading, membranes, "membrane / threshold", marks)
    body += f'<div class="charts">{charts}</div>' if charts else ""
    return page.section("Activity by layer", body, 3) if body else ""


def _chart(
    heading: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    marks: Mapping[str, float],
) -> str:
    chart = histogram_chart(series, x_label=x_label, marks=marks, chart_width=_HALF_WIDTH)
    return page.section(heading, chart, 4)


def _layers(gathered: Sequence[Mapping[str, Histogram]]) -> list[str]:
    return list(dict.fromkeys(layer for layers in gathered for layer in layers))


def _outline(histogram: Histogram | None, scale: float) -> tuple[list[float], list[float]]:
    if histogram is None or not histogram.total:
        return [], []
    view = histogram.view()
    return [float(edge) * scale for edge in view.edges], [float(share) for share in view.shares]


def _latency(sequence: SequenceReport) -> str:
    rows: list[dict[str, Any]] = []
    series = {}
    for name, traces in sequence.traces.items():
        seconds = traces.seconds
        percents = {f"p{p}": seconds.percentile(p) for p in (5, 50, 95)}
        rows.append({"name": name, "steps": seconds.total, **percents})
        series[name] = _outline(seconds, 1e3)
    if not any(row["p50"] > 0 for row in rows if math.isfinite(row["p50"])):
        return ""
    note = page.paragraph(
        "Wall time of each step while this was computed, networks in turn and every layer's spikes "
        "read out; python -m bench.latency measures artifacts as they are deployed."
    )
    chart = histogram_chart(series, x_label="ms per step")
    table = page.table(rows, _LATENCIES, caption="time per step")
    return page.section("Time per step", note + chart + table, 3)

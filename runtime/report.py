"""One self-contained HTML file about a set of artifacts: nothing in it is fetched from anywhere.

``write_report(path, results)`` takes a dict. Every key but ``artifacts`` may be missing, and every
value in it may be None, which shows as a dash:

================ ================================================================================
title, subtitle  text
artifacts        list of {name, file, kind, bytes, aee, aee_frames, outliers, aae, spike_rate,
                 latency_ms, times_faster, parity}: pixels, shares of 1, degrees, milliseconds;
                 parity is text
yardsticks       {zero_aee, mean_aee}, pixels
picture          PNG as bytes or a path; picture_caption: text
timeline         {seconds: [...], series: {name: [AEE, ...]}}
spike_rates      {name: {layer: share}}
latency          {name: {p5_ms, p50_ms, p95_ms, steps_per_second, peak_bytes}}
metadata         {heading: {key: value}}; values are shown as text, nested ones as JSON
notes            list of text
================ ================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from calib_data.files import atomic_path
from runtime.charts import bar_chart, line_chart
from runtime.errors import PictureError
from runtime.evaluation import Evaluation
from runtime.page import Column, details, figure, page, paragraph, section, table

_ARTIFACT_COLUMNS: tuple[Column, ...] = (
    ("kind", "kind", None, 0),
    ("AEE px", "aee", 1.0, 3),
    ("AEE by frames", "aee_frames", 1.0, 3),
    ("outliers %", "outliers", 100.0, 1),
    ("AAE °", "aae", 1.0, 1),
    ("spikes %", "spike_rate", 100.0, 2),
    ("size kB", "bytes", 1e-3, 0),
    ("ms per step", "latency_ms", 1.0, 2),
    ("times faster", "times_faster", 1.0, 2),
    ("parity", "parity", None, 0),
)
_LATENCY_COLUMNS: tuple[Column, ...] = (
    ("p5 ms", "p5_ms", 1.0, 2),
    ("p50 ms", "p50_ms", 1.0, 2),
    ("p95 ms", "p95_ms", 1.0, 2),
    ("steps/s", "steps_per_second", 1.0, 1),
    ("peak MB", "peak_bytes", 1e-6, 0),
)


def from_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """The ``timeline``, ``spike_rates`` and ``yardsticks`` of an evaluation."""
    networks = evaluation.networks
    seconds = max((result.times for result in networks.values()), key=len, default=[])
    series: dict[str, Sequence[float]] = {name: r.aee for name, r in networks.items()}
    if seconds:
        series["zero flow"] = evaluation.zero_timeline()
    return {
        "timeline": {"seconds": seconds, "series": series},
        "spike_rates": {name: result.spike_rates() for name, result in networks.items()},
        "yardsticks": evaluation.yardsticks(),
    }


def write_report(path: str | os.PathLike[str], results: Mapping[str, Any]) -> Path:
    """Write ``report_html(results)``; raises PictureError as it does, OSError if it cannot."""
    text = report_html(results)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def report_html(results: Mapping[str, Any]) -> str:
    """The report as one HTML page; see the module's text for ``results``.

    All text is escaped. Raises PictureError when ``artifacts`` is missing or the picture is no PNG.
    """
    if "artifacts" not in results:
        raise PictureError("a report needs the list 'artifacts' in its results")
    title = str(results.get("title") or "spikedeploy report")
    parts = [f"<h1>{escape(title)}</h1>"]
    if results.get("subtitle"):
        parts.append(f'<p class="sub">{escape(str(results["subtitle"]))}</p>')
    parts.append(_artifacts(results["artifacts"], results.get("yardsticks") or {}))
    parts += [_notes(results.get("notes") or ())]
    if results.get("picture") is not None:
        parts.append(_picture(results["picture"], str(results.get("picture_caption") or "")))
    timeline = results.get("timeline") or {}
    if timeline.get("seconds"):
        chart = line_chart(
            timeline["seconds"], timeline["series"], x_label="time, s", y_label="AEE, px"
        )
        parts.append(section("Error over time", chart))
    if any((results.get("spike_rates") or {}).values()):
        bars = bar_chart(results["spike_rates"], unit="%", scale=100.0)
        parts.append(section("Neurons that fire per step", bars))
    if results.get("latency"):
        rows = [{"name": name, **values} for name, values in results["latency"].items()]
        parts.append(section("Time per step", table(rows, _LATENCY_COLUMNS)))
    if results.get("metadata"):
        parts.append(section("Metadata", _metadata(results["metadata"])))
    return page(title, parts)


def _artifacts(artifacts: Sequence[Mapping[str, Any]], yardsticks: Mapping[str, Any]) -> str:
    rows = [dict(artifact) for artifact in artifacts]
    marks = [
        {"name": label, "aee": yardsticks[key], "dim": True}
        for label, key in (
            ("predicting zero", "zero_aee"),
            ("predicting the mean true flow", "mean_aee"),
        )
        if yardsticks.get(key) is not None
    ]
    columns = [c for c in _ARTIFACT_COLUMNS if any(row.get(c[1]) is not None for row in rows)]
    return section("Artifacts", table([*rows, *marks], columns))


def _notes(notes: Sequence[str]) -> str:
    return "".join(paragraph(note) for note in notes)


def _picture(picture: bytes | str | os.PathLike[str], caption: str) -> str:
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    return section("Pictures", figure(data, caption or "flow pictures", caption))


def _metadata(metadata: Mapping[str, Mapping[str, Any]]) -> str:
    return "".join(details(str(heading), values) for heading, values in metadata.items())

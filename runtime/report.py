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

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from calib_data.files import atomic_path
from runtime.charts import bar_chart, line_chart
from runtime.errors import PictureError
from runtime.evaluate import Evaluation

_PNG = b"\x89PNG\r\n\x1a\n"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SHORT_JSON = 80
_TEXT_CELL = ' class="text"'
_DASH = "–"  # noqa: RUF001

_STYLE = """
:root { --ink:#1d2430; --soft:#5b6675; --rule:#dde2e9; --page:#ffffff; --card:#f6f8fa;
  --c0:#0072b2; --c1:#d55e00; --c2:#009e73; --c3:#b05c92; --c4:#b98300; --c5:#7a8391; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ee; --soft:#9aa5b4; --rule:#333b47;
  --page:#14181e; --card:#1c222b; --c0:#4fa8dc; --c1:#f08a3c; --c2:#3cc49d; --c3:#d98fc0;
  --c4:#e2b13c; --c5:#9aa5b4; } }
* { box-sizing:border-box }
body { margin:0; background:var(--page); color:var(--ink);
  font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif }
main { max-width:1040px; margin:0 auto; padding:40px 24px 64px }
h1 { font-size:28px; line-height:1.2; margin:0 0 4px; letter-spacing:-.01em }
h2 { font-size:18px; margin:44px 0 12px; padding-top:14px; border-top:1px solid var(--rule) }
p { margin:8px 0 } .sub,.note,.none,figcaption { color:var(--soft) }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
th,td { padding:7px 9px; text-align:right; border-bottom:1px solid var(--rule) }
td { white-space:nowrap } td.text { white-space:normal }
th { font-weight:600; color:var(--soft); font-size:13px; line-height:1.3; vertical-align:bottom }
th:first-child,td:first-child,td.text,th.text { text-align:left }
tr.dim td { color:var(--soft) }
.wide { overflow-x:auto }
code,pre { font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace }
pre { background:var(--card); padding:12px 14px; border-radius:8px; overflow:auto;
  max-height:320px; margin:6px 0 }
figure { margin:0; background:#fff; border:1px solid var(--rule); border-radius:8px;
  overflow:hidden }
figure img { display:block; width:100%; height:auto }
figcaption { padding:10px 14px; background:var(--card); font-size:13.5px }
svg { display:block; width:100%; height:auto; margin:8px 0; font:12px system-ui,sans-serif }
svg text { fill:var(--soft) } svg .value { fill:var(--ink) } svg .grid { stroke:var(--rule) }
svg .line { fill:none; stroke-width:1.8; stroke-linejoin:round }
details { margin:8px 0 } summary { cursor:pointer; font-weight:600 }
details td { white-space:normal; text-align:left; vertical-align:top }
.legend .key { margin-right:18px; color:var(--soft); font-size:13.5px }
.legend i { display:inline-block; width:12px; height:12px; border-radius:3px; margin-right:6px;
  vertical-align:-1px }
"""

Column = tuple[str, str, float | None, int]
"""Heading, key, factor (None for text) and decimals."""

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
        parts.append(_section("Error over time", chart))
    if any((results.get("spike_rates") or {}).values()):
        bars = bar_chart(results["spike_rates"], unit="%", scale=100.0)
        parts.append(_section("Neurons that fire per step", bars))
    if results.get("latency"):
        rows = [{"name": name, **values} for name, values in results["latency"].items()]
        parts.append(_section("Time per step", _table(rows, _LATENCY_COLUMNS)))
    if results.get("metadata"):
        parts.append(_section("Metadata", _metadata(results["metadata"])))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{_colours()}</style></head>\n"
        f"<body><main>\n{chr(10).join(filter(None, parts))}\n</main></body></html>\n"
    )


def _colours() -> str:
    return "\n".join(
        f".legend .c{n}{{background:var(--c{n})}} svg .s{n}{{stroke:var(--c{n})}} "
        f"svg .f{n}{{fill:var(--c{n})}} svg circle.s{n}{{fill:var(--c{n})}}"
        for n in range(6)
    )


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{body}</section>"


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
    return _section("Artifacts", _table([*rows, *marks], columns))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    head = "<th></th>" + "".join(
        f"<th{_TEXT_CELL if scale is None else ''}>{escape(label)}</th>"
        for label, _, scale, _ in columns
    )
    body = []
    for row in rows:
        cells = f"<td>{escape(str(row.get('name', '')))}</td>" + "".join(
            f"<td{_TEXT_CELL}>{'' if row.get('dim') else _text(row.get(key))}</td>"
            if scale is None
            else f"<td>{_number(row.get(key), scale, digits)}</td>"
            for _, key, scale, digits in columns
        )
        style = ' class="dim"' if row.get("dim") else ""
        body.append(f"<tr{style}>{cells}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div>'


def _text(value: object) -> str:
    return _DASH if value is None else escape(str(value))


def _number(value: Any, scale: float, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return _DASH
    return f"{value * scale:.{digits}f}"


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _picture(picture: bytes | str | os.PathLike[str], caption: str) -> str:
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    if not data.startswith(_PNG):
        raise PictureError("the picture of a report must be a PNG")
    text = base64.b64encode(data).decode("ascii")
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    alt = escape(caption or "flow pictures")
    image = f'<img alt="{alt}" src="data:image/png;base64,{text}">'
    return _section("Pictures", f"<figure>{image}{note}</figure>")


def _metadata(metadata: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for heading, values in metadata.items():
        rows = "".join(
            f"<tr><td>{escape(str(key))}</td><td>{_value(value)}</td></tr>"
            for key, value in values.items()
        )
        parts.append(
            f"<details><summary>{escape(str(heading))}</summary><table>{rows}</table></details>"
        )
    return "".join(parts)


def _value(value: Any) -> str:
    if not isinstance(value, dict | list | tuple):
        return _text(value)
    text = json.dumps(value, default=str)
    if len(text) <= _SHORT_JSON:
        return f"<code>{escape(text)}</code>"
    if isinstance(value, dict):
        lines = [f"{json.dumps(str(k))}: {json.dumps(v, default=str)}" for k, v in value.items()]
    else:
        lines = [json.dumps(item, default=str) for item in value]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"

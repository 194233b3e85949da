"""Small charts as inline SVG: no scripts, no fonts to load, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 920, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 40
_SERIES_COLOURS = 6


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover low..high in about ``count`` steps of 1, 2 or 5 times 10^n."""
    if not high > low:
        high = low + 1.0
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


def legend(names: Iterable[str]) -> str:
    """Coloured keys of the series, in the order of the charts."""
    keys = (
        f'<span class="key"><i class="c{number % _SERIES_COLOURS}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(keys)}</p>'


def line_chart(
    xs: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    *,
    x_label: str,
    y_label: str,
    chart_width: int = WIDTH,
) -> str:
    """Lines over a common x axis, y from 0; None and NaN leave a gap.

    chart_width: in units of the text's size.
    """
    values = [v for line in series.values() for v in line if v is not None and math.isfinite(v)]
    if not xs or not values:
        return '<p class="none">no values</p>'
    x_ticks = nice_ticks(min(xs), max(xs), chart_width // 110)
    y_ticks = nice_ticks(0.0, max(values))
    x_low, x_high, y_high = min(xs), max(max(xs), min(xs) + 1e-9), y_ticks[-1]
    width, height = chart_width - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + width * (x - x_low) / (x_high - x_low),
            _TOP + height * (1 - y / y_high),
        )

    parts = [_grid_line(place(x_low, y)[1], y, chart_width) for y in y_ticks]
    parts += [_x_tick(place(x, 0)[0], x) for x in x_ticks if x_low <= x <= x_high]
    for number, (name, line) in enumerate(series.items()):
        for run in _runs(xs, line):
            points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in run)
            shape = "circle" if len(run) == 1 else "polyline"
            body = (
                'cx="{:.1f}" cy="{:.1f}" r="2"'.format(*place(*run[0]))
                if shape == "circle"
                else f'points="{points}"'
            )
            parts.append(
                f'<{shape} class="line s{number % _SERIES_COLOURS}" {body}>'
                f"<title>{escape(name)}</title></{shape}>"
            )
    parts.append(_axis_labels(x_label, y_label, chart_width))
    described = f"{y_label} against {x_label}"
    return _svg(parts, HEIGHT, described, chart_width) + legend(series)


def bar_chart(groups: Mapping[str, Mapping[str, float]], *, unit: str, scale: float = 1.0) -> str:
    """Horizontal bars: a group per label (in order of appearance), a bar per series in it.

    groups: series name to label to value. unit: after the numbers. scale: multiplies the values.
    """
    labels = list(dict.fromkeys(label for bars in groups.values() for label in bars))
    largest = max((v * scale for bars in groups.values() for v in bars.values()), default=0.0)
    if not labels or not groups:
        return '<p class="none">no values</p>'
    bar, gap, left = 14, 10, 110
    group_height = bar * len(groups) + gap
    full = WIDTH - left - 90
    parts = []
    for row, label in enumerate(labels):
        top = row * group_height
        middle = top + bar * len(groups) / 2 + 4
        parts.append(
            f'<text class="label" x="{left - 8}" y="{middle:.1f}" text-anchor="end">'
            f"{escape(label)}</text>"
        )
        for number, (name, bars) in enumerate(groups.items()):
            if label not in bars:
                continue
            value = bars[label] * scale
            length = full * value / largest if largest > 0 else 0.0
            y = top + number * bar
            parts.append(
                f'<rect class="f{number % _SERIES_COLOURS}" x="{left}" y="{y}" rx="2" '
                f'width="{max(length, 1):.1f}" height="{bar - 3}"><title>{escape(name)}</title>'
                f'</rect><text class="value" x="{left + length + 6:.1f}" y="{y + bar - 4}">'
                f"{value:.3g} {escape(unit)}</text>"
            )
    return _svg(parts, group_height * len(labels), f"bars in {unit}") + legend(groups)


def histogram_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    marks: Mapping[str, float] | None = None,
    chart_width: int = WIDTH,
) -> str:
    """Outlines of histograms over one x axis.

    series: by name, edges [B + 1] and shares [B]; drawn as shares of the highest bar of their own,
    since bins of different series differ in width. marks: x positions with a label, drawn upright.
    chart_width: in units of the text's size.
    """
    drawn = {name: (e, s) for name, (e, s) in series.items() if len(s) and max(s) > 0}
    if not drawn:
        return '<p class="none">no values</p>'
    places = list((marks or {}).values())
    low = min([edges[0] for edges, _ in drawn.values()] + places)
    high = max([edges[-1] for edges, _ in drawn.values()] + places)
    high = high if high > low else low + 1.0
    width, height = chart_width - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + width * (x - low) / (high - low), _TOP + height * (1 - y)

    parts = [_grid_line(place(low, y)[1], y, chart_width) for y in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts += [
        _x_tick(place(x, 0)[0], x)
        for x in nice_ticks(low, high, chart_width // 80)
        if low <= x <= high
    ]
    for label, x in (marks or {}).items():
        at, top = place(x, 1.0)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + height}"/>'
            f'<text class="label" x="{at - 4:.1f}" y="{top + 10}" text-anchor="end">'
            f"{escape(label)}</text>"
        )
    for number, (name, (edges, shares)) in enumerate(series.items()):
        if name not in drawn:
            continue
        tallest = max(shares)
        corners = [(edges[0], 0.0)]
        for left, right, share in zip(edges, edges[1:], shares, strict=False):
            corners += [(left, share / tallest), (right, share / tallest)]
        corners.append((edges[-1], 0.0))
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in corners)
        parts.append(
            f'<polyline class="line s{number % _SERIES_COLOURS}" points="{points}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    parts.append(_axis_labels(x_label, "share of the highest bin", chart_width))
    return _svg(parts, HEIGHT, f"histogram of {x_label}", chart_width) + legend(series)


def _runs(xs: Sequence[float], line: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """Stretches of consecutive values, split where one is missing."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(xs, line, strict=False):
        if y is None or not math.isfinite(y):
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _grid_line(y: float, value: float, width: int = WIDTH) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _x_tick(x: float, value: float) -> str:
    y = HEIGHT - _BOTTOM + 16
    return f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{value:g}</text>'


def _axis_labels(x_label: str, y_label: str, width: int = WIDTH) -> str:
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    return (
        f'<text class="label" x="{(_LEFT + width - _RIGHT) / 2}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="label" transform="translate(14 {middle}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )


def _svg(parts: Sequence[str], height: float, description: str, width: int = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg>"
    )

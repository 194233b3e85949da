"""The frame of an HTML report: one self-contained page, and the pieces it is made of.

A page fetches nothing and runs nothing: its content policy forbids both. All text is escaped here.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from runtime.errors import PictureError
from runtime.pictures import Rgb

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
DASH = "–"  # noqa: RUF001
_SHORT_JSON = 80
_PNG = b"\x89PNG\r\n\x1a\n"

_STYLE = """
:root { color-scheme:light dark; --ink:#1d2430; --soft:#5b6675; --rule:#dde2e9; --page:#ffffff;
  --card:#f6f8fa; --link:#0059a8; --warn:#8a4b00;
  --c0:#0072b2; --c1:#d55e00; --c2:#009e73; --c3:#b05c92; --c4:#b98300; --c5:#7a8391; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ee; --soft:#9aa5b4; --rule:#333b47;
  --page:#14181e; --card:#1c222b; --link:#7dbcf0; --warn:#f0b95c;
  --c0:#4fa8dc; --c1:#f08a3c; --c2:#3cc49d; --c3:#d98fc0; --c4:#e2b13c; --c5:#9aa5b4; } }
* { box-sizing:border-box }
body { margin:0; background:var(--page); color:var(--ink);
  font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif }
main { max-width:1040px; margin:0 auto; padding:40px 24px 64px }
h1 { font-size:28px; line-height:1.2; margin:0 0 4px; letter-spacing:-.01em }
h1,h2,h3,p,td,th,figcaption { overflow-wrap:anywhere }
h2 { font-size:18px; margin:44px 0 12px; padding-top:14px; border-top:1px solid var(--rule) }
h2.sequence { font-size:22px; border-top:3px solid var(--ink) }
h3 { font-size:17px; margin:32px 0 8px }
h4 { font-size:14px; margin:20px 0 6px; color:var(--soft) }
p { margin:8px 0 } .sub,.note,.none,figcaption { color:var(--soft) }
a { color:var(--link) } nav ul { list-style:none; padding:0; margin:14px 0;
  display:flex; flex-wrap:wrap; gap:4px 18px }
.warning { color:var(--warn); font-weight:600 }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
caption { text-align:left; color:var(--soft); padding:4px 9px 6px }
th,td { padding:7px 9px; text-align:right; border-bottom:1px solid var(--rule) }
td { white-space:nowrap } td.text { white-space:normal }
thead th { font-weight:600; color:var(--soft); font-size:13px; line-height:1.3;
  vertical-align:bottom; overflow-wrap:normal }
tbody th { font-weight:400; color:var(--ink) }
th:first-child,td.text,th.text { text-align:left }
tr.dim td,tr.dim th { color:var(--soft) }
.wide { overflow-x:auto; margin-bottom:16px }
code,pre { font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace }
pre { background:var(--card); padding:12px 14px; border-radius:8px; overflow:auto;
  max-height:320px; margin:6px 0 }
figure { margin:0; background:var(--card); border:1px solid var(--rule); border-radius:8px;
  overflow:hidden }
figure img { display:block; width:100%; height:auto; image-rendering:pixelated }
figcaption { padding:8px 12px; font-size:13px; line-height:1.4 }
.strip,.large,.charts { display:grid; gap:8px; margin:10px 0;
  grid-template-columns:repeat(auto-fill,minmax(126px,1fr)) }
.large { gap:12px; grid-template-columns:repeat(auto-fill,minmax(220px,1fr)) }
.charts { gap:0 24px; grid-template-columns:repeat(auto-fill,minmax(min(420px,100%),1fr)) }
.strip figcaption { padding:6px 8px; font-size:12px }
.key-image { max-width:143px }
svg { display:block; width:100%; height:auto; margin:8px 0; font:12px system-ui,sans-serif }
svg text { fill:var(--soft) } svg .value { fill:var(--ink) } svg .grid { stroke:var(--rule) }
svg .line { fill:none; stroke-width:1.8; stroke-linejoin:round }
details { margin:8px 0 } summary { cursor:pointer; font-weight:600 }
details td,details tbody th { white-space:normal; text-align:left; vertical-align:top }
.legend .key { margin-right:18px; color:var(--soft); font-size:13.5px }
.legend i { display:inline-block; width:12px; height:12px; border-radius:3px; margin-right:6px;
  vertical-align:-1px }
@media print { main { max-width:none; padding:0 } figure,svg { break-inside:avoid } }
"""

Column = tuple[str, str, float | None, int]
"""Heading, key, factor (None for text) and decimals."""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole document. ``parts`` are HTML; empty ones are left out."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without an icon of its own a browser asks the server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{_colours()}</style></head>\n"
        f"<body><main>\n{chr(10).join(filter(None, parts))}\n</main></body></html>\n"
    )


def _colours() -> str:
    return "\n".join(
        f".legend .c{n}{{background:var(--c{n})}} svg .s{n}{{stroke:var(--c{n})}} "
        f"svg .f{n}{{fill:var(--c{n})}} svg circle.s{n}{{fill:var(--c{n})}}"
        for n in range(6)
    )


def section(heading: str, body: str, level: int = 2) -> str:
    """A heading with what belongs to it; ``body`` is HTML."""
    return f"<section><h{level}>{escape(heading)}</h{level}>{body}</section>"


def paragraph(text: str, kind: str = "note") -> str:
    """A paragraph of text; ``kind`` is its class in the style sheet."""
    return f'<p class="{kind}">{escape(text)}</p>'


def table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, caption: str = ""
) -> str:
    """Rows under headings. The first column is the row's ``name``; a row with ``dim`` is grey.

    None and values that are not finite show as a dash.
    """
    head = '<th scope="col">name</th>' + "".join(
        f'<th scope="col"{_text_class(scale)}>{escape(label)}</th>'
        for label, _, scale, _ in columns
    )
    body = []
    for row in rows:
        cells = f'<th scope="row">{escape(str(row.get("name", "")))}</th>' + "".join(
            f"<td{_text_class(scale)}>{'' if row.get('dim') else text(row.get(key))}</td>"
            if scale is None
            else f"<td>{number(row.get(key), scale, digits)}</td>"
            for _, key, scale, digits in columns
        )
        style = ' class="dim"' if row.get("dim") else ""
        body.append(f"<tr{style}>{cells}</tr>")
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _text_class(scale: float | None) -> str:
    return ' class="text"' if scale is None else ""


def text(value: object) -> str:
    """A value as escaped text, a dash for None."""
    return DASH if value is None else escape(str(value))


def number(value: Any, scale: float, digits: int) -> str:
    """A number times ``scale``, a dash for None and what is not finite."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value * scale:.{digits}f}"


def details(heading: str, values: Mapping[str, Any], *, opened: bool = False) -> str:
    """A table of names and values that folds away; nested values are shown as JSON."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{_value(value)}</td></tr>'
        for key, value in values.items()
    )
    head = (
        '<thead><tr><th scope="col">name</th><th scope="col" class="text">value</th></tr></thead>'
    )
    return (
        f"<details{' open' if opened else ''}><summary>{escape(heading)}</summary>"
        f"<table>{head}<tbody>{rows}</tbody></table></details>"
    )


def _value(value: Any) -> str:
    if not isinstance(value, dict | list | tuple):
        return text(value)
    short = json.dumps(value, default=str)
    if len(short) <= _SHORT_JSON:
        return f"<code>{escape(short)}</code>"
    if isinstance(value, dict):
        lines = [f"{json.dumps(str(k))}: {json.dumps(v, default=str)}" for k, v in value.items()]
    else:
        lines = [json.dumps(item, default=str) for item in value]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def figure(png: bytes, alt: str, caption: str = "") -> str:
    """A picture inside the page. Raises PictureError unless it is a PNG."""
    if not png.startswith(_PNG):
        raise PictureError("the picture of a report must be a PNG")
    data = base64.b64encode(png).decode("ascii")
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">{note}</figure>'


def png_bytes(image: Rgb) -> bytes:
    """An image uint8 [H, W, 3] as a PNG. Raises PictureError where pillow is not installed."""
    buffer = io.BytesIO()
    pillow().fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def pillow() -> Any:
    """The module PIL.Image; one clear error without it."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise PictureError(
            "pictures in reports need pillow; pip install 'spikedeploy[report]'"
        ) from error

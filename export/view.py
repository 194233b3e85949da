"""``python -m export.view model.onnx``: look at a network's graph, in a browser or as a picture.

Netron shows a copy in which the ops of this project carry their description; their bodies are in
every artifact, so a double click opens them. ``--png`` and ``--svg`` need no browser.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from onnx import ModelProto, ValueInfoProto, helper

from calib_data import console
from calib_data.files import atomic_path, check_writable
from export.errors import ExportError
from export.graph_layout import Layout, layout_graph
from export.op_documents import documented, op_document
from runtime.artifact import load_model
from runtime.looking import new_figure, save_figure

_COLOURS = {"input": "#d5e8d4", "output": "#ffe6cc", "op": "#eeeeee", "snn": "#b8d4f0"}
_OTHER = "#e1d5e7"
_BOX_WIDTH, _BOX_HEIGHT = 0.86, 0.5
_COLUMN_INCHES, _ROW_INCHES = 2.2, 0.85
_MOST_NODES = 400


def summary(model: ModelProto) -> dict[str, Any]:
    """What is in a model: inputs, outputs, nodes by op, functions with their words, weights."""
    nodes = Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for node in model.graph.node
    )
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        "nodes": sum(nodes.values()),
        "ops": dict(sorted(nodes.items())),
        "inputs": [_value(v) for v in model.graph.input if v.name not in constants],
        "outputs": [_value(v) for v in model.graph.output],
        "constants": len(constants),
        "functions": [
            {
                "name": f"{function.domain}::{function.name}",
                "inputs": list(function.input),
                "outputs": list(function.output),
                "attributes": list(function.attribute),
                "nodes": len(function.node),
                "document": op_document(function),
            }
            for function in model.functions
        ],
    }


def _value(value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
        "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim],
    }


def draw(model: ModelProto, path: Path) -> Layout:
    """Draw the main graph in the format of the suffix, .png or .svg; returns what was drawn.

    Raises PictureError without matplotlib, ExportError for a graph too big to be readable.
    """
    layout = layout_graph(model.graph)
    if len(layout.boxes) > _MOST_NODES:
        raise ExportError(
            f"{len(layout.boxes)} boxes are too many for one picture; look at the file in netron "
            "(leave --png and --svg out)"
        )
    columns = [column for column, _ in layout.places.values()]
    rows = [row for _, row in layout.places.values()]
    width, height = max(columns) - min(columns) + 1, max(rows) + 1
    figure = new_figure(_COLUMN_INCHES * width, _ROW_INCHES * height)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(min(columns) - 0.5, max(columns) + 0.5)
    axes.set_ylim(max(rows) + 0.5, -0.5)
    for start, end, _ in layout.edges:
        (x0, y0), (x1, y1) = layout.places[start], layout.places[end]
        # A line over several rows bows out, so that it does not run through boxes.
        bow = 0.0 if y1 - y0 == 1 else 0.25
        axes.annotate(
            "", (x1, y1 - _BOX_HEIGHT / 2), (x0, y0 + _BOX_HEIGHT / 2),
            arrowprops={"arrowstyle": "->", "color": "0.4", "linewidth": 0.8,
                        "connectionstyle": f"arc3,rad={bow}", "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    for key, box in layout.boxes.items():
        x, y = layout.places[key]
        axes.bar(
            x, _BOX_HEIGHT, _BOX_WIDTH, y - _BOX_HEIGHT / 2, zorder=2,
            color=_COLOURS.get(box.kind, _OTHER), edgecolor="0.3", linewidth=0.8,
        )  # fmt: skip
        axes.text(x, y, box.title, ha="center", va="center", fontsize=7, zorder=3)
    save_figure(figure, path)
    return layout


def open_in_netron(model: ModelProto, path: Path, port: int | None) -> None:
    """Serve the model on this machine alone and open a browser; returns when stopped (Ctrl-C).

    Raises ExportError without netron.
    """
    try:
        netron = importlib.import_module("netron")
    except ImportError as error:
        raise ExportError(
            "looking in a browser needs netron; pip install 'spikedeploy[view]', or draw with --png"
        ) from error
    address = ("localhost", port)
    netron.serve(path.name, bytearray(model.SerializeToString()), address=address, browse=True)
    netron.wait()


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    for path, suffix in ((arguments.png, ".png"), (arguments.svg, ".svg")):
        if path is not None and path.suffix.lower() != suffix:
            raise ExportError(f"{path}: expected a file that ends in {suffix}")
    outputs = [p for p in (arguments.png, arguments.svg, arguments.out) if p is not None]
    for path in outputs:
        check_writable(path)
    model = documented(load_model(arguments.model).model)
    for path in (arguments.png, arguments.svg):
        if path is not None:
            draw(model, path)
    if arguments.out is not None:
        with atomic_path(arguments.out) as temporary:
            temporary.write_bytes(model.SerializeToString())
    if arguments.json:
        print(json.dumps(summary(model), indent=2))
    elif outputs or arguments.no_open:
        _print_summary(summary(model))
    if not (outputs or arguments.json or arguments.no_open):
        open_in_netron(model, arguments.model, arguments.port)
    return 0


def _print_summary(values: dict[str, Any]) -> None:
    print(", ".join(f"{count} {op}" for op, count in values["ops"].items()))
    for function in values["functions"]:
        print(f"{function['name']}({', '.join(function['inputs'])}): {function['document']}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.view",
        description="Look at the graph of an artifact in netron, or draw it.",
        epilog="example: python -m export.view model.int8.onnx --png graph.png",
    )
    parser.add_argument("model", metavar="model.onnx", type=Path)
    parser.add_argument("--png", type=Path, metavar="F.png", help="draw the graph, no browser")
    parser.add_argument("--svg", type=Path, metavar="F.svg", help="draw the graph, no browser")
    parser.add_argument(
        "--out", type=Path, metavar="F.onnx", help="write the copy with descriptions, no browser"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON, no browser")
    parser.add_argument("--no-open", action="store_true", help="print a summary, no browser")
    parser.add_argument("--port", type=int, metavar="N", help="port that netron serves at")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

"""Where the nodes of a graph go in a drawing: rows by depth, columns by their neighbours.

Graphs of these networks are nearly chains, for which longest-path layers with barycentre ordering
(Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures",
1981) are all it takes. Drawing with Graphviz would need its programs installed besides Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import GraphProto

_SWEEPS = 4


@dataclass(frozen=True)
class Box:
    """One box: title, and key and kind ("input", "output" or the op's domain or "op")."""

    key: str
    title: str
    kind: str


@dataclass(frozen=True)
class Layout:
    """boxes by key; edges (from, to, tensor); places (column, row), rows from the top."""

    boxes: Mapping[str, Box]
    edges: tuple[tuple[str, str, str], ...]
    places: Mapping[str, tuple[float, int]]


def layout_graph(graph: GraphProto) -> Layout:
    """Lay a graph out. Constants are no boxes."""
    boxes, edges = _boxes_and_edges(graph)
    rows = _rows(boxes, edges)
    return Layout(boxes, tuple(edges), _columns(boxes, edges, rows))


def _boxes_and_edges(graph: GraphProto) -> tuple[dict[str, Box], list[tuple[str, str, str]]]:
    constants = {tensor.name for tensor in graph.initializer}
    boxes: dict[str, Box] = {}
    source: dict[str, str] = {}
    for value in graph.input:
        if value.name not in constants:
            boxes[f"input {value.name}"] = Box(f"input {value.name}", value.name, "input")
            source[value.name] = f"input {value.name}"
    edges: list[tuple[str, str, str]] = []
    for number, node in enumerate(graph.node):
        if node.op_type == "Constant":
            continue
        key = f"node {number}"
        title = node.op_type if not node.name else f"{node.op_type}\n{node.name}"
        boxes[key] = Box(key, title, node.domain or "op")
        used = dict.fromkeys(name for name in node.input if name in source)
        edges += [(source[name], key, name) for name in used]
        source |= {name: key for name in node.output if name}
    for value in graph.output:
        boxes[f"output {value.name}"] = Box(f"output {value.name}", value.name, "output")
        if value.name in source:
            edges.append((source[value.name], f"output {value.name}", value.name))
    return boxes, edges


def _rows(boxes: Mapping[str, Box], edges: list[tuple[str, str, str]]) -> dict[str, int]:
    """Longest path from an input; then everything moves down to just above its first reader.

    Boxes are in topological order, as ONNX demands of nodes, so one pass is enough.
    """
    before: dict[str, list[str]] = {key: [] for key in boxes}
    after: dict[str, list[str]] = {key: [] for key in boxes}
    for start, end, _ in edges:
        before[end].append(start)
        after[start].append(end)
    rows: dict[str, int] = {}
    for key in boxes:
        rows[key] = 1 + max((rows[start] for start in before[key]), default=-1)
    for key in reversed(list(boxes)):
        if after[key]:
            rows[key] = min(rows[end] for end in after[key]) - 1
    return rows


def _columns(
    boxes: Mapping[str, Box], edges: list[tuple[str, str, str]], rows: Mapping[str, int]
) -> dict[str, tuple[float, int]]:
    neighbours: dict[str, list[str]] = {key: [] for key in boxes}
    for start, end, _ in edges:
        neighbours[start].append(end)
        neighbours[end].append(start)
    by_row: dict[int, list[str]] = {}
    for key in boxes:
        by_row.setdefault(rows[key], []).append(key)
    column: dict[str, float] = {}
    for keys in by_row.values():
        _place(keys, column)
    for sweep in range(_SWEEPS):
        for row in sorted(by_row, reverse=sweep % 2 == 1):
            keys = by_row[row]
            wanted = {k: _mean([column[n] for n in neighbours[k]], column[k]) for k in keys}
            keys.sort(key=lambda key: wanted[key])
            _place(keys, column)
    return {key: (column[key], rows[key]) for key in boxes}


def _place(keys: list[str], column: dict[str, float]) -> None:
    for number, key in enumerate(keys):
        column[key] = number - (len(keys) - 1) / 2


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default

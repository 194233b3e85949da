"""The table of legal moves: complete, consulted, and the same in the documentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from qdq_graphs import Graph

from export.passes.legality import TABLE, lower, markdown, markdown_rows, rows_of, why_not

PAGE = Path(__file__).parents[3] / "docs" / "passes.md"
BEGIN, END = "<!-- legality: begin -->\n", "<!-- legality: end -->"


def test_documentation_shows_the_table() -> None:
    text = PAGE.read_text()
    between = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert between.strip() == markdown().strip(), "paste export.passes.legality.markdown()"


def test_every_row_says_everything() -> None:
    assert len(markdown_rows()) == len(TABLE)
    assert all(all(cell.strip() for cell in row) for row in markdown_rows())
    keys = [(row.domain, row.op_type, row.condition) for row in TABLE]
    assert len(set(keys)) == len(keys)


def _node(op_type: str, *, scale: float = 0.5) -> tuple[ir.Model, ir.Node]:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, (1, 2, 4, 4)), 0.5)
    inputs = [x, graph.qdq("x", scale)] if op_type == "Add" else [x]
    model = ir.from_proto(graph.model({graph.op(op_type, *inputs): np.float32}))
    return model, list(model.graph)[-1]


def test_reasons_are_given_and_the_model_stays() -> None:
    model, node = _node("Add", scale=0.25)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert why_not(model, node) == "the two inputs have different scales"
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("op_type", ["Add", "Relu", "GlobalAveragePool"])
def test_no_reason_where_a_row_allows_the_move(op_type: str) -> None:
    model, node = _node(op_type)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert rows_of(node)
    assert why_not(model, node) is None
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_operators_outside_the_table_and_float_inputs() -> None:
    model, node = _node("Tanh")
    assert rows_of(node) == []
    assert "no row" in str(why_not(model, node))
    quantize = next(n for n in model.graph if n.op_type == "QuantizeLinear")
    assert "none of its inputs" in str(why_not(model, quantize))
    assert callable(lower)

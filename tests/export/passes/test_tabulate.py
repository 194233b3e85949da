"""tabulate: tables equal the subgraph on all 256 values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from qdq_graphs import Graph, apply, assert_runtimes_agree, ops, run_ort

from export.passes.tabulate import Tabulate


def _scalar(graph: Graph, value: float, *shape: int) -> str:
    return graph.const(np.full(shape, value, np.float32))


def _hard_swish(graph: Graph, x: str) -> str:
    shifted = graph.op("Add", x, _scalar(graph, 3, 1, 1))
    limited = graph.op("Min", graph.op("Relu", shifted), _scalar(graph, 6))
    return graph.op("Div", graph.op("Mul", x, limited), _scalar(graph, 6))


def _gelu(graph: Graph, x: str) -> str:
    root = graph.op("Erf", graph.op("Div", x, _scalar(graph, 2**0.5)))
    raised = graph.op("Mul", x, graph.op("Add", root, _scalar(graph, 1)))
    return graph.op("Mul", raised, _scalar(graph, 0.5))


_FUNCTIONS: dict[str, Callable[[Graph, str], str]] = {
    "HardSwish": lambda g, x: g.op("HardSwish", x),
    "HardSwish in pieces": _hard_swish,
    "HardSigmoid": lambda g, x: g.op("HardSigmoid", x, alpha=1 / 6),
    "Sigmoid": lambda g, x: g.op("Sigmoid", x),
    "Tanh": lambda g, x: g.op("Tanh", x),
    "Clip": lambda g, x: g.op("Clip", x, _scalar(g, -1), _scalar(g, 2)),
    "LeakyRelu": lambda g, x: g.op("LeakyRelu", x, alpha=0.1),
    "Gelu in pieces": _gelu,
    "requantization": lambda g, x: x,
}


@pytest.mark.parametrize(("dtype", "zero"), [(np.uint8, 100), (np.int8, -9)])
@pytest.mark.parametrize("name", _FUNCTIONS)
def test_function_of_every_value(name: str, dtype: type, zero: int) -> None:
    graph = Graph()
    x = graph.dq(graph.input("q", dtype, (1, 4, 64)), 0.057, zero, dtype)
    model = graph.model({graph.q(_FUNCTIONS[name](graph, x), 0.0371, 3, dtype): dtype})
    tabulated = apply(model, Tabulate())
    assert ops(tabulated) == ["Cast", "Gather"]
    feeds = {"q": np.arange(256, dtype=np.uint8).view(dtype).reshape(1, 4, 64)}
    (got,) = assert_runtimes_agree(tabulated, feeds).values()
    np.testing.assert_array_equal(got, ReferenceEvaluator(model).run(None, feeds)[0])
    assert np.unique(got).size > 10
    assert ops(apply(tabulated, Tabulate())) == ops(tabulated)
    # ONNX Runtime's float functions have their own last bits.
    (other,) = run_ort(model, feeds).values()
    assert np.abs(got.astype(int) - other.astype(int)).max() <= 1


def test_tables_of_tables() -> None:
    graph = Graph()
    x = graph.dq(graph.input("q", np.uint8, (2, 128)), 0.057, 100)
    y = graph.qdq(graph.op("Sigmoid", x), 1 / 256)
    model = graph.model({graph.q(graph.op("Tanh", y), 0.01, 3): np.uint8})
    assert ops(apply(model, Tabulate())) == ["Cast", "Gather"] * 2


_LEFT: dict[str, Callable[[Graph, str], str]] = {
    "second tensor": lambda g, x: g.op("Mul", x, g.op("Sigmoid", g.qdq("z", 0.1, 3))),
    "float input": lambda g, x: g.op("Add", x, "z"),
    "constant per channel": lambda g, x: g.op("Mul", x, g.const(np.arange(64, dtype=np.float32))),
    "scalar of higher rank": lambda g, x: g.op("Mul", x, _scalar(g, 2, 1, 1, 1, 1)),
    "not elementwise": lambda g, x: g.op("Softmax", x),
    "accumulator": lambda g, x: g.op(
        "Tanh", g.dq(g.input("a", np.int32, (1, 4)), 0.1, 0, np.int32)
    ),
    "not a number": lambda g, x: g.op("Log", x),
}


@pytest.mark.parametrize("name", _LEFT)
def test_leaves_other_chains(name: str) -> None:
    graph = Graph()
    graph.input("z", np.float32, (1, 4, 64))
    x = graph.dq(graph.input("q", np.uint8, (1, 4, 64)), 0.057, 100)
    model = graph.model({graph.q(_LEFT[name](graph, x), 0.0371, 3): np.uint8})
    kept = [op for op in ops(model) if op not in ("DequantizeLinear", "QuantizeLinear")]
    tabulated = ops(apply(model, Tabulate()))
    assert tabulated.count("Gather") == 0
    assert all(op in tabulated for op in kept)


def test_sixteen_bits_and_scales_per_channel_stay() -> None:
    graph = Graph()
    wide = graph.dq(graph.input("w", np.int16, (1, 4)), 0.1, 0, np.int16)
    channels = graph.dq(graph.input("q", np.uint8, (1, 4)), np.full(4, 0.1), 3)
    outputs = [graph.q(graph.op("Tanh", x), 0.01) for x in (wide, channels)]
    model = graph.model(dict.fromkeys(outputs, np.uint8))
    assert ops(apply(model, Tabulate())) == ops(model)

"""remove_redundant_quantizers: fewer nodes, every value the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from qdq_graphs import Graph, apply, assert_equal, ops, run_ort

from export.passes.remove_redundant_quantizers import RemoveRedundantQuantizers

RNG = np.random.default_rng(11)
SHAPE = (2, 3, 6, 5)
FEEDS = {"x": RNG.normal(0, 4, SHAPE).astype(np.float32)}
PAIR = ["QuantizeLinear", "DequantizeLinear"]


def _removed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rewritten model, shown to compute the same under the same names."""
    result = apply(model, RemoveRedundantQuantizers())
    assert_equal(run_ort(result, FEEDS), run_ort(model, FEEDS))
    again = apply(result, RemoveRedundantQuantizers())
    assert again.SerializeToString() == result.SerializeToString()
    return result


def _x(graph: Graph) -> str:
    return graph.input("x", np.float32, SHAPE)


@pytest.mark.parametrize(
    ("scale", "zero", "dtype"),
    [(0.04, 128, np.uint8), (0.04, 0, np.int8), ([0.1, 0.2, 0.3], 0, np.int8), (3e-4, 9, np.int16)],
)
def test_a_second_quantization(scale: object, zero: int, dtype: type) -> None:
    graph = Graph()
    axis = {"axis": 1} if np.ndim(scale) else {}
    y = _x(graph)
    for _ in range(3):
        values = graph._parameters(scale, zero, dtype)
        y = graph.op("QuantizeLinear", y, *values, **axis)
        y = graph.op("DequantizeLinear", y, *values, **axis)
    assert ops(_removed(graph.model({y: np.float32}))) == PAIR


@pytest.mark.parametrize(
    "other", [(0.05, 128, np.uint8), (0.04, 127, np.uint8), (0.04, 0, np.int8)]
)
def test_another_grid_stays(other: tuple[float, int, type]) -> None:
    graph = Graph()
    y = graph.qdq(graph.qdq(_x(graph), 0.04, 128), *other)
    assert ops(_removed(graph.model({y: np.float32}))) == PAIR * 2


@pytest.mark.parametrize(
    ("low", "high", "kept"), [(0, 255, False), (0, 254, True), (1, 255, True), (0, 15, True)]
)
def test_a_clip_of_levels(low: int, high: int, kept: bool) -> None:
    graph = Graph()
    level = graph.q(_x(graph), 0.04)
    level = graph.op("Clip", level, graph.const(np.uint8(low)), graph.const(np.uint8(high)))
    result = _removed(graph.model({graph.dq(level, 0.04): np.float32}))
    assert ("Clip" in ops(result)) == kept


def test_a_clip_that_the_quantizer_never_reaches() -> None:
    """Signed levels of non-negative numbers, and a clip after a narrower one."""
    graph = Graph()
    level = graph.q(graph.op("Relu", _x(graph)), 0.04, 0, np.int8)
    level = graph.op("Clip", level, graph.const(np.int8(-128)), graph.const(np.int8(7)))
    level = graph.op("Clip", level, graph.const(np.int8(0)), graph.const(np.int8(7)))
    level = graph.op("MaxPool", level, kernel_shape=[2, 2])
    level = graph.op("Clip", level, graph.const(np.int8(-8)), graph.const(np.int8(7)))
    result = _removed(graph.model({graph.dq(level, 0.04, 0, np.int8): np.float32}))
    assert ops(result).count("Clip") == 1


@pytest.mark.parametrize(
    ("zero", "dtype", "kept"), [(0, np.uint8, False), (-128, np.int8, False), (1, np.uint8, True)]
)
def test_relu_in_front_of_a_saturating_quantizer(zero: int, dtype: type, kept: bool) -> None:
    graph = Graph()
    y = graph.qdq(graph.op("Relu", _x(graph)), 0.04, zero, dtype)
    assert ("Relu" in ops(_removed(graph.model({y: np.float32})))) == kept


@pytest.mark.parametrize(("high", "kept"), [(6.0, True), (10.2, False), (11.0, False)])
def test_a_clip_of_real_values(high: float, kept: bool) -> None:
    """255 * 0.04 is 10.2."""
    graph = Graph()
    bounds = graph.const(np.float32(0)), graph.const(np.float32(high))
    y = graph.qdq(graph.op("Clip", _x(graph), *bounds), 0.04)
    assert ("Clip" in ops(_removed(graph.model({y: np.float32})))) == kept


def test_relu_with_other_readers_stays_for_them() -> None:
    graph = Graph()
    relu = graph.op("Relu", _x(graph))
    outputs = {graph.qdq(relu, 0.04): np.float32, graph.op("Neg", relu): np.float32}
    assert ops(_removed(graph.model(outputs))).count("Relu") == 1


def test_equal_quantizers_of_one_value_merge() -> None:
    graph = Graph()
    x = _x(graph)
    pairs = [graph.qdq(x, 0.04, 128) for _ in range(3)] + [graph.qdq(x, 0.05, 128)]
    total = graph.op("Add", graph.op("Add", *pairs[:2]), graph.op("Add", *pairs[2:]))
    assert ops(_removed(graph.model({total: np.float32}))).count("QuantizeLinear") == 2


def test_names_of_the_interface_survive() -> None:
    """An output keeps its name; one that would be an input or another output stays computed."""
    graph = Graph()
    first = graph.q(_x(graph), 0.04, 128)
    second = graph.q(graph.dq(first, 0.04, 128), 0.04, 128)
    alone = _removed(graph.model({second: np.uint8}))
    assert ops(alone) == ["QuantizeLinear"] and alone.graph.output[0].name == second
    both = _removed(graph.model({first: np.uint8, second: np.uint8}))
    assert [o.name for o in both.graph.output] == [first, second]
    graph = Graph()
    level = graph.input("level", np.uint8, SHAPE)
    model = graph.model({graph.q(graph.dq(level, 0.04, 128), 0.04, 128): np.uint8})
    assert list(apply(model, RemoveRedundantQuantizers()).graph.node) == list(model.graph.node)

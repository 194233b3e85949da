"""explicit_zero_points: three inputs, scalars or [C], and the axis; the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from qdq_graphs import Graph, apply, assert_equal, run_ort

from export.passes.explicit_zero_points import ExplicitZeroPoints

RNG = np.random.default_rng(10)
SHAPE = (2, 3, 6, 5)
FEEDS = {"x": RNG.normal(0, 4, SHAPE).astype(np.float32)}
CHANNELS = np.array([0.05, 0.03, 0.04], np.float32)


def _spelled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rewritten model, shown to compute the same and to be in the one spelling."""
    result = apply(model, ExplicitZeroPoints())
    assert_equal(run_ort(result, FEEDS), run_ort(model, FEEDS))
    assert apply(result, ExplicitZeroPoints()).SerializeToString() == result.SerializeToString()
    arrays = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    for node in result.graph.node:
        if node.op_type.endswith("izeLinear"):
            scale, zero = arrays[node.input[1]], arrays[node.input[2]]
            assert scale.shape == zero.shape
            axes = [a.i for a in node.attribute]
            assert len(axes) == scale.ndim and all(axis >= 0 for axis in axes)
    return result


def _pair(scale: Any, zero: Any, **attributes: int) -> onnx.ModelProto:
    graph = Graph()
    inputs = [graph.const(np.asarray(scale, np.float32))]
    inputs += [] if zero is None else [graph.const(np.asarray(zero))]
    x = graph.input("x", np.float32, SHAPE)
    level = graph.op("QuantizeLinear", x, *inputs, **attributes)
    attributes.pop("output_dtype", None)
    return graph.model({graph.op("DequantizeLinear", level, *inputs, **attributes): np.float32})


@pytest.mark.parametrize("zero", [None, np.uint8(3), np.int8([-3]), np.uint8([0])])
@pytest.mark.parametrize("scale", [0.04, [0.04]])
def test_per_tensor(zero: Any, scale: Any) -> None:
    result = _spelled(_pair(scale, zero))
    ranks = {len(t.dims) for t in result.graph.initializer}
    assert ranks == {0}


def test_the_written_type_becomes_the_zero_points() -> None:
    result = _spelled(_pair(0.04, None, output_dtype=TensorProto.INT8))
    assert {t.data_type for t in result.graph.initializer} == {TensorProto.FLOAT, TensorProto.INT8}


@pytest.mark.parametrize("zero", [None, np.uint8([1, 2, 3])])
@pytest.mark.parametrize("attributes", [{}, {"axis": -3}, {"axis": 1}])
def test_per_channel(zero: Any, attributes: dict[str, int]) -> None:
    result = _spelled(_pair(CHANNELS, zero, **attributes))
    assert [a.i for n in result.graph.node for a in n.attribute] == [1, 1]


def test_weights_and_biases_without_zero_points() -> None:
    graph = Graph()
    levels = graph.const(RNG.integers(-127, 128, (3, 3, 3, 3)).astype(np.int8))
    weight = graph.op("DequantizeLinear", levels, graph.const(CHANNELS), axis=0)
    integers = graph.const(np.array([5, -6, 7], np.int32))
    bias = graph.op("DequantizeLinear", integers, graph.const(np.float32(0.01)), axis=0)
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, 128)
    result = _spelled(graph.model({graph.op("Conv", x, weight, bias): np.float32}))
    zeros = {n.input[2] for n in result.graph.node if n.op_type != "Conv"}
    types = {
        numpy_helper.to_array(t).dtype.name for t in result.graph.initializer if t.name in zeros
    }
    assert types == {"uint8", "int8", "int32"}


def test_the_canonical_spelling_is_left_alone() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, 128)
    weight = graph.weight(RNG.integers(-9, 9, (3, 3, 3, 3)).astype(np.int8), CHANNELS)
    model = graph.model({graph.op("Conv", x, weight): np.float32})
    assert list(apply(model, ExplicitZeroPoints()).graph.node) == list(model.graph.node)


def test_a_computed_scale_is_left_alone() -> None:
    graph = Graph()
    x = graph.input("x", np.float32, SHAPE)
    scale = graph.op("ReduceMax", graph.op("Abs", x), keepdims=0)
    model = graph.model({graph.op("QuantizeLinear", x, scale): np.uint8})
    assert list(apply(model, ExplicitZeroPoints()).graph.node) == list(model.graph.node)

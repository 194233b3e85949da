"""float_bias: the same real biases, as float32 initializers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from qdq_graphs import Graph, apply, assert_equal, ops, run_ort

from export.passes.float_bias import FloatBias

RNG = np.random.default_rng(6)
SHAPE = (2, 3, 5, 4)
FEEDS = {"x": RNG.normal(0, 4, SHAPE).astype(np.float32)}


@pytest.mark.parametrize("channels", [False, True])
def test_biases_keep_their_values(channels: bool) -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, 128)
    scale = RNG.uniform(0.01, 0.05, 4).astype(np.float32) if channels else np.float32(0.03)
    weight = graph.weight(RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), scale)
    # Large enough that float32 rounds the product with the scale.
    bias = graph.bias(RNG.integers(-(2**27), 2**27, 4), np.float32(0.04) * scale)
    model = graph.model({graph.op("Conv", x, weight, bias): np.float32})
    result = apply(model, FloatBias())
    assert_equal(run_ort(result, FEEDS), run_ort(model, FEEDS))
    assert TensorProto.INT32 not in {t.data_type for t in result.graph.initializer}
    assert ops(result).count("DequantizeLinear") == 2
    assert apply(result, FloatBias()).SerializeToString() == result.SerializeToString()


def test_leaves_alone_what_is_no_constant() -> None:
    graph = Graph()
    acc = graph.input("acc", np.int32, SHAPE)
    model = graph.model({graph.dq(acc, 0.04, 0, np.int32): np.float32})
    assert list(apply(model, FloatBias()).graph.node) == list(model.graph.node)

"""fuse_qlinear: one rule of rounding, equal in ONNX Runtime at every level and in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from qdq_graphs import (
    Graph,
    apply,
    assert_equal,
    assert_runtimes_agree,
    has_float,
    integer,
    ops,
    run_ort,
    with_bodies,
)

from export.passes.base import PassError
from export.passes.fuse_qlinear import FuseQLinear
from export.passes.sink_dequantize import SinkDequantize

RNG = np.random.default_rng(5)
SHAPE = (2, 4, 7, 6)
S_X, S_W = np.float32(0.037), RNG.uniform(0.01, 0.05, 4).astype(np.float32)


def _feeds(*names: str) -> dict[str, np.ndarray]:
    return {name: RNG.normal(0, 4, SHAPE).astype(np.float32) for name in names or ("x",)}


def _conv(graph: Graph, x: str, w_dtype: type = np.int8, group: int = 1) -> str:
    low, high = (-63, 64) if w_dtype is np.int8 else (0, 64)
    weight = RNG.integers(low, high, (4, 4 // group, 3, 3)).astype(w_dtype)
    scale = S_W if w_dtype is np.int8 else S_W[0]
    inputs = [x, graph.weight(weight, scale, zero=0 if w_dtype is np.int8 else 30)]
    inputs.append(graph.bias(RNG.integers(-999, 999, 4), S_X * scale))
    return graph.op("Conv", *inputs, pads=[1, 0, 2, 1], strides=[1, 2], group=group)


def _network(ending=lambda graph, y: y, *, x_type=(np.uint8, 120), w_dtype=np.int8, y=(0.3, 100)):
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), S_X, x_type[1], x_type[0])
    value = ending(graph, _conv(graph, x, w_dtype))
    y_dtype = np.int8 if x_type[0] is np.int8 else np.uint8
    return graph.model({graph.q(value, *y, y_dtype): y_dtype})


@pytest.mark.parametrize("sink_first", [True, False])
@pytest.mark.parametrize(
    ("x_type", "w_dtype"),
    [((np.uint8, 0), np.int8), ((np.uint8, 120), np.int8), ((np.int8, -7), np.int8),
     ((np.uint8, 9), np.uint8)],
)  # fmt: skip
def test_conv_becomes_qlinear_conv(x_type, w_dtype, sink_first: bool) -> None:
    model = _network(x_type=x_type, w_dtype=w_dtype, y=(0.3, 10))
    fused = integer(model) if sink_first else apply(model, FuseQLinear())
    assert ops(fused) == ["QuantizeLinear", "QLinearConv"]
    assert not has_float(fused)
    feeds = _feeds()
    got = assert_runtimes_agree(fused, feeds)
    (name,) = got
    difference = np.abs(got[name].astype(int) - run_ort(model, feeds)[name].astype(int))
    assert difference.max() <= 1
    assert np.unique(got[name]).size > 50


def test_types_without_a_kernel_keep_the_accumulator() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), S_X)
    model = graph.model({graph.q(_conv(graph, x), 0.3, 5, np.int8): np.int8})
    fused = integer(model)
    assert ops(fused) == ["QuantizeLinear", "QConv", "DequantizeLinear", "QuantizeLinear"]
    scales = {i.name: onnx.numpy_helper.to_array(i) for i in fused.graph.initializer}
    dequantize, quantize = fused.graph.node[2:]
    np.testing.assert_array_equal(scales[dequantize.input[1]], S_X * S_W / np.float32(0.3))
    assert scales[quantize.input[1]] == 1
    assert_runtimes_agree(fused, _feeds())
    assert ops(apply(fused, FuseQLinear())) == ops(fused)


_CLIPS = [(-2.0, 3.0), (0.0, 6.0), (-99.0, 99.0)]


@pytest.mark.parametrize("sink_first", [True, False])
@pytest.mark.parametrize("bounds", _CLIPS)
def test_clip_follows_the_quantizer_unless_that_saturates(bounds, sink_first: bool) -> None:
    def ending(graph: Graph, y: str) -> str:
        return graph.op("Clip", y, *(graph.const(np.float32(b)) for b in bounds))

    model = _network(ending)
    fused = integer(model) if sink_first else apply(model, FuseQLinear())
    expected = ["QuantizeLinear", "QLinearConv"] + ["Clip"] * (bounds != _CLIPS[-1])
    assert ops(fused) == expected
    feeds = _feeds()
    (got,) = assert_runtimes_agree(fused, feeds).values()
    (want,) = run_ort(model, feeds).values()
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1
    assert (got.min(), got.max()) == (want.min(), want.max())


@pytest.mark.parametrize("zero", [0, 77])
def test_relu_is_absorbed_where_the_type_ends_at_the_zero_point(zero: int) -> None:
    fused = integer(_network(lambda graph, y: graph.op("Relu", y), y=(0.3, zero)))
    assert ops(fused) == ["QuantizeLinear", "QLinearConv"] + ["Clip"] * (zero > 0)
    (got,) = assert_runtimes_agree(fused, _feeds()).values()
    assert got.min() == zero


def test_relu_then_clip_then_relu() -> None:
    def ending(graph: Graph, y: str) -> str:
        y = graph.op("Clip", graph.op("Relu", y), graph.const(np.float32(-5)), "")
        return graph.op("Clip", y, graph.const(np.float32(1)), graph.const(np.float32(4)))

    (got,) = assert_runtimes_agree(integer(_network(ending)), _feeds()).values()
    assert (got.min(), got.max()) == (100 + 3, 100 + 13)


def test_quantizer_moves_before_max_pool_and_reshape() -> None:
    def ending(graph: Graph, y: str) -> str:
        y = graph.op("MaxPool", graph.op("Relu", y), kernel_shape=[3, 3], pads=[1] * 4)
        return graph.op("Reshape", y, graph.const(np.array([2, -1])))

    model = _network(ending)
    feeds = _feeds()
    fused = integer(model)
    assert ops(fused) == ["QuantizeLinear", "QLinearConv", "Clip", "MaxPool", "Reshape"]
    (got,) = assert_runtimes_agree(fused, feeds).values()
    (want,) = run_ort(model, feeds).values()
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


def test_accumulator_with_a_second_reader_is_not_fused_away() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), S_X)
    y = _conv(graph, x)
    model = graph.model({graph.q(y, 0.3, 9): np.uint8, graph.q(y, 0.2, 9): np.uint8, y: np.float32})
    fused = integer(model)
    assert ops(fused).count("QConv") == 1
    assert ops(fused).count("QuantizeLinear") == 3
    assert_runtimes_agree(fused, _feeds())


def _residual(kind: str, ending: str = "") -> tuple[onnx.ModelProto, tuple[float, float, float]]:
    scales = (0.0613, 0.0371, 0.0517)
    graph = Graph()
    a = graph.qdq(graph.input("x", np.float32, SHAPE), scales[0], 100)
    b = graph.qdq(graph.input("z", np.float32, SHAPE), scales[1], -3, np.int8)
    y = graph.op(kind, a, b)
    if ending:
        y = graph.op(ending, y)
    return graph.model({graph.q(y, scales[2], 100): np.uint8}), scales


@pytest.mark.parametrize("ending", ["", "Relu"])
@pytest.mark.parametrize("kind", ["Add", "Sub"])
def test_sum_of_unequal_scales(kind: str, ending: str, tmp_path: Path) -> None:
    """In units of the output, in float32, in this order; ONNX Runtime at its highest level leaves
    it as it is."""
    model, scales = _residual(kind, ending)
    fused = integer(model)
    feeds = _feeds("x", "z")
    (got,) = assert_runtimes_agree(fused, feeds).values()

    s_a, s_b, s_y = (np.float32(s) for s in scales)
    a = np.clip(np.rint(feeds["x"] / s_a) + 100, 0, 255) - 100
    b = np.clip(np.rint(feeds["z"] / s_b) - 3, -128, 127) + 3
    left, right = a.astype(np.float32) * (s_a / s_y), b.astype(np.float32) * (s_b / s_y)
    y = left + right if kind == "Add" else left - right
    y = np.clip(np.rint(y) + 100, 100 if ending else 0, 255)
    np.testing.assert_array_equal(got, y)

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(with_bodies(fused).SerializeToString(), options)
    kinds = {n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node}
    assert kind in kinds
    assert not any(name.startswith("QLinear") for name in kinds)


def test_sum_of_three_unequal_scales_rounds_once() -> None:
    graph = Graph()
    x = graph.input("x", np.float32, SHAPE)
    terms = [graph.qdq(x, scale, 100) for scale in (0.11, 0.07, 0.05)]
    y = graph.op("Relu", graph.op("Add", graph.op("Add", *terms[:2]), terms[2]))
    model = graph.model({graph.q(y, 0.3, 3): np.uint8})
    fused = integer(model)
    assert ops(fused).count("QuantizeLinear") == 4
    feeds = _feeds()
    (got,) = assert_runtimes_agree(fused, feeds).values()
    (want,) = run_ort(model, feeds).values()
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


def test_ties_round_to_even() -> None:
    graph = Graph()
    x = graph.input("x", np.int8, (1, 64))
    graph_x = graph.dq(x, 0.5, 0, np.int8)
    y = graph.op("Add", graph_x, graph.dq(graph.const(np.zeros(1, np.int8)), 0.5, 0, np.int8))
    fused = integer(graph.model({graph.q(y, 1.0, 0, np.int8): np.int8}))
    values = np.arange(-32, 32, dtype=np.int8).reshape(1, 64)
    (got,) = assert_runtimes_agree(fused, {"x": values}).values()
    np.testing.assert_array_equal(got, np.rint(values / 2))


def test_leaves_float_islands_and_quantizers_of_unit_scale() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), S_X, 100)
    island = graph.op("MaxPool", graph.op("Tanh", x), kernel_shape=[2, 2])
    unit = graph.dq(graph.input("a", np.int32, SHAPE), 0.25, 0, np.int32)
    model = graph.model({graph.q(island, 0.01, 9): np.uint8, graph.q(unit, 1.0, 9): np.uint8})
    assert_equal_models(apply(model, FuseQLinear()), model)


def assert_equal_models(got: onnx.ModelProto, want: onnx.ModelProto) -> None:
    assert [(n.op_type, *n.input) for n in got.graph.node] == [
        (n.op_type, *n.input) for n in want.graph.node
    ]


def test_direct_convolution_that_overflows_is_refused_by_name() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, (1, 70000, 1, 1)), S_X)
    weight = graph.weight(np.full((1, 70000, 1, 1), 127, np.int8), 0.5)
    model = graph.model({graph.q(graph.op("Conv", x, weight), 0.3): np.uint8})
    for entry in (FuseQLinear(), SinkDequantize()):
        with pytest.raises(PassError, match=r"node 'n3' \(Conv\)"):
            apply(model, entry)


def test_equal_to_the_original_with_scales_of_two() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.125, 120)
    weight = graph.weight(RNG.integers(-63, 64, (4, 2, 3, 3)).astype(np.int8), 0.25)
    y = graph.op("Relu", graph.op("Conv", x, weight, group=2))
    model = graph.model({graph.q(y, 2.0, 7): np.uint8})
    feeds = _feeds()
    assert_equal(assert_runtimes_agree(integer(model), feeds), run_ort(model, feeds))


def test_order_of_the_scales_decides_ties() -> None:
    """x_scale * w_scale first, then / y_scale: chosen so that this gives 2^-8 exactly, with a tie
    at every fourth value, and another order does not."""
    x_scale, w_scale = np.float32(0.15), np.float32(0.9)
    y_scale = x_scale * w_scale * np.float32(256)
    assert x_scale * (w_scale / y_scale) != np.float32(2.0**-8)
    graph = Graph()
    x = graph.dq(graph.input("x", np.uint8, (1, 1, 1, 256)), x_scale)
    conv = graph.op("Conv", x, graph.weight(np.full((1, 1, 1, 1), 64, np.int8), w_scale))
    model = graph.model({graph.q(conv, y_scale): np.uint8})
    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 1, 256)
    for fused in (apply(model, FuseQLinear()), integer(model)):
        assert ops(fused) == ["QLinearConv"]
        (got,) = assert_runtimes_agree(fused, {"x": values}).values()
        np.testing.assert_array_equal(got, np.rint(values * 64.0 / 256))


def test_without_kernels_the_same_integers() -> None:
    model = _network(lambda graph, y: graph.op("Relu", y), x_type=(np.uint8, 9))
    spelled = apply(model, SinkDequantize(), FuseQLinear(kernels=False))
    assert "QLinearConv" not in ops(spelled)
    feeds = _feeds()
    assert_equal(
        assert_runtimes_agree(spelled, feeds), assert_runtimes_agree(integer(model), feeds)
    )

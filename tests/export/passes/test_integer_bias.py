"""integer_bias: int32 in units of s_x * s_w, by at most half a unit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from qdq_graphs import Graph, apply, assert_equal, ops, run_ort

from export.passes.base import PassError
from export.passes.integer_bias import IntegerBias

RNG = np.random.default_rng(9)
S_X = np.float32(0.037)
SCALES = {
    "per tensor": np.asarray(np.float32(0.017)),
    "per channel": RNG.uniform(0.005, 0.02, 4).astype(np.float32),
}
BIAS = RNG.normal(0, 2, 4).astype(np.float32)
KINDS = ("Conv", "Gemm", "MatMul", "batched MatMul")
_SHAPES = {"Conv": (2, 3, 6, 5), "batched MatMul": (2, 3, 3)}


def _feeds(kind: str) -> dict[str, np.ndarray]:
    shape = _SHAPES.get(kind, (2, 3))
    return {"x": np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)}


def _layer(
    kind: str,
    scale: np.ndarray,
    bias: np.ndarray = BIAS,
    bias_scale: np.ndarray | None = None,
    move: bool = False,
) -> onnx.ModelProto:
    graph, rng = Graph(), np.random.default_rng(2)
    x = graph.qdq(graph.input("x", np.float32, _feeds(kind)["x"].shape), S_X, 128)
    if move:
        x = graph.op("Relu", x)
    if bias_scale is None:
        b = graph.const(bias)
    else:
        b = graph.dq(graph.const(bias), bias_scale, 0, bias.dtype, axis=0)
    if kind == "Conv":
        weight = graph.weight(rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), scale)
        y = graph.op("Conv", x, weight, b, pads=[1] * 4)
    elif kind == "Gemm":
        weight = graph.weight(rng.integers(-127, 128, (4, 3)).astype(np.int8), scale)
        y = graph.op("Gemm", x, weight, b, transB=1)
    else:
        weight = graph.weight(rng.integers(-127, 128, (3, 4)).astype(np.int8), scale, axis=1)
        y = graph.op("Add", b, graph.op("MatMul", x, weight))
    return graph.model({y: np.float32})


def _bias(model: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scale of the one int32 DequantizeLinear."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (node,) = (
        n for n in model.graph.node if n.input[0] in arrays and arrays[n.input[0]].dtype == np.int32
    )
    zero = arrays[node.input[2]]
    assert zero.dtype == np.int32 and zero.shape == arrays[node.input[1]].shape and not zero.any()
    return arrays[node.input[0]], arrays[node.input[1]]


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_float_biases(kind: str, scale: np.ndarray) -> None:
    model = _layer(kind, scale)
    result = apply(model, IntegerBias())
    levels, unit = _bias(result)
    np.testing.assert_array_equal(unit, (S_X * scale).astype(np.float32))
    want = np.rint(BIAS / (np.float64(S_X) * scale.astype(np.float64)))
    np.testing.assert_array_equal(levels, want)
    (got,), (before,) = (
        run_ort(result, _feeds(kind)).values(),
        run_ort(model, _feeds(kind)).values(),
    )
    assert np.abs(got - before).max() <= unit.max() / 2 + 1e-5
    assert apply(result, IntegerBias()).SerializeToString() == result.SerializeToString()
    assert ("MatMul" in ops(result)) == (kind == "batched MatMul")


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_a_bias_on_the_grid_keeps_its_value(scale: np.ndarray) -> None:
    """Another scale, twice the unit: exact."""
    unit = (S_X * scale).astype(np.float32)
    levels = RNG.integers(-1000, 1000, 4).astype(np.int32)
    model = _layer("Conv", scale, levels, np.asarray(unit * np.float32(2)))
    result = apply(model, IntegerBias())
    got, held = _bias(result)
    np.testing.assert_array_equal(got, levels * 2)
    np.testing.assert_array_equal(held, unit)
    assert_equal(run_ort(result, _feeds("Conv")), run_ort(model, _feeds("Conv")))


def test_an_eight_bit_bias_is_rounded() -> None:
    levels = np.array([-128, 3, 0, 127], np.int8)
    model = _layer("Conv", SCALES["per channel"], levels, np.asarray(np.float32(0.011)))
    got, unit = _bias(apply(model, IntegerBias()))
    exact = np.float64(S_X) * SCALES["per channel"].astype(np.float64)
    np.testing.assert_array_equal(got, np.rint(levels * np.float64(np.float32(0.011)) / exact))
    assert got.dtype == np.int32 and unit.shape == (4,)


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "batched MatMul"])
def test_the_right_bias_is_left_alone(kind: str) -> None:
    for scale in SCALES.values():
        unit = np.asarray((S_X * scale).astype(np.float32))
        model = _layer(kind, scale, np.array([1, -2, 3, 2**30], np.int32), unit)
        assert list(apply(model, IntegerBias()).graph.node) == list(model.graph.node)


def test_seen_through_operators_that_keep_the_scale() -> None:
    assert _bias(apply(_layer("Conv", SCALES["per tensor"], move=True), IntegerBias()))


def test_too_large_a_bias_is_refused_by_name() -> None:
    bias = np.array([0, 1e9, 0, 0], np.float32)
    with pytest.raises(PassError, match=r"'n\d+' \(Conv\): bias 1000000000.0 of channel 1"):
        apply(_layer("Conv", SCALES["per tensor"], bias), IntegerBias())


def test_leaves_alone_what_is_not_quantized() -> None:
    graph = Graph()
    x = graph.input("x", np.float32, _SHAPES["Conv"])
    weight = graph.weight(np.ones((4, 3, 3, 3), np.int8), SCALES["per tensor"])
    floats = graph.model({graph.op("Conv", x, weight, graph.const(BIAS)): np.float32})
    assert list(apply(floats, IntegerBias()).graph.node) == list(floats.graph.node)
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, (2, 3)), S_X, 128)
    weight = graph.weight(np.ones((4, 3), np.int8), SCALES["per tensor"])
    scaled = graph.op("Gemm", x, weight, graph.const(BIAS), transB=1, alpha=0.5)
    model = graph.model({scaled: np.float32})
    assert list(apply(model, IntegerBias()).graph.node) == list(model.graph.node)


def test_scales_along_the_summed_axis_are_left_alone() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, (2, 3)), S_X, 128)
    scale = np.array([0.1, 0.2, 0.3], np.float32)
    weight = graph.weight(np.ones((3, 4), np.int8), scale, axis=0)
    model = graph.model({graph.op("Gemm", x, weight, graph.const(BIAS)): np.float32})
    assert list(apply(model, IntegerBias()).graph.node) == list(model.graph.node)

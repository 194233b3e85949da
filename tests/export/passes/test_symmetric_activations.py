"""symmetric_activations: int8 with zero point 0, exact where it can be, bounded where not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from qdq_graphs import Graph, apply, assert_equal, ops, run_ort

from export.passes.base import PassError
from export.passes.symmetric_activations import SymmetricActivations

RNG = np.random.default_rng(4)
SHAPE = (1, 4, 7, 6)
FEEDS = {"x": RNG.normal(0, 4, SHAPE).astype(np.float32)}


def _zeros(model: onnx.ModelProto) -> set[tuple[int, int]]:
    """(element type, value) of every zero point."""
    tensors = {t.name: t for t in model.graph.initializer}
    given = [tensors[n.input[2]] for n in model.graph.node if n.op_type.endswith("izeLinear")]
    return {(t.data_type, int(v)) for t in given for v in np.ravel(onnx.numpy_helper.to_array(t))}


def _exact(model: onnx.ModelProto) -> onnx.ModelProto:
    result = apply(model, SymmetricActivations())
    assert_equal(run_ort(result, FEEDS), run_ort(model, FEEDS))
    assert _zeros(result) == {(TensorProto.INT8, 0)}
    again = apply(result, SymmetricActivations())
    assert again.SerializeToString() == result.SerializeToString()
    onnx.checker.check_model(result, full_check=True)
    return result


def test_zero_point_128() -> None:
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.04, 128)
    y = graph.op("MaxPool", x, kernel_shape=[2, 2])
    _exact(graph.model({graph.dq(y, 0.04, 128): np.float32}))


def test_counts_keep_their_bytes() -> None:
    graph = Graph()
    x = graph.input("x", np.float32, SHAPE)
    bounded = graph.op("Clip", x, graph.const(np.float32(0)), graph.const(np.float32(5)))
    assert "Relu" not in ops(_exact(graph.model({graph.qdq(bounded, 1.0): np.float32})))


def test_a_clip_ends_the_levels() -> None:
    """Four bits: nothing above 15, and a Relu where uint8 saturated below zero."""
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.3)
    y = graph.op("Clip", x, graph.const(np.uint8(0)), graph.const(np.uint8(15)))
    result = _exact(graph.model({graph.dq(y, 0.3): np.float32}))
    assert ops(result)[0] == "Relu"


@pytest.mark.parametrize("zero", [0, 1, 37, 200, 255])
def test_others_are_approximated_within_half_a_unit(zero: int) -> None:
    scale = np.float32(0.03)
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), scale, zero)
    model = graph.model({x: np.float32})
    result = apply(model, SymmetricActivations(approximate=True))
    assert _zeros(result) == {(TensorProto.INT8, 0)}
    coarse = float(scale) * max(zero, 255 - zero) / 127
    low, high = -zero * float(scale), (255 - zero) * float(scale)
    inside = (FEEDS["x"] >= low) & (FEEDS["x"] <= high)
    (want,), (got,) = run_ort(model, FEEDS).values(), run_ort(result, FEEDS).values()
    assert inside.any()
    bound = (coarse + float(scale)) / 2 + 1e-6
    assert np.abs(got - want)[inside].max() <= bound
    if zero == 0:
        assert np.abs(got - want).max() <= bound


def test_bounds_and_constants_follow_the_coarser_grid() -> None:
    scale, zero = np.float32(0.05), 100
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), scale, zero)
    y = graph.op("Clip", x, graph.const(np.uint8(60)), graph.const(np.uint8(180)))
    y = graph.op("Concat", y, graph.const(np.full(SHAPE, 140, np.uint8)), axis=0)
    model = graph.model({graph.dq(y, scale, zero): np.float32})
    result = apply(model, SymmetricActivations(approximate=True))
    (want,), (got,) = run_ort(model, FEEDS).values(), run_ort(result, FEEDS).values()
    assert np.abs(got - want).max() <= float(scale) * (155 / 127 + 1) / 2 + 1e-6


@pytest.mark.parametrize("zero", [0, 37])
def test_nothing_is_approximated_unasked(zero: int) -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.03, zero)
    model = graph.model({x: np.float32})
    with pytest.raises(PassError, match=rf"n0.*zero point {zero} has no equal.*symmetrically"):
        apply(model, SymmetricActivations())


def _counts(graph: Graph) -> str:
    x = graph.input("x", np.float32, SHAPE)
    bounded = graph.op("Clip", x, graph.const(np.float32(0)), graph.const(np.float32(5)))
    return graph.q(bounded, 1.0)


@pytest.mark.parametrize(("value", "fits"), [(127, True), (128, False)])
def test_padding_counts_as_a_level(value: int, fits: bool) -> None:
    graph = Graph()
    pads = graph.const(np.array([0, 0, 1, 0, 0, 0, 0, 2], np.int64))
    y = graph.op("Pad", _counts(graph), pads, graph.const(np.uint8(value)))
    model = graph.model({graph.dq(y, 1.0): np.float32})
    if fits:
        _exact(model)
        return
    with pytest.raises(PassError, match="zero point 0 has no equal"):
        apply(model, SymmetricActivations())


@pytest.mark.parametrize(("bound", "fits"), [(127, True), (128, False)])
def test_a_lower_bound_counts_as_a_level(bound: int, fits: bool) -> None:
    graph = Graph()
    y = graph.op("Clip", _counts(graph), graph.const(np.uint8(bound)), graph.const(np.uint8(255)))
    model = graph.model({graph.dq(y, 1.0): np.float32})
    if fits:
        _exact(model)
        return
    with pytest.raises(PassError, match="zero point 0 has no equal"):
        apply(model, SymmetricActivations())


def test_integer_operators_share_the_zero_point() -> None:
    graph = Graph()
    weight = graph.const(RNG.integers(-63, 64, (4, 4, 3, 3)).astype(np.int8))
    acc = graph.op("ConvInteger", _counts(graph), weight, graph.const(np.uint8(200)))
    with pytest.raises(PassError, match=r"zero points \[0, 200\]"):
        apply(graph.model({acc: np.int32}), SymmetricActivations())


def test_unsigned_weights_change_as_well() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, 128)
    weight = RNG.integers(0, 256, (4, 4, 3, 3)).astype(np.uint8)
    conv = graph.op("Conv", x, graph.weight(weight, np.float32(0.01), zero=128))
    _exact(graph.model({graph.qdq(conv, 0.3, 128): np.float32}))


def test_asymmetric_int8_is_refused() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, -3, np.int8)
    with pytest.raises(PassError, match=r"n0.*int8 with zero point -3"):
        apply(graph.model({x: np.float32}), SymmetricActivations())


def test_an_interface_that_feeds_a_convolution_is_refused() -> None:
    graph = Graph()
    x = graph.dq(graph.input("counts", np.uint8, SHAPE), 1.0)
    weight = RNG.integers(-63, 64, (4, 4, 3, 3)).astype(np.int8)
    conv = graph.op("Conv", x, graph.weight(weight, np.float32(0.01)))
    with pytest.raises(PassError, match="'counts' is an input or output"):
        apply(graph.model({conv: np.float32}), SymmetricActivations())


def test_symmetric_int8_is_left_alone() -> None:
    graph = Graph()
    model = graph.model(
        {graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, 0, np.int8): np.float32}
    )
    assert list(apply(model, SymmetricActivations()).graph.node) == list(model.graph.node)

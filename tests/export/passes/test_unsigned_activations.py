"""unsigned_activations: uint8 levels in place of int8 ones, the same real values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from qdq_graphs import Graph, apply, assert_equal, ops, run_ort

from export.passes.base import PassError
from export.passes.unsigned_activations import UnsignedActivations

RNG = np.random.default_rng(3)
SHAPE = (1, 4, 7, 6)
FEEDS = {"x": RNG.normal(0, 4, SHAPE).astype(np.float32)}
WEIGHT = RNG.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)


def _retyped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rewritten model, shown to compute the same."""
    result = apply(model, UnsignedActivations())
    assert_equal(run_ort(result, FEEDS), run_ort(model, FEEDS))
    again = apply(result, UnsignedActivations())
    assert again.SerializeToString() == result.SerializeToString()
    onnx.checker.check_model(result, full_check=True)
    return result


def _zero_types(model: onnx.ModelProto) -> Counter[int]:
    """Element types of the zero points of activations' quantizers."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    return Counter(
        types[n.input[2]]
        for n in model.graph.node
        if n.op_type == "QuantizeLinear"
        or (n.op_type == "DequantizeLinear" and n.input[0] not in types)
    )


def _zeros(model: onnx.ModelProto) -> set[int]:
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return {int(arrays[n.input[2]]) for n in model.graph.node if n.op_type == "QuantizeLinear"}


def test_a_convolution_between_quantizers() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, -3, np.int8)
    conv = graph.op("Conv", x, graph.weight(WEIGHT, np.float32(0.01)), pads=[1] * 4)
    model = graph.model({graph.qdq(conv, 0.2, 0, np.int8): np.float32})
    result = _retyped(model)
    assert _zero_types(result) == {TensorProto.UINT8: 4}
    assert _zeros(result) == {125, 128}
    weights = [t for t in result.graph.initializer if len(t.dims) == 4]
    assert [t.data_type for t in weights] == [TensorProto.INT8]


def test_it_fuses_in_onnxruntime(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, -3, np.int8)
    conv = graph.op("Conv", x, graph.weight(WEIGHT, np.float32(0.01)), pads=[1] * 4)
    model = graph.model({graph.qdq(conv, 0.2, 0, np.int8): np.float32})
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "executed.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(_retyped(model).SerializeToString(), options)
    assert "QLinearConv" in ops(onnx.load(tmp_path / "executed.onnx"))


def test_levels_that_are_handed_on() -> None:
    """Through every operator between Q and DQ, bounds, paddings and constants included."""
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.04, 5, np.int8)
    y = graph.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    low, high = graph.const(np.int8(-60)), graph.const(np.int8(100))
    y = graph.op("Clip", y, low, high)
    constant = graph.const(RNG.integers(-128, 128, (1, 2, 7, 6)).astype(np.int8))
    y = graph.op("Concat", y, constant, x, axis=1)
    pads = graph.const(np.array([0, 0, 1, 0, 0, 0, 0, 2], np.int64))
    y = graph.op("Pad", y, pads, graph.const(np.int8(5)))
    y = graph.op("Transpose", y, perm=[0, 2, 3, 1])
    y = graph.op("Reshape", y, graph.const(np.array([1, -1], np.int64)))
    model = graph.model({graph.dq(y, 0.04, 5, np.int8): np.float32})
    assert _zero_types(_retyped(model)) == {TensorProto.UINT8: 2}


def test_padding_without_a_value_is_the_level_zero() -> None:
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.04, 5, np.int8)
    y = graph.op("Pad", x, graph.const(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)))
    _retyped(graph.model({graph.dq(y, 0.04, 5, np.int8): np.float32}))


def test_counts_keep_their_bytes() -> None:
    """Provably within 0..127 and zero point 0: only the type changes."""
    graph = Graph()
    x = graph.input("x", np.float32, SHAPE)
    bounded = graph.op("Clip", x, graph.const(np.float32(0)), graph.const(np.float32(3)))
    model = graph.model({graph.qdq(bounded, 1.0, 0, np.int8): np.float32})
    result = _retyped(model)
    assert _zeros(result) == {0}
    assert _zero_types(result) == {TensorProto.UINT8: 2}


@pytest.mark.parametrize("bounded", [False, True])
def test_what_is_not_provably_small_moves(bounded: bool) -> None:
    """int8 saturates a Relu's output at 127, uint8 would not: such levels move by 128."""
    graph = Graph()
    x = graph.input("x", np.float32, SHAPE)
    positive = graph.op("Relu", x)
    if bounded:
        positive = graph.op("Clip", positive, "", graph.const(np.float32(2)))
    scale = 0.01
    model = graph.model({graph.qdq(positive, scale, 0, np.int8): np.float32})
    assert _zeros(_retyped(model)) == {128}


def test_a_negative_zero_point_moves_with_its_levels() -> None:
    """Levels of 0..3 that a reader offsets by -5: uint8 has no such zero point."""
    graph = Graph()
    x = graph.input("x", np.float32, SHAPE)
    bounded = graph.op("Clip", x, graph.const(np.float32(0)), graph.const(np.float32(3)))
    levels = graph.q(bounded, 1.0, 0, np.int8)
    result = _retyped(graph.model({graph.dq(levels, 1.0, -5, np.int8): np.float32}))
    assert _zeros(result) == {128}


def test_matrix_products_of_two_activations() -> None:
    """The zero point of either factor moves, and one that is absent appears."""
    graph = Graph()
    a = graph.q(graph.input("x", np.float32, SHAPE), 0.04, -7, np.int8)
    b = graph.op("Transpose", graph.q("x", 0.05, 3, np.int8), perm=[0, 1, 3, 2])
    full = graph.op("MatMulInteger", a, b, graph.const(np.int8(-7)), graph.const(np.int8(3)))
    bare = graph.op("MatMulInteger", a, b)
    result = _retyped(graph.model({full: np.int32, bare: np.int32}))
    held = {
        t.name: int(onnx.numpy_helper.to_array(t)) for t in result.graph.initializer if not t.dims
    }
    zeros = [
        [held[i] for i in n.input[2:]] for n in result.graph.node if n.op_type == "MatMulInteger"
    ]
    assert zeros == [[121, 131], [128, 128]]


def test_explicit_integer_convolutions() -> None:
    """Zero points of input and output move, that of the weights stays."""
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.04, -7, np.int8)
    given = [np.float32(0.04), np.int8(-7), WEIGHT, np.float32(0.01), np.int8(0)]
    given += [np.float32(0.2), np.int8(11)]
    y = graph.op("QLinearConv", x, *(graph.const(array) for array in given), pads=[1] * 4)
    result = _retyped(graph.model({graph.dq(y, 0.2, 11, np.int8): np.float32}))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in result.graph.initializer}
    conv = next(n for n in result.graph.node if n.op_type == "QLinearConv")
    assert [int(arrays[conv.input[i]]) for i in (2, 5, 7)] == [121, 0, 139]


def test_a_computed_zero_point_is_refused() -> None:
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.04, 0, np.int8)
    zero = graph.op("ReduceMax", graph.op("Abs", graph.input("z", np.int8, (1,))), keepdims=0)
    acc = graph.op("ConvInteger", x, graph.const(WEIGHT), zero)
    with pytest.raises(PassError, match=r"ConvInteger\): its zero point is computed"):
        apply(graph.model({acc: np.int32}), UnsignedActivations())


def test_integer_operators_beside() -> None:
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.04, 0, np.int8)
    acc = graph.op("ConvInteger", x, graph.const(WEIGHT), pads=[1] * 4)
    model = graph.model({acc: np.int32})
    _retyped(model)


def test_refused_by_the_name_of_the_node() -> None:
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.04, 0, np.int8)
    model = graph.model({graph.op("Abs", x): np.int8})
    model.graph.node[-1].name = "strange"
    graph_out = model.graph.output[0].name
    wider = helper.make_node("Cast", [graph_out], ["wide"], to=TensorProto.INT32)
    model.graph.node.append(wider)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("wide", TensorProto.INT32, SHAPE))
    with pytest.raises(PassError, match=r"'strange' \(Abs\).*hand levels on"):
        apply(model, UnsignedActivations())


def test_linear_resize_of_levels_is_refused() -> None:
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.04, 0, np.int8)
    scales = graph.const(np.array([1, 1, 2, 2], np.float32))
    y = graph.op("Resize", x, "", scales, mode="linear")
    model = graph.model({graph.dq(y, 0.04, 0, np.int8): np.float32})
    with pytest.raises(PassError, match=r"Resize\).*interpolates"):
        apply(model, UnsignedActivations())


def test_the_interface_is_left_or_refused() -> None:
    graph = Graph()
    states = graph.input("mem.a", np.int8, SHAPE)
    model = graph.model({graph.dq(states, 0.1, 0, np.int8): np.float32})
    left = apply(model, UnsignedActivations())
    assert list(left.graph.node) == list(model.graph.node)
    assert left.graph.input[0].type.tensor_type.elem_type == TensorProto.INT8
    graph = Graph()
    given = graph.dq(graph.input("given", np.int8, SHAPE), 0.1, 0, np.int8)
    conv = graph.op("Conv", given, graph.weight(WEIGHT, np.float32(0.01)))
    with pytest.raises(PassError, match="'given' is an input or output of the graph"):
        apply(graph.model({conv: np.float32}), UnsignedActivations())


def test_uint8_stays() -> None:
    graph = Graph()
    model = graph.model({graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, 7): np.float32})
    assert list(_retyped(model).graph.node) == list(model.graph.node)

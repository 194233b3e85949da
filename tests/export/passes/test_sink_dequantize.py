"""sink_dequantize: every row of the table, what it leaves alone, what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from qdq_graphs import Graph, apply, assert_equal, ops, run_ort

from export.oracle import run_integer
from export.passes.base import PassError
from export.passes.sink_dequantize import SinkDequantize

RNG = np.random.default_rng(11)
SHAPE = (2, 4, 6, 6)
# Powers of two: float32 computes every graph here exactly, so results are equal, not close.
S, CHANNELS = 2.0**-3, 2.0 ** np.array([-3, -5, -2, -4])


def _int8(*shape: int) -> np.ndarray:
    return RNG.integers(-63, 64, shape).astype(np.int8)


def _check(graph: Graph, y: str | list[str], *, left: int = 0) -> onnx.ModelProto:
    """The sunk graph computes the same; returns it. left: float operators that remain."""
    names = [y] if isinstance(y, str) else y
    model = graph.model(dict.fromkeys(names, np.float32))
    feeds = {
        entry.name: RNG.normal(
            0, 6, [d.dim_value for d in entry.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for entry in model.graph.input
    }
    sunk = apply(model, SinkDequantize())
    want = run_ort(model, feeds)
    assert_equal(run_ort(sunk, feeds), want)
    assert_equal(run_integer(sunk, feeds), want)
    floats = {node.output[0] for node in sunk.graph.node if node.op_type == "DequantizeLinear"}
    assert sum(not floats.isdisjoint(node.input) for node in sunk.graph.node) == left
    assert ops(apply(sunk, SinkDequantize())) == ops(sunk)
    return sunk


def _start(dtype: type = np.uint8, zero: int = 0, shape=SHAPE) -> tuple[Graph, str]:
    graph = Graph()
    return graph, graph.qdq(graph.input("x", np.float32, shape), S, zero, dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [S, CHANNELS], ids=["tensor", "channel"])
def test_conv_without_zero_point_becomes_qconv(scale, bias: bool) -> None:
    graph, x = _start()
    inputs = [x, graph.weight(_int8(4, 4, 3, 3), scale)]
    if bias:
        inputs.append(graph.bias(RNG.integers(-999, 999, 4), np.asarray(scale) * S))
    sunk = _check(graph, graph.op("Conv", *inputs, pads=[1, 0, 1, 2], strides=[2, 1]))
    assert ops(sunk) == ["QuantizeLinear", "QConv", "DequantizeLinear"]


@pytest.mark.parametrize(
    ("dtype", "zero", "group", "dilation", "w_zero"),
    [
        (np.uint8, 128, 1, 1, 0),
        (np.int8, -3, 2, 1, 0),
        (np.uint8, 0, 4, 2, 0),
        (np.int8, 0, 1, 1, 5),
    ],
)
def test_any_other_conv_becomes_conv_integer(dtype, zero, group, dilation, w_zero) -> None:
    graph, x = _start(dtype, zero)
    scale = S if w_zero else CHANNELS
    weight = graph.weight(_int8(4, 4 // group, 3, 3), scale, zero=w_zero)
    bias = graph.bias(RNG.integers(-999, 999, 4), np.asarray(scale) * S)
    attributes = {"group": group, "dilations": [dilation] * 2, "pads": [1, 2, 0, 1]}
    sunk = _check(graph, graph.op("Conv", x, weight, bias, **attributes))
    assert ops(sunk) == ["QuantizeLinear", "ConvInteger", "Add", "DequantizeLinear"]


@pytest.mark.parametrize("a", [0, 1])
@pytest.mark.parametrize("b", [0, 1])
def test_gemm(a: int, b: int) -> None:
    graph, x = _start(zero=9, shape=(5, 5))
    weight = graph.weight(_int8(*((4, 5) if b else (5, 4))), CHANNELS, axis=1 - b)
    bias = graph.bias(RNG.integers(-999, 999, 4), CHANNELS * S)
    sunk = _check(graph, graph.op("Gemm", x, weight, bias, transA=a, transB=b))
    assert "MatMulInteger" in ops(sunk)


def test_matmul_of_a_weight_and_its_bias() -> None:
    graph, x = _start(zero=9, shape=(2, 3, 5))
    y = graph.op("MatMul", x, graph.weight(_int8(5, 4), CHANNELS, axis=1))
    sunk = _check(graph, graph.op("Add", graph.bias(RNG.integers(-99, 99, 4), CHANNELS * S), y))
    assert ops(sunk) == ["QuantizeLinear", "MatMulInteger", "Add", "DequantizeLinear"]


def test_matmul_of_two_tensors() -> None:
    graph, x = _start(zero=9, shape=(2, 3, 5))
    other = graph.qdq(graph.input("z", np.float32, (2, 5, 3)), S / 4, -3, np.int8)
    sunk = _check(graph, graph.op("MatMul", x, other))
    assert ops(sunk)[-2:] == ["MatMulInteger", "DequantizeLinear"]


def _ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


_MOVES: dict[str, Callable[[Graph, str], str | list[str]]] = {
    "Relu": lambda g, x: g.op("Relu", x),
    "MaxPool": lambda g, x: g.op("MaxPool", x, kernel_shape=[3, 2], pads=[1, 1, 0, 0], ceil_mode=1),
    "AveragePool": lambda g, x: g.op(
        "AveragePool", x, kernel_shape=[2, 4], pads=[1, 1, 0, 0], count_include_pad=1
    ),
    "Reshape": lambda g, x: g.op("Reshape", x, g.const(_ints(0, -1, 4))),
    "Flatten": lambda g, x: g.op("Flatten", x),
    "Transpose": lambda g, x: g.op("Transpose", x, perm=[2, 0, 3, 1]),
    "Unsqueeze": lambda g, x: g.op("Unsqueeze", x, g.const(_ints(1))),
    "Slice": lambda g, x: g.op(
        "Slice",
        x,
        g.const(_ints(3, 5)),
        g.const(_ints(0, 0)),
        g.const(_ints(1, 3)),
        g.const(_ints(-1, -2)),
    ),
    "Split": lambda g, x: g.op("Split", x, g.const(_ints(1, 3)), outputs=2, axis=1),
    "Gather": lambda g, x: g.op("Gather", x, g.const(_ints(2, -1, 2)), axis=1),
    "GatherElements": lambda g, x: g.op(
        "GatherElements", x, g.const(np.full((2, 4, 1, 6), -2)), axis=2
    ),
    "Expand": lambda g, x: g.op("Expand", x, g.const(_ints(3, 1, 1, 1, 1))),
    "Tile": lambda g, x: g.op("Tile", x, g.const(_ints(1, 2, 1, 2))),
    "Pad": lambda g, x: g.op("Pad", x, g.const(_ints(0, 1, 0, 2, 0, 0, 3, 0))),
    "Pad edge": lambda g, x: g.op("Pad", x, g.const(_ints(0, 1, 0, 2, 0, 0, 3, 0)), mode="edge"),
    "Identity": lambda g, x: g.op("Identity", x),
    "Mul constant": lambda g, x: g.op("Mul", g.const(np.float32(0.25)), x),
    "Div constant": lambda g, x: g.op("Div", x, g.const(np.float32([4]))),
    "Mul": lambda g, x: g.op("Mul", x, g.qdq("x", S * 2, 77)),
    "Add": lambda g, x: g.op("Add", x, g.qdq("x", S, 77)),
    "Sub": lambda g, x: g.op("Sub", g.qdq("x", S, -7, np.int8), x),
    "Concat": lambda g, x: g.op("Concat", x, x, axis=-1),
    "Concat of zero points": lambda g, x: g.op("Concat", x, g.qdq("x", S, -7, np.int8), axis=1),
    "Resize": lambda g, x: g.op(
        "Resize",
        x,
        "",
        g.const(np.array([1, 1, 2, 1.5], np.float32)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("name", _MOVES)
def test_move_with_one_scale(name: str, dtype: type) -> None:
    graph, x = _start(dtype, 13)
    _check(graph, _MOVES[name](graph, x))


_PER_CHANNEL = {
    "Relu": _MOVES["Relu"],
    "Transpose": _MOVES["Transpose"],
    "Unsqueeze": _MOVES["Unsqueeze"],
    "Slice elsewhere": lambda g, x: g.op(
        "Slice", x, g.const(_ints(1)), g.const(_ints(3)), g.const(_ints(2))
    ),
    "Slice channels": lambda g, x: g.op(
        "Slice", x, g.const(_ints(1)), g.const(_ints(3)), g.const(_ints(-3))
    ),
    "Split": _MOVES["Split"],
    "Gather": _MOVES["Gather"],
    "Gather before": lambda g, x: g.op("Gather", x, g.const(_ints(1)[0]), axis=0),
    "Pad elsewhere": lambda g, x: g.op("Pad", x, g.const(_ints(0, 0, 1, 0, 0, 0, 0, 2))),
    "Mean": lambda g, x: g.op("ReduceMean", x, g.const(_ints(3, 0)), keepdims=0),
    "Concat": lambda g, x: g.op("Concat", x, x, axis=1),
    "Concat elsewhere": lambda g, x: g.op("Concat", x, x, axis=2),
    "Add": lambda g, x: g.op("Add", x, x),
    "Mul": lambda g, x: g.op("Mul", x, g.dq(g.const(_int8(4, 1, 1)), S, 3, np.int8)),
    "Resize": _MOVES["Resize"],
    "Reshape": lambda g, x: g.op("Reshape", x, g.const(_ints(2, 1, 4, -1))),
}


@pytest.mark.parametrize("name", _PER_CHANNEL)
def test_move_of_an_accumulator_with_scales_per_channel(name: str) -> None:
    graph, x = _start(zero=7, shape=(2, 4, 8, 8))
    acc = graph.op("Conv", x, graph.weight(_int8(4, 4, 1, 1), CHANNELS))
    _check(graph, _PER_CHANNEL[name](graph, acc))


def test_global_average_of_a_power_of_two() -> None:
    graph, x = _start(zero=7, shape=(2, 4, 8, 8))
    sunk = _check(graph, graph.op("GlobalAveragePool", x))
    assert ops(sunk)[-2:] == ["ReduceSum", "DequantizeLinear"]


_LEFT: dict[str, Callable[[Graph, str, str], str]] = {
    "unequal scales": lambda g, x, acc: g.op("Add", x, g.qdq("x", S * 2)),
    "max pool of int32": lambda g, x, acc: g.op("MaxPool", acc, kernel_shape=[2, 2]),
    "linear resize": lambda g, x, acc: g.op(
        "Resize", x, "", g.const(np.array([1, 1, 2, 2], np.float32)), mode="linear"
    ),
    "average of fewer": lambda g, x, acc: g.op("AveragePool", x, kernel_shape=[2, 2], pads=[1] * 4),
    "mean over channels": lambda g, x, acc: g.op("ReduceMean", acc, g.const(_ints(1))),
    "channels lost": lambda g, x, acc: g.op("Flatten", acc),
    "negative factor": lambda g, x, acc: g.op("Mul", x, g.const(np.float32(-0.5))),
    "padded with one": lambda g, x, acc: g.op(
        "Pad", x, g.const(_ints(0, 0, 1, 0, 0, 0, 0, 0)), g.const(np.float32(1))
    ),
    "new channels": lambda g, x, acc: g.op("Pad", acc, g.const(_ints(0, 1, 0, 0, 0, 0, 0, 0))),
    "products of channels": lambda g, x, acc: g.op("Mul", acc, acc),
    "conv of an accumulator": lambda g, x, acc: g.op("Conv", acc, g.weight(_int8(2, 4, 1, 1), S)),
    "scales on another axis": lambda g, x, acc: g.op(
        "Conv", x, g.weight(_int8(4, 4, 1, 1), CHANNELS, axis=1)
    ),
    "foreign bias": lambda g, x, acc: g.op(
        "Conv", x, g.weight(_int8(4, 4, 1, 1), S), g.bias(np.ones(4), S)
    ),
    "not in the table": lambda g, x, acc: g.op("Tanh", x),
}


@pytest.mark.parametrize("name", _LEFT)
def test_leaves_what_does_not_commute(name: str) -> None:
    graph, x = _start()
    acc = graph.op("Conv", x, graph.weight(_int8(4, 4, 1, 1), CHANNELS))
    y = _LEFT[name](graph, x, acc)
    model = graph.model({y: np.float32})
    sunk = apply(model, SinkDequantize())
    last = next(node for node in sunk.graph.node if y in node.output)
    assert last.op_type == next(n.op_type for n in model.graph.node if y in n.output)
    feeds = {"x": RNG.normal(0, 6, SHAPE).astype(np.float32)}
    if name != "linear resize":
        assert_equal(run_ort(sunk, feeds), run_ort(model, feeds))


def test_equal_quantizers_cancel_and_outputs_keep_their_names() -> None:
    graph, x = _start(zero=13)
    y = graph.op("MaxPool", x, kernel_shape=[2, 2])
    same, other = graph.q(y, S, 13), graph.q(y, S, 12)
    model = graph.model({same: np.uint8, other: np.uint8})
    sunk = apply(model, SinkDequantize())
    assert ops(sunk) == ["QuantizeLinear", "MaxPool", "DequantizeLinear", "QuantizeLinear"]
    assert [o.name for o in sunk.graph.output] == [same, other]
    feeds = {"x": RNG.normal(0, 6, SHAPE).astype(np.float32)}
    assert_equal(run_ort(sunk, feeds), run_ort(model, feeds))


def test_tensor_with_several_readers() -> None:
    graph, x = _start()
    y = graph.op("Conv", x, graph.weight(_int8(4, 4, 1, 1), CHANNELS))
    sunk = _check(graph, [y, graph.op("Relu", y), graph.op("Neg", x)], left=1)
    assert ops(sunk).count("QConv") == 1


def test_accumulators_that_overflow_are_refused_by_name() -> None:
    graph, x = _start(shape=(1, 70000))
    weight = graph.weight(np.full((70000, 1), 127, np.int8), S, axis=1)
    model = graph.model({graph.op("MatMul", x, weight): np.float32})
    with pytest.raises(PassError, match=r"node 'n3' \(MatMul\).*2266950000.*int32"):
        apply(model, SinkDequantize())


def test_it_moves_only_through_what_it_is_told() -> None:
    """MaxPool becomes one of integers, and the convolution behind it stays in float."""
    graph, x = _start()
    pooled = graph.op("MaxPool", x, kernel_shape=[2, 2])
    y = graph.op("Conv", pooled, graph.weight(_int8(4, 4, 3, 3), S))
    model = graph.model({y: np.float32})
    moved = apply(model, SinkDequantize(through=("MaxPool",)))
    assert [op for op in ops(moved) if op != "DequantizeLinear"] == [
        "QuantizeLinear",
        "MaxPool",
        "Conv",
    ]
    feeds = {"x": RNG.normal(0, 6, SHAPE).astype(np.float32)}
    assert_equal(run_ort(moved, feeds), run_ort(model, feeds))


@pytest.mark.parametrize("attributes", [{"axes": [2, 3]}, {"axes": [1], "keepdims": 0}])
def test_mean_over_axes_that_are_an_attribute(attributes) -> None:
    """As operators before opset 18 have them."""
    graph, x = _start()
    model = graph.model({graph.op("ReduceMean", x, **attributes): np.float32})
    # Opset 17 has no other difference in these operators.
    for entry in model.opset_import:
        if not entry.domain:
            entry.version = 17
    sunk = apply(model, SinkDequantize())
    assert "ReduceSum" in ops(sunk)
    feeds = {"x": RNG.normal(0, 6, SHAPE).astype(np.float32)}
    assert_equal(run_ort(sunk, feeds), run_ort(model, feeds))


def test_mean_over_nothing_stays() -> None:
    graph, x = _start()
    y = graph.op("ReduceMean", x, noop_with_empty_axes=1)
    sunk = apply(graph.model({y: np.float32}), SinkDequantize())
    assert ops(sunk)[-1] == "ReduceMean"


def test_a_channel_that_does_not_exist_is_not_chosen() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), CHANNELS, np.zeros(4, np.uint8), np.uint8)
    y = graph.op("Gather", x, graph.const(np.array([0, 7], np.int64)), axis=1)
    sunk = apply(graph.model({y: np.float32}), SinkDequantize())
    assert ops(sunk)[-1] == "Gather"

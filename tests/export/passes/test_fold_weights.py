"""fold_weights: whatever constants a weight is made from, the same integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from qdq_graphs import Graph, apply, assert_equal, ops, run_ort

from export.passes.clean import Clean
from export.passes.fold_weights import FoldWeights

RNG = np.random.default_rng(8)
SHAPE = (2, 3, 6, 5)
FEEDS = {"x": RNG.normal(0, 4, SHAPE).astype(np.float32)}
REAL = RNG.normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
SCALES = {
    "per tensor": np.float32(0.017),
    "per channel": RNG.uniform(0.005, 0.02, 4).astype(np.float32),
}


def _folded(model: onnx.ModelProto, feeds: dict[str, np.ndarray] = FEEDS) -> onnx.ModelProto:
    """The rewritten model, shown to compute the same."""
    clean = apply(model, Clean())
    result = apply(clean, FoldWeights())
    assert_equal(run_ort(result, feeds), run_ort(model, feeds))
    assert apply(result, FoldWeights()).SerializeToString() == result.SerializeToString()
    return result


def _weights(model: onnx.ModelProto) -> list[np.ndarray]:
    """Arrays of the weights, each read by a DequantizeLinear and nothing else."""
    readers = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    tensors = [t for t in model.graph.initializer if t.name in readers]
    return [numpy_helper.to_array(t) for t in tensors]


def _conv(graph: Graph, weight: str) -> onnx.ModelProto:
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, 128)
    return graph.model({graph.op("Conv", x, weight, pads=[1] * 4): np.float32})


def _quantized(graph: Graph, scale: np.ndarray, low: int, dtype: type) -> str:
    """float32 -> Q -> Clip -> DQ, as the dynamo exporter leaves it."""
    axis = {"axis": 0} if scale.ndim else {}
    zero = graph.const(np.zeros(scale.shape, dtype))
    level = graph.op("QuantizeLinear", graph.const(REAL), graph.const(scale), zero, **axis)
    level = graph.op("Clip", level, graph.const(dtype(low)), graph.const(dtype(-low)))
    return graph.op("DequantizeLinear", level, graph.const(scale), zero, **axis)


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("bits", [8, 4])
def test_float_weights_are_quantized(scale: np.ndarray, bits: int) -> None:
    graph, low = Graph(), 1 - 2 ** (bits - 1)
    result = _folded(_conv(graph, _quantized(graph, np.asarray(scale), low, np.int8)))
    (weight,) = _weights(result)
    spread = np.reshape(scale, (-1, 1, 1, 1))
    want = np.clip(np.rint(REAL / spread), low, -low)
    np.testing.assert_array_equal(weight, want)
    assert weight.dtype == np.int8 and np.abs(weight).max() == -low
    assert sorted(ops(result)) == ["Conv", *["DequantizeLinear"] * 2, "QuantizeLinear"]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_clip_of_levels_is_computed(dtype: type) -> None:
    graph = Graph()
    info = np.iinfo(dtype)
    levels = RNG.integers(info.min, info.max + 1, REAL.shape).astype(dtype)
    low, high = (-127, 127) if dtype is np.int8 else (0, 200)
    clip = graph.op("Clip", graph.const(levels), graph.const(dtype(low)), graph.const(dtype(high)))
    zero = 0 if dtype is np.int8 else 90
    result = _folded(_conv(graph, graph.dq(clip, SCALES["per tensor"], zero, dtype)))
    (weight,) = _weights(result)
    np.testing.assert_array_equal(weight, np.clip(levels, low, high))
    assert weight.dtype == dtype and "Clip" not in ops(result)


def test_any_chain_of_constants() -> None:
    graph = Graph()
    levels = graph.const(RNG.integers(-127, 128, (3, 4, 9)).astype(np.int32))
    narrow = graph.op("Cast", levels, to=onnx.TensorProto.INT8)
    turned = graph.op("Transpose", narrow, perm=[1, 0, 2])
    shaped = graph.op("Reshape", turned, graph.const(np.array([4, 3, 3, 3], np.int64)))
    scale = graph.op("Mul", graph.const(np.float32(0.5)), graph.const(np.float32(0.03)))
    weight = graph.op("DequantizeLinear", shaped, scale, graph.const(np.int8(0)))
    result = _folded(_conv(graph, weight))
    assert sorted(ops(result)) == ["Conv", "DequantizeLinear", "DequantizeLinear", "QuantizeLinear"]


def test_constants_in_nodes_and_inputs() -> None:
    """Bounds as Constant nodes and weights among the inputs, as TorchScript leaves them."""
    graph = Graph()
    levels = graph.const(RNG.integers(-128, 128, REAL.shape).astype(np.int8))
    clip = graph.op("Clip", levels, graph.const(np.int8(-127)), graph.const(np.int8(127)))
    model = _conv(graph, graph.dq(clip, SCALES["per channel"], 0, np.int8, axis=0))
    held = {t.name: t for t in model.graph.initializer}
    for name, position in ((model.graph.node[0].input[1], 0), (model.graph.node[0].input[2], 0)):
        node = onnx.helper.make_node("Constant", [], [name], value=held[name])
        model.graph.node.insert(position, node)
        model.graph.initializer.remove(held[name])
    weight = held[levels]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(levels, weight.data_type, weight.dims)
    )
    assert "Clip" not in ops(_folded(model))


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_a_linear_layer_without_bias(scale: np.ndarray) -> None:
    """MatMul with a transposed weight, and Gemm: two spellings of one layer."""
    feeds = {"x": RNG.normal(0, 4, (3, 6)).astype(np.float32)}
    results = []
    for spelling in ("MatMul", "Gemm"):
        graph = Graph()
        x = graph.qdq(graph.input("x", np.float32, (3, 6)), 0.04, 128)
        levels = np.arange(-12, 12).reshape(4, 6).astype(np.int8)
        weight = graph.weight(levels, scale)
        if spelling == "MatMul":
            y = graph.op("MatMul", x, graph.op("Transpose", weight, perm=[1, 0]))
        else:
            y = graph.op("Gemm", x, weight, transB=1)
        results.append(_folded(graph.model({y: np.float32}), feeds))
    assert ops(results[0]) == ops(results[1])
    (one,), (other,) = (_weights(result) for result in results)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_a_transposed_weight_of_a_batched_product(scale: np.ndarray) -> None:
    feeds = {"x": RNG.normal(0, 4, (2, 3, 6)).astype(np.float32)}
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, (2, 3, 6)), 0.04, 128)
    levels = np.arange(-12, 12).reshape(4, 6).astype(np.int8)
    turned = graph.op("Transpose", graph.weight(levels, scale), perm=[1, 0])
    result = _folded(graph.model({graph.op("MatMul", x, turned): np.float32}), feeds)
    (weight,) = _weights(result)
    np.testing.assert_array_equal(weight, levels.T)
    axes = [a.i for n in result.graph.node for a in n.attribute if a.name == "axis"]
    assert axes == ([1] if np.ndim(scale) else [])


def test_leaves_alone_what_is_computed_from_inputs() -> None:
    graph = Graph()
    x = graph.q(graph.input("x", np.float32, SHAPE), 0.04, 128)
    low, high = graph.const(np.uint8(10)), graph.const(np.uint8(200))
    y = graph.dq(graph.op("Clip", x, low, high), 0.04, 128)
    model = graph.model({graph.op("Transpose", y, perm=[0, 2, 3, 1]): np.float32})
    assert list(_folded(model).graph.node) == list(model.graph.node)

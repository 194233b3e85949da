"""Broken graphs through every pass: the same results, or the package's own error; nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from garbled_graphs import garbled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdq_graphs import Graph

from export.errors import ExportError
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.graphs.source import source_model
from export.passes import PASSES, find_pass, run_passes
from export.passes.fuse_conv_lif import FuseConvLif
from export.passes.trial import TrialSkipped, compare
from export.profiles import PROFILES
from quant import quantize

Models = dict[str, onnx.ModelProto]

EXACT = {
    "clean",
    "fold_weights",
    "explicit_zero_points",
    "remove_redundant_quantizers",
    "expose_flow_accumulator",
    "concat_quantized",
    "scalar_scales",
    "unsigned_activations",
    "attach_functions",
    "inline_functions",
}
"""Passes that change no value, whatever the graph; the others may round or change layouts."""

CHAINS: list[list[Callable[[], Any]]] = [
    *([entry] for entry in PASSES),
    *([step.make for step in profile.steps] for profile in PROFILES.values()),
]
SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)


def quantized_graph() -> onnx.ModelProto:
    """Convolution, pooling, sums, movement and a matrix product on 8-bit tensors."""
    rng, graph = np.random.default_rng(0), Graph()
    x = graph.qdq(graph.input("x", np.float32, (1, 4, 6, 6)), 0.05, 128)
    scale = np.full(4, 0.01, np.float32)
    weight = graph.weight(rng.integers(-63, 64, (4, 4, 3, 3)).astype(np.int8), scale)
    bias = graph.bias(rng.integers(-99, 99, 4), np.float32(0.05) * scale)
    y = graph.qdq(graph.op("Relu", graph.op("Conv", x, weight, bias, pads=[1] * 4)), 0.04)
    y = graph.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = graph.qdq(graph.op("Add", y, y), 0.08)
    first, second = graph.op(
        "Split", graph.op("Concat", y, y, axis=1), graph.const(np.array([4, 4])), outputs=2, axis=1
    )
    last = graph.op("Slice", second, *(graph.const(np.array([v])) for v in (1, 3, 2)))
    flat = graph.op("Reshape", first, graph.const(np.array([1, -1])))
    matrix = graph.weight(rng.integers(-63, 64, (36, 5)).astype(np.int8), scale[0])
    product = graph.op("Add", graph.op("MatMul", flat, matrix), graph.const(np.ones(5, np.float32)))
    return graph.model({graph.q(product, 0.1, 128): np.uint8, graph.q(last, 0.05, 9): np.uint8})


@pytest.fixture(scope="module")
def models(active_network: Callable[..., Any]) -> Models:
    spec, dims = quantize(active_network("LIFFireNet_short", channels=3)), Dims((6, 7), False)
    integer = integer_model(spec, dims, fused=False)
    return {
        "source": source_model(spec, dims),
        "integer": integer,
        "fused": run_passes(integer, [FuseConvLif()])[0],
        "quantized": quantized_graph(),
    }


@SETTINGS
@given(st.data())
def test_equal_results_or_one_error(models: Models, data: st.DataObject) -> None:
    model = data.draw(garbled(models))
    passes = [make() for make in CHAINS[data.draw(st.sampled_from(range(len(CHAINS))))]]
    with np.errstate(all="ignore"):
        try:
            after, reports = run_passes(model, passes)
        except Exception as error:
            if not getattr(type(error), "user_error", False):
                raise
            return
    if not EXACT.issuperset(entry.name for entry in passes):
        return
    if any(report.changes for report in reports):
        try:
            trial = compare(model, after, 1)
        except TrialSkipped:
            return
        assert all(entry.accepted(0.0) for entry in trial.outputs), trial


def attributes_of_every_op(models: Models) -> list[tuple[onnx.ModelProto, str, str]]:
    found = {}
    for model in models.values():
        for node in model.graph.node:
            for attribute in node.attribute if node.domain == "snn" else ():
                found[node.op_type, attribute.name] = (model, node.name, attribute.name)
    return list(found.values())


@pytest.mark.parametrize("name", ["inline_functions", "attach_functions", "clean", "lower_lif"])
def test_a_missing_attribute_is_refused_by_the_node_s_name(models: Models, name: str) -> None:
    cases = attributes_of_every_op(models)
    ops = {node.op_type for m in models.values() for node in m.graph.node if node.domain == "snn"}
    assert ops == {"LIF", "QLIF", "QConv", "QConvLIF", "QConvLIFRec"}
    assert len(cases) == 1 + 2 + 2 + 4 + 4
    for source, node_name, attribute in cases:
        model = onnx.ModelProto()
        model.CopyFrom(source)
        node = next(node for node in model.graph.node if node.name == node_name)
        kept = [entry for entry in node.attribute if entry.name != attribute]
        del node.attribute[:]
        node.attribute.extend(kept)
        pattern = rf"'{node_name}' \(snn::{node.op_type}\): its attribute '{attribute}' is missing"
        with pytest.raises(ExportError, match=f"{pattern}; write it: "):
            run_passes(model, [find_pass(name)()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda node: node.attribute[0].__setattr__("s", b"hard"), "'reset' is not what.*zero, su"),
        (lambda node: node.attribute.append(onnx.helper.make_attribute("a", 1)), "attribute 'a'"),
        (lambda node: node.input.__delitem__(3), "input 'threshold' is missing"),
        (lambda node: node.input.__setitem__(1, ""), "input 'mem' is missing"),
        (lambda node: node.input.append("head.beta"), "5 inputs instead of 4"),
        (lambda node: node.input.__setitem__(2, "head.bias"), "beta is int32"),
        (lambda node: node.input.__setitem__(2, "two"), "differ in their channels"),
    ],
)
def test_calls_that_are_no_calls_are_refused(
    models: Models, change: Callable[[Any], Any], message: str
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(models["source"])
    two = onnx.numpy_helper.from_array(np.ones(2, np.float32), "two")
    model.graph.initializer.append(two)
    change(next(node for node in model.graph.node if node.op_type == "LIF"))
    with pytest.raises(ExportError, match=rf"'head.LIF' \(snn::LIF\): .*{message}"):
        run_passes(model, [find_pass("clean")()])


def quantized(scale: Any, zero: Any) -> onnx.ModelProto:
    graph = Graph()
    weight = graph.op(
        "DequantizeLinear",
        *(
            graph.const(a)
            for a in (
                np.ones((3, 2, 1, 1), np.int8),
                np.asarray(scale, np.float32),
                np.asarray(zero, np.int8),
            )
        ),
        axis=0,
    )
    x = graph.input("x", np.float32, (1, 2, 3, 3))
    return graph.model({graph.op("Conv", x, weight): np.float32})


@pytest.mark.parametrize(
    ("scale", "zero", "message"),
    [
        ([1, 1], [0, 0], "scale has 2 values, axis 0"),
        ([1, 1, 1], [0, 0], r"scale has shape \[3\], its zero point \[2\]"),
        ([], [], "is empty"),
    ],
)
def test_scales_that_fit_no_channel_are_refused(scale: Any, zero: Any, message: str) -> None:
    run_passes(quantized([1, 2, 3], [0, 0, 0]), [])
    with pytest.raises(ExportError, match=rf"'n0' \(DequantizeLinear\): .*{message}"):
        run_passes(quantized(scale, zero), [])


def test_a_bias_of_another_size_is_refused() -> None:
    graph = Graph()
    weight, bias = (graph.const(np.ones(s, np.float32)) for s in ((3, 2, 1, 1), (4,)))
    y = graph.op("Conv", graph.input("x", np.float32, (1, 2, 3, 3)), weight, bias)
    with pytest.raises(ExportError, match=r"'n0' \(Conv\): its bias has shape \[4\]; .* of 3"):
        run_passes(graph.model({y: np.float32}), [])


@pytest.mark.parametrize("scale", [-2.0, float("nan")])
def test_sizes_below_zero_are_refused(scale: float) -> None:
    graph = Graph()
    scales = graph.const(np.array([1, 1, scale, 1], np.float32))
    x = graph.op("Resize", graph.input("x", np.float32, (1, 2, 3, 3)), "", scales, mode="nearest")
    y = graph.op("Slice", x, *(graph.const(np.array([v])) for v in (0, 1, 2)))
    nodes = [onnx.helper.make_tensor_value_info(y, 1, list("abcd"))]
    inits = [onnx.numpy_helper.from_array(a, n) for n, a in graph.inits.items()]
    body = onnx.helper.make_graph(graph.nodes, "g", graph.inputs, nodes, inits)
    opsets = [onnx.helper.make_opsetid("", 21)]
    with pytest.raises(ExportError, match=r"'n0' \(Resize\): its result 't0' has a size of -"):
        run_passes(onnx.helper.make_model(body, opset_imports=opsets, ir_version=10), [])

"""clean: constants are initializers, inputs are inputs, and nothing else is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from qdq_graphs import Graph, apply, assert_equal, ops, run_ort

from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.passes.clean import Clean
from runtime.metadata import METADATA_KEY

SHAPE = (1, 2, 5, 4)
FEEDS = {"x": np.random.default_rng(8).normal(0, 2, SHAPE).astype(np.float32)}


def _untidy() -> onnx.ModelProto:
    """Constant, Identity, an unread node, an initializer among the inputs, traces, comments."""
    graph = Graph()
    x = graph.op("Identity", graph.input("x", np.float32, SHAPE))
    two = graph.op("Constant", value=onnx.numpy_helper.from_array(np.float32(2)))
    y = graph.op("Mul", x, two)
    y = graph.op("Add", y, graph.const(np.full((4,), 0.5, np.float32)))
    graph.op("Exp", y)
    model = graph.model({graph.op("Identity", y): np.float32})
    held = model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info(held.name, held.data_type, held.dims))
    model.graph.doc_string = "comment"
    for node in model.graph.node:
        node.doc_string = "trace"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="trace")
    return model


def test_only_what_computes_is_left() -> None:
    model = _untidy()
    result = apply(model, Clean())
    assert_equal(run_ort(result, FEEDS), run_ort(model, FEEDS))
    assert ops(result) == ["Mul", "Add"]
    assert [value.name for value in result.graph.input] == ["x"]
    assert [value.name for value in result.graph.output] == [model.graph.output[0].name]
    assert len(result.graph.initializer) == 2
    assert not result.graph.doc_string
    assert not any(node.doc_string or node.metadata_props for node in result.graph.node)
    onnx.checker.check_model(result, full_check=True)
    assert apply(result, Clean()).SerializeToString() == result.SerializeToString()


def test_large_and_integer_constants_become_initializers() -> None:
    graph = Graph()
    x = graph.input("x", np.float32, SHAPE)
    table = onnx.numpy_helper.from_array(np.arange(40, dtype=np.float32).reshape(1, 2, 5, 4))
    shape = graph.op("Constant", value_ints=[1, -1])
    y = graph.op("Reshape", graph.op("Mul", x, graph.op("Constant", value=table)), shape)
    model = graph.model({y: np.float32})
    result = apply(model, Clean())
    assert_equal(run_ort(result, FEEDS), run_ort(model, FEEDS))
    kinds = {tensor.data_type for tensor in result.graph.initializer}
    assert "Constant" not in ops(result) and kinds == {TensorProto.FLOAT, TensorProto.INT64}


def test_a_tidy_graph_stays() -> None:
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, 7)
    model = graph.model({x: np.float32})
    result = apply(model, Clean())
    assert list(result.graph.node) == list(model.graph.node)
    assert list(result.graph.initializer) == list(model.graph.initializer)


def test_artifacts_keep_their_metadata_and_bodies(make_sources: Callable[..., Any]) -> None:
    model = integer_model(make_sources().spec, Dims((9, 13), free=True))
    result = apply(model, Clean())
    kept = {entry.key: entry.value for entry in model.metadata_props}
    assert {entry.key: entry.value for entry in result.metadata_props} == kept
    assert METADATA_KEY in kept
    assert list(result.functions) == list(model.functions)


def test_a_branch_may_hand_on_a_value_from_outside() -> None:
    """Its Identity stays: a branch's output has to be computed in the branch."""
    value = onnx.helper.make_tensor_value_info
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            [onnx.helper.make_node(op, ["x"], [name])], name, [], [value(name, 1, [3])]
        )
        for name, op in (("then", "Identity"), ("else", "Neg"))
    }
    choose = onnx.helper.make_node("If", ["c"], ["y"], **branches)
    inputs = [value("x", 1, [3]), value("c", TensorProto.BOOL, [])]
    graph = onnx.helper.make_graph([choose], "g", inputs, [value("y", 1, [3])])
    opsets = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    feeds = {"x": np.array([1, 2, 3], np.float32), "c": np.array(True)}
    assert_equal(run_ort(apply(model, Clean()), feeds), run_ort(model, feeds))

"""The gates refuse, by node, what a consumer would refuse or run slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.gates import (
    GateError,
    check_dtypes,
    check_fusion,
    check_standard,
    check_tensorrt,
    optimised_graph,
    quantized_convolutions,
)


def convolution(
    kind: str = "int8", zero: int = 0, *, float_bias: bool = True, bias: bool = True
) -> onnx.ModelProto:
    """Q -> DQ -> Conv(DQ weight) -> Q -> DQ, float32 at the edges."""
    arrays: dict[str, Any] = {
        "s": np.array(0.1, np.float32),
        "z": np.array(zero, kind),
        "w": np.full((2, 2, 3, 3), 3, np.int8),
        "sw": np.array([0.1, 0.2], np.float32),
        "zw": np.zeros(2, np.int8),
        "b": np.array([1, 2], np.float32 if float_bias else np.int32),
        "zb": np.zeros(2, np.int32),
        "sb": np.array([0.01, 0.02], np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="qx"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dx"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["dw"], name="dw", axis=0),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"], name="qy"),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["y"], name="dy"),
    ]
    inputs = ["d", "dw"]
    if bias and float_bias:
        inputs.append("b")
    elif bias:
        nodes.insert(
            3, helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["db"], name="db", axis=0)
        )
        inputs.append("db")
    nodes.insert(-2, helper.make_node("Conv", inputs, ["c"], name="conv", pads=[1] * 4))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, 8, 8))],
        [numpy_helper.from_array(a, n) for n, a in arrays.items() if n in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_fusion_is_counted_on_the_graph_that_runs() -> None:
    model = convolution("uint8", 128, float_bias=False)
    assert [node.name for node in quantized_convolutions(model.graph)] == ["conv"]
    assert check_fusion(model) == 1
    assert "QLinearConv" in {node.op_type for node in optimised_graph(model).graph.node}


def test_an_extra_reader_prevents_fusion_and_is_found() -> None:
    """The quantized convolution's output also leaves the graph in float32."""
    model = convolution("uint8", 128, float_bias=False)
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, (1, 2, 8, 8)))
    with pytest.raises(GateError, match=r"fuses 0 of 1 quantized convolutions .*conv"):
        check_fusion(model)


def test_a_graph_without_quantized_convolutions_is_refused(sources: Any) -> None:
    with pytest.raises(GateError, match="no convolution with a quantized weight and output"):
        check_fusion(sources.graph("float"))


def test_dtypes(sources: Any) -> None:
    check_dtypes(sources.graph("int8"))
    check_dtypes(convolution("uint8", 128, float_bias=False))
    with pytest.raises(GateError, match=r"node 'conv': constant 'b' is float32"):
        check_dtypes(convolution("uint8", 128, float_bias=True))
    with pytest.raises(GateError, match=r"node 'head\.conv': constant 'head\.weight' is float32"):
        check_dtypes(sources.graph("float"))


def test_standard_operators(sources: Any) -> None:
    check_standard(convolution())
    for kind, node in (("separate", "head.conv.acc"), ("int8", "head.QConvLIF")):
        with pytest.raises(GateError, match=rf"'{node}' \(snn::\w+\) is no standard operator"):
            check_standard(sources.graph(kind))


def test_tensorrt_takes_symmetric_int8_with_float_biases() -> None:
    check_tensorrt(convolution())
    check_tensorrt(convolution(bias=False))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (convolution("uint8", 0), r"'qx' \(QuantizeLinear\): quantizes to uint8"),
        (convolution("int8", 3), r"'qx' \(QuantizeLinear\): its zero point is not 0"),
        (convolution(float_bias=False), r"'db' \(DequantizeLinear\): quantizes to int32"),
    ],
)
def test_tensorrt_refusals(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(GateError, match=message):
        check_tensorrt(model)


def test_tensorrt_refuses_other_edges_operators_and_scales() -> None:
    edges = convolution()
    edges.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(GateError, match="'x' is uint8; TensorRT has float32 and int8"):
        check_tensorrt(edges)
    unknown = convolution()
    unknown.graph.node.append(helper.make_node("Mod", ["c", "c"], ["m"], name="rest"))
    with pytest.raises(GateError, match=r"'rest' \(Mod\): TensorRT's parser has no such"):
        check_tensorrt(unknown)
    channels = convolution()
    node = next(n for n in channels.graph.node if n.name == "dw")
    node.attribute[0].i = 1
    with pytest.raises(GateError, match="per-channel scales are for weights, along axis 0"):
        check_tensorrt(channels)
    implicit = convolution()
    del implicit.graph.node[0].input[2]
    with pytest.raises(GateError, match="zero point is not written"):
        check_tensorrt(implicit)

"""The integer oracle against ONNX's own reference, and its refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import lif_op.spec
from export.errors import ExportError
from export.oracle import known_operators, run_integer

RNG = np.random.default_rng(2)


def _model(
    op_type: str,
    arrays: list[np.ndarray | None],
    outputs: int = 1,
    domain: str = "",
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    names = ["" if a is None else f"i{k}" for k, a in enumerate(arrays)]
    node = helper.make_node(
        op_type, names, [f"o{k}" for k in range(outputs)], name="node", domain=domain, **attributes
    )
    given = [(n, a) for n, a in zip(names, arrays, strict=True) if a is not None]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given
    ]
    results = [onnx.ValueInfoProto(name=f"o{k}") for k in range(outputs)]
    graph = helper.make_graph([node], "g", infos, results)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("snn", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10), dict(given)


def _u8(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def _s8(*shape: int) -> np.ndarray:
    return RNG.integers(-128, 128, shape).astype(np.int8)


def _s32(*shape: int) -> np.ndarray:
    return RNG.integers(-(10**6), 10**6, shape).astype(np.int32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


_X = _u8(2, 4, 7, 6)
_CASES: dict[str, tuple[str, list[np.ndarray | None], dict[str, Any]]] = {
    "ConvInteger": ("ConvInteger", [_X, _s8(6, 2, 3, 2), np.uint8(9)[...]],
                    {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    "MatMulInteger": ("MatMulInteger", [_u8(2, 3, 5), _s8(5, 4), np.uint8(7)[...],
                                        np.int8(-3)[...]], {}),
    "MaxPool ceil": ("MaxPool", [_X], {"kernel_shape": [3, 2], "strides": [2, 2],
                                       "pads": [1, 0, 1, 1], "ceil_mode": 1}),
    "MaxPool same": ("MaxPool", [_X], {"kernel_shape": [3, 2], "strides": [2, 2],
                                       "auto_pad": "SAME_UPPER"}),
    "Add": ("Add", [_s32(2, 3), _s32(3)], {}),
    "Sub": ("Sub", [_s32(2, 3), _s32(3)], {}),
    "Mul": ("Mul", [_s32(2, 3) % 99, _s32(3) % 99], {}),
    "Max": ("Max", [_s32(2, 3), _s32(3), _s32(1)], {}),
    "Min": ("Min", [_s32(2, 3), _s32(3)], {}),
    "Clip": ("Clip", [_s32(9), None, np.int32(500)[...]], {}),
    "Relu": ("Relu", [_s32(9)], {}),
    "Cast": ("Cast", [_s32(9)], {"to": onnx.TensorProto.INT8}),
    "ReduceSum": ("ReduceSum", [_s32(2, 3, 4), _ints(-1, 0)], {"keepdims": 0}),
    "Gather": ("Gather", [_X, _ints(-1, 2)], {"axis": 2}),
    "GatherElements": ("GatherElements", [_X, np.full((2, 4, 1, 6), -2)], {"axis": 2}),
    "Concat": ("Concat", [_X, _u8(2, 4, 1, 6)], {"axis": -2}),
    "Reshape": ("Reshape", [_X, _ints(0, -1, 6)], {}),
    "Transpose": ("Transpose", [_X], {"perm": [3, 0, 2, 1]}),
    "Flatten": ("Flatten", [_X], {"axis": 2}),
    "Slice": ("Slice", [_X, _ints(5, 1), _ints(-99, 99), _ints(2, 3), _ints(-2, 2)], {}),
    "Pad": ("Pad", [_X, _ints(1, 0, 0, 2), np.uint8(9)[...], _ints(2, -1)], {}),
    "Pad reflect": ("Pad", [_X, _ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    "Squeeze": ("Squeeze", [_u8(1, 3, 1), _ints(-1)], {}),
    "Unsqueeze": ("Unsqueeze", [_u8(3), _ints(0, 2)], {}),
    "Expand": ("Expand", [_u8(3, 1), _ints(2, 1, 4)], {}),
    "Tile": ("Tile", [_u8(3, 1), _ints(2, 3)], {}),
    "Quantize": ("QuantizeLinear", [np.arange(-8, 8, dtype=np.float32) / 4, np.float32(0.5)[...],
                                    np.int8(3)[...]], {}),
    "Quantize channels": ("QuantizeLinear", [RNG.normal(0, 99, (2, 3)).astype(np.float32),
                          np.float32([0.5, 1, 2]), np.uint8([3, 0, 9])], {"axis": 1}),
    "Dequantize": ("DequantizeLinear", [_s32(2, 3), np.float32([0.3, 0.7]), np.zeros(2, np.int32)],
                   {"axis": 0}),
    "Resize": ("Resize", [_X, None, np.array([1, 1, 2, 3], np.float32)],
               {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor"}),
    "Resize half": ("Resize", [_X, None, np.array([1, 1, 2, 0.5], np.float32)],
                    {"mode": "nearest"}),
}  # fmt: skip


@pytest.mark.parametrize("name", _CASES)
def test_rule_equals_the_reference_of_onnx(name: str) -> None:
    op_type, arrays, attributes = _CASES[name]
    model, feeds = _model(op_type, arrays, **attributes)
    (want,) = ReferenceEvaluator(model).run(None, feeds)
    got = run_integer(model, feeds)["o0"]
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype


def test_split_and_division_truncates() -> None:
    model, feeds = _model("Split", [_u8(7, 2)], outputs=3, num_outputs=3)
    for part, want in zip(
        run_integer(model, feeds).values(), ReferenceEvaluator(model).run(None, feeds), strict=True
    ):
        np.testing.assert_array_equal(part, want)
    model, feeds = _model("Div", [np.int32([7, -7, -8, 8]), np.int32([2, 2, 2, -3])])
    np.testing.assert_array_equal(run_integer(model, feeds)["o0"], [3, -3, -4, -2])


def test_qlinear_conv_rounds_float32_products_half_to_even() -> None:
    x = np.arange(0, 8, dtype=np.uint8).reshape(1, 1, 1, 8)
    parameters = [np.float32(0.5)[...], np.uint8(0)[...], np.ones((1, 1, 1, 1), np.int8)]
    parameters += [np.float32(1)[...], np.int8(0)[...], np.float32(1)[...], np.uint8(250)[...]]
    model, feeds = _model("QLinearConv", [x, *parameters, np.int32([1])])
    want = np.minimum(np.rint((np.arange(8) + 1) / 2) + 250, 255)
    np.testing.assert_array_equal(run_integer(model, feeds)["o0"].ravel(), want)


def test_ops_of_domain_snn() -> None:
    x, weight, bias = _u8(1, 3, 5, 5), _s8(4, 3, 3, 3), _s32(4)
    model, feeds = _model(
        "QConv", [x, weight, bias], domain="snn", strides=[2, 1], pads=[1, 0, 1, 2]
    )
    acc = lif_op.spec.qconv(x, weight, bias, (2, 1), (1, 0, 1, 2))
    np.testing.assert_array_equal(run_integer(model, feeds)["o0"], acc)
    mem = RNG.integers(-999, 999, acc.shape).astype(np.int16)
    decay, threshold = np.int32([10, 200, 256, 0]), np.int32([5, 900, 0, 30])
    model, feeds = _model(
        "QLIF", [acc, mem, decay, threshold], 2, "snn", frac_bits=0, reset="subtract"
    )
    got = run_integer(model, feeds)
    spike, after = lif_op.spec.qlif(acc, mem, decay, threshold, 0, "subtract")
    np.testing.assert_array_equal(got["o0"], spike)
    np.testing.assert_array_equal(got["o1"], after)


def test_unknown_operators_and_missing_inputs_are_named() -> None:
    model, feeds = _model("Einsum", [np.ones(2, np.float32)], equation="i->")
    with pytest.raises(ExportError, match=r"node 'node' \(Einsum\).*no rule"):
        run_integer(model, feeds)
    with pytest.raises(ExportError, match="input 'i0'"):
        run_integer(model, {})
    model, feeds = _model(
        "Resize", [np.ones((1, 1, 2, 2), np.float32), None, np.float32([1, 1, 2, 2])], mode="linear"
    )
    with pytest.raises(ExportError, match=r"node 'node' \(Resize\): only nearest"):
        run_integer(model, feeds)
    assert ("", "QLinearConv") in known_operators()


def test_initializers_are_constants() -> None:
    model, feeds = _model("Add", [np.int32([1, 2]), np.int32([3])])
    model.graph.initializer.append(numpy_helper.from_array(feeds.pop("i1"), "i1"))
    np.testing.assert_array_equal(run_integer(model, feeds)["o0"], [4, 5])


def test_a_missing_attribute_is_named() -> None:
    value = onnx.helper.make_tensor_value_info
    names = ["acc", "mem", "decay", "threshold"]
    node = onnx.helper.make_node("QLIF", names, ["spike", "out"], "n", domain="snn", reset="zero")
    kinds = (TensorProto.INT32, TensorProto.INT16, TensorProto.INT32, TensorProto.INT32)
    inputs = [value(name, kind, None) for name, kind in zip(names, kinds, strict=True)]
    outputs = [value("spike", TensorProto.UINT8, None)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", inputs, outputs))
    feeds = {name: np.zeros((1, 1), np.int32) for name in names}
    with pytest.raises(
        ExportError, match=r"'n' \(snn::QLIF\): its attribute 'frac_bits' is missing"
    ):
        run_integer(model, feeds)

"""Requantization in elementary operators equals the quantizers, ties and saturation included."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.passes import run_passes
from export.passes.spell_requantize import SpellRequantize

SHAPE = (1, 3, 40, 50)


def model(factor: Any, zero: Any, *, unit: float = 1.0) -> onnx.ModelProto:
    factor = np.asarray(factor, np.float32)
    arrays = {
        "m": factor,
        "o": np.zeros(factor.shape, np.int32),
        "one": np.array(unit, np.float32),
        "z": zero,
    }
    axis = {"axis": 1} if factor.ndim else {}
    kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["acc", "m", "o"], ["real"], name="dq", **axis),
        helper.make_node("QuantizeLinear", ["real", "one", "z"], ["y"], name="q"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("acc", TensorProto.INT32, SHAPE)],
        [helper.make_tensor_value_info("y", kind, SHAPE)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(graph: onnx.ModelProto) -> Any:
    acc = np.random.default_rng(0).integers(-3000, 3000, SHAPE).astype(np.int32)
    acc[0, 0, 0, :4] = (2**31 - 1, -(2**31), 1, -1)
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"acc": acc})[0]


@pytest.mark.parametrize("zero", [np.uint8(128), np.uint8(0), np.int8(-7)])
@pytest.mark.parametrize("factor", [0.0625, [0.05, 0.0625, 0.01]])
def test_equal_and_idempotent(factor: Any, zero: Any) -> None:
    before = model(factor, zero)
    after, reports = run_passes(before, [SpellRequantize(), SpellRequantize()])
    assert [report.changes for report in reports] == [1, 0]
    kinds = [node.op_type for node in after.graph.node]
    assert kinds == ["Cast", "Mul", "Round", "Clip", "Cast", "Add", "Cast"]
    wanted, found = run(before), run(after)
    assert found.dtype == wanted.dtype and len(np.unique(wanted)) > 50
    np.testing.assert_array_equal(found, wanted)


def test_another_scale_is_left_alone() -> None:
    before = model(0.1, np.uint8(3), unit=0.5)
    after, (report,) = run_passes(before, [SpellRequantize()])
    assert report.changes == 0 and after.graph.node == before.graph.node

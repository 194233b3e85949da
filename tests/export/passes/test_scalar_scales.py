"""Equal scales become one; unequal ones stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from export.passes import run_passes
from export.passes.scalar_scales import ScalarScales


def model(scale: list[float], zero: list[int]) -> onnx.ModelProto:
    arrays = {
        "w": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
        "s": np.array(scale, np.float32),
        "z": np.array(zero, np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], name="dw", axis=0),
        helper.make_node("Add", ["x", "d"], ["y"], name="add"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 4))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(graph: onnx.ModelProto) -> Any:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": np.ones((3, 4), np.float32)})[0]


def test_equal_scales_become_one() -> None:
    before = model([0.5] * 3, [2] * 3)
    after, reports = run_passes(before, [ScalarScales(), ScalarScales()])
    assert [report.changes for report in reports] == [1, 0]
    assert {t.name: list(t.dims) for t in after.graph.initializer} == {
        "w": [3, 4],
        "s.scalar": [],
        "z.scalar": [],
    }
    assert not after.graph.node[0].attribute
    np.testing.assert_array_equal(run(before), run(after))


def test_unequal_scales_or_zeros_stay() -> None:
    for scale, zero in (([0.5, 0.5, 0.25], [0] * 3), ([0.5] * 3, [0, 1, 0])):
        before = model(scale, zero)
        after, (report,) = run_passes(before, [ScalarScales()])
        assert report.changes == 0 and list(after.graph.initializer[1].dims) == [3]

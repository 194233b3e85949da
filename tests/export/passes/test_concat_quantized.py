"""Concatenation moves in front of the dequantization."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.passes import run_passes
from export.passes.concat_quantized import ConcatQuantized


def model(scales: tuple[float, float], zeros: tuple[int, int]) -> onnx.ModelProto:
    arrays = {
        "sa": np.array(scales[0], np.float32),
        "sb": np.array(scales[1], np.float32),
        "za": np.array(zeros[0], np.uint8),
        "zb": np.array(zeros[1], np.uint8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "sa", "za"], ["x"], name="da"),
        helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["y"], name="db"),
        helper.make_node("Concat", ["x", "y"], ["both"], name="join", axis=1),
        helper.make_node("Relu", ["both"], ["z"], name="after"),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.UINT8, (1, 2, 3)) for n in "ab"]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 4, 3))]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(graph: onnx.ModelProto) -> Any:
    rng = np.random.default_rng(0)
    given = {n: rng.integers(0, 256, (1, 2, 3)).astype(np.uint8) for n in "ab"}
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, given)[0]


def test_equal_and_idempotent() -> None:
    before = model((0.25, 0.25), (7, 7))
    after, reports = run_passes(before, [ConcatQuantized(), ConcatQuantized()])
    assert [report.changes for report in reports] == [1, 0]
    assert [n.op_type for n in after.graph.node] == ["Concat", "DequantizeLinear", "Relu"]
    np.testing.assert_array_equal(run(before), run(after))


@pytest.mark.parametrize(("scales", "zeros"), [((0.25, 0.5), (7, 7)), ((0.25, 0.25), (7, 8))])
def test_unequal_grids_stay(scales: tuple[float, float], zeros: tuple[int, int]) -> None:
    before = model(scales, zeros)
    after, (report,) = run_passes(before, [ConcatQuantized()])
    assert report.changes == 0
    assert Counter(n.op_type for n in after.graph.node)["DequantizeLinear"] == 2


def test_a_tensor_beside_itself() -> None:
    before = model((0.25, 0.25), (7, 7))
    before.graph.node[2].input[1] = "x"
    before.graph.node.remove(before.graph.node[1])
    after, (report,) = run_passes(before, [ConcatQuantized()])
    assert report.changes == 1
    np.testing.assert_array_equal(run(before), run(after))

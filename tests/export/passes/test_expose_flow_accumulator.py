"""expose_flow_accumulator: both spellings of the head, and heads without an accumulator."""

from __future__ import annotations

import neuron_graphs as graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.passes import run_passes
from export.passes.expose_flow_accumulator import ExposeFlowAccumulator


def head(spelling: str) -> onnx.ModelProto:
    layer = graphs.Layer(integer=False)
    layer.nodes.clear()
    layer.constants.clear()
    weight = layer.const("w", layer.rng.integers(-63, 64, (2, 3, 1, 1)).astype(np.int8))
    bias = layer.const("b", np.array([3, -4], np.int32))
    attributes = {"strides": [1, 1], "pads": [0] * 4, "domain": "snn"}
    acc = layer.op("QConv", ["x", weight, bias], "acc", **attributes)
    if spelling == "dequantized":
        scale = [layer.const("s", np.array([0.01, 0.02], np.float32))]
        scale.append(layer.const("z", np.zeros(2, np.int32)))
        real = layer.op("DequantizeLinear", [acc, *scale], "real", axis=1)
    else:
        cast = layer.op("Cast", [acc], "cast", to=TensorProto.FLOAT)
        factor = layer.const("s", np.array([0.01, 0.02], np.float32).reshape(1, 2, 1, 1))
        real = layer.op("Mul" if spelling == "scaled" else "Div", [cast, factor], "real")
    layer.op("Tanh", [real], "flow")
    return layer.finish(
        [layer.info("x", TensorProto.UINT8, 3)], [layer.info("flow", TensorProto.FLOAT, 2)]
    )


@pytest.mark.parametrize("spelling", ["dequantized", "scaled"])
def test_the_accumulator_is_an_output(spelling: str) -> None:
    model = head(spelling)
    after, (report,) = run_passes(model, [ExposeFlowAccumulator()])
    assert report.changes == 1
    assert [value.name for value in after.graph.output] == ["flow", "flow_acc"]
    before, result = (graphs.drive(m, graphs.windows(2))[-1] for m in (model, after))
    np.testing.assert_array_equal(result["flow"], before["flow"])
    assert result["flow_acc"].dtype == np.int32
    scale = np.array([0.01, 0.02], np.float32).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(np.tanh(result["flow_acc"] * scale), result["flow"], atol=1e-6)
    assert run_passes(after, [ExposeFlowAccumulator()])[1][0].changes == 0


def test_a_head_that_is_no_scaled_accumulator_stays() -> None:
    after, (report,) = run_passes(head("divided"), [ExposeFlowAccumulator()])
    assert report.changes == 0 and [value.name for value in after.graph.output] == ["flow"]

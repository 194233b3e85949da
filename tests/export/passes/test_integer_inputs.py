"""integer_inputs: bytes at the interface where only bytes are meant."""

from __future__ import annotations

import neuron_graphs as graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.passes import run_passes
from export.passes.integer_inputs import IntegerInputs


def unit(
    layer: graphs.Layer, zero: int = 0, scale: float = 1.0, kind: type = np.uint8
) -> list[str]:
    return [layer.const("one", np.float32(scale)), layer.const("zero", np.array(zero, kind))]


def relay(zero: int = 0, scale: float = 1.0, kind: type = np.uint8) -> onnx.ModelProto:
    """events -> Q -> DQ -> float output, and a state that does the same."""
    layer = graphs.Layer(integer=False)
    layer.nodes.clear()
    layer.constants.clear()
    grid = unit(layer, zero, scale, kind)
    for name in ("events", "spike.L"):
        layer.op("QuantizeLinear", [name, *grid], f"{name}.q")
    layer.op("MaxPool", ["events.q"], "pooled", kernel_shape=[1, 1])
    layer.op("MaxPool", ["spike.L.q"], "pooled.L", kernel_shape=[1, 1])
    layer.op("DequantizeLinear", ["pooled", *grid], "out")
    layer.op("DequantizeLinear", ["pooled.L", *grid], "spike_out.L")
    return layer.finish(
        [layer.info(name, TensorProto.FLOAT, 3) for name in ("events", "spike.L")],
        [layer.info(name, TensorProto.FLOAT, 3) for name in ("out", "spike_out.L")],
    )


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_inputs_outputs_and_states(kind: type) -> None:
    model = relay(kind=kind)
    after, (report,) = run_passes(model, [IntegerInputs()])
    assert report.changes == 4 and graphs.types(after) == {"MaxPool": 2}
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for value in (*after.graph.input, *after.graph.output):
        assert value.type.tensor_type.elem_type == element
    names = [value.name for value in after.graph.output]
    assert names == ["out", "spike_out.L"]
    for want, have in zip(
        *(graphs.drive(m, graphs.windows(4)) for m in (model, after)), strict=True
    ):
        for name, value in want.items():
            np.testing.assert_array_equal(have[name], value)
    assert run_passes(after, [IntegerInputs()])[1][0].changes == 0


@pytest.mark.parametrize("options", [{"scale": 0.5}, {"zero": 128}])
def test_real_scales_stay(options: dict[str, float]) -> None:
    assert run_passes(relay(**options), [IntegerInputs()])[1][0].changes == 0


def test_a_second_reader_keeps_the_input_float() -> None:
    model = relay()
    model.graph.node.append(onnx.helper.make_node("Neg", ["events"], ["negative"], "neg"))
    model.graph.output.append(graphs.Layer.info("negative", TensorProto.FLOAT, 3))
    after, (report,) = run_passes(model, [IntegerInputs()])
    assert report.changes == 3
    assert after.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_a_state_changes_with_both_ends_or_not_at_all() -> None:
    """The output of the state is computed in float32, so its input stays float32 too."""
    model = relay()
    (last,) = (node for node in model.graph.node if node.name == "spike_out.L")
    last.output[0] = "real"
    model.graph.node.append(onnx.helper.make_node("Neg", ["real"], ["spike_out.L"], "neg"))
    after, (report,) = run_passes(model, [IntegerInputs()])
    assert report.changes == 2
    kinds = {v.name: v.type.tensor_type.elem_type for v in after.graph.input}
    assert kinds == {"events": TensorProto.UINT8, "spike.L": TensorProto.FLOAT}


def test_a_neurons_spikes_become_bytes() -> None:
    model = graphs.Layer(integer=False).model()
    after, (report,) = run_passes(model, [IntegerInputs()])
    assert report.changes == 1 and graphs.types(after)["QuantizeLinear"] == 1
    assert after.graph.output[0].name == "spike"
    assert after.graph.output[0].type.tensor_type.elem_type == TensorProto.UINT8
    for want, have in zip(
        *(graphs.drive(m, graphs.windows()) for m in (model, after)), strict=True
    ):
        np.testing.assert_array_equal(have["spike"], want["spike"])

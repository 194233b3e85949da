"""The pass to Deeploy's dialect: exact neurons, fixed-point multipliers, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.deeploy import is_dialect, requant_shift, run_dialect, write_bundle
from export.errors import ExportError
from export.oracle import run_integer
from export.passes import PassError, run_passes
from export.passes.requant_shift import RequantShift
from quant import IntegerNetwork, QuantOptions

STEPS = 50
Counts = Callable[..., list[np.ndarray[Any, Any]]]


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    result, _ = run_passes(model, [RequantShift()])
    return result


def zero_inputs(model: onnx.ModelProto) -> dict[str, Any]:
    return {
        value.name: np.zeros(
            [d.dim_value for d in value.type.tensor_type.shape.dim],
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in model.graph.input
    }


@pytest.mark.parametrize(
    ("options", "reset"),
    [
        (QuantOptions(7, 16, 0), "zero"),
        (QuantOptions(8, 16, -2), "subtract"),
        (QuantOptions(4, 8), "zero"),
        (QuantOptions(8, 8), "none"),
    ],
)
def test_equals_the_integer_network(
    options: QuantOptions, reset: str, make_sources: Any, moving_counts: Counts
) -> None:
    sources = make_sources("LIFFireNet", options, channels=4, reset=reset)
    model = rewritten(sources.graph("separate"))
    operators = {"Concat", "Conv", "RequantShift", "QLif"}
    assert {node.op_type for node in model.graph.node} == operators
    assert not any(t.data_type == TensorProto.FLOAT for t in model.graph.initializer)
    network, states, inputs = IntegerNetwork(sources.spec), None, zero_inputs(model)
    fired = dict.fromkeys((layer.name for layer in sources.spec.layers), False)
    for events in moving_counts(STEPS, (18, 26)):
        outputs = run_dialect(model, inputs | {"events": events.astype(np.int8)})
        expected = network.step(torch.from_numpy(events), states)
        states = expected.states
        np.testing.assert_array_equal(outputs["flow_acc"], expected.flow_acc.numpy())
        for layer, state in states.items():
            fired[layer] |= bool(state.spike.any())
            assert outputs[f"mem_out.{layer}"].dtype == state.mem.numpy().dtype
            np.testing.assert_array_equal(outputs[f"mem_out.{layer}"], state.mem.numpy())
            inputs[f"mem.{layer}"] = outputs[f"mem_out.{layer}"]
            if f"spike.{layer}" in inputs:
                np.testing.assert_array_equal(outputs[f"spike_out.{layer}"], state.spike.numpy())
                inputs[f"spike.{layer}"] = outputs[f"spike_out.{layer}"]
    assert all(fired.values())


def test_large_biases_survive_the_generic_target(make_sources: Any, moving_counts: Counts) -> None:
    """It rounds add / mul from 500 on, so the factor grows with the bias and cancels."""
    sources = make_sources("LIFFireFlowNet", QuantOptions(8, 16, 0), channels=4)
    for layer in sources.spec.layers:
        layer.conv.bias[1] = -1701
    model = rewritten(sources.graph("separate"))
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, mul in arrays.items():
        if name.endswith(".mul") and not name.startswith("pred"):
            add = arrays[name.replace(".mul", ".add")]
            assert (np.abs(add // mul) < 500 * mul).all() and (mul == 4).all()
    events = moving_counts(2, (18, 26))[1]
    outputs = run_dialect(model, zero_inputs(model) | {"events": events.astype(np.int8)})
    expected = IntegerNetwork(sources.spec).step(torch.from_numpy(events)).states
    for name, state in expected.items():
        np.testing.assert_array_equal(outputs[f"mem_out.{name}"], state.mem.numpy())


def test_idempotent_and_leaves_the_rest_alone(make_sources: Any) -> None:
    sources = make_sources("LIFFireFlowNet", channels=4)
    once = rewritten(sources.graph("separate"))
    again, reports = run_passes(once, [RequantShift()])
    assert reports[0].changes == 0 and again == once
    untouched, reports = run_passes(sources.graph("float"), [RequantShift()])
    assert reports[0].changes == 0 and untouched == sources.graph("float")


def test_refusals_name_the_neuron(make_sources: Any) -> None:
    positive = make_sources("LIFFireFlowNet", QuantOptions(7, 16, 2), channels=4)
    with pytest.raises(PassError, match=r"'head\.QLIF'.*frac_bits 2 .*--frac-bits 0 or less"):
        rewritten(positive.graph("separate"))
    shown = make_sources("LIFFireFlowNet", channels=4).graph("separate")
    shape = (1, 4, 18, 26)
    shown.graph.output.append(
        helper.make_tensor_value_info("G1.conv.acc", TensorProto.INT32, shape)
    )
    with pytest.raises(PassError, match=r"'G1\.conv\.acc'.*merge_recurrent"):
        rewritten(shown)


def test_a_sum_beyond_32_bits_is_refused(make_sources: Any) -> None:
    sources = make_sources("LIFFireFlowNet", QuantOptions(7, 16, 0), channels=4)
    sources.spec.layers[1].conv.bias[:] = 2**30
    with pytest.raises(PassError, match=r"acc \* mul \+ add can reach \d+, beyond int32"):
        rewritten(sources.graph("separate"))
    with pytest.raises(ExportError, match="does not fit int32"):
        requant_shift(
            np.array([2**30]), np.array(2), np.array(1), div=1, n_levels=2**16, signed=True
        )


def test_halves_round_up() -> None:
    x = np.arange(-9, 10)
    shifted = requant_shift(x, np.array(1), np.array(0), div=4, n_levels=256, signed=True)
    np.testing.assert_array_equal(shifted, np.floor((x + 2) / 4))
    unsigned = requant_shift(x, np.array(100), np.array(0), div=2, n_levels=256, signed=False)
    assert unsigned.min() == 0 and unsigned.max() == 255


def linear_model(zero: int = 0, y_zero: int = 3) -> onnx.ModelProto:
    """A QLinearConv with per-channel scales and a depthwise one behind it."""
    rng = np.random.default_rng(1)
    kind = np.int8
    arrays = {
        "x_scale": np.array(0.02, np.float32),
        "x_zero": np.array(zero, kind),
        "w": rng.integers(-127, 128, (6, 3, 3, 3)).astype(np.int8),
        "w_scale": rng.uniform(0.001, 0.02, 6).astype(np.float32),
        "w_zero": np.zeros(6, np.int8),
        "y_scale": np.array(0.05, np.float32),
        "y_zero": np.array(y_zero, kind),
        "b": rng.integers(-400, 400, 6).astype(np.int32),
    }
    names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "b"]
    node = helper.make_node("QLinearConv", names, ["y"], name="first", pads=[1] * 4, strides=[1, 1])
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.INT8, (1, 3, 9, 9))],
        [helper.make_tensor_value_info("y", TensorProto.INT8, (1, 6, 9, 9))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_fixed_point_multipliers_differ_by_one_at_most() -> None:
    """Half up and a rounded multiplier against QLinearConv's float32 and half to even."""
    model = linear_model()
    x = np.random.default_rng(2).integers(-128, 128, (1, 3, 9, 9)).astype(np.int8)
    exact = run_integer(model, {"x": x})["y"]
    fixed = run_dialect(rewritten(model), {"x": x})["y"]
    assert fixed.dtype == np.int8 and len(np.unique(exact)) > 100
    difference = np.abs(exact.astype(int) - fixed)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.05


def test_zero_points_of_the_input_are_refused() -> None:
    with pytest.raises(PassError, match=r"'first' \(QLinearConv\).*zero point.*symmetric"):
        rewritten(linear_model(zero=5))


def test_the_folder_holds_what_the_frontend_reads(
    make_sources: Any, moving_counts: Counts, tmp_path: Path
) -> None:
    sources = make_sources("LIFFireFlowNet", QuantOptions(7, 8), channels=4)
    model = rewritten(sources.graph("separate"))
    events = moving_counts(1, (18, 26))[0].astype(np.int8)
    bundle = write_bundle(
        model, tmp_path / "model.deeploy", zero_inputs(model) | {"events": events}
    )
    names = {path.name for path in bundle.folder.iterdir()}
    assert names == {"network.onnx", "inputs.npz", "outputs.npz", "types.json"}
    network = onnx.load(bundle.folder / "network.onnx")
    assert is_dialect(network) and network.ir_version == 8
    assert [(o.domain, o.version) for o in network.opset_import] == [("", 13)]
    assert {node.domain for node in network.graph.node} == {""}
    assert "input_0=int8_t" in bundle.command and "input_7=0" in bundle.command
    given = np.load(bundle.folder / "inputs.npz")
    stored_inputs = {v.name: given[f"input_{k}"] for k, v in enumerate(network.graph.input)}
    stored = np.load(bundle.folder / "outputs.npz")
    for k, value in enumerate(run_dialect(network, stored_inputs).values()):
        np.testing.assert_array_equal(stored[f"output_{k}"], value)
    with pytest.raises(ExportError, match=r"'events' leaves a size free.*--resolution"):
        write_bundle(rewritten(sources.graph("separate", free=True)), tmp_path / "free", {})

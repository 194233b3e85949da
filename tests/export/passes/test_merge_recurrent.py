"""merge_recurrent: one convolution in place of two, with the same sums."""

from __future__ import annotations

from typing import Any

import neuron_graphs as graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.passes import run_passes
from export.passes.merge_recurrent import MergeRecurrent


def merge(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    merged, (report,) = run_passes(model, [MergeRecurrent()])
    return merged, report.changes


def recurrent(
    *, bias_rec: bool = True, state_first: bool = False, **attributes: Any
) -> graphs.Layer:
    """``Add`` of a convolution of x and one of ``spike.L``."""
    layer = graphs.Layer(integer=True)
    layer.inputs.append(layer.info("spike.L", TensorProto.FLOAT, graphs.CHANNELS))
    rec = layer.conv("rec", "spike.L", graphs.CHANNELS, bias=bias_rec, **attributes)
    both = [rec, layer.current] if state_first else [layer.current, rec]
    layer.current = layer.op("Add", both, "sum")
    return layer


def closed(layer: graphs.Layer) -> onnx.ModelProto:
    """The layer with its spikes as a state."""
    model = layer.model()
    for values in [*(node.output for node in model.graph.node)]:
        for position, name in enumerate(values):
            values[position] = "spike_out.L" if name == "spike" else name
    model.graph.output[0].name = "spike_out.L"
    return model


@pytest.mark.parametrize("state_first", [False, True])
@pytest.mark.parametrize("bias_rec", [False, True])
def test_dequantized_convolutions(bias_rec: bool, state_first: bool) -> None:
    layer = recurrent(bias_rec=bias_rec, state_first=state_first)
    before = closed(layer)
    after, changes = merge(before)
    assert changes == 1
    assert graphs.types(after)["Conv"] == graphs.types(after)["Concat"] == 1
    (concat,) = (node for node in after.graph.node if node.op_type == "Concat")
    assert list(concat.input) == ["x", "spike.L"]
    made = graphs.constants(after)
    weights = [layer.constants[f"{name}.weight"] for name in ("conv", "rec")]
    np.testing.assert_array_equal(made["conv.weight"], np.concatenate(weights, axis=1))
    bias = layer.constants["conv.bias"] + (layer.constants["rec.bias"] if bias_rec else 0)
    np.testing.assert_array_equal(made["conv.bias"], bias)
    assert made["conv.bias"].dtype == np.int32
    expected, got = (graphs.drive(model, graphs.windows()) for model in (before, after))
    assert np.mean([step["spike_out.L"].mean() for step in expected]) > 0.02
    for want, have in zip(expected, got, strict=True):
        np.testing.assert_array_equal(have["spike_out.L"], want["spike_out.L"])
        assert np.abs(have["mem_out.L"].astype(int) - want["mem_out.L"]).max() <= 1
    assert merge(after)[1] == 0


def test_integer_convolutions_are_equal() -> None:
    rng = np.random.default_rng(0)
    layer = graphs.Layer(integer=True)
    layer.nodes.clear()
    layer.constants.clear()
    attributes = {"strides": [1, 1], "pads": [1, 1, 1, 1], "domain": "snn"}
    parts = []
    for name, x, cin in (("ff", "x", 3), ("rec", "spike.L", 4)):
        weight = rng.integers(-63, 64, (4, cin, 3, 3)).astype(np.int8)
        inputs = [x, layer.const(f"{name}.weight", weight)]
        inputs.append(layer.const(f"{name}.bias", rng.integers(-9, 9, 4).astype(np.int32)))
        parts.append(layer.op("QConv", inputs, f"{name}.acc", **attributes))
    layer.op("Add", parts, "acc")
    decay = layer.const("decay", np.full(4, 200, np.int32))
    threshold = layer.const("threshold", np.full(4, 90, np.int32))
    layer.nodes.append(
        helper.make_node(
            "QLIF",
            ["acc", "mem.L", decay, threshold],
            ["spike_out.L", "mem_out.L"],
            "neuron",
            domain="snn",
            frac_bits=0,
            reset="zero",
        )
    )
    states = [("spike", TensorProto.UINT8), ("mem", TensorProto.INT16)]
    before = layer.finish(
        [
            layer.info("x", TensorProto.UINT8, 3),
            *(layer.info(f"{role}.L", kind, 4) for role, kind in states),
        ],
        [layer.info(f"{role}_out.L", kind, 4) for role, kind in states],
    )
    after, changes = merge(before)
    assert changes == 1 and graphs.types(after) == {"Concat": 1, "QConv": 1, "QLIF": 1}
    expected, got = (graphs.drive(model, graphs.windows()) for model in (before, after))
    assert any(step["spike_out.L"].any() for step in expected)
    for want, have in zip(expected, got, strict=True):
        for name, value in want.items():
            np.testing.assert_array_equal(have[name], value)


def test_what_differs_stays_two() -> None:
    """Another kernel, dilation, scale, or a float weight."""
    for options in ({"kernel": 1}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}):
        assert merge(closed(recurrent(**options)))[1] == 0
    layer = recurrent()
    model = closed(layer)
    for tensor in model.graph.initializer:
        if tensor.name == "rec.weight_scale":
            tensor.CopyFrom(onnx.numpy_helper.from_array(layer.scale * 2, tensor.name))
    assert merge(model)[1] == 0
    plain = graphs.Layer(integer=False)
    plain.current = plain.op("Add", [plain.current, plain.conv("rec", "x", 3)], "sum")
    assert merge(plain.model())[1] == 0


def test_biases_beyond_32_bits_stay_apart() -> None:
    layer = recurrent()
    for name in ("conv", "rec"):
        layer.constants[f"{name}.bias"][0] = 2**31 - 1
    assert merge(closed(layer))[1] == 0

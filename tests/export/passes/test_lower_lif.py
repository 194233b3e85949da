"""lower_lif with its neighbours integer_inputs and expose_flow_accumulator, on whole networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import neuron_graphs as graphs
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

import lif_op.spec
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.source import source_model
from export.passes import run_passes
from export.passes.base import PassError
from export.passes.expose_flow_accumulator import ExposeFlowAccumulator
from export.passes.integer_inputs import IntegerInputs
from export.passes.lower_lif import LowerLif
from export.passes.sink_dequantize import SinkDequantize
from quant import IntegerNetwork, QuantOptions, quantize
from runtime.session import StatefulSession

RESOLUTION = (12, 20)
Make = Callable[..., Any]


def sunk(spec: Any, *, conv_only: bool = False) -> onnx.ModelProto:
    source = source_model(spec, Dims(RESOLUTION, False), conv_only=conv_only)
    return with_bodies(run_passes(source, [SinkDequantize()])[0])


def with_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.functions[:]
    model.functions.extend(lif_op.spec.functions())
    return model


def assert_is_the_network(model: onnx.ModelProto, spec: Any, windows: Any, folder: Path) -> None:
    """Membranes, spikes and flow accumulator of every step, with and without the library."""
    path = write_model(with_bodies(model), folder / "m.onnx")
    sessions = [StatefulSession(path, library=library) for library in ("never", "require")]
    network, states, fired = IntegerNetwork(spec), None, 0
    for events in windows:
        expected = network.step(torch.from_numpy(events), states)
        states = expected.states
        fired += sum(int(state.spike.sum()) for state in states.values())
        for session in sessions:
            session.step(events.astype(session.artifact.event_dtype))
            for name, state in session.states().items():
                role, _, layer = name.partition(".")
                np.testing.assert_array_equal(state, getattr(states[layer], role).numpy())
            for name, value in session.outputs().items():
                if name == "flow_acc":
                    np.testing.assert_array_equal(value, expected.flow_acc.numpy())
    assert fired


@pytest.mark.parametrize(
    "order",
    [
        (IntegerInputs, LowerLif, ExposeFlowAccumulator),
        (LowerLif, IntegerInputs, ExposeFlowAccumulator),
        (ExposeFlowAccumulator, LowerLif, IntegerInputs),
    ],
)
def test_any_order_gives_the_integer_network(
    order: Any, active_network: Make, moving_counts: Make, tmp_path: Path
) -> None:
    """After every single pass the file loads and is the same network; at the end it is int8."""
    spec = quantize(active_network(channels=5))
    model = sunk(spec)
    lowered = False
    for entry in order:
        model, (report,) = run_passes(model, [entry()])
        lowered |= entry is LowerLif
        assert report.changes == {LowerLif: 7, ExposeFlowAccumulator: 1, IntegerInputs: 5}[entry]
        if lowered:
            assert_is_the_network(model, spec, moving_counts(6, RESOLUTION), tmp_path)
    assert [output.name for output in model.graph.output][:3] == [
        "flow",
        "flow_acc",
        "mem_out.head",
    ]
    loaded = StatefulSession(write_model(model, tmp_path / "last.onnx"))
    assert loaded.artifact.kind == "int8" and loaded.artifact.events is None
    for layer, integers in zip(loaded.artifact.layers, spec.layers, strict=True):
        assert layer.decay == tuple(integers.decay) and layer.mem_bits == integers.mem_bits
        assert layer.threshold == tuple(integers.threshold)
        assert layer.weight_scale == tuple(integers.conv.weight_scale)
        assert (layer.frac_bits, layer.weight_bits) == (integers.frac_bits, spec.weight_bits)
    assert list(loaded.artifact.head["weight_scale"]) == list(spec.head.weight_scale)
    _, again = run_passes(model, [entry() for entry in order])
    assert not any(report.changes for report in again)


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize(
    "options", [QuantOptions(), QuantOptions(8, 8, -3), QuantOptions(4, 16, 5)], ids=str
)
def test_every_kind_of_neuron(
    options: Any, reset: str, active_network: Make, moving_counts: Make, tmp_path: Path
) -> None:
    spec = quantize(active_network("LIFFireNet_short", channels=4, reset=reset), options)
    passes = [IntegerInputs(), LowerLif(), ExposeFlowAccumulator()]
    model, _ = run_passes(sunk(spec), passes)
    assert_is_the_network(model, spec, moving_counts(12, RESOLUTION), tmp_path)


def test_float_membranes_get_their_type_from_the_options(
    active_network: Make, moving_counts: Make, tmp_path: Path
) -> None:
    network = active_network("LIFFireNet_short", channels=4)
    spec = quantize(network, QuantOptions(8, 8, -3))
    passes = [IntegerInputs(), LowerLif(mem_bits=8, frac_bits=-3), ExposeFlowAccumulator()]
    model, _ = run_passes(sunk(spec, conv_only=True), passes)
    assert_is_the_network(model, spec, moving_counts(12, RESOLUTION), tmp_path)
    model, _ = run_passes(sunk(spec, conv_only=True), [LowerLif(), IntegerInputs()])
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    assert kinds["mem.head"] == TensorProto.INT16


def test_neurons_with_float_currents_stay(sources: Any) -> None:
    """Before dequantization has moved there is nothing to lower."""
    source = source_model(sources.spec, Dims(RESOLUTION, False))
    after, (report, head) = run_passes(source, [LowerLif(), ExposeFlowAccumulator()])
    assert report.changes == head.changes == 0
    assert graphs.types(after)["LIF"] == 7


def test_a_float_reader_gets_the_spikes_dequantized() -> None:
    model = accumulator_layer().model()
    model.graph.node.append(onnx.helper.make_node("Neg", ["spike"], ["negative"], "negative"))
    model.graph.output.append(graphs.Layer.info("negative", TensorProto.FLOAT, graphs.CHANNELS))
    after, (report,) = run_passes(model, [LowerLif()])
    assert report.changes == 1 and graphs.types(after)["QLIF"] == 1
    expected, got = (graphs.drive(m, graphs.windows()) for m in (model, with_bodies(after)))
    assert any(step["spike"].any() for step in expected)
    for step in got:
        np.testing.assert_array_equal(step["negative"], -step["spike"])


def accumulator_layer() -> graphs.Layer:
    """``x u8 -> QConv -> DQ -> snn::LIF`` with membranes on the weights' grid."""
    layer = graphs.Layer(integer=True)
    x = layer.op("Cast", ["x"], "x_byte", to=TensorProto.UINT8)
    weight = layer.const("w", layer.rng.integers(-63, 64, (4, 3, 3, 3)).astype(np.int8))
    bias = layer.const("b", np.zeros(4, np.int32))
    attributes = {"strides": [1, 1], "pads": [1, 1, 1, 1], "domain": "snn"}
    acc = layer.op("QConv", [x, weight, bias], "acc", **attributes)
    layer.nodes = [node for node in layer.nodes if not node.name.startswith("conv")]
    grid = [layer.const("s", layer.scale), layer.const("z", np.zeros(4, np.int32))]
    layer.current = layer.op("DequantizeLinear", [acc, *grid], "current", axis=1)
    return layer


def off_grid(model: onnx.ModelProto) -> None:
    change(model, "mem_scale", lambda values: values * np.float32(1.1))


def shifted_zero(model: onnx.ModelProto) -> None:
    change(model, "mem_zero", lambda values: values + np.int16(3))


def no_threshold(model: onnx.ModelProto) -> None:
    change(model, "threshold", lambda values: values * np.float32(0))


def float_membrane_out(model: onnx.ModelProto) -> None:
    model.graph.output.append(graphs.Layer.info("mem_real", TensorProto.FLOAT, graphs.CHANNELS))


def change(model: onnx.ModelProto, name: str, edit: Callable[[Any], Any]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor)), name))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (off_grid, r"'neuron' \(snn::LIF\): its membrane's scale .* power of two; set it to"),
        (shifted_zero, r"'neuron' .* zero point of its membrane is not 0"),
        (no_threshold, r"'neuron' .* thresholds must be positive"),
        (float_membrane_out, r"'neuron' .* not quantized as the old one was"),
    ],
)
def test_refusals(edit: Any, message: str) -> None:
    model = accumulator_layer().model()
    edit(model)
    with pytest.raises(PassError, match=message):
        run_passes(model, [LowerLif()])

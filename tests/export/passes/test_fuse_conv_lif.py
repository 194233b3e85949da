"""fuse_conv_lif: the same network with packed spikes, driven by the runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import neuron_graphs as graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import lif_op.spec
from export.errors import ExportError
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.passes import run_passes
from export.passes.attach_functions import AttachFunctions
from export.passes.clean import Clean
from export.passes.fuse_conv_lif import FuseConvLif
from quant import IntegerNetwork, QuantOptions, quantize
from runtime.artifact import load_model
from runtime.layout import channels_first
from runtime.parity import compare
from runtime.reference import ReferenceStream
from runtime.session import StatefulSession

RESOLUTION = (11, 19)
Make = Callable[..., Any]


def fused(spec: Any, *, free: bool = False) -> onnx.ModelProto:
    model = integer_model(spec, Dims(RESOLUTION, free), fused=False)
    return run_passes(model, [FuseConvLif(), AttachFunctions()])[0]


@pytest.mark.parametrize(
    ("name", "options", "config"),
    [
        ("LIFFireNet", QuantOptions(), {"channels": 5}),
        ("LIFFireNet_short", QuantOptions(8, 8, -3), {"channels": 33, "reset": "subtract"}),
        ("LIFFireFlowNet", QuantOptions(7, 16, 3), {"channels": 32, "reset": "none"}),
        ("LIFFireNet_short", QuantOptions(), {"channels": 6, "kernel_size": 5}),
    ],
)
def test_the_network_is_the_same(
    name: str,
    options: Any,
    config: dict[str, Any],
    active_network: Make,
    moving_counts: Make,
    tmp_path: Path,
) -> None:
    """40 steps: bodies at both ends of optimisation, beside native kernels, reference evaluator."""
    spec = quantize(active_network(name, **config), options)
    path = write_model(fused(spec), tmp_path / "fused.onnx")
    runners: list[Any] = [
        StatefulSession(path, library=library, optimization=level)
        for library in ("never", "require")
        for level in ("off", "all")
    ]
    evaluator = ReferenceStream(path)
    network, states = IntegerNetwork(spec), None
    for step, events in enumerate(moving_counts(40, RESOLUTION)):
        expected = network.step(torch.from_numpy(events), states)
        states = expected.states
        for runner in [*runners, *([evaluator] if step < 4 else [])]:
            runner.step(events)
            artifact, seen = runner.artifact, runner.states()
            for state in artifact.states:
                have = channels_first(artifact, state, seen[state.input])
                want = getattr(states[state.layer], state.role).numpy()
                np.testing.assert_array_equal(have, want)
            np.testing.assert_array_equal(runner.outputs()["flow_acc"], expected.flow_acc.numpy())
    assert states is not None and states["head"].spike.any()


def test_bodies_of_another_version_are_refused(active_network: Make) -> None:
    """A pass that uses ops as this version defines them asks; others leave bodies alone."""
    spec = quantize(active_network("LIFFireNet_short", channels=5), QuantOptions())
    model = integer_model(spec, Dims(RESOLUTION, False), fused=False)
    body = next(function for function in model.functions if function.name == "QConv")
    last = body.output[0]
    body.node.append(onnx.helper.make_node("Identity", [last], ["older"]))
    body.output[0] = "older"
    run_passes(model, [Clean()])
    with pytest.raises(ExportError, match="fuse_conv_lif: the embedded body of snn::QConv is not"):
        run_passes(model, [FuseConvLif()])


def test_its_parts(sources: Any, tmp_path: Path) -> None:
    model = fused(sources.spec)
    counts = {"QConvLIF": 5, "QConvLIFRec": 2, "QConv": 1}
    assert graphs.types(model) == {**counts, "DequantizeLinear": 1, "Tanh": 1}
    artifact = load_model(write_model(model, tmp_path / "f.onnx")).artifact
    assert artifact.kind == "int8"
    layouts = {(state.role, state.layout, state.dtype) for state in artifact.states}
    assert layouts == {("mem", "NHWC", "int16"), ("spike", "packed32", "uint32")}
    shapes = {state.role: state.shape for state in artifact.states}
    assert shapes == {"mem": (1, *RESOLUTION, 8), "spike": (1, *RESOLUTION, 1)}
    assert {function.name for function in model.functions} == set(counts)


def test_parity_across_layouts(active_network: Make, moving_counts: Make, tmp_path: Path) -> None:
    """A fused file equals the plain one; a changed threshold is found where it is."""
    spec = quantize(active_network("LIFFireNet_short", channels=34))
    plain = write_model(
        integer_model(spec, Dims(RESOLUTION, True), fused=False), tmp_path / "plain.onnx"
    )
    model = fused(spec, free=True)
    path = write_model(model, tmp_path / "fused.onnx")
    steps = [(events, events) for events in moving_counts(12, RESOLUTION)]
    sessions = [StatefulSession(p, resolution=RESOLUTION) for p in (plain, path)]
    result = compare(*sessions, steps)
    assert result.equal and not result.silent_layers
    wrong = integer_model(spec, Dims(RESOLUTION, True), fused=False)
    (tensor,) = (t for t in wrong.graph.initializer if t.name == "R1a.bias")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[33] += 40
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    other = StatefulSession(write_model(wrong, tmp_path / "w.onnx"), resolution=RESOLUTION)
    again = StatefulSession(path, resolution=RESOLUTION)
    difference = compare(again, other, steps).difference
    assert difference is not None and difference.reproduced
    assert (difference.step, difference.layer, difference.channel) == (0, "R1a", 33)


def test_diagnostic_copies_show_spikes_unpacked(
    active_network: Make, moving_counts: Make, tmp_path: Path
) -> None:
    spec = quantize(active_network("LIFFireNet_short", channels=33))
    session = StatefulSession(write_model(fused(spec), tmp_path / "f.onnx"), library="never")
    watched = session.diagnostic()
    network, states = IntegerNetwork(spec), None
    for events in moving_counts(4, RESOLUTION):
        watched.step(events)
        states = network.step(torch.from_numpy(events), states).states
    for layer, spikes in watched.spikes().items():
        assert spikes.dtype == np.uint8
        np.testing.assert_array_equal(spikes, states[layer].spike.numpy())


def test_the_sum_of_two_convolutions_fuses_too() -> None:
    """The form in which a recurrent layer adds two accumulators."""
    rng = np.random.default_rng(0)
    helper, info = onnx.helper, graphs.Layer.info
    conv = {"domain": "snn", "strides": [1, 1], "pads": [1, 1, 1, 1]}
    constants = {
        "w": rng.integers(-63, 64, (4, 3, 3, 3)).astype(np.int8),
        "r": rng.integers(-63, 64, (4, 4, 3, 3)).astype(np.int8),
        "b": rng.integers(-9, 9, 4).astype(np.int32),
        "d": np.full(4, 200, np.int32),
        "t": np.full(4, 90, np.int32),
    }
    neuron = {"domain": "snn", "frac_bits": 0, "reset": "zero"}
    nodes = [
        helper.make_node("QConv", ["x", "w", "b"], ["ff"], "ff", **conv),
        helper.make_node("QConv", ["spike.L", "r", "b"], ["rec"], "rec", **conv),
        helper.make_node("Add", ["ff", "rec"], ["acc"], "acc"),
        helper.make_node(
            "QLIF", ["acc", "mem.L", "d", "t"], ["spike_out.L", "mem_out.L"], **neuron
        ),
    ]
    kinds = {"spike": onnx.TensorProto.UINT8, "mem": onnx.TensorProto.INT16}
    layer = graphs.Layer(integer=False)
    layer.nodes, layer.constants = nodes, dict(constants)
    model = layer.finish(
        [info("x", onnx.TensorProto.UINT8, 3), *(info(f"{r}.L", k, 4) for r, k in kinds.items())],
        [info(f"{r}_out.L", k, 4) for r, k in kinds.items()],
    )
    after, (report,) = run_passes(model, [FuseConvLif()])
    assert report.changes == 1 and graphs.types(after) == {"QConvLIFRec": 1}
    expected, got = (graphs.drive(m, graphs.windows()) for m in (model, after))
    assert any(step["spike_out.L"].any() for step in expected)
    for want, have in zip(expected, got, strict=True):
        unpacked = lif_op.spec.unpack_spikes(have["spike_out.L"], 4)
        np.testing.assert_array_equal(unpacked, want["spike_out.L"])
        np.testing.assert_array_equal(have["mem_out.L"].transpose(0, 3, 1, 2), want["mem_out.L"])
    assert run_passes(after, [FuseConvLif()])[1][0].changes == 0


def test_an_accumulator_with_another_reader_stays(sources: Any) -> None:
    model = integer_model(sources.spec, Dims(RESOLUTION, False), fused=False)
    (acc,) = (node.input[0] for node in model.graph.node if node.name == "head.QLIF")
    model.graph.output.append(graphs.Layer.info(acc, onnx.TensorProto.INT32, 8))
    del model.graph.output[-1].type.tensor_type.shape.dim[:]
    model.graph.output[-1].type.tensor_type.ClearField("shape")
    model.graph.output[-1].type.tensor_type.shape.dim.extend(
        model.graph.output[2].type.tensor_type.shape.dim
    )
    after, (report,) = run_passes(model, [FuseConvLif()])
    assert report.changes == 7  # six layers and the flow head
    assert graphs.types(after)["QLIF"] == 1


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
def test_the_choice_between_bytes_and_words_is_folded_away(
    level: str, sources: Any, tmp_path: Path
) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.log_severity_level = 3
    model = fused(sources.spec)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    executed = graphs.types(onnx.load(tmp_path / "optimised.onnx"))
    assert not executed["If"] and not executed["QConvLIF"] and executed["BitShift"]

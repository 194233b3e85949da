"""The three graphs: valid, self-describing, and of the parts they promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, numpy_helper

import lif_op
from export.check import check_float, check_integer
from export.errors import ExportError
from export.files import write_model
from export.graphs.builder import Dims, GraphBuilder
from export.graphs.floating import float_model
from export.graphs.integer import integer_model
from models import ModelConfig, SpikingFireNet
from quant import IntegerNetwork, QuantOptions, quantize
from runtime.artifact import load_model
from runtime.body_checks import canonical_body

KINDS = ("float", "qdq", "separate", "int8")
FUNCTIONS = {
    "float": {"LIF"},
    "qdq": {"LIF"},
    "separate": {"QConv", "QLIF"},
    "int8": {"QConv", "QConvLIF", "QConvLIFRec"},
}
INTEGER = ("separate", "int8")
RECURRENT = {"G1", "G2"}
LAYERS = ["head", "G1", "R1a", "R1b", "G2", "R2a", "R2b"]

Counts = Callable[..., list[np.ndarray[Any, Any]]]


def types(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    shape = value.type.tensor_type.shape.dim
    return [d.dim_param if d.HasField("dim_param") else d.dim_value for d in shape]


def session(model: onnx.ModelProto, *, native: bool = False, **options: Any) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    for name, value in options.items():
        setattr(settings, name, value)
    if native:
        lif_op.register(settings)
    return ort.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])


# --- structure ----------------------------------------------------------------------------------


def state_shape(kind: str, role: str, free: bool) -> list[int | str]:
    """Of 8 channels."""
    batch, height, width = ("N", "H", "W") if free else (1, 18, 26)
    if kind != "int8":
        return [batch, 8, height, width]
    return [batch, height, width, 8 if role == "mem" else 1]


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_valid_and_self_describing(kind: str, free: bool, sources: Any, tmp_path: Path) -> None:
    model = sources.graph(kind, free=free)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert {o.domain: o.version for o in model.opset_import} == {"": 21, "snn": 1}
    artifact = load_model(write_model(model, tmp_path / "m.onnx")).artifact
    written = "int8" if kind in INTEGER else kind
    assert (artifact.kind, artifact.model, artifact.encoding) == (written, "LIFFireNet", "cnt")
    assert (artifact.num_bins, artifact.flow_scaling) == (2, 128.0)
    assert artifact.resolution == (18, 26) and artifact.spatial_free is free
    assert artifact.checkpoint_sha256 == "0" * 64 and artifact.version
    assert [layer.name for layer in artifact.layers] == LAYERS
    names = [state.input for state in artifact.states]
    expected = {f"mem.{layer}" for layer in LAYERS} | {f"spike.{layer}" for layer in RECURRENT}
    assert set(names) == expected and len(names) == len(expected)
    for state in artifact.states:
        assert list(state.shape) == state_shape(kind, state.role, free) and state.init == 0


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_outputs(kind: str, free: bool, sources: Any) -> None:
    graph = sources.graph(kind, free=free).graph
    batch, height, width = ("N", "H", "W") if free else (1, 18, 26)
    inputs = {value.name: value for value in graph.input}
    outputs = {value.name: value for value in graph.output}
    integer = kind in INTEGER
    real, byte = TensorProto.FLOAT, TensorProto.UINT8
    wanted_type = byte if integer else real
    assert inputs["events"].type.tensor_type.elem_type == wanted_type
    assert dims(inputs["events"]) == [batch, 2, height, width]
    assert graph.output[0].name == "flow"
    for name in ("flow", "flow_acc") if integer else ("flow",):
        assert dims(outputs[name]) == [batch, 2, height, width]
    assert outputs["flow"].type.tensor_type.elem_type == real
    assert ("flow_acc" in outputs) is integer
    if integer:
        assert outputs["flow_acc"].type.tensor_type.elem_type == TensorProto.INT32
    membrane = TensorProto.INT16 if integer else real
    for layer in LAYERS:
        for values, name in ((inputs, f"mem.{layer}"), (outputs, f"mem_out.{layer}")):
            assert values[name].type.tensor_type.elem_type == membrane
            assert dims(values[name]) == state_shape(kind, "mem", free)
        assert (f"spike.{layer}" in inputs) is (layer in RECURRENT)
        if layer in RECURRENT:
            for values, name in ((inputs, f"spike.{layer}"), (outputs, f"spike_out.{layer}")):
                spike_type = TensorProto.UINT32 if kind == "int8" else wanted_type
                assert values[name].type.tensor_type.elem_type == spike_type
                assert dims(values[name]) == state_shape(kind, "spike", free)


@pytest.mark.parametrize("kind", KINDS)
def test_functions_are_the_librarys_own(kind: str, sources: Any) -> None:
    model = sources.graph(kind)
    assert {function.name for function in model.functions} == FUNCTIONS[kind]
    for function in model.functions:
        own = lif_op.spec.function(function.name)
        assert function.domain == "snn" and canonical_body(function) == canonical_body(own)
    used = {node.op_type for node in model.graph.node if node.domain == "snn"}
    assert used == FUNCTIONS[kind]


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("kind", INTEGER)
def test_integers_from_counts_to_accumulator(kind: str, free: bool, sources: Any) -> None:
    """Between ``events`` and ``flow_acc`` nothing but integer ops; one float initializer."""
    graph = sources.graph(kind, free=free).graph
    floats = [t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT]
    assert floats == ["pred.scale"]
    kinds = {t.data_type for t in graph.initializer} - {TensorProto.FLOAT}
    assert kinds == {TensorProto.INT8, TensorProto.INT32}
    producers = {name: node for node in graph.node for name in node.output}
    pending, upstream = ["flow_acc"], set()
    while pending:
        node = producers.get(pending.pop())
        if node is not None and node.name not in upstream:
            upstream.add(node.name)
            assert node.op_type in (*FUNCTIONS[kind], "Concat"), node.name
            pending += node.input
    assert len(upstream) == len(graph.node) - 2
    layers = {
        "separate": {"QConv": 8, "QLIF": 7, "Concat": 2},
        "int8": {"QConv": 1, "QConvLIF": 5, "QConvLIFRec": 2},
    }
    assert types(graph) == {**layers[kind], "DequantizeLinear": 1, "Tanh": 1}


@pytest.mark.parametrize("kind", ["float", "separate", "int8"])
def test_every_attribute_is_written(kind: str, sources: Any) -> None:
    attributes = {
        "LIF": {"reset"},
        "QLIF": {"reset", "frac_bits"},
        "QConv": {"strides", "pads"},
        "QConvLIF": {"strides", "pads", "reset", "frac_bits"},
        "QConvLIFRec": {"strides", "pads", "reset", "frac_bits"},
    }
    for node in sources.graph(kind).graph.node:
        if node.domain == "snn":
            assert {a.name for a in node.attribute} == attributes[node.op_type]
            assert all(node.input)


def test_metadata_holds_the_integers(make_sources: Callable[..., Any], tmp_path: Path) -> None:
    options = QuantOptions(weight_bits=5, mem_bits=8)
    sources = make_sources("LIFFireNet_short", options, reset="subtract")
    artifact = load_model(write_model(sources.graph("int8"), tmp_path / "m.onnx")).artifact
    for layer, spec in zip(artifact.layers, sources.spec.layers, strict=True):
        assert layer.decay == tuple(spec.decay) and layer.threshold == tuple(spec.threshold)
        assert layer.weight_scale == tuple(spec.conv.weight_scale)
        assert (layer.mem_bits, layer.weight_bits, layer.reset) == (8, 5, "subtract")
        assert layer.frac_bits == spec.frac_bits and layer.recurrent == (layer.name in RECURRENT)
    assert list(artifact.head["weight_scale"]) == list(sources.spec.head.weight_scale)
    assert {state.dtype for state in artifact.states} == {"int8", "uint32"}


# --- QDQ ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [False, True])
def test_qdq_fuses_into_quantized_convolutions(free: bool, sources: Any, tmp_path: Path) -> None:
    """One QLinearConv per spiking layer, recurrent ones included; the flow head stays float."""
    optimised = tmp_path / "optimised.onnx"
    session(
        sources.graph("qdq", free=free),
        graph_optimization_level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        optimized_model_filepath=str(optimised),
    )
    found = types(onnx.load(optimised).graph)
    assert found["QLinearConv"] == len(LAYERS)
    assert found["Conv"] + found["FusedConv"] == 1


def test_qdq_uses_standard_operators_and_the_neuron(sources: Any) -> None:
    graph = sources.graph("qdq").graph
    assert set(types(graph)) == {
        "QuantizeLinear",
        "DequantizeLinear",
        "Conv",
        "Concat",
        "LIF",
        "Tanh",
    }


def test_qdq_currents_are_within_half_a_level(sources: Any, moving_counts: Counts) -> None:
    """The head's requantized current against the exact one, where it does not saturate."""
    model = sources.graph("qdq")
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("head.current"))
    events = moving_counts(1, (18, 26))[0]
    inputs = {"events": events.astype(np.float32)}
    for value in model.graph.input:
        if value.name != "events":
            inputs[value.name] = np.zeros(dims(value), np.float32)
    off = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    runner = session(model, graph_optimization_level=off)
    current = dict(zip([o.name for o in model.graph.output], runner.run(None, inputs), strict=True))
    conv = sources.spec.layers[0].conv
    acc = lif_op.spec.qconv(events, conv.weight, conv.bias, (1, 1), (1, 1, 1, 1))
    exact = acc * conv.weight_scale.reshape(1, -1, 1, 1)
    level = sources.calibration["head"].current_range / 127
    inside = np.abs(exact) < 126 * level
    assert inside.mean() > 0.8
    assert np.abs(current["head.current"] - exact)[inside].max() <= 0.5001 * level


# --- running ------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_free_dimensions_take_any_size(
    kind: str, native: bool, sources: Any, moving_counts: Counts
) -> None:
    """Batch 2 at two sizes; the second sequence alone gives the same as in the batch."""
    model = sources.graph(kind, free=True)
    runner = session(model, native=native)
    for resolution in ((9, 31), (20, 8)):
        pairs = zip(moving_counts(4, resolution), moving_counts(4, resolution, 1), strict=True)
        results = []
        for batch in (2, 1):
            states: dict[str, Any] = {}
            for value in model.graph.input:
                if value.name != "events":
                    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                    free = dict(zip(("N", "H", "W"), (batch, *resolution), strict=True))
                    shape = [free.get(dim, dim) for dim in dims(value)]
                    states[value.name] = np.zeros(shape, dtype)
            results.append(states)
        for pair in pairs:
            for batch, states in zip((2, 1), results, strict=True):
                events = np.concatenate(pair)[-batch:]
                events = events if kind in INTEGER else events.astype(np.float32)
                values = runner.run(None, {"events": events, **states})
                outputs = dict(zip([o.name for o in model.graph.output], values, strict=True))
                states |= {name: outputs[name.replace(".", "_out.")] for name in states}
            if kind not in INTEGER:
                # Float convolutions may sum in another order; go on from equal states.
                results[1] |= {name: value[1:] for name, value in results[0].items()}
        assert results[0]["spike.G2"].any()
        for name, value in results[1].items():
            np.testing.assert_array_equal(results[0][name][1:], value)


def test_strict_convolution_where_float32_is_not_exact(
    make_sources: Callable[..., Any], moving_counts: Counts, tmp_path: Path
) -> None:
    """A tiny weight under a bias, as folded batch norm leaves it, makes a sum beyond 2^24."""
    sources = make_sources("LIFFireNet_short")
    with torch.no_grad():
        layer = sources.model.layers["R1a"]
        layer.weight[3] *= 1e-6
        layer.bias[3], layer.threshold[3] = 1.0, 1.5
    spec = quantize(sources.model)
    assert not spec.exact_in_float32()
    model = integer_model(spec, Dims((18, 26), False))
    (body,) = (f for f in model.functions if f.name == "QConvLIF")
    assert "ConvInteger" in {node.op_type for node in body.node}
    path = write_model(model, tmp_path / "strict.onnx")
    load_model(path)
    check_integer(path, spec)


# --- checks before a file is handed over --------------------------------------------------------


def edit_initializer(model: onnx.ModelProto, name: str, edit: Callable[[Any], object]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    edit(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


@pytest.mark.parametrize("free", [False, True])
def test_checks_pass_on_what_is_exported(free: bool, sources: Any, tmp_path: Path) -> None:
    check_float(write_model(sources.graph("float", free=free), tmp_path / "f.onnx"), sources.model)
    check_integer(write_model(sources.graph("int8", free=free), tmp_path / "i.onnx"), sources.spec)


def test_a_wrong_integer_is_found(sources: Any, tmp_path: Path) -> None:
    model = sources.graph("int8")
    edit_initializer(model, "R1a.weight", lambda w: w.__setitem__((0, 0, 1, 1), w[0, 0, 1, 1] ^ 8))
    path = write_model(model, tmp_path / "i.onnx")
    with pytest.raises(ExportError, match=r"mem\.R1a differs from PyTorch in \d+ values at step"):
        check_integer(path, sources.spec)


def test_a_wrong_weight_is_found(sources: Any, tmp_path: Path) -> None:
    model = sources.graph("float")
    edit_initializer(model, "G1.weight_rec", lambda w: w.__imul__(1.05))
    path = write_model(model, tmp_path / "f.onnx")
    with pytest.raises(ExportError, match="membrane of layer G1 differs from PyTorch"):
        check_float(path, sources.model)


def test_a_network_with_batch_norm_is_refused() -> None:
    model = SpikingFireNet(ModelConfig("LIFFireNet_short", channels=4), norm="batch")
    with pytest.raises(ExportError, match=r"layer 'head' has a batch norm; .*folded"):
        float_model(model, Dims((8, 8), False))
    float_model(model.folded(), Dims((8, 8), False))


def test_the_artifact_is_what_pytorch_computes(
    sources: Any, moving_counts: Counts, tmp_path: Path
) -> None:
    """Not by the exporter's own check: plain ONNX Runtime against the emulation, 30 steps."""
    model = sources.graph("int8")
    runner, network = session(model), IntegerNetwork(sources.spec)
    names = [output.name for output in model.graph.output]
    states = None
    inputs = {
        value.name: np.zeros(dims(value), np.uint32 if "spike" in value.name else np.int16)
        for value in model.graph.input
        if value.name != "events"
    }
    for events in moving_counts(30, (18, 26)):
        outputs = dict(zip(names, runner.run(None, {"events": events, **inputs}), strict=True))
        expected = network.step(torch.from_numpy(events), states)
        states = expected.states
        np.testing.assert_array_equal(outputs["flow_acc"], expected.flow_acc.numpy())
        np.testing.assert_allclose(outputs["flow"], expected.flow.numpy(), atol=1e-6)
        for layer, state in states.items():
            mem = outputs[f"mem_out.{layer}"].transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(mem, state.mem.numpy())
        inputs = {name: outputs[name.replace(".", "_out.")] for name in inputs}


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_equal_inputs_give_equal_bytes(kind: str, sources: Any) -> None:
    first, second = (sources.graph(kind).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_builder_reuses_constants_by_name() -> None:
    builder = GraphBuilder("x")
    one = builder.scalar("unit", 1.0, np.float32)
    assert builder.scalar("unit", 1.0, np.float32) is one

"""Exported graphs in other people's runtimes, over several steps with states fed back.

The ONNX reference evaluator, ONNX Runtime without the op library at three optimisation levels, and
OpenVINO with f32 inference precision; QONNX converts a per-tensor graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.transformation.qcdq_to_qonnx import QCDQToQuant

from export.graphs.builder import Dims
from export.passes import run_passes
from export.passes.inline_functions import InlineFunctions
from export.profile_export import build_profile
from export.profiles import PROFILES
from quant import IntegerNetwork, QuantOptions
from runtime.metadata import Artifact

RESOLUTION = (10, 14)
STEPS = 6
LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
TIES = 0.002
"""Share of membranes of the first layer that may differ by more than a unit: a float neuron flips
where its membrane ties with the threshold."""

Arrays = dict[str, Any]
Run = Callable[[Arrays], Arrays]


def onnxruntime_runner(model: onnx.ModelProto, level: str) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = LEVELS[level]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def reference_runner(model: onnx.ModelProto) -> Run:
    evaluator = ReferenceEvaluator(model)
    names = [output.name for output in model.graph.output]
    return lambda inputs: dict(zip(names, evaluator.run(names, inputs), strict=True))


def openvino_runner(model: onnx.ModelProto, folder: Path) -> Run:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    names = [output.name for output in model.graph.output]

    def run(inputs: Arrays) -> Arrays:
        results = compiled(inputs)
        return {name: results[compiled.output(name)] for name in names}

    return run


RUNNERS: dict[str, Callable[[onnx.ModelProto, Path], Run]] = {
    "reference evaluator": lambda model, _: reference_runner(model),
    "onnxruntime off": lambda model, _: onnxruntime_runner(model, "off"),
    "onnxruntime basic": lambda model, _: onnxruntime_runner(model, "basic"),
    "onnxruntime all": lambda model, _: onnxruntime_runner(model, "all"),
    "openvino": openvino_runner,
}


def zero_states(artifact: Artifact) -> Arrays:
    return {s.input: np.zeros(s.resolved_shape(1, *RESOLUTION), s.dtype) for s in artifact.states}


@pytest.fixture(scope="module")
def built(make_sources: Any) -> Callable[..., tuple[onnx.ModelProto, Any]]:
    """built(profile, options) -> graph and sources, made once each."""
    made: dict[Any, tuple[onnx.ModelProto, Any]] = {}

    def build(profile: str, **options: Any) -> tuple[onnx.ModelProto, Any]:
        key = (profile, *sorted(options.items()))
        if key not in made:
            sources = make_sources("LIFFireNet_short", QuantOptions(**options), channels=4)
            dims = Dims(RESOLUTION, free=False)
            made[key] = build_profile(PROFILES[profile], sources.spec, dims)[0], sources
        return made[key]

    return build


INTEGER_CASES = [
    {"weight_bits": 7, "mem_bits": 16},
    {"weight_bits": 8, "mem_bits": 8},
    {"weight_bits": 8, "mem_bits": 16, "current": "uint8"},
]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("options", INTEGER_CASES, ids=["16 bit", "8 bit", "uint8 current"])
def test_portable_int_is_equal_everywhere(
    options: dict[str, Any], runner: str, built: Any, moving_counts: Any, tmp_path: Path
) -> None:
    model, sources = built("portable-int", **options)
    artifact = Artifact.from_model(model)
    run, network = RUNNERS[runner](model, tmp_path), IntegerNetwork(sources.spec)
    states, expected, fired = zero_states(artifact), None, 0
    for events in moving_counts(STEPS, RESOLUTION):
        outputs = run({"events": events, **states})
        step = network.step(torch.from_numpy(events), expected)
        expected = step.states
        np.testing.assert_array_equal(outputs["flow_acc"], step.flow_acc.numpy())
        for name, state in expected.items():
            fired += int(state.spike.sum())
            np.testing.assert_array_equal(outputs[f"mem_out.{name}"], state.mem.numpy())
        np.testing.assert_allclose(outputs["flow"], step.flow.numpy(), atol=1e-5)
        states = {s.input: outputs[s.output] for s in artifact.states}
        assert all(states[s.input].dtype == s.dtype for s in artifact.states)
    assert fired > 100


@pytest.mark.parametrize("runner", RUNNERS)
def test_portable_agrees_within_a_unit(
    runner: str, built: Any, moving_counts: Any, tmp_path: Path
) -> None:
    """From equal states, against ONNX Runtime unoptimised: one unit in the last place.

    The first layer reads the events and is compared strictly. A flipped spike moves the layers
    behind it, so they get ten times the share.
    """
    model, _ = built("portable", weight_bits=8)
    artifact = Artifact.from_model(model)
    witness = onnxruntime_runner(model, "off")
    run = RUNNERS[runner](inline(model) if runner == "openvino" else model, tmp_path)
    states, largest = zero_states(artifact), 0
    for events in moving_counts(STEPS, RESOLUTION):
        inputs = {"events": events.astype(np.float32), **states}
        expected, outputs = witness(inputs), run(inputs)
        for index, layer in enumerate(artifact.layers):
            name = f"mem_out.{layer.name}"
            gap = np.abs(outputs[name].astype(int) - expected[name])
            assert (gap > 1).mean() <= TIES * (1 if index == 0 else 10)
            largest = max(largest, int(np.abs(expected[name]).max()))
        np.testing.assert_allclose(outputs["flow"], expected["flow"], atol=0.01)
        states = {s.input: expected[s.output] for s in artifact.states}
    assert largest > 100


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    return run_passes(model, [InlineFunctions()])[0]


def for_qonnx(make_sources: Any, *, per_tensor: bool) -> onnx.ModelProto:
    """QONNX pairs quantizers, so membranes stay float32: an integer state has only one of them."""
    options = QuantOptions(8, 16, current="uint8", per_tensor=per_tensor)
    sources = make_sources("LIFFireNet_short", options, channels=4)
    profile = replace(PROFILES["portable"], float_membranes=True)
    model, _ = build_profile(profile, sources.spec, Dims(RESOLUTION, free=False))
    return onnx.shape_inference.infer_shapes(inline(model))


def test_qonnx_converts_the_per_tensor_graph(make_sources: Any, moving_counts: Any) -> None:
    """Every pair of quantizers becomes one Quant, which computes the same."""
    graph = for_qonnx(make_sources, per_tensor=True)
    before = Counter(node.op_type for node in graph.graph.node)
    converted = ModelWrapper(graph).transform(QCDQToQuant()).transform(InferShapes())
    after = Counter(node.op_type for node in converted.graph.node)
    assert before["DequantizeLinear"] >= 3 * before["Conv"]
    assert after["DequantizeLinear"] == after["QuantizeLinear"] == 0
    assert after["Quant"] == before["DequantizeLinear"]
    inputs = zero_states(Artifact.from_model(graph))
    inputs["events"] = moving_counts(1, RESOLUTION)[0].astype(np.float32)
    expected = onnxruntime_runner(graph, "off")(inputs)
    found = execute_onnx(converted, inputs)
    first = Artifact.from_model(graph).layers[0].name
    np.testing.assert_allclose(found[f"mem_out.{first}"], expected[f"mem_out.{first}"], atol=1e-5)


def test_qonnx_cannot_read_weights_per_channel(make_sources: Any) -> None:
    with pytest.raises(ValueError, match="could not be broadcast"):
        ModelWrapper(for_qonnx(make_sources, per_tensor=False)).transform(QCDQToQuant())

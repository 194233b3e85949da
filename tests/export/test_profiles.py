"""Profiles: what each graph is made of, what it equals, what it refuses; and their command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from calib_data import console
from export import qdq
from export.check import check_hybrid, check_integer
from export.deeploy import run_dialect
from export.errors import ExportError
from export.files import write_model
from export.gates import GateError, check_fusion, check_hybrid_dtypes, float_constants
from export.graphs.builder import Dims
from export.graphs.source import source_model
from export.passes import find_pass
from export.profile_export import build_profile, export_profiles
from export.profiles import PROFILES, ProfileError, find_profile
from quant import HybridNetwork, QuantOptions, save_spec
from runtime.artifact import load_model
from runtime.session import StatefulSession

DIMS = Dims((18, 26), free=False)


def run(*arguments: object) -> int:
    return console.run(qdq.main, [str(argument) for argument in arguments])


def operators(model: onnx.ModelProto) -> set[str]:
    return {f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in model.graph.node}


def test_every_profile_names_passes_that_exist() -> None:
    for profile in PROFILES.values():
        for step in profile.steps:
            assert find_pass(step.name).name == step.name
            assert step.make().name == step.name
    assert len({profile.file for profile in PROFILES.values()}) == len(PROFILES)


@pytest.mark.parametrize("network", ["LIFFireNet", "LIFFireNet_short"])
@pytest.mark.parametrize("free", [False, True])
def test_ort_x86_fuses_and_is_exact(
    network: str, free: bool, make_sources: Any, tmp_path: Path
) -> None:
    sources = make_sources(network, QuantOptions(8, 16, current="uint8"))
    dims = Dims((18, 26), free)
    model, stages = build_profile(PROFILES["ort-x86"], sources.spec, dims, sources.model)
    assert check_fusion(model) == len(sources.spec.layers)
    assert not list(float_constants(model))
    large = [t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    scales = {n.input[1] for n in model.graph.node if n.op_type.endswith("tizeLinear")}
    assert set(large) <= scales
    path = write_model(model, tmp_path / "m.onnx")
    load_model(path)
    check_integer(path, sources.spec, optimised=True)
    assert stages[0].name == "source"


@pytest.mark.parametrize("current", ["accumulator", "uint8"])
@pytest.mark.parametrize("name", ["integer", "integer-nchw", "portable-int"])
def test_integer_profiles_equal_pytorch(
    name: str, current: str, make_sources: Any, tmp_path: Path
) -> None:
    sources = make_sources("LIFFireNet", QuantOptions(8, 16, current=current))
    profile = PROFILES[name]
    model, stages = build_profile(profile, sources.spec, DIMS, sources.model)
    check_integer(write_model(model, tmp_path / "m.onnx"), sources.spec)
    if name == "portable-int":
        assert not model.functions and not any("::" in entry for entry in operators(model))
    elif name == "integer" and current == "accumulator":
        fused = {"snn::QConv", "snn::QConvLIF", "snn::QConvLIFRec"}
        assert {entry for entry in operators(model) if "::" in entry} == fused
    else:
        assert {"snn::QConv", "snn::QLIF"} <= operators(model)
    assert stages[-1].relation == "equal"


def test_portable_is_quantize_dequantize_and_the_neuron(make_sources: Any, tmp_path: Path) -> None:
    sources = make_sources("LIFFireNet")
    model, _ = build_profile(PROFILES["portable"], sources.spec, DIMS, sources.model)
    standard = {"QuantizeLinear", "DequantizeLinear", "Conv", "Concat", "Tanh"}
    assert operators(model) == {*standard, "snn::LIF"}
    artifact = load_model(write_model(model, tmp_path / "m.onnx")).artifact
    assert artifact.kind == "qdq"
    zeros = [n for n in model.graph.node if n.op_type.endswith("tizeLinear")]
    assert all(len(node.input) == 3 for node in zeros)


def test_tensorrt_is_symmetric_with_float_neurons(make_sources: Any) -> None:
    sources = make_sources("LIFFireNet")
    model, _ = build_profile(PROFILES["tensorrt"], sources.spec, DIMS, sources.model)
    kinds = {value.type.tensor_type.elem_type for value in model.graph.input}
    assert kinds == {TensorProto.FLOAT}
    integers = {t.data_type for t in model.graph.initializer} - {TensorProto.FLOAT}
    assert TensorProto.UINT8 not in integers and TensorProto.INT16 not in integers


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_hybrid_equals_pytorch(
    reset: str, make_sources: Any, moving_counts: Any, tmp_path: Path
) -> None:
    """Every state over 60 steps, with the op library or not, optimised or not."""
    sources = make_sources("LIFFireNet", QuantOptions(neuron="float"), reset=reset)
    model, stages = build_profile(PROFILES["hybrid"], sources.spec, DIMS, sources.model)
    assert all(stage.saturated == 0 for stage in stages)
    path = write_model(model, tmp_path / "m.onnx")
    check_hybrid(path, sources.spec)
    sessions = [
        StatefulSession(path, library=library, optimization=level)
        for library, level in (("never", "off"), ("never", "all"), ("require", "all"))
    ]
    network = HybridNetwork(sources.spec)
    fired = dict.fromkeys((layer.name for layer in sources.spec.layers), 0.0)
    states: dict[str, Any] = {}
    for events in moving_counts(60, DIMS.resolution):
        spikes, states = network.advance(sources.spec.layers, torch.from_numpy(events), states)
        for name, state in states.items():
            fired[name] += float(state.spike.sum())
        for session in sessions:
            session.step(events)
            for name, value in session.states().items():
                role, _, layer = name.partition(".")
                np.testing.assert_array_equal(value, getattr(states[layer], role).numpy())
            flow = network.head(spikes)[1].numpy()
            np.testing.assert_allclose(session.outputs()["flow"], flow, rtol=0, atol=1e-6)
    assert all(fired.values())


@pytest.mark.parametrize("neuron", ["integer", "float"])
@pytest.mark.parametrize("free", [False, True])
def test_hybrid_holds_integers_but_in_its_neurons(
    free: bool, neuron: str, make_sources: Any, tmp_path: Path
) -> None:
    """Also of a network of integer neurons, which become float ones."""
    spec = make_sources("LIFFireNet_short", QuantOptions(neuron=neuron)).spec
    model, _ = build_profile(PROFILES["hybrid"], spec, Dims((18, 26), free))
    allowed = {"QuantizeLinear", "DequantizeLinear", "Concat", "Tanh", "snn::QConv", "snn::LIF"}
    assert operators(model) == allowed
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "QConv"]
    assert len(convolutions) == len(spec.layers) + 1
    for node in convolutions:
        assert [kinds[name] for name in node.input[1:]] == [TensorProto.INT8, TensorProto.INT32]
    assert not list(float_constants(model, float_neurons=True))
    neurons = [node for node in model.graph.node if node.op_type == "LIF"]
    parameters = {name for node in neurons for name in node.input[2:]}
    assert {name for name, _ in float_constants(model)} == parameters
    assert {function.name for function in model.functions} == {"QConv", "LIF"}
    artifact = load_model(write_model(model, tmp_path / "m.onnx")).artifact
    assert (artifact.kind, artifact.events) == ("qdq", "uint8")
    roles = {state.role: state.dtype for state in artifact.states}
    assert roles == {"mem": "float32", "spike": "uint8"}
    check_hybrid(tmp_path / "m.onnx", spec)


def test_hybrid_dtypes(make_sources: Any) -> None:
    """A float weight does not pass the gate."""
    source = source_model(make_sources("LIFFireNet_short").spec, DIMS, conv_only=True)
    check_hybrid_dtypes(source)
    (first, *_) = [node for node in source.graph.node if node.op_type == "Conv"]
    weight = numpy_helper.from_array(np.ones((8, 2, 3, 3), np.float32), "own")
    source.graph.initializer.append(weight)
    first.input[1] = "own"
    with pytest.raises(GateError, match="constant 'own' is float32; only scales, neurons and"):
        check_hybrid_dtypes(source)


def test_a_file_of_another_network_is_no_hybrid_of_this(make_sources: Any, tmp_path: Path) -> None:
    spec = make_sources("LIFFireNet_short", QuantOptions(neuron="float")).spec
    model, _ = build_profile(PROFILES["hybrid"], spec, DIMS)
    head = spec.layers[0]
    other = replace(spec, layers=(replace(head, threshold=head.threshold + 999), *spec.layers[1:]))
    path = write_model(model, tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"differs from PyTorch in \d+ values at step 0"):
        check_hybrid(path, other)


# --- refusals -----------------------------------------------------------------------------------


def test_float_neurons_go_where_neurons_may_be_float(make_sources: Any, tmp_path: Path) -> None:
    spec = make_sources("LIFFireNet_short", QuantOptions(neuron="float")).spec
    for name, profile in PROFILES.items():
        if name in ("portable", "tensorrt", "hybrid"):
            model, _ = build_profile(profile, spec, DIMS)
            kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
            assert kinds["mem.head"] == TensorProto.FLOAT
            continue
        message = (
            f"profile {name}: the network has float neurons, and this profile computes integer "
            "ones; use profile portable, tensorrt or hybrid, or quantize with --neuron integer"
        )
        with pytest.raises(ProfileError, match=message):
            build_profile(profile, spec, DIMS)
    currents = make_sources("LIFFireNet_short", QuantOptions(current="uint8")).spec
    with pytest.raises(ProfileError, match=r"hybrid: layer 'head' has current 'uint8'"):
        build_profile(PROFILES["hybrid"], currents, DIMS)


def test_refusals(make_sources: Any, tmp_path: Path) -> None:
    exact = make_sources("LIFFireNet_short").spec
    with pytest.raises(ProfileError, match=r"ort-x86: layer 'head' has current 'accumulator'.*int"):
        PROFILES["ort-x86"].refuse(exact)
    fine = make_sources("LIFFireNet_short", QuantOptions(7, 16, 2)).spec
    with pytest.raises(ProfileError, match=r"deeploy: layer 'head' has frac_bits 2.*--frac-bits 0"):
        PROFILES["deeploy"].refuse(fine)
    with pytest.raises(ProfileError, match=r"deeploy: .*size.*--resolution H W"):
        build_profile(PROFILES["deeploy"], exact, Dims((18, 26), free=True))
    with pytest.raises(ProfileError, match="no profile 'tensort'; nearest is 'tensorrt'"):
        find_profile("tensort")
    chosen = [PROFILES["integer"], PROFILES["ort-x86"]]
    with pytest.raises(ProfileError, match="ort-x86"):
        export_profiles(chosen, dict.fromkeys(("integer", "ort-x86"), exact), DIMS, tmp_path)
    assert not list(tmp_path.iterdir())


# --- the command --------------------------------------------------------------------------------


def test_the_command_writes_files_and_stages(
    checkpoint: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--checkpoint", checkpoint, "--calibration", scene, "--out", tmp_path)
    size = ("--resolution", 32, 48)
    assert run(*common, *size, "--json", "--profile", "integer", "ort-x86", "deeploy") == 0
    found = json.loads(capsys.readouterr().out)["artifacts"]
    assert json.loads((tmp_path / "stages.json").read_text())["artifacts"] == found
    assert [entry["profile"] for entry in found] == ["integer", "ort-x86", "deeploy"]
    for entry in found:
        names = [stage["name"] for stage in entry["stages"]]
        assert names[0] == "source" and "lower_lif" in names
        assert all(stage["largest"] <= stage["bound"] for stage in entry["stages"])
    assert load_model(tmp_path / "model.integer.onnx").artifact.kind == "int8"
    network = onnx.load(tmp_path / "model.deeploy" / "network.onnx")
    given = np.load(tmp_path / "model.deeploy" / "inputs.npz")
    inputs = {v.name: given[f"input_{k}"] for k, v in enumerate(network.graph.input)}
    assert any(inputs[f"mem.{layer}"].any() for layer in ("head", "G1", "R2b"))
    stored = np.load(tmp_path / "model.deeploy" / "outputs.npz")
    for k, value in enumerate(run_dialect(network, inputs).values()):
        np.testing.assert_array_equal(stored[f"output_{k}"], value)


def test_quantized_checkpoints(
    make_sources: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_sources("LIFFireNet_short", QuantOptions(4, 8)).spec
    weights = save_spec(spec, tmp_path / "q.safetensors")
    assert run("--checkpoint", weights, "--profile", "integer", "--out", tmp_path) == 0
    assert "model.integer.onnx" in capsys.readouterr().out
    artifact = load_model(tmp_path / "model.integer.onnx").artifact
    assert {state.dtype for state in artifact.states} == {"int8", "uint32"}
    check_integer(tmp_path / "model.integer.onnx", spec)
    capsys.readouterr()
    assert run("--checkpoint", weights, "--out", tmp_path) == 2
    assert "holds integers and no float network; choose --profile" in capsys.readouterr().err


def test_profiles_quantize_for_the_neurons_they_have(
    checkpoint: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bits of membranes are for those that have integer ones."""
    common = ("--checkpoint", checkpoint, "--calibration", scene, "--out", tmp_path)
    names = ("hybrid", "integer")
    assert run(*common, "--json", "--mem-bits", 8, "--frac-bits", -2, "--profile", *names) == 0
    capsys.readouterr()
    hybrid, integer = (load_model(tmp_path / f"model.{name}.onnx").artifact for name in names)
    assert {state.dtype for state in hybrid.states if state.role == "mem"} == {"float32"}
    assert {state.dtype for state in integer.states if state.role == "mem"} == {"int8"}
    assert run(*common, "--current", "uint8", "--profile", "hybrid") == 2
    assert "has current 'uint8', and this profile computes 'acc" in capsys.readouterr().err


def test_checkpoints_of_float_neurons(
    make_sources: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_sources("LIFFireNet_short", QuantOptions(4, neuron="float")).spec
    weights = save_spec(spec, tmp_path / "q.safetensors")
    assert run("--checkpoint", weights, "--profile", "hybrid", "--out", tmp_path) == 0
    assert "model.hybrid.onnx" in capsys.readouterr().out
    check_hybrid(tmp_path / "model.hybrid.onnx", spec)
    out = tmp_path / "none"
    assert run("--checkpoint", weights, "--profile", "hybrid", "integer", "--out", out) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "profile integer: the network has float neurons" in lines[0]
    assert not list(out.glob("*"))


def test_profiles_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list-profiles") == 0
    text = capsys.readouterr().out
    assert all(f"{name}: {profile.summary}" in text for name, profile in PROFILES.items())


MISTAKES = {
    "unknown": (["--profile", "ort"], "no profile 'ort'; nearest is 'ort-x86'"),
    "current alone": (["--current", "uint8"], "--current goes with --profile"),
    "per tensor alone": (["--per-tensor"], "--per-tensor goes with --profile"),
    "run": (["--run", "--profile", "integer"], "drive profiles with runtime.evaluate"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(
    case: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = MISTAKES[case]
    assert run("--checkpoint", checkpoint, "--out", tmp_path / "out", *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "out").exists()

"""The source graph: canonical spelling, every integer recoverable, and it runs as an artifact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.graphs.quantize_dequantize import qdq_model
from export.graphs.source import source_model
from quant import IntegerNetwork, LayerOptions, QuantOptions, load_spec, save_spec
from quant.spec import derive_decay, derive_threshold
from runtime.artifact import load_model
from runtime.layout import channels_first
from runtime.session import StatefulSession

RESOLUTION = (18, 26)
OPTIONS = [QuantOptions(), QuantOptions(8, 8, -3), QuantOptions(4, 16, 3)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_integers_can_be_read_back(make_sources: Callable[..., Any], options: Any) -> None:
    spec = make_sources(options=options).spec
    model = source_model(spec, Dims(RESOLUTION, True))
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for layer in spec.layers:
        weight = constants[f"{layer.name}.weight"]
        parts = [layer.conv.weight] + ([] if layer.weight_rec is None else [layer.weight_rec])
        np.testing.assert_array_equal(weight, np.concatenate(parts, axis=1))
        np.testing.assert_array_equal(constants[f"{layer.name}.bias"], layer.conv.bias)
        scale = constants[f"{layer.name}.scale"].astype(np.float64)
        grid = constants[f"{layer.name}.mem_scale"].astype(np.float64)
        frac_bits = np.log2(scale / grid)
        assert (frac_bits == layer.frac_bits).all()
        beta = constants[f"{layer.name}.beta"].astype(np.float64)
        np.testing.assert_array_equal(derive_decay(beta), layer.decay)
        threshold = constants[f"{layer.name}.threshold"].astype(np.float64)
        derived = derive_threshold(threshold, scale, layer.frac_bits, layer.mem_bits)
        np.testing.assert_array_equal(derived, layer.threshold)


def test_every_threshold_survives_float32(sources: Any) -> None:
    """0 and every value up to the limit of 16 bits, at awkward scales."""
    layer = sources.spec.layers[0]
    generator = np.random.default_rng(0)
    values = np.arange(1 << 15, dtype=np.int32)
    scale = generator.uniform(1e-4, 0.1, values.size).astype(np.float32).astype(np.float64)
    for frac_bits in (0, 3, -4):
        conv = replace(layer.conv, weight_scale=scale)
        real = replace(layer, conv=conv, threshold=values, frac_bits=frac_bits).real_threshold
        assert (real > 0).all()
        derived = derive_threshold(real.astype(np.float64), scale, frac_bits, 16)
        np.testing.assert_array_equal(derived, values)


def test_the_spelling_is_canonical(sources: Any) -> None:
    graph = source_model(sources.spec, Dims(RESOLUTION, False)).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    counts = Counter(node.op_type for node in graph.node)
    assert set(counts) == {"QuantizeLinear", "DequantizeLinear", "Conv", "Concat", "LIF", "Tanh"}
    assert (counts["Conv"], counts["Concat"], counts["LIF"]) == (8, 2, 7)
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        _, scale, zero = node.input
        assert constants[scale].shape == constants[zero].shape
        axis = [a.i for a in node.attribute if a.name == "axis"]
        assert len(axis) == constants[scale].ndim
        if node.input[0] in constants:
            assert axis == [0]
    floats = {name for name, value in constants.items() if value.dtype == np.float32}
    assert all(name.endswith(("scale", "beta", "threshold")) for name in floats)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("conv_only", [False, True])
def test_it_runs_as_an_artifact(
    conv_only: bool, free: bool, sources: Any, moving_counts: Any, tmp_path: Path
) -> None:
    """Loaded and stepped, with and without the op library; close to the integers it stands for."""
    model = source_model(sources.spec, Dims(RESOLUTION, free), conv_only=conv_only)
    path = write_model(model, tmp_path / "source.onnx")
    sessions = [
        StatefulSession(path, resolution=RESOLUTION, library=library, optimization="off")
        for library in ("never", "require")
    ]
    membrane = "float32" if conv_only else "int16"
    for events in moving_counts(4, RESOLUTION):
        for session in sessions:
            session.step(events.astype(np.float32))
    for session in sessions:
        states = session.states()
        assert {str(states[name].dtype) for name in states if name.startswith("mem")} == {membrane}
        assert states["spike.G1"].any() and states["spike.G2"].any()
    for name, value in sessions[0].states().items():
        assert np.mean(value != sessions[1].states()[name]) < 0.01


@pytest.mark.parametrize("current", ["accumulator", "uint8"])
def test_the_passes_give_the_integer_network(
    current: str, make_sources: Callable[..., Any], moving_counts: Any, tmp_path: Path
) -> None:
    """100 steps, every state and the flow accumulator, with and without the op library."""
    spec = make_sources(options=QuantOptions(current=current)).spec
    model = integer_model(spec, Dims(RESOLUTION, False))
    assert all(node.op_type not in ("LIF", "Conv") for node in model.graph.node)
    path = write_model(model, tmp_path / "model.int8.onnx")
    sessions = [StatefulSession(path, library=library) for library in ("never", "require")]
    assert sessions[0].artifact.kind == "int8"
    network, states = IntegerNetwork(spec), None
    fired = {layer.name: 0 for layer in spec.layers}
    for events in moving_counts(100, RESOLUTION):
        expected = network.step(torch.from_numpy(events), states)
        states = expected.states
        for layer, state in states.items():
            fired[layer] += int(state.spike.sum())
        for session in sessions:
            session.step(events)
            artifact, seen = session.artifact, session.states()
            for state in artifact.states:
                value = channels_first(artifact, state, seen[state.input])
                wanted = getattr(states[state.layer], state.role).numpy()
                np.testing.assert_array_equal(value, wanted)
            np.testing.assert_array_equal(session.outputs()["flow_acc"], expected.flow_acc.numpy())
    assert all(fired.values())


def test_weight_bits_of_every_layer(make_sources: Callable[..., Any], tmp_path: Path) -> None:
    """From the options over a checkpoint to the metadata of source and integer files."""
    own = {"head": LayerOptions(3), "R1a": LayerOptions(5), "pred": LayerOptions(8)}
    sources = make_sources("LIFFireNet_short", QuantOptions(7, layers=own))
    loaded = load_spec(save_spec(sources.spec, tmp_path / "q.safetensors"))
    assert loaded.weight_bits == 8
    dims = Dims(RESOLUTION, False)
    models = {
        "source": source_model(loaded, dims),
        "integer": integer_model(loaded, dims),
        "qdq": qdq_model(sources.model, loaded, sources.calibration, dims),
    }
    for name, model in models.items():
        path = write_model(model, tmp_path / f"{name}.onnx")
        layers = load_model(path).artifact.layers
        assert {layer.name: layer.weight_bits for layer in layers} == {
            "head": 3, "G1": 7, "R1a": 5, "G2": 7, "R2a": 7,
        }  # fmt: skip


def test_float_neurons_have_float_membranes(make_sources: Callable[..., Any]) -> None:
    spec = make_sources("LIFFireNet_short", QuantOptions(neuron="float")).spec
    dims = Dims(RESOLUTION, False)
    model = source_model(spec, dims)
    assert model == source_model(spec, dims, conv_only=True)
    assert not any(t.name.endswith(("mem_scale", "mem_zero")) for t in model.graph.initializer)


def test_uint8_currents_have_scalar_grids(make_sources: Callable[..., Any]) -> None:
    spec = make_sources(options=QuantOptions(current="uint8")).spec
    model = source_model(spec, Dims(RESOLUTION, False))
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for layer in spec.layers:
        current = constants[f"{layer.name}.current_scale"]
        assert current.shape == () and float(current) == layer.current_scale
        assert constants[f"{layer.name}.mem_scale"] == current / 2.0**layer.frac_bits
    assert constants["current.zero"] == 128

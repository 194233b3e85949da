"""``runtime.parity`` on exported networks: equal ones, different ones, and silent ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calib_data import console
from calib_data.synthetic import SceneConfig, write_scene
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.torch_runner import TorchRunner
from quant import IntegerNetwork, QuantOptions, quantize
from quant.spec import NetworkSpec
from runtime import ParityError, parity
from runtime.artifact import load_model
from runtime.reference import ReferenceStream
from runtime.session import StatefulSession

RESOLUTION = (12, 18)
Make = Callable[..., Any]
Place = tuple[int, str, int, int, int]


def write(spec: NetworkSpec, path: Path, *, free: bool = False) -> Path:
    return write_model(integer_model(spec, Dims(RESOLUTION, free)), path)


def shifted(spec: NetworkSpec, name: str, channel: int, by: int) -> NetworkSpec:
    """The same network with one threshold changed."""
    layers = []
    for layer in spec.layers:
        if layer.name == name:
            threshold = layer.threshold.copy()
            threshold[channel] += by
            layer = replace(layer, threshold=threshold)
        layers.append(layer)
    return replace(spec, layers=tuple(layers))


def pairs(windows: list[Any]) -> list[tuple[Any, Any]]:
    return [(events, events) for events in windows]


def first_difference(a: NetworkSpec, b: NetworkSpec, windows: list[Any]) -> Place:
    """Where the two part, found by hand in PyTorch: step, layer, channel, y, x."""
    states: list[Any] = [None, None]
    for step, events in enumerate(windows):
        results = [
            IntegerNetwork(spec).step(torch.from_numpy(events), state)
            for spec, state in zip((a, b), states, strict=True)
        ]
        states = [result.states for result in results]
        for layer in a.layers:
            one, other = (state[layer.name].spike.numpy() for state in states)
            if not np.array_equal(one, other):
                _, channel, y, x = np.argwhere(one != other)[0]
                return step, layer.name, int(channel), int(y), int(x)
    raise AssertionError("the two networks are equal")


@pytest.mark.parametrize(
    ("layer", "channel", "by"), [("head", 2, -3), ("G1", 0, 5), ("R1b", 4, 6), ("R2b", 7, -9)]
)
@pytest.mark.parametrize("library", ["require", "never"])
def test_a_changed_threshold_is_found_and_named(
    layer: str,
    channel: int,
    by: int,
    library: str,
    active_network: Make,
    moving_counts: Make,
    tmp_path: Path,
) -> None:
    spec = quantize(active_network())
    other = shifted(spec, layer, channel, by)
    windows = moving_counts(60, RESOLUTION)
    expected = first_difference(spec, other, windows)
    assert expected[1:3] == (layer, channel)
    a = StatefulSession(write(spec, tmp_path / "a.onnx"), library=library)
    b = StatefulSession(write(other, tmp_path / "b.onnx"), library=library)
    result = parity.compare(a, b, pairs(windows))
    found = result.difference
    assert found is not None and found.reproduced and found.tensor == "spike"
    assert (found.step, found.layer, found.channel, found.y, found.x) == expected
    assert {found.a, found.b} == {0, 1} and result.steps == expected[0] + 1
    text = parity.summary(result, 60)
    assert f"layer {layer}, channel {channel}, y {found.y}, x {found.x}" in text


def test_every_runner_names_the_same_place(
    active_network: Make, moving_counts: Make, tmp_path: Path
) -> None:
    """PyTorch, the evaluator and ONNX Runtime against one changed file."""
    spec = quantize(active_network("LIFFireNet_short"))
    other = shifted(spec, "R1a", 3, 6)
    windows = moving_counts(40, RESOLUTION)
    expected = first_difference(spec, other, windows)
    good, bad = write(spec, tmp_path / "good.onnx"), write(other, tmp_path / "bad.onnx")
    artifact = load_model(good).artifact
    runners = {
        "PyTorch": TorchRunner(spec, artifact, RESOLUTION),
        "evaluator": ReferenceStream(good),
        "bodies": StatefulSession(good, library="never"),
        "native": StatefulSession(good, library="require"),
    }
    for label, runner in runners.items():
        found = parity.compare(runner, StatefulSession(bad), pairs(windows)).difference
        assert found is not None, label
        place = (found.step, found.layer, found.channel, found.y, found.x)
        assert place == expected, label


@pytest.mark.parametrize("library", ["require", "never"])
def test_pytorch_equals_the_file(
    library: str, active_network: Make, moving_counts: Make, tmp_path: Path
) -> None:
    spec = quantize(active_network(reset="subtract"), QuantOptions(8, 8, -3))
    path = write(spec, tmp_path / "m.onnx")
    runner = TorchRunner(spec, load_model(path).artifact, RESOLUTION)
    session = StatefulSession(path, library=library)
    result = parity.compare(runner, session, pairs(moving_counts(50, RESOLUTION)))
    assert result.equal and result.steps == 50 and not result.silent_layers
    assert "flow_acc" in result.compared and len(result.compared) == 10


# --- silence ------------------------------------------------------------------------------------


def silent_spec(spec: NetworkSpec) -> NetworkSpec:
    layers = tuple(
        replace(layer, threshold=np.full_like(layer.threshold, 32767)) for layer in spec.layers
    )
    return replace(spec, layers=layers)


@pytest.mark.parametrize("runner", ["session", "reference"])
def test_a_silent_comparison_is_refused(
    runner: str, active_network: Make, moving_counts: Make, tmp_path: Path
) -> None:
    spec = silent_spec(quantize(active_network("LIFFireNet_short")))
    path = write(spec, tmp_path / "silent.onnx")
    b = ReferenceStream(path) if runner == "reference" else StatefulSession(path)
    steps = pairs(moving_counts(5, RESOLUTION))
    with pytest.raises(ParityError, match="no neuron fired in 5 steps"):
        parity.compare(StatefulSession(path), b, steps)


def test_empty_windows_of_an_active_network_are_refused(
    active_network: Make, tmp_path: Path
) -> None:
    model = active_network("LIFFireNet_short")
    with torch.no_grad():
        for _, layer in model.named_layers():
            layer.bias.zero_()
    path = write(quantize(model), tmp_path / "m.onnx")
    nothing = [np.zeros((1, 2, *RESOLUTION), np.uint8)] * 4
    with pytest.raises(ParityError, match="no neuron fired in 4 steps"):
        parity.compare(StatefulSession(path), StatefulSession(path), pairs(nothing))


# --- the command --------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return console.run(parity.main, [str(argument) for argument in arguments])


def test_command(active_network: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_scene(SceneConfig.random(3, (24, 32), 0.4), tmp_path / "scene.h5")
    spec = quantize(active_network("LIFFireNet_short"))
    a = write(spec, tmp_path / "a.onnx", free=True)
    b = write(shifted(spec, "head", 1, -8), tmp_path / "b.onnx", free=True)
    quiet = write(silent_spec(spec), tmp_path / "quiet.onnx", free=True)
    out = tmp_path / "parity.json"
    assert run(a, a, "--data", scene, "--b-library", "never", "--json", out) == 0
    assert "equal:" in capsys.readouterr().out and json.loads(out.read_text())["equal"]
    assert run(a, b, "--data", scene) == 1
    assert "layer head, channel 1" in capsys.readouterr().out
    assert run(quiet, quiet, "--data", scene) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "no neuron fired" in lines[0]

"""Quantized checkpoints: everything comes back, and nothing wrong gets in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from models import save_checkpoint
from quant import (
    HybridNetwork,
    IntegerNetwork,
    LayerOptions,
    NetworkSpec,
    QuantError,
    QuantOptions,
    calibrate,
    is_quantized_checkpoint,
    load_spec,
    network_of,
    quantize,
    save_spec,
)
from quant.checkpoint import FORMAT

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def spec(active_network: Make, moving_counts: Make) -> NetworkSpec:
    model = active_network("LIFFireNet_short", reset="subtract", channels=4)
    model.checkpoint_sha256 = "abc"
    windows = [torch.from_numpy(window).float() for window in moving_counts(8, (16, 20))]
    options = QuantOptions(4, 16, current="uint8", layers={"G1": LayerOptions(8, 8, -2)})
    return quantize(model, options, calibrate(model, windows))


def flat(spec: NetworkSpec) -> dict[str, Any]:
    """Every field by a name."""
    values: dict[str, Any] = {}
    for part in (*spec.layers, spec):
        for key, value in vars(part).items():
            name = f"{getattr(part, 'name', '')}.{key}"
            if hasattr(value, "x_max"):
                values |= {f"{name}.{field}": item for field, item in vars(value).items()}
            elif key != "layers":
                values[name] = value
    return values


@pytest.mark.parametrize("current", ["uint8", "accumulator"])
def test_everything_comes_back(
    current: str, spec: NetworkSpec, active_network: Make, tmp_path: Path
) -> None:
    if current == "accumulator":
        spec = quantize(active_network())
    path = save_spec(spec, tmp_path / "q.safetensors")
    loaded = load_spec(path)
    before, after = flat(spec), flat(loaded)
    assert list(before) == list(after) and len(before) > 50
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key, strict=True)
    again = save_spec(loaded, tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_files_without_bits_of_layers_and_neurons(spec: NetworkSpec, tmp_path: Path) -> None:
    """Older ones: every layer has the network's bits, and neurons are integer."""

    def age(header: dict[str, Any]) -> None:
        del header["neuron"]
        for row in header["layers"]:
            del row["weight_bits"]

    assert [layer.weight_bits for layer in spec.layers] == [4, 8, 4, 4, 4]
    old = load_spec(damaged(spec, tmp_path / "q.safetensors", change=age))
    assert old.neuron == "integer" and {layer.weight_bits for layer in old.layers} == {8}
    again = [replace(layer, weight_bits=8) for layer in spec.layers]
    for one, other in zip(again, old.layers, strict=True):
        np.testing.assert_array_equal(one.conv.weight, other.conv.weight)
        assert (one.frac_bits, one.current_scale) == (other.frac_bits, other.current_scale)


def test_the_neuron_is_remembered(active_network: Make, tmp_path: Path) -> None:
    spec = quantize(active_network("LIFFireNet_short"), QuantOptions(neuron="float"))
    loaded = load_spec(save_spec(spec, tmp_path / "q.safetensors"))
    assert loaded.neuron == "float" and isinstance(network_of(loaded), HybridNetwork)
    with pytest.raises(QuantError, match="has float neurons; HybridNetwork computes it"):
        IntegerNetwork(loaded)


def test_the_loaded_network_runs(spec: NetworkSpec, moving_counts: Make, tmp_path: Path) -> None:
    loaded = load_spec(save_spec(spec, tmp_path / "q.safetensors"))
    states = expected = None
    for events in moving_counts(6, (9, 10)):
        expected = IntegerNetwork(spec).step(torch.from_numpy(events), expected and expected.states)
        states = IntegerNetwork(loaded).step(torch.from_numpy(events), states and states.states)
    assert states is not None and expected is not None
    assert torch.equal(states.flow_acc, expected.flow_acc) and bool(states.flow_acc.any())


def test_what_is_a_quantized_checkpoint(
    spec: NetworkSpec, active_network: Make, tmp_path: Path
) -> None:
    path = save_spec(spec, tmp_path / "q.safetensors")
    plain = save_checkpoint(active_network("LIFFireNet_short"), tmp_path / "f.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    assert is_quantized_checkpoint(path)
    assert not is_quantized_checkpoint(plain)
    assert not is_quantized_checkpoint(tmp_path / "text.safetensors")
    assert not is_quantized_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(QuantError, match=r"f\.safetensors: no quantized checkpoint; .*quant\.ptq"):
        load_spec(plain)
    with pytest.raises(QuantError, match=r"text\.safetensors: not a readable safetensors file"):
        load_spec(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError):
        load_spec(tmp_path / "absent.safetensors")


# --- damage --------------------------------------------------------------------------------------


def damaged(
    spec: NetworkSpec,
    path: Path,
    tensors: dict[str, Any] | None = None,
    change: Callable[[dict[str, Any]], Any] | None = None,
    key: str = FORMAT,
) -> Path:
    """The checkpoint with some tensors exchanged (None removes one) and its header changed."""
    save_spec(spec, path)
    with safetensors.safe_open(path, framework="np") as file:
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()[FORMAT])
    content = {k: v for k, v in (content | (tensors or {})).items() if v is not None}
    if change is not None:
        change(header)
    safetensors.numpy.save_file(content, path, {key: json.dumps(header)})
    return path


def c(value: int, dtype: type[np.generic] = np.int32) -> Any:
    return np.full(4, value, dtype)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"G1.weight": None}, "missing tensor 'G1.weight'"),
        ({"G1.extra": c(1)}, "unexpected tensor 'G1.extra'"),
        ({"G1.decay": c(1, np.int64)}, "tensor 'G1.decay' is int64, expected int32"),
        ({"G1.decay": c(257)}, r"G1\.decay's range is \(257, 257\), expected 0 to 256"),
        ({"G1.decay": c(-1)}, r"G1\.decay's range is \(-1, -1\)"),
        ({"G1.decay": np.zeros(3, np.int32)}, r"G1\.decay's shape is \(3,\), expected \[4\]"),
        ({"G1.threshold": c(128)}, r"G1\.threshold's range is \(128, 128\), expected 0 to 127"),
        ({"head.threshold": c(-1)}, r"head\.threshold's range .* expected 0 to 32767"),
        ({"head.weight_scale": c(0, np.float64)}, r"head\.weight_scale is .*positive numbers"),
        ({"head.weight_scale": c(1, np.float64) * np.nan}, r"head\.weight_scale is .*positive"),
        ({"head.weight_scale": c(1, np.float64) * 1e-60}, r"head\.weight_scale is .*positive"),
        ({"pred.weight": np.full((2, 4, 1, 1), -128, np.int8)}, r"pred\.weight's range .* -127 to"),
        (
            {"pred.weight": np.ones((2, 3, 1, 1), np.int8)},
            r"pred\.weight's shape .* \[C, 4, k, k\]",
        ),
        ({"pred.weight": np.ones((3, 4, 1, 1), np.int8)}, r"pred\.bias's shape|pred\.weight is"),
        ({"head.weight": np.ones((4, 2, 2, 2), np.int8)}, r"head\.weight's shape .* an odd k"),
        ({"head.bias": c(2**31 - 1)}, "head's largest sum is"),
        ({"G1.weight_rec": np.ones((4, 3, 3, 3), np.int8)}, r"G1\.weight_rec's shape"),
    ],
)
def test_damaged_tensors(
    tensors: dict[str, Any], message: str, spec: NetworkSpec, tmp_path: Path
) -> None:
    path = damaged(spec, tmp_path / "q.safetensors", tensors)
    with pytest.raises(QuantError, match=message) as error:
        load_spec(path)
    assert str(error.value).startswith(f"{path}: ")


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


def drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        for key in keys[:-1]:
            header = header[key]
        del header[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("num_bins"), "the metadata has no 'num_bins'"),
        (put("num_bins", value=3), r"head\.weight's shape .* \[C, 3, k, k\]"),
        (put("num_bins", value=True), "has num_bins = True, expected int"),
        (put("more", value=1), "the metadata has an unknown field 'more'"),
        (put("encoding", value="voxel"), "encoding is 'voxel', expected cnt"),
        (put("flow_scaling", value=0), "flow_scaling is 0.0"),
        (put("flow_scaling", value="x"), "flow_scaling = 'x', expected a number"),
        (put("weight_bits", value=9), "weight bits must be 2 to 8, got 9"),
        (put("weight_bits", value=4), r"G1\.weight_bits is 8, expected 2 to 4"),
        (put("layers", 1, "weight_bits", value=4), r"G1\.weight's range .* expected -7 to 7"),
        (put("layers", 1, "weight_bits", value=1), r"G1\.weight_bits is 1, expected 2 to 8"),
        (put("layers", 1, "weight_bits", value="8"), "has weight_bits = '8', expected int"),
        (put("neuron", value="soft"), "neuron is 'soft', expected integer or float"),
        (
            put("neuron", value="float"),
            r"head\.current is 'uint8', expected accumulator: the neuro",
        ),
        (put("layers", value=[]), "unexpected tensor 'G1.bias'"),
        (put("layers", 1, value=7), "layer 1 is no JSON object"),
        (put("layers", 1, "name", value="head"), "unexpected tensor|missing tensor|each name once"),
        (put("layers", 1, "mem_bits", value=12), "layer 'G1': membrane bits must be 8 or 16"),
        (put("layers", 1, "frac_bits", value=7), "layer 'G1': fractional bits must be -15 to 6"),
        (put("layers", 1, "frac_bits", value=1.0), "layer 'G1' has frac_bits = 1.0, expected int"),
        (put("layers", 1, "reset", value="soft"), r"G1\.reset is 'soft', expected one of zero"),
        (put("layers", 1, "current", value="int4"), r"G1\.current is 'int4'"),
        (put("layers", 1, "current", value="accumulator"), r"G1\.current_scale is .*none with"),
        (put("layers", 1, "current_scale", value=None), r"G1\.current_scale is None"),
        (put("layers", 1, "current_scale", value=0.1), r"G1\.current_scale is 0\.1, .*float32"),
        (put("layers", 1, "current_scale", value=-1.0), r"G1\.current_scale is -1\.0"),
        (
            put("layers", 1, "current_scale", value="1"),
            "has current_scale = '1', expected a number",
        ),
        (put("layers", 1, "stride", value=2), r"G1\.stride is 2, expected 1: it is recurrent"),
        (put("layers", 0, "x_max", value=0), r"head\.x_max is 0, expected 1 to 255"),
        (put("layers", 0, "stride", value=0), r"head\.stride is 0"),
    ],
)
def test_damaged_headers(
    change: Callable[[dict[str, Any]], Any], message: str, spec: NetworkSpec, tmp_path: Path
) -> None:
    path = damaged(spec, tmp_path / "q.safetensors", change=change)
    with pytest.raises(QuantError, match=message):
        load_spec(path)


def test_another_schema(spec: NetworkSpec, tmp_path: Path) -> None:
    path = damaged(spec, tmp_path / "q.safetensors", key="spikedeploy-quantized-2")
    assert is_quantized_checkpoint(path)
    with pytest.raises(QuantError, match=r"unknown schema 'spikedeploy-quantized-2'; .* reads"):
        load_spec(path)
    save_spec(spec, path)
    with safetensors.safe_open(path, framework="np") as file:
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.numpy.save_file(content, path, {FORMAT: "{"})
    with pytest.raises(QuantError, match="the metadata is no JSON"):
        load_spec(path)


def test_nothing_wrong_is_written(spec: NetworkSpec, tmp_path: Path) -> None:
    layer = spec.layers[0]
    wrong = replace(spec, layers=(replace(layer, decay=layer.decay + 300), *spec.layers[1:]))
    path = tmp_path / "q.safetensors"
    with pytest.raises(QuantError, match=r"head\.decay's range"):
        save_spec(wrong, path)
    assert not list(tmp_path.iterdir())

"""Checkpoint files: our own form, damaged files, and files that would run code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from models import (
    TOPOLOGIES,
    CheckpointError,
    ModelConfig,
    SpikingFireNet,
    detach,
    load_checkpoint,
    save_checkpoint,
    shipped_checkpoint,
    shipped_checkpoints,
    untrained,
)
from models.checkpoint import FORMAT


def network(**config: Any) -> SpikingFireNet:
    torch.manual_seed(7)
    model = untrained("LIFFireNet_short", **{"channels": 4, **config})
    with torch.no_grad():
        for _, layer in model.named_layers():
            layer.bias.normal_()
    return model


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_round_trip(name: str, reset: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(name, "voxel", 5, 3, 5, reset, 64.0)
    model = SpikingFireNet(config)
    path = save_checkpoint(model, tmp_path / "own.safetensors")
    back = load_checkpoint(path)
    assert back.config == config and not back.training
    assert back.checkpoint_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())


def test_clamped_parameters_are_written_as_used(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model.layers["G1"].beta[0], model.layers["G1"].threshold[1] = 1.5, -2.0
    back = load_checkpoint(save_checkpoint(model, tmp_path / "c.safetensors"))
    assert back.layers["G1"].beta[0].item() == 1.0
    assert back.layers["G1"].threshold[1].item() == pytest.approx(0.01)


def test_an_unfolded_norm_is_not_lost(tmp_path: Path) -> None:
    """Saving a network that still normalises would drop the norm without a word."""
    model = SpikingFireNet(ModelConfig("LIFFireNet_short", channels=4), norm="batch")
    with pytest.raises(CheckpointError, match=r"layer 'head'.*folded"):
        save_checkpoint(model, tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(model.folded(), tmp_path / "c.safetensors")


def test_folded_network_leaves_the_original_alone() -> None:
    model = SpikingFireNet(ModelConfig("LIFFireNet_short", channels=4), norm="batch")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = model.folded()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(layer.norm is None for _, layer in folded.named_layers())
    assert all(layer.norm is not None for _, layer in model.named_layers())


# --- writing ------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint(network(), tmp_path / "c.safetensors")
    before = path.read_bytes()

    def broken(tensors: object, target: str, metadata: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(network(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_the_file_appears_in_one_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the content is written, the final name does not exist yet."""
    path, seen = tmp_path / "c.safetensors", []
    real = os.replace

    def watched(source: Any, target: Any) -> None:
        seen.append((Path(target), path.exists(), Path(source).stat().st_size > 1000))
        real(source, target)

    monkeypatch.setattr(os, "replace", watched)
    save_checkpoint(network(), path)
    assert seen == [(path, False, True)]


def test_others_may_read_the_file(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        path = save_checkpoint(network(), tmp_path / "c.safetensors")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644


# --- files that are not what they should be -----------------------------------------------------


def own_file(tmp_path: Path, config: Any = None, **tensors: torch.Tensor | None) -> Path:
    """A file of our form, with its configuration or some tensors replaced (None: left out)."""
    path = save_checkpoint(network(), tmp_path / "own.safetensors")
    content: dict[str, Any] = safetensors.torch.load_file(path)
    for key, value in tensors.items():
        content[key] = value
    content = {key: value for key, value in content.items() if value is not None}
    values = network().config._asdict() if config is None else config
    text = values if isinstance(values, str) else json.dumps(values)
    safetensors.torch.save_file(content, path, {FORMAT: text})
    return path


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"G1.weight": None}, "missing key 'G1.weight'"),
        ({"G1.extra": torch.zeros(1)}, "unexpected key 'G1.extra'"),
        ({"R1a.weight_rec": torch.zeros(4, 4, 3, 3)}, "unexpected key 'R1a.weight_rec'"),
        ({"G1.bias": torch.zeros(5)}, r"'G1.bias' has shape \(5,\), expected \(4,\)"),
        ({"G1.bias": torch.full((4,), float("nan"))}, "'G1.bias' holds values that are not finite"),
        ({"G1.beta": torch.full((4,), 1.01)}, "'G1.beta' holds decays outside 0..1"),
        ({"G1.threshold": torch.zeros(4)}, "'G1.threshold' holds thresholds that are not positive"),
    ],
)
def test_own_form_with_wrong_tensors(
    tensors: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(own_file(tmp_path, **tensors))


def changed(**values: Any) -> dict[str, Any]:
    return {**network().config._asdict(), **values}


@pytest.mark.parametrize(
    "config",
    [
        "no json",
        "[]",
        "null",
        changed(model="LIFFireNet_tall"),
        changed(reset="soft"),
        changed(encoding="frames"),
        changed(num_bins=3),
        changed(kernel_size=4),
        changed(kernel_size=-3),
        changed(channels=-4),
        changed(channels=0),
        changed(channels="many"),
        changed(channels=4.0),
        changed(channels=10_000_000),
        changed(flow_scaling=float("nan")),
        changed(flow_scaling=0),
        changed(flow_scaling="128"),
        changed(surprise=1),
    ],
)
def test_own_form_with_a_wrong_configuration(config: Any, tmp_path: Path) -> None:
    path = own_file(tmp_path, config)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".pt", ".bin", ""])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(range(256)) * 40])
def test_damaged_files(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_files(suffix: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    tensors = safetensors.torch.load_file(own_file(tmp_path))
    if suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in tensors.items()})
    elif suffix == ".pth":
        torch.save(tensors, path)
    else:
        path.write_bytes((tmp_path / "own.safetensors").read_bytes())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(CheckpointError, match="cut"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_an_absent_file_is_an_ordinary_error(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / f"absent{suffix}")


@pytest.mark.parametrize(
    "content", [[], {}, {"a": 1}, {"state_dict": {"a": [1, 2]}}, torch.zeros(3), {3: torch.ones(1)}]
)
def test_files_of_something_else(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        load_checkpoint(tmp_path / "other.pth")


# --- pickles that run code ----------------------------------------------------------------------


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


class Module(nn.Module):
    """What ``torch.save(model)`` writes: a pickle of a class that is not ours."""

    def __init__(self, target: Path) -> None:
        super().__init__()
        self.payload = Payload(target)


def write_malicious(form: str, path: Path, target: Path) -> None:
    payload = Payload(target)
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    elif form == "legacy":
        torch.save(Module(target), path, _use_new_zipfile_serialization=False)
    elif form == "module":
        torch.save(Module(target), path)
    elif form == "inside":
        torch.save({"state_dict": {"head.leak": payload}}, path)
    else:
        array = np.empty(1, object)
        array[0] = payload
        np.savez(path, **{"head.leak": array})


@pytest.mark.parametrize("form", ["pickle", "legacy", "module", "inside", "array"])
@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors", ".pt"])
def test_nothing_is_executed(form: str, suffix: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / f"evil{suffix}"
    write_malicious(form, tmp_path / "evil.npz", target)
    (tmp_path / "evil.npz").rename(path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert not target.exists()
    if suffix == ".pth" and form == "module":
        assert "torch.save(model.state_dict()" in str(caught.value)


def test_the_payload_would_have_worked(tmp_path: Path) -> None:
    """The test above can fail: an unsafe load of the same file runs the code."""
    write_malicious("module", tmp_path / "evil.pth", tmp_path / "executed")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "executed").exists()


# --- names --------------------------------------------------------------------------------------


def test_unknown_names() -> None:
    with pytest.raises(CheckpointError, match=r"unknown model 'FireNet'; one of LIFFireNet"):
        untrained("FireNet")
    with pytest.raises(CheckpointError, match="no weights are shipped for 'FireNet'"):
        shipped_checkpoint("FireNet")


@pytest.mark.parametrize("config", [ModelConfig("X"), ModelConfig(num_bins=3)])
def test_impossible_networks(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match=r"unknown model|num_bins 2"):
        SpikingFireNet(config)


def test_detached_states_carry_no_gradient() -> None:
    model = network()
    _, states = model.step(torch.ones(1, 2, 6, 6))
    assert states["G1"].mem.requires_grad
    cut = detach(states)
    assert not cut["G1"].mem.requires_grad and torch.equal(cut["G1"].mem, states["G1"].mem)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    network = untrained("LIFFireNet_short", channels=4)
    files = [save_checkpoint(network, tmp_path / f"{n}.safetensors") for n in range(8)]
    assert len({path.read_bytes() for path in files}) == 1


def test_shipped_lookup_takes_the_most_channels_and_no_quantized_sibling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LIFFireNet-8", "LIFFireNet-32", "LIFFireNet-32.quantized", "LIFFireNet-64.z"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "LIFFireNet_short-16.safetensors").touch()
    monkeypatch.setattr("models.checkpoint.WEIGHTS", tmp_path)
    assert shipped_checkpoint() == tmp_path / "LIFFireNet-32.safetensors"
    names = [path.stem for path in shipped_checkpoints()]
    assert names == ["LIFFireNet-8", "LIFFireNet-32", "LIFFireNet_short-16"]

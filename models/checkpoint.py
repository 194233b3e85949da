"""Checkpoints in and out: our own safetensors form, event_flow state dicts, the snnTorch variant.

Every spiking source is brought to the canonical neuron (``u = beta*m + I``, fires on
``u > threshold``, state stored after the reset), so nothing downstream knows variants. What has no
exact canonical form is refused by the name of the offending key; nothing is approximated and
nothing is unpickled. Networks without spikes are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from models import canonical, foreign_analog
from models.analog import AnalogFireNet
from models.build import build_network
from models.errors import CheckpointError
from models.firenet import TOPOLOGIES, SpikingFireNet
from models.network import ModelConfig
from models.runs import resolve_checkpoint

FORMAT = "spikedeploy-1"
WEIGHTS = Path(__file__).parent / "weights"
_SHIPPED = re.compile(r"[A-Za-z_]+-\d+\.safetensors")
_CONTAINERS = ("model_state_dict", "state_dict")


def shipped_checkpoints() -> list[Path]:
    """Every shipped float network, by name and then by channels; quantized siblings are not here.

    Files are called ``MODEL-CHANNELS.safetensors``; what training on the integer grid made of one
    is ``MODEL-CHANNELS[.LABEL].quantized.safetensors`` beside it.
    """
    found = [path for path in WEIGHTS.glob("*.safetensors") if _SHIPPED.fullmatch(path.name)]
    return sorted(found, key=_name_and_channels)


def _name_and_channels(path: Path) -> tuple[str, int]:
    name, channels = path.stem.rsplit("-", 1)
    return name, int(channels)


def shipped_checkpoint(name: str = "LIFFireNet") -> Path:
    """Path of a shipped float checkpoint.

    Args:
        name: a model of the family; where several channel counts are shipped, the largest is meant.

    Raises:
        CheckpointError: none is shipped under this name.
    """
    shipped = shipped_checkpoints()
    found = [path for path in shipped if _name_and_channels(path)[0] == name]
    if not found:
        names = ", ".join(dict.fromkeys(_name_and_channels(path)[0] for path in shipped))
        raise CheckpointError(f"no weights are shipped for {name!r}; shipped: {names}")
    return found[-1]


def save_checkpoint(model: SpikingFireNet | AnalogFireNet, path: str | Path) -> Path:
    """Write a network, if spiking in canonical form; the file appears whole or not at all.

    Args:
        model: decays and thresholds are written as used (clamped).
        path: a ``.safetensors`` file.

    Raises:
        CheckpointError: a layer still has a batch norm, which this form does not hold.
    """
    path = Path(path)
    tensors = _canonical(model) if isinstance(model, SpikingFireNet) else _parameters(model)
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # One entry: the order of several would vary, and with it the bytes and the file's hash.
    metadata = {FORMAT: json.dumps(model.config._asdict())}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        safetensors.torch.save_file(plain, temporary, metadata)
        # mkstemp makes files private; give the result the permissions of any new file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _canonical(model: SpikingFireNet) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, layer in model.named_layers():
        if layer.norm is not None:
            raise CheckpointError(f"layer {name!r} has a batch norm; save model.folded()")
        tensors[f"{name}.weight"] = layer.weight
        if layer.weight_rec is not None:
            tensors[f"{name}.weight_rec"] = layer.weight_rec
        tensors[f"{name}.bias"] = layer.bias
        tensors[f"{name}.beta"] = layer.effective_beta()
        tensors[f"{name}.threshold"] = layer.effective_threshold()
    return tensors | {f"pred.{name}": value for name, value in model.pred.named_parameters()}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_checkpoint(path: str | Path) -> SpikingFireNet:
    """Read a checkpoint of any supported form into a canonical network in eval mode.

    Args:
        path: ``.safetensors`` (our form), or an event_flow / snnTorch state dict as ``.pth``,
            ``.pt``, ``.npz`` or ``.safetensors``.

    Returns:
        the network; its ``checkpoint_sha256`` is the hash of the file.

    Raises:
        CheckpointError: unreadable file, full-module pickle, unknown or missing key, a parameter
            without an exact canonical form, each by name; or a network without spikes.
        OSError: the file cannot be opened.
    """
    model = load_network(path)
    if isinstance(model, AnalogFireNet):
        raise CheckpointError(
            f"{path}: holds {model.config.model}, which is non-spiking; only spiking networks "
            f"({', '.join(TOPOLOGIES)}) will do here"
        )
    return model


def load_network(path: str | Path) -> SpikingFireNet | AnalogFireNet:
    """Read a checkpoint as :func:`load_checkpoint` does, of a network with spikes or without.

    Raises:
        CheckpointError, OSError: as there.
    """
    path = resolve_checkpoint(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    tensors, config = _read(path)
    try:
        if config is None:
            if (analog := foreign_analog.from_state_dict(tensors)) is None:
                config, tensors = canonical.from_state_dict(tensors)
            else:
                config, tensors = analog
        model = _build(config, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.checkpoint_sha256 = digest
    return model.eval()


def _read(path: Path) -> tuple[dict[str, Tensor], ModelConfig | None]:
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    return readers.get(path.suffix.lower(), _read_torch)(path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], ModelConfig | None]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    if FORMAT not in metadata:
        return tensors, None
    try:
        config = ModelConfig(**json.loads(metadata[FORMAT]))
        _check_config(config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata {FORMAT!r} is unusable ({error})") from None
    return tensors, config


def _check_config(config: ModelConfig) -> None:
    for name in ("num_bins", "channels", "kernel_size"):
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} is {value!r}, expected a positive whole number")
    scaling = config.flow_scaling
    if type(scaling) not in (int, float) or not 0 < scaling < math.inf:
        raise ValueError(f"flow_scaling is {scaling!r}, expected a positive number")


def _read_npz(path: Path) -> tuple[dict[str, Tensor], ModelConfig | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: torch.from_numpy(np.array(file[key])) for key in file.files}, None
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a readable npz of plain arrays ({error})") from None


def _read_torch(path: Path) -> tuple[dict[str, Tensor], ModelConfig | None]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception:
        # torch raises several types here; each means "not a plain dict of tensors".
        raise CheckpointError(
            f"{path}: no checkpoint, or not a plain state dict. A pickled module can run any code "
            "when it is loaded, so it is refused: in the project that made it, write "
            "torch.save(model.state_dict(), 'weights.pth') and load that file"
        ) from None
    for key in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not a state dict")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: key {key!r} is {type(value).__name__}, not a tensor")
    return content, None


def _build(config: ModelConfig, tensors: dict[str, Tensor]) -> SpikingFireNet | AnalogFireNet:
    try:
        # Without memory first: a file may claim any size.
        with torch.device("meta"):
            expected = _expected_shapes(build_network(config))
    except (ValueError, TypeError) as error:
        raise CheckpointError(str(error)) from None
    for key in tensors:
        if key not in expected:
            raise CheckpointError(f"unexpected key {key!r} for {config.model}")
    for key, shape in expected.items():
        if key not in tensors:
            raise CheckpointError(f"missing key {key!r} for {config.model}")
        if tuple(tensors[key].shape) != shape:
            given = tuple(tensors[key].shape)
            raise CheckpointError(f"key {key!r} has shape {given}, expected {shape}")
        if not bool(torch.isfinite(tensors[key]).all()):
            raise CheckpointError(f"key {key!r} holds values that are not finite")
    _check_neurons(tensors)
    model = build_network(config)
    with torch.no_grad():
        for key, parameter in _parameters(model).items():
            parameter.copy_(tensors[key])
    return model


def _parameters(model: SpikingFireNet | AnalogFireNet) -> dict[str, Tensor]:
    return {key.removeprefix("layers."): parameter for key, parameter in model.named_parameters()}


def _expected_shapes(model: SpikingFireNet | AnalogFireNet) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in _parameters(model).items()}


def _check_neurons(tensors: dict[str, Tensor]) -> None:
    for key, value in tensors.items():
        if key.endswith(".beta") and not bool(((value >= 0) & (value <= 1)).all()):
            raise CheckpointError(f"key {key!r} holds decays outside 0..1")
        if key.endswith(".threshold") and not bool((value > 0).all()):
            raise CheckpointError(f"key {key!r} holds thresholds that are not positive")


def untrained(name: str, **sizes: int) -> SpikingFireNet:
    """A freshly initialised network.

    Args:
        name: a model of the family.
        **sizes: further fields of :class:`models.firenet.ModelConfig`.

    Raises:
        CheckpointError: unknown name.
    """
    if name not in TOPOLOGIES:
        raise CheckpointError(f"unknown model {name!r}; one of {', '.join(TOPOLOGIES)}")
    return SpikingFireNet(ModelConfig(model=name, **sizes)).eval()  # type: ignore[arg-type]

"""Checkpoints of networks that train on their grid: float shadows and what the grid is made of.

From one of these training goes on; the integers that come out of it are a quantized checkpoint
(:mod:`quant.checkpoint`).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch

from calib_data.files import atomic_path
from models import ModelConfig
from models.runs import SHADOWS, resolve_checkpoint
from quant.errors import QuantError
from quant.layers import GridSettings, LayerSettings
from quant.network import QuantFireNet

FORMAT = "spikedeploy-qat-1"


def save_qat(model: QuantFireNet, path: str | Path) -> Path:
    """Write shadows and settings; the file appears whole or not at all."""
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    header = {
        "config": model.config._asdict(),
        "layers": {name: asdict(layer.settings) for name, layer in model.named_layers()},
        "head_bits": model.pred.conv.bits,
        "settings": asdict(model.settings),
        "checkpoint_sha256": model.checkpoint_sha256,
    }
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, {FORMAT: json.dumps(header)})
    return path


def load_qat(path: str | Path) -> QuantFireNet:
    """Read what :func:`save_qat` wrote; the network is in eval mode.

    Raises:
        QuantError: no such checkpoint, or parts of it that do not fit together.
        OSError: the file cannot be opened.
    """
    path = resolve_checkpoint(path, SHADOWS)
    with path.open("rb"):
        # safetensors reports a missing or unreadable file in its own words; this in the system's.
        pass
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise QuantError(f"{path}: not a readable safetensors file ({error})") from None
    if FORMAT not in metadata:
        raise QuantError(f"{path}: no checkpoint of quantization-aware training ({FORMAT!r})")
    try:
        model = _build(json.loads(metadata[FORMAT]))
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise QuantError(f"{path}: its contents do not fit together ({reason})") from None
    return model.eval()


def _build(header: dict[str, object]) -> QuantFireNet:
    rows, config = header["layers"], header["config"]
    if not isinstance(rows, dict) or not isinstance(config, dict):
        raise ValueError("layers and config must be JSON objects")
    settings, head_bits = header["settings"], header["head_bits"]
    if not isinstance(settings, dict) or type(head_bits) is not int:
        raise ValueError("settings must be a JSON object and head_bits a whole number")
    layers = {name: LayerSettings(**row) for name, row in rows.items()}
    model = QuantFireNet(ModelConfig(**config), layers, head_bits, GridSettings(**settings))
    model.checkpoint_sha256 = str(header["checkpoint_sha256"])
    return model

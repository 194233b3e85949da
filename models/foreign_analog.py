"""State dicts of event_flow's networks without spikes: other names, the same arithmetic.

Xu et al. (2024) trained recurrent layers of two convolutions whose activation had a threshold that
their published forward leaves out (``thre_acti_rec``); so it is left out here.
"""

from __future__ import annotations

from torch import Tensor

from models.analog import LAYERS, RECURRENT
from models.errors import CheckpointError
from models.network import ModelConfig

_UNUSED = "thre_acti_rec"
_NAMES = {"conv2d": "conv", "out_gate": "candidate"}


def _model(tensors: dict[str, Tensor]) -> str:
    if "G1.out_gate.weight" in tensors:
        return "FireNet"
    if "G1.rec.weight" in tensors:
        return "RNNFireNet" if "G1.out.weight" in tensors else "RNNFireNet_relu"
    return "FireFlowNet"


def from_state_dict(tensors: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]] | None:
    """Configuration and tensors under our names, or None where the network is not one of these.

    Args:
        tensors: key -> tensor, as event_flow names them.

    Raises:
        CheckpointError: the first layer's weight is not OIHW.
    """
    weight = tensors.get("head.conv2d.weight")
    if weight is None:
        return None
    if weight.ndim != 4:
        shape = tuple(weight.shape)
        raise CheckpointError(f"key 'head.conv2d.weight' has shape {shape}, expected OIHW")
    bins = weight.shape[1]
    config = ModelConfig(
        model=_model(tensors),
        encoding="cnt" if bins == 2 else "voxel",
        num_bins=bins,
        channels=weight.shape[0],
        kernel_size=weight.shape[2],
    )
    unused = {f"{layer}.{_UNUSED}" for layer in RECURRENT}
    if config.model != "RNNFireNet_relu":
        unused = set()
    return config, {_name(key): value for key, value in tensors.items() if key not in unused}


def _name(key: str) -> str:
    layer, _, rest = key.partition(".")
    part, _, parameter = rest.partition(".")
    if layer == "pred" and part == "conv2d":
        return f"pred.{parameter}"
    if layer in LAYERS:
        return f"{layer}.{_NAMES.get(part, part)}.{parameter}"
    return key

"""Foreign state dicts to canonical form, exactly or not at all.

* **event_flow** (Hagenaars et al., NeurIPS 2021): ``u = v*leak*(1-z_prev) + (1-leak)*conv(x)``,
  ``leak = sigmoid(parameter)``, threshold at least 0.01, hard reset applied one step later.
  Storing the state after its reset makes the delayed reset immediate; the gain moves into the
  threshold: ``beta = leak``, ``theta = threshold / (1 - leak)``, weights unchanged.
* **snnTorch** ``Leaky`` with ``reset_delay=False``: ``u = clamp(beta, 0, 1)*m + I``; resets "zero"
  and "none" are canonical, its "subtract" is not.
* **Batch norm** on the current, ``g*I + b``: g multiplies weights, b becomes the bias. The
  per-time-step variant is used with the mean of its step factors, which is what its authors' code
  computes. The membrane variant ``m' = g*m + b`` gives ``beta*g`` and adds ``beta*b`` to the bias;
  it starts from the state of a neuron that has just been reset. A membrane that it lifts above the
  threshold would be reset by snnTorch a second time, so norms that can do that are refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.errors import CheckpointError
from models.firenet import TOPOLOGIES
from models.lif import MIN_THRESHOLD
from models.network import ModelConfig
from models.norms import affine, is_decay

BATCH_NORM_EPS = 1e-5
MIN_LEAK_GAP = 2.0**-20
_RESET_VALUES = {1: "zero", 2: "none"}


class _Keys:
    """A state dict that remembers which keys were used."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._used: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def take(self, key: str) -> Tensor:
        """The tensor in float64."""
        if key not in self._tensors:
            raise CheckpointError(f"missing key {key!r}")
        self._used.add(key)
        return self._tensors[key].detach().to(torch.float64)

    def per_channel(self, key: str, channels: int) -> Tensor:
        """The tensor as [channels] values in float64; a single value serves every channel."""
        value = self.take(key).flatten()
        if len(value) not in (1, channels):
            raise CheckpointError(f"key {key!r} has {len(value)} values for {channels} channels")
        return value.expand(channels)

    def weight(self, key: str) -> Tensor:
        """A convolution's weight OIHW in float64."""
        value = self.take(key)
        if value.ndim != 4:
            raise CheckpointError(f"key {key!r} has shape {tuple(value.shape)}, expected OIHW")
        return value

    def ignore(self, key: str) -> None:
        self._used.add(key)

    def unused(self) -> list[str]:
        return [key for key in self._tensors if key not in self._used]


def from_state_dict(tensors: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Bring an event_flow or snnTorch state dict to canonical form.

    Args:
        tensors: key -> tensor, as these projects name them.

    Returns:
        the configuration read off the tensors and the canonical tensors, float32.

    Raises:
        CheckpointError: a key that is missing, unknown or has no exact canonical form.
    """
    keys = _Keys(tensors)
    model = _recognise(keys)
    canonical: dict[str, Tensor] = {}
    resets = set()
    for layer, recurrent in TOPOLOGIES[model]:
        convert = _event_flow_layer if f"{layer}.leak" in keys else _snntorch_layer
        reset, parameters = convert(keys, layer, recurrent)
        resets.add(reset)
        canonical |= {f"{layer}.{name}": value for name, value in parameters.items()}
    if len(resets) > 1:
        raise CheckpointError("its layers reset in different ways, which is not supported")
    canonical["pred.weight"] = keys.take("pred.conv2d.weight")
    canonical["pred.bias"] = keys.take("pred.conv2d.bias")
    for key in keys.unused():
        raise CheckpointError(f"key {key!r} has no canonical form")
    head = canonical["head.weight"]
    bins = head.shape[1]
    config = ModelConfig(
        model=model,
        encoding="cnt" if bins == 2 else "voxel",
        num_bins=bins,
        channels=head.shape[0],
        kernel_size=head.shape[2],
        reset=resets.pop(),
    )
    return config, {key: value.to(torch.float32) for key, value in canonical.items()}


def _recognise(keys: _Keys) -> str:
    for model, layers in TOPOLOGIES.items():
        present = all(
            f"{layer}.ff.weight" in keys and (f"{layer}.rec.weight" in keys) == recurrent
            for layer, recurrent in layers
        )
        if present and ("R1b.ff.weight" in keys) == ("R1b" in dict(layers)):
            return model
    first = next(iter(keys.unused()), "")
    raise CheckpointError(
        f"not a network of the LIFFireNet family (first key {first!r}); expected keys such as "
        "'head.ff.weight' with 'head.leak' (event_flow) or 'head.lif.beta' (snnTorch)"
    )


def _event_flow_layer(keys: _Keys, layer: str, recurrent: bool) -> tuple[str, dict[str, Tensor]]:
    parameters = _convolutions(keys, layer, recurrent)
    channels = parameters["weight"].shape[0]
    leak = torch.sigmoid(keys.per_channel(f"{layer}.leak", channels))
    if bool((1 - leak < MIN_LEAK_GAP).any()):
        raise CheckpointError(
            f"key '{layer}.leak' holds a leak closer to 1 than 2^-20; its gain vanishes"
        )
    threshold = keys.per_channel(f"{layer}.thresh", channels).clamp_min(MIN_THRESHOLD)
    keys.ignore(f"{layer}.act_width")
    parameters |= {
        "bias": torch.zeros_like(leak),
        "beta": leak,
        "threshold": threshold / (1 - leak),
    }
    return "zero", parameters


def _snntorch_layer(keys: _Keys, layer: str, recurrent: bool) -> tuple[str, dict[str, Tensor]]:
    parameters = _convolutions(keys, layer, recurrent)
    channels = parameters["weight"].shape[0]
    beta = keys.per_channel(f"{layer}.lif.beta", channels).clamp(0, 1)
    threshold = keys.per_channel(f"{layer}.lif.threshold", channels).clamp_min(MIN_THRESHOLD)
    reset = _snntorch_reset(keys, layer)
    gain, bias = _current_norm(keys, layer, channels)
    for name in ("weight", "weight_rec"):
        if name in parameters:
            parameters[name] = parameters[name] * gain.view(-1, 1, 1, 1)
    mem_gain, mem_shift = _membrane_norm(keys, layer, channels)
    if not is_decay(beta * mem_gain):
        raise CheckpointError(
            f"layer {layer!r}: its membrane batch norm gives a decay outside 0..1 "
            f"(key '{layer}.mpbn.bn.weight'), which the canonical neuron does not have"
        )
    # After a reset the membrane is at most the threshold, so this is the highest it can get.
    if reset == "zero" and bool(
        ((beta > 0) & (mem_gain * threshold + mem_shift > threshold)).any()
    ):
        raise CheckpointError(
            f"layer {layer!r}: its membrane batch norm can lift a membrane above the threshold "
            f"(key '{layer}.mpbn.bn.bias'), which snnTorch then resets again"
        )
    parameters |= {
        "bias": bias + beta * mem_shift,
        "beta": beta * mem_gain,
        "threshold": threshold,
    }
    # Older files repeat the neuron's parameters beside the effective `lif.` copies.
    for duplicate in ("beta", "threshold", "leak_raw", "thresh_raw"):
        keys.ignore(f"{layer}.{duplicate}")
    return reset, parameters


def _snntorch_reset(keys: _Keys, layer: str) -> str:
    factor = f"{layer}.lif.graded_spikes_factor"
    if factor in keys and bool((keys.take(factor) != 1).any()):
        raise CheckpointError(f"key {factor!r} is not 1; graded spikes have no canonical form")
    key = f"{layer}.lif.reset_mechanism_val"
    given = keys.take(key) if key in keys else torch.tensor(1)
    if given.numel() != 1:
        raise CheckpointError(f"key {key!r} has {given.numel()} values, expected one")
    value = int(given)
    if value not in _RESET_VALUES:
        raise CheckpointError(
            f"key {key!r} is {value}: snnTorch's reset 'subtract' recomputes the reset once the "
            "membrane passes twice the threshold and has no canonical form; train with 'zero'"
        )
    return _RESET_VALUES[value]


def _convolutions(keys: _Keys, layer: str, recurrent: bool) -> dict[str, Tensor]:
    weights = {"weight": keys.weight(f"{layer}.ff.weight")}
    if recurrent:
        weights["weight_rec"] = keys.weight(f"{layer}.rec.weight")
    return weights


def _affine(keys: _Keys, prefix: str, channels: int) -> tuple[Tensor, Tensor]:
    weight, bias, mean, variance = (
        keys.per_channel(f"{prefix}.{name}", channels)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    keys.ignore(f"{prefix}.num_batches_tracked")
    return affine(weight, bias, mean, variance, BATCH_NORM_EPS)


def _current_norm(keys: _Keys, layer: str, channels: int) -> tuple[Tensor, Tensor]:
    if f"{layer}.bn.p" in keys:
        step_factor = _step_factor(keys, f"{layer}.bn.p", channels)
        gain, shift = _affine(keys, f"{layer}.bn.bn", channels)
        return gain * step_factor, shift * step_factor
    if f"{layer}.bn.weight" in keys:
        return _affine(keys, f"{layer}.bn", channels)
    return torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)


def _step_factor(keys: _Keys, key: str, channels: int) -> Tensor:
    factors = keys.take(key)
    if factors.ndim == 0 or factors[:1].numel() != channels:
        shape = tuple(factors.shape)
        raise CheckpointError(f"key {key!r} has shape {shape}, expected [T, {channels}, 1, 1]")
    return factors.mean(0).flatten()


def _membrane_norm(keys: _Keys, layer: str, channels: int) -> tuple[Tensor, Tensor]:
    if f"{layer}.mpbn.bn.weight" in keys:
        return _affine(keys, f"{layer}.mpbn.bn", channels)
    return torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)

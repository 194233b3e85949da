"""Configurations of the research code this project's networks come from, brought to ours.

Two forms are known: that of event_flow (tudelft/event_flow, here "T") and that of its snnTorch fork
("S"). They share their sections ``data, model, spiking_neuron, loss, optimizer, metrics, loader,
vis, hot_filter``. Every key is moved to ours, or named as one without effect here, or refused with
the reason; nothing is dropped in silence. docs/training.md has the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, NamedTuple

from training.config import ConfigError, ModelSection

_OWN_SECTIONS = ("loader", "vis", "metrics", "spiking_neuron", "hot_filter")
SURROGATE_WIDTH = 10.0

_MOVED = {
    "experiment": "experiment",
    "data.path": "data.path",
    "data.mode": "data.mode",
    "data.window": "data.window",
    "model.name": "model.name",
    "model.encoding": "model.encoding",
    "model.round_encoding": "model.round_encoding",
    "model.norm_input": "model.norm_input",
    "model.num_bins": "model.num_bins",
    "model.base_num_channels": "model.base_num_channels",
    "model.kernel_size": "model.kernel_size",
    "model.mask_output": "loss.mask_output",
    "loss.flow_regul_weight": "loss.flow_regul_weight",
    "loss.clip_grad": "loss.clip_grad",
    "loss.overwrite_intermediate": "loss.overwrite_intermediate",
    "optimizer.name": "optimizer.name",
    "optimizer.lr": "optimizer.lr",
    "optimizer.momentum": "optimizer.momentum",
    "optimizer.weight_decay": "optimizer.weight_decay",
    "optimizer.nesterov": "optimizer.nesterov",
    "loader.n_epochs": "epochs",
    "loader.batch_size": "batch_size",
    "loader.seed": "seed",
    "hot_filter.enabled": "data.hot_filter.enabled",
    "hot_filter.max_px": "data.hot_filter.max_px",
    "hot_filter.min_obvs": "data.hot_filter.min_obvs",
    "hot_filter.max_rate": "data.hot_filter.max_rate",
}

# They steer evaluation, pictures or the machine.
_NO_EFFECT = (
    "data.window_eval",
    "model.exporting",
    "model.quantization.type",
    "metrics.name",
    "metrics.flow_scaling",
    "metrics.heat_map",
    "metrics.mag_threshold",
    "metrics.show_magnitude_overlay",
    "metrics.save_magnitude_map",
    "metrics.save_combined",
    "loader.gpu",
    "loader.output_crop",
    "loader.keep_gt_full_res",
    "vis.enabled",
    "vis.px",
    "vis.bars",
    "vis.activity",
    "vis.store",
    "vis.verbose",
    "vis.type",
    "vis.store_type",
    "vis.store_interval",
    "vis.v_scale",
    "vis.v_uniform",
)

_CONVERTED = (
    "data.window_loss",
    "model.activations",
    "model.quantization.enabled",
    "model.quantization.PTQ",
    "model.quantization.Conv_only",
    "model.tebn.enabled",
    "model.tebn.num_timesteps",
    "model.mpbn.enabled",
    "spiking_neuron.leak",
    "spiking_neuron.thresh",
    "spiking_neuron.learn_leak",
    "spiking_neuron.learn_thresh",
    "spiking_neuron.hard_reset",
    "loader.resolution",
    "loader.std_resolution",
    "loader.augment",
    "loader.augment_prob",
    "vis.store_grads",
)

# What those codes do without being told.
_THEIR_DEFAULTS: dict[str, Any] = {
    "loss.kind": "contrast",
    "loss.charbonnier": "sum",
    "loss.reduction": "sum",
    "loss.clip_grad": None,
    "optimizer.schedule": "constant",
    "optimizer.warmup_updates": 0,
    "optimizer.scale_head": False,
    "data.augment.horizontal": 0.0,
    "data.augment.vertical": 0.0,
    "data.augment.polarity": 0.0,
    "data.hot_filter.enabled": True,
    "batch_size": 1,
}

KNOWN = (*_MOVED, *_CONVERTED, *_NO_EFFECT)
_SNNTORCH_ONLY = ("loader.std_resolution", "loader.keep_gt_full_res", "model.exporting")
_SNNTORCH_SECTIONS = ("model.quantization.", "model.tebn.", "model.mpbn.")


class Converted(NamedTuple):
    """A configuration of ours and what a reader should know about how it came about."""

    content: dict[str, Any]
    warnings: list[str]


def is_research(content: Mapping[str, Any]) -> bool:
    """Whether a parsed YAML file has sections that only the research code has."""
    model = content.get("model")
    inside = isinstance(model, Mapping) and any(
        key in model for key in ("activations", "mask_output", "quantization", "tebn", "mpbn")
    )
    return inside or any(section in content for section in _OWN_SECTIONS)


def from_research(content: Mapping[str, Any]) -> Converted:
    """Bring a configuration of either form to ours; its values are validated later.

    Raises:
        ConfigError: an unknown key, with the nearest known one, or one without a counterpart.
    """
    values = _flat(content)
    for key in values:
        if key not in KNOWN:
            near = difflib.get_close_matches(key, KNOWN, n=1, cutoff=0.0)
            raise ConfigError(
                f"unknown key {key!r} of the research configuration; nearest known key: {near[0]!r}"
            )
    snntorch = any(key in _SNNTORCH_ONLY or key.startswith(_SNNTORCH_SECTIONS) for key in values)
    result = dict(_THEIR_DEFAULTS)
    warnings: list[str] = []
    for key, ours in _MOVED.items():
        if key in values:
            result[ours] = values[key]
    for convert in _CONVERSIONS:
        convert(values, result, warnings, snntorch)
    idle = [key for key in values if key in _NO_EFFECT]
    if idle:
        warnings.append(f"without effect here: {', '.join(idle)}")
    return Converted(_nested(result), warnings)


Values = Mapping[str, Any]
Result = dict[str, Any]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their full name; spiking_neuron stands at the top wherever it was."""
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}".removeprefix("model.") if key == "spiking_neuron" else prefix + key
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{name}.")
        elif value is not None or name in KNOWN:
            leaves[name] = value
    return leaves


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree


def _check_model(values: Values, result: Result, warnings: list[str], snntorch: bool) -> None:
    name = values.get("model.name", ModelSection().name)
    try:
        ModelSection(name=name)
    except ValueError:
        raise ConfigError(f"model.name: {name} of the research code is not offered here") from None


def _window_loss(values: Values, result: Result, warnings: list[str], snntorch: bool) -> None:
    """Events per back-propagation become windows; the research code stops at the first window
    that reaches their number."""
    mode, window = values.get("data.mode", "events"), values.get("data.window", 5000)
    result["data.mode"], result["data.window"] = mode, window
    events = values.get("data.window_loss")
    if events is None:
        return
    if mode != "events":
        raise ConfigError(
            f"data.window_loss: counts events, and windows of mode {mode} have no fixed number of "
            "them; give loss.window_loss, in windows, in a configuration of this project"
        )
    if not all(isinstance(value, int | float) and value > 0 for value in (events, window)):
        raise ConfigError("data.window_loss and data.window must be positive numbers")
    result["loss.window_loss"] = ceil(events / window)


def _activations(values: Values, result: Result, warnings: list[str], snntorch: bool) -> None:
    given = values.get("model.activations")
    if given is None:
        return
    names = {name for name in (given if isinstance(given, list) else [given]) if name is not None}
    if ModelSection(name=result.get("model.name", ModelSection().name)).spiking:
        if len(names) != 1:
            raise ConfigError(
                f"model.activations: {given} are different surrogates for feed-forward and "
                "recurrent cells; one serves all here"
            )
        result["model.surrogate"] = names.pop()
        result["model.surrogate_width"] = SURROGATE_WIDTH
    elif not names <= {"relu", "tanh"} or "relu" not in names:
        raise ConfigError(f"model.activations: the networks without spikes have relu, not {given}")


def _norm(values: Values, result: Result, warnings: list[str], snntorch: bool) -> None:
    time, membrane = (bool(values.get(f"model.{name}.enabled")) for name in ("tebn", "mpbn"))
    if time and membrane:
        raise ConfigError("model.tebn and model.mpbn: only one of them can be enabled here")
    result["model.norm"] = "batch" if snntorch else "none"
    if time:
        result["model.norm"] = "time"
        result["model.time_steps"] = values.get("model.tebn.num_timesteps", 4)
    if membrane:
        result["model.norm"] = "membrane"


def _quantization(values: Values, result: Result, warnings: list[str], snntorch: bool) -> None:
    if not values.get("model.quantization.enabled"):
        return
    if values.get("model.quantization.PTQ"):
        raise ConfigError(
            "model.quantization.PTQ: quantizes without training; use python -m quant.ptq"
        )
    result["quant.weight_bits"] = 8
    if values.get("model.quantization.Conv_only"):
        result["quant.neuron"] = "float"
    else:
        result["quant.mem_bits"], result["quant.current"] = 8, "uint8"
    result["optimizer.schedule"] = "plateau"
    warnings.append("model.quantization: the grid is this project's, see docs/quantization.md")


def _neurons(values: Values, result: Result, warnings: list[str], snntorch: bool) -> None:
    prefix = "model.spiking_neuron"
    for key, ours in (("learn_leak", "learn_leak"), ("learn_thresh", "learn_threshold")):
        if f"spiking_neuron.{key}" in values:
            result[f"{prefix}.{ours}"] = values[f"spiking_neuron.{key}"]
    if values.get("spiking_neuron.hard_reset", True) is not True:
        raise ConfigError(
            "spiking_neuron.hard_reset: the research code's soft reset has no exact canonical "
            "form; model.spiking_neuron.hard_reset of this project subtracts at once"
        )
    if not ModelSection(name=result.get("model.name", ModelSection().name)).spiking:
        return
    leak = values.get("spiking_neuron.leak")
    _check_leak(leak, snntorch)
    # Without values, the defaults of the two codes' cells.
    own_leak, own_threshold = ([0.0, 1.0], [0.0, 0.8]) if snntorch else ([-4.0, 0.1], [0.8, 0.0])
    result[f"{prefix}.distribution"] = "uniform" if snntorch else "event_flow"
    result[f"{prefix}.leak"] = own_leak if leak is None else leak
    result[f"{prefix}.threshold"] = values.get("spiking_neuron.thresh", own_threshold)
    if not snntorch:
        warnings.append(
            "spiking_neuron: neurons start where event_flow's would, and train in canonical form "
            "(decay and threshold themselves, not a sigmoid's argument)"
        )


def _check_leak(leak: Any, snntorch: bool) -> None:
    if leak is None:
        return
    try:
        low, high = (float(value) for value in leak)
    except (TypeError, ValueError):
        raise ConfigError(f"spiking_neuron.leak: expected two numbers, got {leak!r}") from None
    bounds = 0 <= low <= high <= 1
    if snntorch and not bounds:
        raise ConfigError(
            f"spiking_neuron.leak: {leak} are no bounds of a decay, which the other keys' form "
            "(std_resolution, quantization, tebn, mpbn) wants here"
        )
    if not snntorch and bounds:
        raise ConfigError(
            f"spiking_neuron.leak: {leak} may be bounds of the decay or mean and deviation of "
            "event_flow's raw leak; say which with model.spiking_neuron.distribution in a "
            "configuration of this project, or add loader.std_resolution for the former"
        )


def _size(values: Values, result: Result, warnings: list[str], snntorch: bool) -> None:
    size = values.get("loader.resolution", [180, 240])
    native = values.get("loader.std_resolution", size)
    for key, value in (("loader.resolution", size), ("loader.std_resolution", native)):
        whole = isinstance(value, list) and len(value) == 2
        if not whole or not all(type(side) is int and side > 0 for side in value):
            raise ConfigError(f"{key}: expected [height, width], got {value!r}")
    if native != size and result["data.mode"] != "events":
        raise ConfigError(
            f"loader.std_resolution: windows of mode {result['data.mode']} would be average-pooled "
            "to loader.resolution, which changes what counts mean; prepare recordings of that size"
        )
    result["data.crop"], result["data.sensor_resolution"] = min(size), native
    result["model.flow_scaling"] = float(max(size))
    if native != size or size[0] != size[1]:
        warnings.append(f"loader.resolution: random crops of {min(size)} pixels instead of {size}")


def _augmentation(values: Values, result: Result, warnings: list[str], snntorch: bool) -> None:
    names = values.get("loader.augment") or []
    probabilities = values.get("loader.augment_prob") or []
    if not isinstance(names, list) or not isinstance(probabilities, list):
        raise ConfigError("loader.augment and loader.augment_prob must be lists")
    if len(probabilities) < len(names):
        raise ConfigError("loader.augment_prob: needs a probability for each of loader.augment")
    for name, probability in zip(names, probabilities, strict=False):
        if name not in ("Horizontal", "Vertical", "Polarity"):
            raise ConfigError(
                f"loader.augment: {name!r} is not one of Horizontal, Vertical, Polarity"
            )
        result[f"data.augment.{name.lower()}"] = probability


def _gradients(values: Values, result: Result, warnings: list[str], snntorch: bool) -> None:
    if values.get("vis.store_grads"):
        result["logging.gradients"] = 1


_CONVERSIONS: tuple[Callable[[Values, Result, list[str], bool], None], ...] = (
    _check_model,
    _window_loss,
    _activations,
    _norm,
    _quantization,
    _neurons,
    _size,
    _augmentation,
    _gradients,
)

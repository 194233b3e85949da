"""Quantized checkpoints: a :class:`quant.spec.NetworkSpec` as one safetensors file.

The tensors are the integers themselves, and the float64 scales. Loading checks every one of them,
so whoever holds a NetworkSpec from a file needs no checks of its own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from calib_data.files import atomic_path
from models.runs import resolve_checkpoint
from quant.errors import QuantError
from quant.options import HEAD
from quant.spec import (
    CURRENTS,
    DECAY_UNIT,
    NEURONS,
    RESETS,
    ConvSpec,
    LayerSpec,
    NetworkSpec,
    check_frac_bits,
    membrane_limits,
    weight_limit,
)

FORMAT = "spikedeploy-quantized-1"
_PREFIX = "spikedeploy-quantized-"
_FLOW_CHANNELS = 2
_EXACT = "accumulator: the neurons are float"

Array = npt.NDArray[Any]
Value = TypeVar("Value")


def save_spec(spec: NetworkSpec, path: str | Path) -> Path:
    """Write a quantized network; the file appears whole or not at all.

    Args:
        spec: the integers.
        path: a ``.safetensors`` file.

    Raises:
        QuantError: integers that :func:`load_spec` would refuse.
    """
    path = Path(path)
    check_spec(spec)
    tensors: dict[str, Array] = {}
    for layer in spec.layers:
        tensors |= _conv_tensors(layer.name, layer.conv)
        if layer.weight_rec is not None:
            tensors[f"{layer.name}.weight_rec"] = layer.weight_rec
        tensors[f"{layer.name}.decay"] = layer.decay
        tensors[f"{layer.name}.threshold"] = layer.threshold
    tensors |= _conv_tensors(HEAD, spec.head)
    plain = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    # One entry: the order of several would vary, and with it the bytes and the file's hash.
    metadata = {FORMAT: json.dumps(_header(spec))}
    with atomic_path(path) as temporary:
        safetensors.numpy.save_file(plain, temporary, metadata)
    return path


def _conv_tensors(name: str, conv: ConvSpec) -> dict[str, Array]:
    return {
        f"{name}.weight": conv.weight,
        f"{name}.bias": conv.bias,
        f"{name}.weight_scale": conv.weight_scale,
    }


def _header(spec: NetworkSpec) -> dict[str, Any]:
    return {
        "model": spec.model,
        "encoding": spec.encoding,
        "num_bins": spec.num_bins,
        "flow_scaling": spec.flow_scaling,
        "weight_bits": spec.weight_bits,
        "neuron": spec.neuron,
        "checkpoint_sha256": spec.checkpoint_sha256,
        "layers": [
            {
                "name": layer.name,
                "stride": layer.conv.stride,
                "x_max": layer.conv.x_max,
                "recurrent": layer.weight_rec is not None,
                "frac_bits": layer.frac_bits,
                "mem_bits": layer.mem_bits,
                "reset": layer.reset,
                "current": layer.current,
                "current_scale": layer.current_scale,
                "weight_bits": layer.weight_bits,
            }
            for layer in spec.layers
        ],
        "head": {"stride": spec.head.stride, "x_max": spec.head.x_max},
    }


def is_quantized_checkpoint(path: str | Path) -> bool:
    """Whether the file is a safetensors file that says it holds a quantized network.

    A file that is missing or no safetensors file is not one; its reader tells what it is.

    Raises:
        CheckpointError: ``runs:ID`` that names no checkpoint.
    """
    path = resolve_checkpoint(path)
    try:
        return any(key.startswith(_PREFIX) for key in _read_metadata(path))
    except (OSError, QuantError):
        return False


def _read_metadata(path: Path) -> dict[str, str]:
    with path.open("rb"):
        # safetensors reports a missing or unreadable file in its own words; this in the system's.
        pass
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise QuantError(f"{path}: not a readable safetensors file ({error})") from None


def load_spec(path: str | Path) -> NetworkSpec:
    """Read a quantized network and check all of it.

    Raises:
        QuantError: no quantized checkpoint, an unknown schema, or a field or tensor that is
            missing, unknown, or out of its range, by name.
        OSError: the file cannot be opened.
    """
    path = resolve_checkpoint(path)
    metadata = _read_metadata(path)
    if FORMAT not in metadata:
        raise QuantError(f"{path}: {_not_ours(metadata)}")
    with safetensors.safe_open(path, framework="np") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    try:
        spec = _build(_Fields.parse(metadata[FORMAT]), tensors)
        check_spec(spec)
    except QuantError as error:
        raise QuantError(f"{path}: {error}") from None
    return spec


def _not_ours(metadata: dict[str, str]) -> str:
    others = [key for key in metadata if key.startswith(_PREFIX)]
    if others:
        return f"unknown schema {others[0]!r}; this version reads {FORMAT!r}"
    return "no quantized checkpoint; python -m quant.ptq makes one from a float checkpoint"


class _Fields:
    """A JSON object read field by field; what is left over is an error."""

    def __init__(self, what: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise QuantError(f"{what} is no JSON object")
        self.what, self._values = what, dict(values)

    @classmethod
    def parse(cls, text: str) -> _Fields:
        try:
            return cls("the metadata", json.loads(text))
        except ValueError as error:
            if isinstance(error, QuantError):
                raise
            raise QuantError(f"the metadata is no JSON ({error})") from None

    def take(self, key: str, kind: type[Value]) -> Value:
        value = self.take_any(key)
        if type(value) is not kind:
            raise QuantError(f"{self.what} has {key} = {value!r}, expected {kind.__name__}")
        return value

    def take_or(self, key: str, default: Value) -> Value:
        """A field that files of older versions lack."""
        return self.take(key, type(default)) if key in self._values else default

    def take_any(self, key: str) -> Any:
        if key not in self._values:
            raise QuantError(f"{self.what} has no {key!r}")
        return self._values.pop(key)

    def done(self) -> None:
        if self._values:
            raise QuantError(f"{self.what} has an unknown field {next(iter(self._values))!r}")


def _number(fields: _Fields, key: str) -> float:
    value = fields.take_any(key)
    if type(value) not in (int, float):
        raise QuantError(f"{fields.what} has {key} = {value!r}, expected a number")
    return float(value)


def _build(fields: _Fields, tensors: dict[str, Array]) -> NetworkSpec:
    rows, weight_bits = fields.take("layers", list), fields.take("weight_bits", int)
    layers = tuple(
        _layer(_Fields(f"layer {index}", row), tensors, weight_bits)
        for index, row in enumerate(rows)
    )
    head_fields = _Fields("the head", fields.take_any("head"))
    head = _conv(HEAD, head_fields, tensors)
    head_fields.done()
    spec = NetworkSpec(
        model=fields.take("model", str),
        encoding=fields.take("encoding", str),
        num_bins=fields.take("num_bins", int),
        flow_scaling=_number(fields, "flow_scaling"),
        weight_bits=weight_bits,
        layers=layers,
        head=head,
        checkpoint_sha256=fields.take("checkpoint_sha256", str),
        neuron=fields.take_or("neuron", "integer"),
    )
    fields.done()
    if tensors:
        raise QuantError(f"unexpected tensor {min(tensors)!r}")
    return spec


def _layer(fields: _Fields, tensors: dict[str, Array], weight_bits: int) -> LayerSpec:
    name = fields.take("name", str)
    fields.what = f"layer {name!r}"
    recurrent = fields.take("recurrent", bool)
    scale = fields.take_any("current_scale")
    if scale is not None and type(scale) is not float:
        raise QuantError(f"{fields.what} has current_scale = {scale!r}, expected a number or null")
    layer = LayerSpec(
        name=name,
        conv=_conv(name, fields, tensors),
        weight_rec=_tensor(tensors, f"{name}.weight_rec", np.int8) if recurrent else None,
        decay=_tensor(tensors, f"{name}.decay", np.int32),
        threshold=_tensor(tensors, f"{name}.threshold", np.int32),
        frac_bits=fields.take("frac_bits", int),
        mem_bits=fields.take("mem_bits", int),
        reset=fields.take("reset", str),
        current=fields.take("current", str),
        current_scale=scale,
        weight_bits=fields.take_or("weight_bits", weight_bits),
    )
    fields.done()
    return layer


def _conv(name: str, fields: _Fields, tensors: dict[str, Array]) -> ConvSpec:
    return ConvSpec(
        weight=_tensor(tensors, f"{name}.weight", np.int8),
        bias=_tensor(tensors, f"{name}.bias", np.int32),
        weight_scale=_tensor(tensors, f"{name}.weight_scale", np.float64),
        stride=fields.take("stride", int),
        x_max=fields.take("x_max", int),
    )


def _tensor(tensors: dict[str, Array], key: str, dtype: type[np.generic]) -> Array:
    if key not in tensors:
        raise QuantError(f"missing tensor {key!r}")
    value = tensors.pop(key)
    if value.dtype != dtype:
        raise QuantError(f"tensor {key!r} is {value.dtype}, expected {np.dtype(dtype)}")
    return value


# --- what holds for every network ----------------------------------------------------------------


def check_spec(spec: NetworkSpec) -> None:
    """Refuse integers that are no network.

    Raises:
        QuantError: the layer or field, what it holds, and what it may hold.
    """
    _demand(bool(spec.model), "model", spec.model, "a name")
    _demand(spec.encoding == "cnt", "encoding", spec.encoding, "cnt")
    _demand(spec.num_bins >= 1, "num_bins", spec.num_bins, "at least 1")
    scaling = spec.flow_scaling
    _demand(0 < scaling < math.inf, "flow_scaling", scaling, "a positive number")
    limit = weight_limit(spec.weight_bits)
    _demand(spec.neuron in NEURONS, "neuron", spec.neuron, " or ".join(NEURONS))
    names = [layer.name for layer in spec.layers]
    _demand(bool(names), "layers", names, "at least one")
    fan_in = spec.num_bins
    for layer in spec.layers:
        _demand(layer.name not in ("", HEAD), "a layer's name", layer.name, "a name of its own")
        _demand(names.count(layer.name) == 1, "layers", names, "each name once")
        few = 2 <= layer.weight_bits <= spec.weight_bits
        _demand(few, f"{layer.name}.weight_bits", layer.weight_bits, f"2 to {spec.weight_bits}")
        if spec.neuron == "float":
            _demand(layer.current == "accumulator", f"{layer.name}.current", layer.current, _EXACT)
        _check_layer(layer, fan_in, weight_limit(layer.weight_bits))
        fan_in = layer.channels
    _check_conv(HEAD, spec.head, fan_in, limit)
    shape = spec.head.weight.shape
    _demand(shape[0] == _FLOW_CHANNELS, f"{HEAD}.weight", shape, "two output channels")


def _demand(holds: bool, what: str, value: object, expected: str) -> None:
    if not holds:
        raise QuantError(f"{what} is {value!r}, expected {expected}")


def _check_conv(name: str, conv: ConvSpec, fan_in: int, limit: int) -> None:
    shape = conv.weight.shape
    square = len(shape) == 4 and shape[2] == shape[3] and shape[2] % 2 == 1
    fits = square and shape[0] >= 1 and shape[1] == fan_in
    _demand(fits, f"{name}.weight's shape", shape, f"[C, {fan_in}, k, k] with an odd k")
    _within(f"{name}.weight", conv.weight, (shape[0], fan_in, *shape[2:]), -limit, limit)
    _within(f"{name}.bias", conv.bias, (shape[0],), -(2**31), 2**31 - 1)
    _check_shape(f"{name}.weight_scale", conv.weight_scale, (shape[0],))
    # As float32, in which graphs hold it.
    with np.errstate(over="ignore", under="ignore"):
        scale = conv.weight_scale.astype(np.float32)
    usable = bool((np.isfinite(scale) & (scale > 0)).all())
    _demand(usable, f"{name}.weight_scale", conv.weight_scale.tolist(), "positive numbers")
    _demand(conv.stride >= 1, f"{name}.stride", conv.stride, "at least 1")
    _demand(1 <= conv.x_max <= 255, f"{name}.x_max", conv.x_max, "1 to 255")
    largest = conv.largest_sum()
    _demand(largest < 2**31, f"{name}'s largest sum", largest, "less than 2^31")


def _check_layer(layer: LayerSpec, fan_in: int, limit: int) -> None:
    name = layer.name
    _check_conv(name, layer.conv, fan_in, limit)
    if layer.weight_rec is not None:
        kernel = layer.conv.weight.shape[2]
        shape = (layer.channels, layer.channels, kernel, kernel)
        _within(f"{name}.weight_rec", layer.weight_rec, shape, -limit, limit)
        _demand(layer.conv.stride == 1, f"{name}.stride", layer.conv.stride, "1: it is recurrent")
        largest = layer.largest_sum()
        _demand(largest < 2**31, f"{name}'s largest sum", largest, "less than 2^31")
    channels = (layer.channels,)
    _within(f"{name}.decay", layer.decay, channels, 0, DECAY_UNIT)
    try:
        _, hi = membrane_limits(layer.mem_bits)
        check_frac_bits(layer.frac_bits, layer.mem_bits)
    except QuantError as error:
        raise QuantError(f"layer {name!r}: {error}") from None
    _within(f"{name}.threshold", layer.threshold, channels, 0, hi)
    _demand(layer.reset in RESETS, f"{name}.reset", layer.reset, f"one of {', '.join(RESETS)}")
    _check_current(layer)


def _check_current(layer: LayerSpec) -> None:
    name, scale = layer.name, layer.current_scale
    _demand(layer.current in CURRENTS, f"{name}.current", layer.current, " or ".join(CURRENTS))
    if layer.current == "accumulator":
        _demand(scale is None, f"{name}.current_scale", scale, "none with accumulator currents")
        return
    usable = scale is not None and 0 < scale < math.inf and float(np.float32(scale)) == scale
    _demand(usable, f"{name}.current_scale", scale, "a positive float32 number")


def _check_shape(what: str, value: Array, shape: tuple[int, ...]) -> None:
    _demand(value.shape == shape, f"{what}'s shape", value.shape, str(list(shape)))


def _within(what: str, value: Array, shape: tuple[int, ...], lo: int, hi: int) -> None:
    _check_shape(what, value, shape)
    low, high = int(value.min()), int(value.max())
    _demand(lo <= low and high <= hi, f"{what}'s range", (low, high), f"{lo} to {hi}")

"""What an artifact says about itself: the JSON in ``metadata_props["snn.artifact"]``.

Only the JSON is looked at here; whether the graph agrees with it is the matter of
``runtime.graph_checks``. Keys this version does not know are kept, so that a file written by a
newer exporter with the same schema survives a round trip.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from runtime.errors import ArtifactError

METADATA_KEY = "snn.artifact"
SCHEMA = 1

KINDS = ("float", "qdq", "int8")
ENCODINGS = ("cnt", "voxel")
ROLES = ("mem", "spike")
LAYOUTS = ("NCHW", "NHWC", "packed32")
DTYPES = ("float32", "int16", "int8", "uint8", "uint32")
EVENT_DTYPES = ("float32", "uint8")
RESETS = ("zero", "subtract", "none")
FREE_DIMENSIONS = ("N", "H", "W")

_STATE_DTYPES = {
    ("float", "mem"): ("float32",),
    ("float", "spike"): ("float32",),
    ("qdq", "mem"): ("float32", "int16", "int8"),
    ("qdq", "spike"): ("float32", "uint8", "uint32"),
    ("int8", "mem"): ("int16", "int8"),
    ("int8", "spike"): ("uint8", "uint32"),
}
_STATE_LIMITS = {"int16": 32767, "int8": 127}


@dataclass(frozen=True)
class State:
    """One recurrent tensor: fed as ``input`` at a step, returned as ``output`` by it.

    role: "mem" (membrane) or "spike" (the layer's previous spikes).
    shape: ints, or "N", "H", "W" where the file leaves the dimension free.
    init: the value of every element before the first step.
    """

    input: str
    output: str
    role: str
    layout: str
    dtype: str
    shape: tuple[int | str, ...]
    init: float = 0

    @property
    def layer(self) -> str:
        """Name of the layer: what follows the first dot of the input's name."""
        return self.input.partition(".")[2]

    def resolved_shape(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        """The shape with its free dimensions filled in."""
        free = {"N": batch, "H": height, "W": width}
        return tuple(d if isinstance(d, int) else free[d] for d in self.shape)

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "input": self.input,
            "output": self.output,
            "role": self.role,
            "layout": self.layout,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "init": self.init,
        }


@dataclass(frozen=True)
class Layer:
    """One spiking layer; the integer fields are None where the neuron computes in float32."""

    name: str
    recurrent: bool
    channels: int
    kernel: int
    stride: int
    reset: str
    frac_bits: int | None = None
    mem_bits: int | None = None
    weight_bits: int | None = None
    decay: tuple[int, ...] | None = None
    threshold: tuple[int, ...] | None = None
    weight_scale: tuple[float, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The layer as JSON values; absent integer fields are left out."""
        values: dict[str, Any] = {
            "name": self.name,
            "recurrent": self.recurrent,
            "channels": self.channels,
            "kernel": self.kernel,
            "stride": self.stride,
            "reset": self.reset,
        }
        for key in ("frac_bits", "mem_bits", "weight_bits"):
            if getattr(self, key) is not None:
                values[key] = getattr(self, key)
        for key in ("decay", "threshold", "weight_scale"):
            if getattr(self, key) is not None:
                values[key] = list(getattr(self, key))
        return values | dict(self.extra)


@dataclass(frozen=True)
class Artifact:
    """The metadata of one exported file.

    resolution: (H, W) the file was made for; nominal only where ``spatial_free``.
    flow_scaling: pixels per window for one unit of the ``flow`` output.
    head: what is recorded about the flow head (``weight_scale`` of its two channels in int8 files).
    events: element type of the ``events`` input where it is not the usual one of the kind.
    """

    model: str
    kind: str
    encoding: str
    num_bins: int
    resolution: tuple[int, int]
    spatial_free: bool
    flow_scaling: float
    states: tuple[State, ...]
    layers: tuple[Layer, ...]
    head: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_sha256: str = ""
    version: str = ""
    schema: int = SCHEMA
    extra: Mapping[str, Any] = field(default_factory=dict)
    events: str | None = None

    @property
    def event_dtype(self) -> npt.DTypeLike:
        """Element type of the ``events`` input: ``events``, else uint8 for int8 files and float32
        otherwise."""
        return np.dtype(self.events or ("uint8" if self.kind == "int8" else "float32"))

    @property
    def is_integer(self) -> bool:
        """Whether the file computes in integers up to the flow head's accumulator."""
        return self.kind == "int8"

    def layer(self, name: str) -> Layer:
        """The layer of that name; KeyError if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The artifact as JSON values, in the order they are written."""
        values: dict[str, Any] = {
            "schema": self.schema,
            "model": self.model,
            "kind": self.kind,
            "encoding": self.encoding,
            "num_bins": self.num_bins,
            "resolution": list(self.resolution),
            "spatial_free": self.spatial_free,
            "flow_scaling": self.flow_scaling,
            "states": [state.to_dict() for state in self.states],
            "layers": [layer.to_dict() for layer in self.layers],
            "head": dict(self.head),
            "checkpoint_sha256": self.checkpoint_sha256,
            "version": self.version,
        }
        if self.events is not None:
            values["events"] = self.events
        return values | dict(self.extra)

    def to_json(self) -> str:
        """The JSON text that goes into the file."""
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    @staticmethod
    def from_json(text: str, where: str = "artifact") -> Artifact:
        """Parse and check the JSON text; ``where`` names the file in messages.

        Raises ArtifactError for anything unknown, missing or out of range.
        """
        try:
            values = json.loads(text, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{where}: metadata is not JSON ({error}); export again") from error
        return _parse_artifact(_Reader(where, "metadata", values))

    @staticmethod
    def from_model(model: onnx.ModelProto, where: str = "model") -> Artifact:
        """Read the metadata of a loaded model (the graph itself is not checked here).

        Raises ArtifactError when the model has none, has it twice, or it is wrong.
        """
        texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
        if not texts:
            raise ArtifactError(
                f"{where}: no {METADATA_KEY!r} metadata, so this is not an artifact of this tool; "
                "export the checkpoint with export.float or export.qdq"
            )
        if len(texts) > 1:
            raise ArtifactError(f"{where}: {METADATA_KEY!r} metadata appears twice; export again")
        return Artifact.from_json(texts[0], where)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that is there twice, one reader would take the first, another the
    last."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("an object has one key twice")
    return values


class _Reader:
    """Typed access to one JSON object, with errors that name the file and the key."""

    def __init__(self, where: str, what: str, values: Any) -> None:
        self.where = where
        self.what = what
        if not isinstance(values, dict):
            raise self.error(f"is {type(values).__name__}, expected an object")
        self.values: dict[str, Any] = values
        self.seen: set[str] = set()

    def error(self, problem: str) -> ArtifactError:
        return ArtifactError(f"{self.where}: {self.what} {problem}; export the file again")

    def get(self, key: str, default: Any = ...) -> Any:
        self.seen.add(key)
        if key not in self.values:
            if default is ...:
                raise self.error(f"lacks {key!r}")
            return default
        return self.values[key]

    def text(self, key: str, default: Any = ...) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.error(f"has {key} = {value!r}, expected text")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise self.error(f"has {key} = {value!r}, expected one of {', '.join(choices)}")
        return value

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.error(f"has {key} = {value!r}, expected true or false")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        return self.checked_integer(key, self.get(key), low, high)

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        value = self.get(key, None)
        return None if value is None else self.checked_integer(key, value, low, high)

    def checked_integer(self, key: str, value: Any, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(f"has {key} = {value!r}, expected an integer in {low}..{high}")
        return value

    def number(self, key: str, default: Any = ...) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"has {key} = {value!r}, expected a number")
        if not math.isfinite(value):
            raise self.error(f"has {key} = {value!r}, expected a finite number")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.get(key)
        if not isinstance(value, list):
            raise self.error(f"has {key} of type {type(value).__name__}, expected a list")
        return value

    def integers(self, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
        values = self.items(key)
        if len(values) != count:
            raise self.error(f"has {len(values)} values in {key}, expected {count}")
        return tuple(self.checked_integer(key, value, low, high) for value in values)

    def scales(self, key: str, count: int) -> tuple[float, ...]:
        values = self.items(key)
        positive = all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and v > 0
            for v in values
        )
        if len(values) != count or not positive:
            raise self.error(f"has a wrong {key}: {count} positive numbers expected")
        return tuple(float(value) for value in values)

    def rest(self) -> dict[str, Any]:
        return {key: value for key, value in self.values.items() if key not in self.seen}


_MAX_SIZE = 1 << 16


def _parse_artifact(reader: _Reader) -> Artifact:
    schema = reader.get("schema")
    if schema != SCHEMA:
        raise ArtifactError(
            f"{reader.where}: metadata schema {schema!r} is not known, this version reads schema "
            f"{SCHEMA}; update the tool or export the file again"
        )
    kind = reader.choice("kind", KINDS)
    layers = tuple(
        _parse_layer(_Reader(reader.where, f"metadata of layer {number}", value), kind)
        for number, value in enumerate(reader.items("layers"))
    )
    states = tuple(
        _parse_state(_Reader(reader.where, f"metadata of state {number}", value), kind)
        for number, value in enumerate(reader.items("states"))
    )
    head = reader.get("head", {})
    if not isinstance(head, dict):
        raise reader.error("has a head that is no object")
    height, width = reader.integers("resolution", 2, 1, _MAX_SIZE)
    artifact = Artifact(
        model=reader.text("model"),
        kind=kind,
        encoding=reader.choice("encoding", ENCODINGS),
        num_bins=reader.integer("num_bins", 1, 1024),
        resolution=(height, width),
        spatial_free=reader.flag("spatial_free"),
        flow_scaling=reader.number("flow_scaling"),
        states=states,
        layers=layers,
        head=head,
        checkpoint_sha256=reader.text("checkpoint_sha256", ""),
        version=reader.text("version", ""),
        schema=SCHEMA,
        events=_parse_events(reader, kind),
        extra=reader.rest(),
    )
    _check_whole(reader, artifact)
    return artifact


def _parse_events(reader: _Reader, kind: str) -> str | None:
    """The element type of the events, where a qdq file says that it is not float32."""
    if kind != "qdq" or reader.get("events", None) is None:
        return None
    return reader.choice("events", EVENT_DTYPES)


def _parse_layer(reader: _Reader, kind: str) -> Layer:
    name = reader.text("name")
    reader.what = f"metadata of layer {name!r}"
    channels = reader.integer("channels", 1, _MAX_SIZE)
    common: dict[str, Any] = {
        "name": name,
        "recurrent": reader.flag("recurrent"),
        "channels": channels,
        "kernel": reader.integer("kernel", 1, 255),
        "stride": reader.integer("stride", 1, 255),
        "reset": reader.choice("reset", RESETS),
    }
    if kind == "int8" or (kind == "qdq" and "mem_bits" in reader.values):
        common["mem_bits"] = mem_bits = reader.integer("mem_bits", 8, 16)
        if mem_bits not in (8, 16):
            raise reader.error(f"has mem_bits = {mem_bits}, expected 8 or 16")
        common["frac_bits"] = reader.integer("frac_bits", -15, mem_bits - 1)
        common["weight_bits"] = reader.integer("weight_bits", 1, 8)
        common["decay"] = reader.integers("decay", channels, 0, 256)
        common["threshold"] = reader.integers("threshold", channels, 0, (1 << mem_bits - 1) - 1)
        common["weight_scale"] = reader.scales("weight_scale", channels)
    elif kind == "qdq":
        common["weight_bits"] = reader.optional_integer("weight_bits", 1, 8)
    return Layer(**common, extra=reader.rest())


def _parse_state(reader: _Reader, kind: str) -> State:
    name = reader.text("input")
    reader.what = f"metadata of state {name!r}"
    role = reader.choice("role", ROLES)
    dtype = reader.choice("dtype", DTYPES)
    allowed = _STATE_DTYPES[kind, role]
    if dtype not in allowed:
        raise reader.error(
            f"has dtype {dtype}, but {role} states of kind {kind} are {' or '.join(allowed)}"
        )
    init = reader.number("init", 0)
    limit = _STATE_LIMITS.get(dtype)
    if limit is not None and not -limit - 1 <= init <= limit:
        raise reader.error(f"has init = {init}, outside {dtype}")
    if dtype in ("uint8", "uint32") and init not in (0, 1):
        raise reader.error(f"has init = {init}, expected 0 or 1")
    if dtype != "float32" and init != int(init):
        raise reader.error(f"has init = {init}, expected an integer")
    return State(
        input=name,
        output=reader.text("output"),
        role=role,
        layout=reader.choice("layout", LAYOUTS),
        dtype=dtype,
        shape=_parse_shape(reader),
        init=init,
    )


def _parse_shape(reader: _Reader) -> tuple[int | str, ...]:
    shape: list[int | str] = []
    for dimension in reader.items("shape"):
        if isinstance(dimension, str):
            if dimension not in FREE_DIMENSIONS:
                raise reader.error(f"has free dimension {dimension!r}, expected N, H or W")
            shape.append(dimension)
        else:
            shape.append(reader.checked_integer("shape", dimension, 1, _MAX_SIZE))
    if len(shape) < 2:
        raise reader.error(f"has rank {len(shape)}, expected at least [N, C]")
    return tuple(shape)


def _check_whole(reader: _Reader, artifact: Artifact) -> None:
    """What only the parts together can show: names, pairs, free dimensions."""
    reader.what = "metadata"
    if artifact.encoding == "cnt" and artifact.num_bins != 2:
        raise reader.error(f"has {artifact.num_bins} bins, but counts (cnt) have 2")
    if artifact.flow_scaling <= 0:
        raise reader.error(f"has flow_scaling = {artifact.flow_scaling}, expected more than 0")
    for what, names in {
        "layer": [layer.name for layer in artifact.layers],
        "state input": [state.input for state in artifact.states],
        "state output": [state.output for state in artifact.states],
    }.items():
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise reader.error(f"names {what} {twice[0]!r} twice")
    _check_pairs(reader, artifact)
    if not artifact.spatial_free:
        for state in artifact.states:
            free = [d for d in state.shape if isinstance(d, str)]
            if free:
                raise reader.error(
                    f"fixes the resolution, but state {state.input!r} leaves {free[0]} free"
                )


def _check_pairs(reader: _Reader, artifact: Artifact) -> None:
    """Every layer has its membrane, every recurrent layer its spikes, and nothing is left over."""
    present = {(state.role, state.layer) for state in artifact.states}
    wanted = {("mem", layer.name) for layer in artifact.layers}
    wanted |= {("spike", layer.name) for layer in artifact.layers if layer.recurrent}
    for role, name in sorted(wanted - present):
        raise reader.error(f"lacks the state pair {role}.{name} -> {role}_out.{name}")
    for state in artifact.states:
        bits = artifact.layer(state.layer).mem_bits if (state.role, state.layer) in wanted else None
        if state.role == "mem" and bits is not None and state.dtype != f"int{bits}":
            raise reader.error(
                f"has state {state.input!r} of {state.dtype}, but mem_bits = {bits} for its layer"
            )
        if (state.role, state.layer) in wanted:
            _check_layout(reader, state, artifact.layer(state.layer))
        if (state.role, state.layer) not in wanted:
            raise reader.error(f"has state {state.input!r}, which belongs to no layer")
        expected = (f"{state.role}.{state.layer}", f"{state.role}_out.{state.layer}")
        if (state.input, state.output) != expected:
            raise reader.error(
                f"pairs state {state.input!r} with {state.output!r}, expected "
                f"{expected[0]!r} with {expected[1]!r}"
            )


def _check_layout(reader: _Reader, state: State, layer: Layer) -> None:
    """Packed spikes are words; where a state has four dimensions, its channels are the layer's."""
    packed = state.layout == "packed32"
    if packed != (state.dtype == "uint32") or (packed and state.role != "spike"):
        raise reader.error(
            f"has state {state.input!r} of {state.dtype} in layout {state.layout}; packed32 is for "
            "spikes in uint32 words, and uint32 for nothing else"
        )
    position = 1 if state.layout == "NCHW" else len(state.shape) - 1
    channels = -(-layer.channels // 32) if packed else layer.channels
    if state.shape[position] != channels:
        raise reader.error(
            f"has state {state.input!r} of shape {list(state.shape)} in layout {state.layout}, "
            f"expected {channels} at position {position} for {layer.channels} channels"
        )

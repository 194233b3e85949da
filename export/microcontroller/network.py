"""An integer artifact as a chain of layers, read from its graph.

Every integer comes from the graph as it stands: nothing is derived again. What the C code cannot
express is refused by the name of the layer or node.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, numpy_helper

from export.errors import ExportError
from runtime.artifact import LoadedModel
from runtime.graph_checks import EVENTS, FLOW, FLOW_ACC
from runtime.metadata import Artifact, Layer

Array = npt.NDArray[Any]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

COUNT_BYTE = 255
"""Largest count a byte holds; sums must fit 32 bits for it."""
FLOAT32_EXACT = 1 << 24
ZERO_POINT = 128
_MAX_KERNEL = 15
_RESERVED = frozenset({"events", "flow", "pred", "net", "arena", "layer"})


class BundleError(ExportError):
    """An artifact that has no form as C code for microcontrollers."""


@dataclass(frozen=True)
class Convolution:
    """Integers of a convolution that keeps the size: stride 1, padded by half its odd kernel.

    weight: int8 [Cout, Cin, k, k].
    """

    weight: Int8

    @property
    def inputs(self) -> int:
        """Input channels."""
        return int(self.weight.shape[1])

    @property
    def kernel(self) -> int:
        """Height and width."""
        return int(self.weight.shape[2])

    @property
    def reach(self) -> int:
        """Rows and columns it sees on each side."""
        return self.kernel // 2

    def largest_sums(self, largest_input: int) -> npt.NDArray[np.int64]:
        """Largest magnitude of the sum per output channel, without the bias, int64 [Cout]."""
        weights = np.abs(self.weight.astype(np.int64)).sum(axis=(1, 2, 3))
        return largest_input * weights


@dataclass(frozen=True)
class SpikingLayer:
    """One layer: sums of one or two convolutions, and a neuron per channel and pixel.

    name: in the artifact. identifier: the same as a name in C. convolution: of the layer before,
    or of the counts. recurrent: of the layer's own spikes of the step before, or None. bias,
    decay, threshold: int32 [C]. multiplier: float32 [C], where the sums are requantized to 8 bits
    with zero point 128 before the neuron, else None. mem_bits, frac_bits, reset: as in
    ``docs/artifact.md``.
    """

    name: str
    identifier: str
    convolution: Convolution
    recurrent: Convolution | None
    bias: Int32
    decay: Int32
    threshold: Int32
    multiplier: Float32 | None
    mem_bits: int
    frac_bits: int
    reset: str

    @property
    def channels(self) -> int:
        """Neurons per pixel."""
        return int(self.bias.size)


@dataclass(frozen=True)
class FlowHead:
    """The last convolution, to two channels: ``flow = tanh(sums * scale)``.

    bias: int32 [2]. scale: float32 [2].
    """

    convolution: Convolution
    bias: Int32
    scale: Float32

    def largest_sum(self) -> int:
        """Largest magnitude its sums can reach."""
        sums = self.convolution.largest_sums(1) + np.abs(self.bias.astype(np.int64))
        return int(sums.max())


@dataclass(frozen=True)
class Network:
    """Everything a bundle is written from. resolution: (height, width) in pixels."""

    artifact: Artifact
    resolution: tuple[int, int]
    layers: tuple[SpikingLayer, ...]
    head: FlowHead

    @property
    def bins(self) -> int:
        """Channels of the counts."""
        return self.artifact.num_bins


def read_network(loaded: LoadedModel, resolution: tuple[int, int] | None = None) -> Network:
    """Read an integer artifact.

    Args:
        loaded: a validated artifact of kind int8.
        resolution: (height, width) for a file that leaves the size free; without it, the nominal
            one of the metadata.

    Raises:
        BundleError: another kind of file, or something in it that has no C form here.
    """
    artifact, where = loaded.artifact, str(loaded.path)
    if artifact.kind != "int8":
        raise BundleError(
            f"{where}: a file of kind {artifact.kind}, and a bundle is made of integers; give "
            "model.int8.onnx, or export with --profile integer"
        )
    if artifact.encoding != "cnt":
        raise BundleError(
            f"{where}: encoding {artifact.encoding} has no integer form; export a network that "
            "takes event counts (cnt)"
        )
    if not artifact.layers:
        raise BundleError(f"{where}: the network has no spiking layer; export another")
    for state in artifact.states:
        if state.init != 0:
            raise BundleError(
                f"{where}: state {state.input!r} starts at {state.init}, and C code starts all of "
                "them at 0; export the file again"
            )
    size = _size(artifact, resolution, where)
    return _Reader(loaded.model, artifact, where).network(size)


def _size(artifact: Artifact, wanted: tuple[int, int] | None, where: str) -> tuple[int, int]:
    if wanted is None or artifact.resolution == wanted:
        return artifact.resolution
    if not artifact.spatial_free:
        height, width = artifact.resolution
        raise BundleError(
            f"{where}: made for {height} x {width} pixels; leave --resolution out, or export with "
            f"--resolution {wanted[0]} {wanted[1]}"
        )
    return wanted


def identifier(name: str) -> str:
    """A layer's name as part of names in C."""
    text = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    if not text or not text[0].isalpha() or text.lower() in _RESERVED:
        text = f"layer_{text}"
    return text[:40]


# What a tensor of the graph means.


@dataclass(frozen=True)
class _Counts:
    """The event counts."""


@dataclass(frozen=True)
class _Spikes:
    """Spikes of this step, by layer."""

    layer: str


@dataclass(frozen=True)
class _Previous:
    """Spikes of the step before, by layer."""

    layer: str


@dataclass(frozen=True)
class _Joined:
    """What a recurrent layer sees: the layer before, then its own spikes of the step before."""

    first: _Counts | _Spikes
    own: _Previous


@dataclass(frozen=True)
class _Membrane:
    """A membrane before (``after`` False) or after the step."""

    layer: str
    after: bool


@dataclass(frozen=True)
class _Sums:
    """Sums of convolutions, perhaps to be requantized."""

    first: _Counts | _Spikes
    convolution: Convolution
    own: _Previous | None
    recurrent: Convolution | None
    bias: Int32
    multiplier: Float32 | None = None


@dataclass(frozen=True)
class _Requantized:
    """``stage`` 0: bytes with a zero point; 1: the same in 32 bits. Without it, _Sums."""

    sums: _Sums
    stage: int


@dataclass(frozen=True)
class _Flow:
    """``stage`` 0: the accumulator times its scale; 1: the flow."""

    sums: _Sums
    scale: Float32
    stage: int


_Meaning = _Counts | _Spikes | _Previous | _Joined | _Membrane | _Sums | _Requantized | _Flow


@dataclass
class _Reader:
    model: onnx.ModelProto
    artifact: Artifact
    where: str
    constants: dict[str, Array] = field(default_factory=dict)
    meanings: dict[str, _Meaning] = field(default_factory=dict)
    layers: dict[str, SpikingLayer] = field(default_factory=dict)

    def network(self, resolution: tuple[int, int]) -> Network:
        for tensor in self.model.graph.initializer:
            self._keep(tensor.name, tensor)
        self.meanings[EVENTS] = _Counts()
        for state in self.artifact.states:
            before = _Membrane(state.layer, False) if state.role == "mem" else None
            self.meanings[state.input] = before or _Previous(state.layer)
            # A caller could replace a constant that is an input as well.
            self.constants.pop(state.input, None)
        for node in self.model.graph.node:
            self._node(node)
        self._check_states()
        head = self._head()
        return Network(self.artifact, resolution, tuple(self.layers.values()), head)

    def _keep(self, name: str, tensor: onnx.TensorProto) -> None:
        try:
            self.constants[name] = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise self.error(f"tensor {name!r} is damaged ({error}); export again") from error

    def error(self, problem: str) -> BundleError:
        return BundleError(f"{self.where}: {problem}")

    def _label(self, node: NodeProto) -> str:
        op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        return f"node {node.name or node.output[0]!r} ({op})"

    def _unexpected(self, node: NodeProto, why: str) -> BundleError:
        return self.error(
            f"{self._label(node)} {why}; bundles take the graphs that export.qdq writes as "
            "model.int8.onnx, and with --profile integer or integer-nchw"
        )

    def _node(self, node: NodeProto) -> None:
        rules: Mapping[tuple[str, str], Callable[[NodeProto], _Meaning | None]] = {
            ("", "Constant"): self._constant,
            ("", "Concat"): self._concat,
            ("", "QLinearConv"): self._qlinear,
            ("", "Cast"): self._cast,
            ("", "Sub"): self._subtract,
            ("", "DequantizeLinear"): self._dequantize,
            ("", "Tanh"): self._tanh,
            ("snn", "PackSpikes"): self._same,
            ("snn", "UnpackSpikes"): self._same,
            ("snn", "QConv"): self._qconv,
            ("snn", "QLIF"): self._qlif,
            ("snn", "QConvLIF"): self._fused,
            ("snn", "QConvLIFRec"): self._fused_recurrent,
        }
        rule = rules.get((node.domain, node.op_type))
        if rule is None:
            raise self._unexpected(node, "is not part of such a network")
        meaning = rule(node)
        if meaning is not None:
            self.meanings[node.output[0]] = meaning

    def _array(self, node: NodeProto, position: int) -> Array:
        name = node.input[position]
        if name not in self.constants:
            raise self._unexpected(node, f"has no constant as input {position} ({name!r})")
        return self.constants[name]

    def _spread(self, node: NodeProto, position: int, count: int) -> Array:
        """A constant of one value, or of one per channel, as [count]."""
        array = self._array(node, position)
        if array.size != 1 and array.shape != (count,):
            raise self._unexpected(
                node, f"has {array.size} values as input {position}, expected 1 or {count}"
            )
        return np.broadcast_to(array.reshape(-1), (count,))

    def _meaning(self, node: NodeProto, position: int) -> _Meaning:
        name = node.input[position] if position < len(node.input) else ""
        if name not in self.meanings:
            raise self._unexpected(node, f"has input {position} ({name!r}) of unknown meaning")
        return self.meanings[name]

    def _constant(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "value":
                self._keep(node.output[0], attribute.t)
                return
        raise self._unexpected(node, "holds no tensor")

    def _same(self, node: NodeProto) -> _Meaning:
        return self._meaning(node, 0)

    def _concat(self, node: NodeProto) -> _Meaning:
        axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
        if len(node.input) == 2 and axes == [1]:
            first, own = self._meaning(node, 0), self._meaning(node, 1)
            if isinstance(first, _Counts | _Spikes) and isinstance(own, _Previous):
                return _Joined(first, own)
        raise self._unexpected(node, "joins other than an input and a layer's own spikes")

    def _convolution(self, node: NodeProto, weight: Array, *, geometry: bool = True) -> Convolution:
        kernel = weight.shape[2] if weight.ndim == 4 else 0
        if weight.dtype != np.int8 or weight.ndim != 4 or weight.shape[3] != kernel:
            raise self._unexpected(node, "has a weight that is not int8 [Cout, Cin, k, k]")
        if kernel % 2 == 0 or kernel > _MAX_KERNEL:
            raise self._unexpected(
                node, f"has a kernel of {kernel}; odd ones up to {_MAX_KERNEL} are supported"
            )
        if geometry:
            self._check_geometry(node, kernel)
        return Convolution(weight)

    def _check_geometry(self, node: NodeProto, kernel: int) -> None:
        given = {a.name: a for a in node.attribute}
        strides = list(given["strides"].ints) if "strides" in given else [1, 1]
        pads = list(given["pads"].ints) if "pads" in given else [0, 0, 0, 0]
        dilations = list(given["dilations"].ints) if "dilations" in given else [1, 1]
        group = given["group"].i if "group" in given else 1
        if strides != [1, 1]:
            raise self._unexpected(node, f"has strides {strides}; only stride 1 is supported")
        if pads != [kernel // 2] * 4 or dilations != [1, 1] or group != 1:
            raise self._unexpected(
                node, f"does not keep the image's size (pads {pads}, kernel {kernel})"
            )
        if "auto_pad" in given and given["auto_pad"].s not in (b"", b"NOTSET"):
            raise self._unexpected(node, "pads automatically")

    def _sums(
        self, node: NodeProto, weight: Array, bias: Array, multiplier: Float32 | None = None
    ) -> _Sums:
        source = self._meaning(node, 0)
        whole = self._convolution(node, weight)
        if isinstance(source, _Counts | _Spikes):
            sums = _Sums(source, whole, None, None, bias, multiplier)
        elif isinstance(source, _Joined):
            split = weight.shape[1] - self.artifact.layer(source.own.layer).channels
            if split < 1:
                raise self._unexpected(node, "has fewer channels than it joins")
            first, own = Convolution(weight[:, :split]), Convolution(weight[:, split:])
            sums = _Sums(source.first, first, source.own, own, bias, multiplier)
        else:
            raise self._unexpected(node, "convolves neither counts nor spikes")
        return self._checked(node, sums)

    def _checked(self, node: NodeProto, sums: _Sums) -> _Sums:
        channels = sums.convolution.weight.shape[0]
        wanted = (
            self.artifact.num_bins
            if isinstance(sums.first, _Counts)
            else self.artifact.layer(sums.first.layer).channels
        )
        if sums.convolution.inputs != wanted:
            raise self._unexpected(
                node, f"takes {sums.convolution.inputs} channels and is given {wanted}"
            )
        if sums.bias.dtype != np.int32 or sums.bias.shape != (channels,):
            raise self._unexpected(node, f"has a bias that is not int32 [{channels}]")
        bound = _largest(sums)
        limit = FLOAT32_EXACT if sums.multiplier is not None else 2**31 - 1 - 2**15
        if bound > limit:
            raise self._unexpected(
                node, f"can sum to {bound}, more than the {limit} that its arithmetic holds"
            )
        return sums

    def _qconv(self, node: NodeProto) -> _Meaning:
        return self._sums(node, self._array(node, 1), self._array(node, 2))

    def _qlinear(self, node: NodeProto) -> _Meaning:
        if len(node.input) != 9:
            raise self._unexpected(node, "has no bias")
        weight, bias = self._array(node, 3), self._array(node, 8)
        channels = weight.shape[0] if weight.ndim else 0
        x_zero, w_zero = self._spread(node, 2, 1), self._spread(node, 5, channels)
        y_zero = self._spread(node, 7, 1)
        if np.any(x_zero) or np.any(w_zero) or y_zero.dtype != np.uint8 or y_zero[0] != ZERO_POINT:
            raise self._unexpected(node, f"has zero points other than 0, 0 and {ZERO_POINT}")
        scales = [self._spread(node, 1, 1), self._spread(node, 4, channels)]
        scales.append(self._spread(node, 6, 1))
        x_scale, w_scale, y_scale = (scale.astype(np.float32) for scale in scales)
        # In float32 and in this order, as QLinearConv has it.
        with np.errstate(all="ignore"):
            multiplier: Float32 = x_scale * w_scale / y_scale
        if not bool((np.isfinite(multiplier) & (multiplier > 0)).all()):
            raise self._unexpected(node, "has scales that are not positive and finite")
        return _Requantized(self._sums(node, weight, bias, multiplier), 0)

    def _cast(self, node: NodeProto) -> _Meaning:
        source = self._meaning(node, 0)
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        if isinstance(source, _Requantized) and source.stage == 0 and to == onnx.TensorProto.INT32:
            return _Requantized(source.sums, 1)
        raise self._unexpected(node, "converts something else than a requantized current")

    def _subtract(self, node: NodeProto) -> _Meaning:
        source = self._meaning(node, 0)
        zero = self._array(node, 1)
        if isinstance(source, _Requantized) and source.stage == 1 and np.all(zero == ZERO_POINT):
            return source.sums
        raise self._unexpected(node, f"does not take the zero point {ZERO_POINT} off a current")

    def _qlif(self, node: NodeProto) -> None:
        sums = self._meaning(node, 0)
        if not isinstance(sums, _Sums):
            raise self._unexpected(node, "has an input that is no sum of a convolution")
        self._layer(node, sums, 1)

    def _fused(self, node: NodeProto) -> None:
        self._layer(node, self._sums(node, self._array(node, 1), self._array(node, 2)), 3)

    def _fused_recurrent(self, node: NodeProto) -> None:
        first = self._sums(node, self._array(node, 1), self._array(node, 2))
        own = self._meaning(node, 3)
        if not isinstance(own, _Previous) or first.own is not None:
            raise self._unexpected(node, "does not read a layer's spikes of the step before")
        recurrent = self._convolution(node, self._array(node, 4), geometry=False)
        sums = _Sums(first.first, first.convolution, own, recurrent, first.bias)
        self._layer(node, self._checked(node, sums), 5)

    def _layer(self, node: NodeProto, sums: _Sums, position: int) -> None:
        membrane = self._meaning(node, position)
        if not isinstance(membrane, _Membrane) or membrane.after:
            raise self._unexpected(node, "does not read a membrane of the step before")
        about = self.artifact.layer(membrane.layer)
        before = next(reversed(self.layers), None)
        source = sums.first.layer if isinstance(sums.first, _Spikes) else None
        if source != before or about.name in self.layers:
            raise self._unexpected(node, "is not next in a chain of layers")
        layer = self._spiking_layer(node, about, sums, position)
        self.layers[about.name] = layer
        self.meanings[node.output[0]] = _Spikes(about.name)
        self.meanings[node.output[1]] = _Membrane(about.name, True)

    def _spiking_layer(
        self, node: NodeProto, about: Layer, sums: _Sums, position: int
    ) -> SpikingLayer:
        own = sums.recurrent
        if sums.own is not None and sums.own.layer != about.name:
            raise self._unexpected(node, f"reads the spikes of {sums.own.layer!r} as its own")
        if (own is not None) != about.recurrent:
            raise self._unexpected(node, "is recurrent either in the graph or in the metadata")
        if sums.bias.size != about.channels:
            raise self._unexpected(node, f"has {sums.bias.size} of {about.channels} channels")
        if own is not None and own.weight.shape[:2] != (about.channels,) * 2:
            raise self._unexpected(node, "has a recurrent weight of another number of channels")
        if about.mem_bits is None or about.frac_bits is None:
            raise self._unexpected(node, "has no integer membrane in the metadata")
        name = identifier(about.name)
        if name in {layer.identifier for layer in self.layers.values()}:
            raise self.error(
                f"layer {about.name!r} has the name of another one in C ({name}); rename it"
            )
        return SpikingLayer(
            about.name,
            name,
            sums.convolution,
            own,
            sums.bias,
            self._array(node, position + 1).reshape(-1),
            self._array(node, position + 2).reshape(-1),
            sums.multiplier,
            about.mem_bits,
            about.frac_bits,
            about.reset,
        )

    def _dequantize(self, node: NodeProto) -> _Meaning:
        sums = self._meaning(node, 0)
        if not isinstance(sums, _Sums) or node.input[0] != FLOW_ACC:
            raise self._unexpected(node, f"dequantizes something else than {FLOW_ACC}")
        scale = self._spread(node, 1, 2).astype(np.float32)
        zero = self._spread(node, 2, 2) if len(node.input) > 2 else np.zeros(1)
        if np.any(zero) or not bool((np.isfinite(scale) & (scale > 0)).all()):
            raise self._unexpected(node, "has a zero point, or scales that are not positive")
        return _Flow(sums, scale, 0)

    def _tanh(self, node: NodeProto) -> _Meaning:
        source = self._meaning(node, 0)
        if not isinstance(source, _Flow) or source.stage != 0:
            raise self._unexpected(node, "is not behind the flow head")
        return _Flow(source.sums, source.scale, 1)

    def _check_states(self) -> None:
        """Every state's output is what its name says."""
        for state in self.artifact.states:
            wanted = _Membrane(state.layer, True) if state.role == "mem" else _Spikes(state.layer)
            if self.meanings.get(state.output) != wanted:
                raise self.error(
                    f"state {state.output!r} is not what layer {state.layer!r} computes; export "
                    "the file again"
                )

    def _head(self) -> FlowHead:
        flow = self.meanings.get(FLOW)
        if not isinstance(flow, _Flow) or flow.stage != 1:
            raise self.error(f"{FLOW!r} is not tanh of a scaled {FLOW_ACC!r}; export again")
        sums = flow.sums
        last = next(reversed(self.layers), None)
        if sums.first != _Spikes(str(last)) or sums.own is not None or sums.bias.size != 2:
            raise self.error("the flow head is not a convolution of the last layer to 2 channels")
        if sums.multiplier is not None:
            raise self.error("the flow head's sums are requantized; export the file again")
        if list(self.layers) != [layer.name for layer in self.artifact.layers]:
            raise self.error("the layers of the graph are not those of the metadata, in order")
        return FlowHead(sums.convolution, sums.bias, flow.scale)


def _largest(sums: _Sums) -> int:
    """Largest magnitude of the sums, for counts up to a byte."""
    exact = sums.multiplier is not None
    counts = 127 if exact else COUNT_BYTE
    largest = counts if isinstance(sums.first, _Counts) else 1
    total = sums.convolution.largest_sums(largest) + np.abs(sums.bias.astype(np.int64))
    if sums.recurrent is not None:
        total = total + sums.recurrent.largest_sums(1)
    return int(total.max()) if total.size else 0

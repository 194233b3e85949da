"""ONNX Runtime's own 8-bit convolutions on the layers of an integer artifact, as a yardstick.

Every convolution becomes a ``com.microsoft::QLinearConv`` with channels last written into the
graph, which spares the layout copies that ONNX Runtime would put around it; a recurrent layer
convolves its input and its previous output side by side. There are **no neurons** between them: the
8-bit result of one layer is the input of the next, so the yardstick is the convolutions' share of
such a network alone, which flatters it. Its numbers mean nothing as flow, and the time of these
convolutions does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bench.errors import BenchError
from runtime.artifact import LoadedModel
from runtime.runner import Array

_OPS = {"QConv", "QConvLIF", "QConvLIFRec"}
_DOMAIN = "com.microsoft"
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class Convolution:
    """A convolution of the artifact: weight int8 [Cout, Cin, kh, kw], and its own previous spikes'
    channels, 0 where it reads none."""

    weight: Array
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    recurrent_channels: int


def convolutions(model: onnx.ModelProto) -> list[Convolution]:
    """The convolutions of an integer artifact, in the order in which they run.

    Raises BenchError when the graph has none, or weights that are no constants.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in _OPS:
            continue
        weights = [node.input[1]] + ([node.input[4]] if node.op_type == "QConvLIFRec" else [])
        absent = [name for name in weights if name not in constants]
        if absent:
            raise BenchError(f"node {node.name or node.op_type}: weight {absent[0]} is no constant")
        whole = np.concatenate([numpy_helper.to_array(constants[name]) for name in weights], axis=1)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        strides, pads = attributes["strides"], attributes["pads"]
        own = numpy_helper.to_array(constants[weights[1]]).shape[1] if len(weights) == 2 else 0
        found.append(Convolution(whole, tuple(strides), tuple(pads), own))
    if not found:
        raise BenchError("the artifact has no integer convolutions to compare with")
    return found


@dataclass
class _Builder:
    """Collects the graph. ``channels`` of ``value``, channels last, is what the last layer made."""

    value: str
    channels: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)

    def constant(self, name: str, value: Any, dtype: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, number: int, conv: Convolution) -> None:
        """Append a layer, with the previous output of a recurrent one as an input of the graph."""
        cout, cin = conv.weight.shape[:2]
        name, x = f"layer{number}", self.value
        missing = cin - self.channels
        if missing > 0:  # previous spikes: the op's own, or those an artifact concatenates
            state = f"{name}.previous"
            self.states[state] = missing
            self.nodes.append(helper.make_node("Concat", [x, state], [f"{name}.both"], axis=3))
            x = f"{name}.both"
        scales = [
            self.constant(f"{name}.{what}", value, dtype)
            for what, value, dtype in (
                ("x_scale", 1, np.float32),
                ("x_zero", 0, np.uint8),
                ("weight", conv.weight, np.int8),
                ("w_scale", 2**-6, np.float32),
                ("w_zero", 0, np.int8),
                ("y_scale", 2**-4, np.float32),
                ("y_zero", 0, np.uint8),
            )
        ]
        self.nodes.append(
            helper.make_node(
                "QLinearConv",
                [x, *scales],
                [f"{name}.y"],
                name=name,
                domain=_DOMAIN,
                channels_last=1,
                strides=list(conv.strides),
                pads=list(conv.pads),
            )
        )
        self.value, self.channels = f"{name}.y", cout


def build(model: onnx.ModelProto, resolution: tuple[int, int]) -> onnx.ModelProto:
    """The convolutions of an integer artifact as one QLinearConv each.

    Args:
        model: the artifact. resolution: (H, W) of its events.

    Raises:
        BenchError: no integer convolutions, or a layer that reads fewer channels than there are.
    """
    layers = convolutions(model)
    bins = layers[0].weight.shape[1] - layers[0].recurrent_channels
    builder = _Builder("events", bins)
    height, width = resolution
    sizes: list[tuple[int, int]] = []
    for number, conv in enumerate(layers):
        if conv.weight.shape[1] < builder.channels:
            raise BenchError(f"layer {number} reads {conv.weight.shape[1]} of {builder.channels}")
        builder.add(number, conv)
        kernel = conv.weight.shape[2:]
        height, width = (
            (side + conv.pads[axis] + conv.pads[axis + 2] - kernel[axis]) // conv.strides[axis] + 1
            for axis, side in enumerate((height, width))
        )
        sizes.append((height, width))
    inputs = [("events", (1, *resolution, bins))]
    inputs += [
        (name, (1, *sizes[int(name.split(".")[0].removeprefix("layer"))], channels))
        for name, channels in builder.states.items()
    ]
    graph = helper.make_graph(
        builder.nodes,
        "convolutions",
        [helper.make_tensor_value_info(n, TensorProto.UINT8, s) for n, s in inputs],
        [helper.make_tensor_value_info(builder.value, TensorProto.UINT8, None)],
        builder.constants,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class QlinearStream:
    """Steps the convolutions of an artifact as ONNX Runtime's own; see the module's text."""

    def __init__(self, loaded: LoadedModel, resolution: tuple[int, int], threads: int = 1) -> None:
        """Raises BenchError for an artifact without integer convolutions, or one that does not
        become such a graph."""
        model = build(loaded.model, resolution)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exception classes have no common base
            reason = str(error).strip().splitlines()[0]
            raise BenchError(f"{loaded.path}: no QLinearConv yardstick ({reason})") from error
        self._binding = self._session.io_binding()
        self._arrays = {}
        for value in self._session.get_inputs():
            array = ort.OrtValue.ortvalue_from_numpy(np.zeros(value.shape, np.uint8))
            self._arrays[value.name] = array
            self._binding.bind_ortvalue_input(value.name, array)
        # The first run tells the size of the output, which is bound from then on.
        output = self._session.get_outputs()[0].name
        feed = {name: array.numpy() for name, array in self._arrays.items()}
        self._result = ort.OrtValue.ortvalue_from_numpy(self._session.run([output], feed)[0])
        self._binding.bind_ortvalue_output(output, self._result)

    def step(self, events: Array, *, copy: bool = True) -> Array:
        """One step on events uint8 [1, H, W, bins]; returns the last layer's bytes."""
        self._arrays["events"].update_inplace(np.ascontiguousarray(events))
        self._session.run_with_iobinding(self._binding)
        result: Array = self._result.numpy()
        return result.copy() if copy else result


def channels_last(tensors: Sequence[Array]) -> list[Array]:
    """Event counts [1, bins, H, W] as the yardstick takes them."""
    return [np.ascontiguousarray(tensor.transpose(0, 2, 3, 1)) for tensor in tensors]

"""Checks that a graph is what its metadata says and holds nothing a stranger could hide in it.

Every function raises ArtifactError with one line naming the file, the thing and what to do.
Nothing here executes, allocates by or opens anything the file asks for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
)

import lif_op.spec
from calib_data.encodings import COUNT_LIMIT
from runtime.body_checks import NO_ARRAY, check_functions
from runtime.errors import ArtifactError
from runtime.graph import LIBRARY_DOMAINS, all_nodes, spiking_op
from runtime.known_ops import check_ops
from runtime.metadata import FREE_DIMENSIONS, METADATA_KEY, Artifact, State

EVENTS = "events"
FLOW = "flow"
FLOW_ACC = "flow_acc"
FLOAT32_EXACT = 1 << 24
MAX_NESTING = 16

_ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "int16": TensorProto.INT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "uint32": TensorProto.UINT32,
    "int32": TensorProto.INT32,
}
_REAL_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_CONVOLUTIONS = {
    ("snn", "QConv"): ((1, 2),),
    ("snn", "QConvLIF"): ((1, 2),),
    ("snn", "QConvLIFRec"): ((1, 2), (4, None)),
}
"""Positions of weight and bias of every convolution of an op; the first one reads its input 0."""
_KNOWN_OPS = {
    ("snn", "LIF"): (4, 2, {"reset"}),
    ("snn", "QConv"): (3, 1, {"strides", "pads"}),
    ("snn", "QLIF"): (4, 2, {"frac_bits", "reset"}),
    ("snn", "QConvLIF"): (6, 2, {"strides", "pads", "frac_bits", "reset"}),
    ("snn", "QConvLIFRec"): (8, 2, {"strides", "pads", "frac_bits", "reset"}),
    ("snn", "PackSpikes"): (1, 1, {"channels"}),
    ("snn", "UnpackSpikes"): (1, 1, {"channels"}),
    ("SNN_implementation", "LIF"): (4, 2, set[str]()),
}


def check_model(model: ModelProto, artifact: Artifact, where: str) -> None:
    """All checks of a parsed model against its metadata, cheapest and most dangerous first.

    The order matters: nothing is handed to onnx or read as an array before external data and
    nesting have been refused.
    """
    check_text(model, where)
    check_no_external_data(model, where)
    check_functions(model, where)
    _check_opsets(model, where)
    _check_interface(model, artifact, where)
    _check_structure(model, where)
    check_ops(model, where)
    check_nodes(model, artifact, where)
    _check_finite(model, where)


def check_text(message: Message, where: str) -> None:
    """Refuse names that are no text: protobuf hands them on as bytes, which compare to nothing."""
    for field, value in message.ListFields():
        values = [value] if isinstance(value, Message | str | bytes) else value
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in values:
                check_text(inner, where)
        elif field.type == FieldDescriptor.TYPE_STRING and any(
            isinstance(v, bytes) for v in values
        ):
            raise ArtifactError(
                f"{where}: {field.full_name} is not UTF-8; the file is damaged, copy it again"
            )


def check_no_external_data(model: ModelProto, where: str) -> None:
    """Refuse tensors whose values lie in another file."""
    for tensor in _all_tensors(model, where):
        if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
            raise ArtifactError(
                f"{where}: tensor {tensor.name!r} keeps its values in another file, which is not "
                "read; save the model with its weights inside (save_as_external_data=False)"
            )


def _all_tensors(model: ModelProto, where: str) -> Iterator[TensorProto]:
    yield from _graph_tensors(model.graph, where, 0)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node, where, 0)
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(attribute, where, 0)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization, where, 0)
        yield from _graph_tensors(training.algorithm, where, 0)


def _graph_tensors(graph: GraphProto, where: str, depth: int) -> Iterator[TensorProto]:
    if depth > MAX_NESTING:
        raise ArtifactError(
            f"{where}: graphs nested more than {MAX_NESTING} deep; this is no file of this tool"
        )
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node, where, depth)


def _node_tensors(node: NodeProto, where: str, depth: int) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        yield from _attribute_tensors(attribute, where, depth)


def _attribute_tensors(attribute: AttributeProto, where: str, depth: int) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield attribute.sparse_tensor.values
        yield attribute.sparse_tensor.indices
    for sparse in attribute.sparse_tensors:
        yield sparse.values
        yield sparse.indices
    nested = [attribute.g] if attribute.HasField("g") else []
    for graph in [*nested, *attribute.graphs]:
        yield from _graph_tensors(graph, where, depth + 1)


def _check_opsets(model: ModelProto, where: str) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if not versions.get("", versions.get("ai.onnx", 0)):
        raise ArtifactError(f"{where}: no version of the standard operators is given; export again")
    if versions.get("snn", 1) != 1:
        raise ArtifactError(
            f"{where}: imports version {versions['snn']} of domain snn, this version knows 1; "
            "update the tool"
        )


def _check_interface(model: ModelProto, artifact: Artifact, where: str) -> None:
    """Graph inputs and outputs are events, flow, flow_acc and the states of the metadata."""
    for values in (model.graph.input, model.graph.output):
        for name, times in Counter(value.name for value in values).items():
            if times > 1:
                raise ArtifactError(
                    f"{where}: graph input or output {name!r} appears twice; export the file again"
                )
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = {v.name: v for v in model.graph.input if v.name not in initializers}
    outputs = {v.name: v for v in model.graph.output}
    for state in artifact.states:
        _check_state(state, inputs, outputs, where)
    height, width = artifact.resolution
    free = artifact.spatial_free
    plane: tuple[int | str, ...] = ("H", "W") if free else (height, width)
    first: int | str = artifact.states[0].shape[0] if free and artifact.states else 1
    events = (first, artifact.num_bins, *plane)
    _check_value(inputs, EVENTS, str(artifact.event_dtype), events, "graph input", where)
    _check_value(outputs, FLOW, "float32", (first, 2, *plane), "graph output", where)
    if artifact.is_integer:
        _check_value(outputs, FLOW_ACC, "int32", (first, 2, *plane), "graph output", where)
    for name in inputs:
        if name != EVENTS and name not in {state.input for state in artifact.states}:
            raise ArtifactError(
                f"{where}: graph input {name!r} is neither {EVENTS!r} nor a state in the "
                f"{METADATA_KEY!r} metadata; export the file again"
            )


def _check_state(
    state: State,
    inputs: dict[str, ValueInfoProto],
    outputs: dict[str, ValueInfoProto],
    where: str,
) -> None:
    for values, name, what in (
        (inputs, state.input, "state input"),
        (outputs, state.output, "state output"),
    ):
        _check_value(values, name, state.dtype, state.shape, what, where)


def _check_value(
    values: dict[str, ValueInfoProto],
    name: str,
    dtype: str,
    shape: tuple[int | str, ...],
    what: str,
    where: str,
) -> None:
    if name not in values:
        raise ArtifactError(
            f"{where}: the graph has no {what} {name!r}, which the metadata promises; export again"
        )
    tensor = values[name].type.tensor_type
    if tensor.elem_type != _ELEMENT_TYPES[dtype]:
        actual = _type_name(tensor.elem_type)
        raise ArtifactError(
            f"{where}: {what} {name!r} is {actual} in the graph and {dtype} in the metadata; "
            "export the file again"
        )
    if not tensor.HasField("shape"):
        if what.endswith("input"):
            raise ArtifactError(f"{where}: {what} {name!r} has no shape; export the file again")
        return
    actual_shape = [d.dim_value if d.HasField("dim_value") else "free" for d in tensor.shape.dim]
    fits = len(actual_shape) == len(shape) and all(
        _dimension_fits(have, want, what) for have, want in zip(actual_shape, shape, strict=True)
    )
    if not fits:
        raise ArtifactError(
            f"{where}: {what} {name!r} has shape {_shape_text(actual_shape)} in the graph and "
            f"{_shape_text(shape)} in the metadata; export the file again"
        )


def _dimension_fits(have: int | str, want: int | str, what: str) -> bool:
    """Free matches free; an output may leave open what the metadata fixes."""
    if isinstance(have, str):
        return want in FREE_DIMENSIONS or what.endswith("output")
    return have == want


def _shape_text(shape: Iterable[int | str]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


def _type_name(element_type: int) -> str:
    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type)))
    except (KeyError, TypeError):
        return f"element type {element_type}"


def _check_structure(model: ModelProto, where: str) -> None:
    """The rules of ONNX itself: names, order, attributes, sizes of initializers."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, TypeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ArtifactError(f"{where}: not a valid ONNX graph ({first_line})") from error


def _check_finite(model: ModelProto, where: str) -> None:
    """One NaN among the weights, and after a few steps all of the flow is NaN."""
    for tensor in _all_tensors(model, where):
        if tensor.data_type not in _REAL_TYPES:
            continue
        if not np.isfinite(_array(tensor, f"tensor {tensor.name!r}", where)).all():
            raise ArtifactError(
                f"{where}: tensor {tensor.name!r} holds NaN or infinity; train or export it again"
            )


def check_nodes(model: ModelProto, artifact: Artifact, where: str) -> None:
    """Check every node of the library's domains: known op, attributes, parameters, layer."""
    constants = _Constants(model)
    strict = {
        function.name
        for function in model.functions
        if any(node.op_type == "ConvInteger" for node in function.node)
    }
    producers = {name: node for node in model.graph.node for name in node.output}
    functions = {(function.domain, function.name) for function in model.functions}
    for node in all_nodes(model.graph):
        key = (node.domain, node.op_type)
        if node.domain not in LIBRARY_DOMAINS and key not in functions:
            continue
        _check_signature(node, where)
        for number, positions in enumerate(_CONVOLUTIONS.get(key, ())):
            counts = _count_channels(node, producers, artifact) if number == 0 else 0
            exact = node.op_type in strict
            _check_convolution(node, positions, counts, constants, exact, where)
        _check_input_channels(node, producers, artifact, constants, where)
        if spiking_op(node) is not None:
            _check_neuron(node, artifact, constants, where)
    read = {name for node in all_nodes(model.graph) for name in node.input}
    for state in artifact.states:
        if state.input not in read:
            raise ArtifactError(
                f"{where}: nothing in the graph reads state {state.input!r}; export the file again"
            )


def _check_signature(node: NodeProto, where: str) -> None:
    label = f"{node.domain}::{node.op_type}"
    if (node.domain, node.op_type) not in _KNOWN_OPS:
        raise ArtifactError(f"{where}: op {label} is not known to this version; update the tool")
    inputs, outputs, attributes = _KNOWN_OPS[node.domain, node.op_type]
    given = {attribute.name for attribute in node.attribute}
    if len(node.input) != inputs or len(node.output) != outputs or "" in node.input:
        raise ArtifactError(
            f"{where}: node {node.name!r} ({label}) has {len(node.input)} inputs and "
            f"{len(node.output)} outputs, expected {inputs} and {outputs}"
        )
    if given != attributes:
        raise ArtifactError(
            f"{where}: node {node.name!r} ({label}) has attributes {sorted(given)}, expected "
            f"{sorted(attributes)}; every attribute must be written"
        )
    for attribute in node.attribute:
        if attribute.name == "reset" and attribute.s.decode("utf-8", "replace") not in (
            lif_op.spec.RESETS
        ):
            raise ArtifactError(
                f"{where}: node {node.name!r} ({label}) has reset {attribute.s!r}, expected one of "
                f"{', '.join(lif_op.spec.RESETS)}"
            )


class _Constants:
    """The values of initializers and Constant nodes by tensor name."""

    def __init__(self, model: ModelProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and not node.domain:
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.tensors[node.output[0]] = attribute.t
        # A graph input of the same name would let a caller replace the checked values.
        for value in model.graph.input:
            self.tensors.pop(value.name, None)

    def array(self, name: str, what: str, where: str) -> npt.NDArray[Any]:
        if name not in self.tensors:
            raise ArtifactError(
                f"{where}: {what} ({name!r}) is not a constant of the file, so it cannot be "
                "checked; export the file again"
            )
        return _array(self.tensors[name], f"{what} ({name!r})", where)


def _array(tensor: TensorProto, what: str, where: str) -> npt.NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except NO_ARRAY as error:
        raise ArtifactError(f"{where}: {what} is damaged ({error})") from error


def _count_channels(node: NodeProto, producers: dict[str, NodeProto], artifact: Artifact) -> int:
    """How many of a convolution's first input channels are event counts; the rest are spikes."""
    source = producers.get(node.input[0])
    if source is not None and source.op_type == "Concat" and not source.domain:
        if EVENTS in source.input[1:]:
            return int(np.iinfo(np.int32).max)
        return artifact.num_bins if EVENTS in source.input else 0
    return artifact.num_bins if node.input[0] == EVENTS else 0


def _check_input_channels(
    node: NodeProto,
    producers: dict[str, NodeProto],
    artifact: Artifact,
    constants: _Constants,
    where: str,
) -> None:
    """A convolution's weights are for as many channels as its input is known to have."""
    for weight_at, _ in _CONVOLUTIONS.get((node.domain, node.op_type), ())[:1]:
        channels = _known_channels(node.input[0], producers, artifact)
        name = node.input[weight_at]
        weight = constants.array(name, f"weight of {node.name!r}", where)
        if channels is not None and weight.shape[1] != channels:
            raise ArtifactError(
                f"{where}: weight {name!r} is for {weight.shape[1]} input channels, but "
                f"{node.input[0]!r} has {channels}; export the file again"
            )


def _known_channels(name: str, producers: dict[str, NodeProto], artifact: Artifact) -> int | None:
    """Channels of the events, or of a layer's spikes; None for what is made in between."""
    if name == EVENTS:
        return artifact.num_bins
    source = producers.get(name)
    op = None if source is None else spiking_op(source)
    if source is None or op is None:
        return None
    layer_of = {state.input: state.layer for state in artifact.states if state.role == "mem"}
    layer = layer_of.get(source.input[op.mem])
    return None if layer is None else artifact.layer(layer).channels


def _check_convolution(
    node: NodeProto,
    positions: tuple[int, int | None],
    counts: int,
    constants: _Constants,
    strict: bool,
    where: str,
) -> None:
    weight_name = node.input[positions[0]]
    weight = constants.array(weight_name, f"weight of {node.name!r}", where)
    if weight.dtype != np.int8 or weight.ndim != 4:
        raise ArtifactError(
            f"{where}: weight {weight_name!r} is {weight.dtype} of rank {weight.ndim}, "
            "expected int8 [Cout, Cin, kh, kw]"
        )
    largest = np.where(np.arange(weight.shape[1]) < counts, COUNT_LIMIT, 1)
    sums = (np.abs(weight.astype(np.int64)).sum(axis=(2, 3)) * largest).sum(axis=1)
    if positions[1] is not None:
        name = node.input[positions[1]]
        bias = constants.array(name, f"bias of {node.name!r}", where)
        if bias.dtype != np.int32 or bias.shape != weight.shape[:1]:
            raise ArtifactError(
                f"{where}: bias {name!r} is {bias.dtype} {list(bias.shape)}, "
                f"expected int32 [{weight.shape[0]}]"
            )
        sums += np.abs(bias.astype(np.int64))
    if not strict and sums.size and int(sums.max()) > FLOAT32_EXACT:
        channel = int(sums.argmax())
        raise ArtifactError(
            f"{where}: channel {channel} of {weight_name!r} can sum to {int(sums.max())}, more "
            f"than the {FLOAT32_EXACT} that float32 holds exactly; export with the strict "
            "convolution"
        )


def _check_neuron(node: NodeProto, artifact: Artifact, constants: _Constants, where: str) -> None:
    op = spiking_op(node)
    if op is None:
        return
    layer_of = {state.input: state.layer for state in artifact.states if state.role == "mem"}
    name = layer_of.get(node.input[op.mem])
    label = f"layer {name!r}" if name is not None else f"node {node.name!r}"
    decay = constants.array(node.input[op.first_parameter], f"decay of {label}", where)
    threshold = constants.array(node.input[op.first_parameter + 1], f"threshold of {label}", where)
    if op.integer:
        _check_integer_parameters(decay, threshold, label, where)
    else:
        _check_float_parameters(decay, threshold, label, where)
    if name is not None:
        _check_against_layer(node, artifact, name, decay, threshold, where)
        _check_geometry(node, artifact, name, constants, where)


def _check_integer_parameters(
    decay: npt.NDArray[Any], threshold: npt.NDArray[Any], label: str, where: str
) -> None:
    for what, values, limit in (("decay", decay, 256), ("threshold", threshold, 32767)):
        if values.dtype != np.int32:
            raise ArtifactError(f"{where}: {what} of {label} is {values.dtype}, expected int32")
        outside = (values < 0) | (values > limit)
        if outside.any():
            raise ArtifactError(
                f"{where}: {what} of {label} is {int(values[outside].flat[0])}, outside "
                f"0..{limit}; quantize the checkpoint again"
            )


def _check_float_parameters(
    decay: npt.NDArray[Any], threshold: npt.NDArray[Any], label: str, where: str
) -> None:
    for what, values in (("decay (beta)", decay), ("threshold", threshold)):
        if values.dtype != np.float32:
            raise ArtifactError(f"{where}: {what} of {label} is {values.dtype}, expected float32")
    bad = ~((decay >= 0) & (decay <= 1))
    if bad.any():
        raise ArtifactError(
            f"{where}: decay (beta) of {label} is {float(decay[bad].flat[0])}, outside 0..1"
        )
    bad = ~((threshold > 0) & np.isfinite(threshold))
    if bad.any():
        raise ArtifactError(
            f"{where}: threshold of {label} is {float(threshold[bad].flat[0])}, expected a "
            "positive number"
        )


def _check_against_layer(
    node: NodeProto,
    artifact: Artifact,
    name: str,
    decay: npt.NDArray[Any],
    threshold: npt.NDArray[Any],
    where: str,
) -> None:
    """The metadata's copy of a layer's parameters equals what the graph computes with."""
    layer = artifact.layer(name)
    for what, values, noted in (
        ("decay", decay, layer.decay),
        ("threshold", threshold, layer.threshold),
    ):
        if values.size != layer.channels:
            raise ArtifactError(
                f"{where}: {what} of layer {name!r} has {values.size} values in the graph, but the "
                f"layer has {layer.channels} channels"
            )
        if noted is not None and not np.array_equal(values.ravel(), noted):
            raise ArtifactError(
                f"{where}: {what} of layer {name!r} differs between the graph and the metadata; "
                "export the file again"
            )
    for attribute in node.attribute:
        if attribute.name == "reset" and attribute.s.decode() != layer.reset:
            raise ArtifactError(
                f"{where}: layer {name!r} resets by {attribute.s.decode()!r} in the graph and by "
                f"{layer.reset!r} in the metadata; export the file again"
            )
        if attribute.name == "frac_bits" and attribute.i != layer.frac_bits:
            raise ArtifactError(
                f"{where}: layer {name!r} has frac_bits {attribute.i} in the graph and "
                f"{layer.frac_bits} in the metadata; export the file again"
            )


def _check_geometry(
    node: NodeProto, artifact: Artifact, name: str, constants: _Constants, where: str
) -> None:
    """The metadata's kernel and stride of a layer are those of its fused node."""
    layer = artifact.layer(name)
    for weight, _ in _CONVOLUTIONS.get((node.domain, node.op_type), ())[:1]:
        kernel = constants.array(node.input[weight], f"weight of layer {name!r}", where).shape[2:]
        if kernel != (layer.kernel, layer.kernel):
            raise ArtifactError(
                f"{where}: layer {name!r} has a kernel of {_shape_text(kernel)} in the graph and "
                f"of {layer.kernel} in the metadata; export the file again"
            )
    for attribute in node.attribute:
        if attribute.name == "strides" and set(attribute.ints) != {layer.stride}:
            raise ArtifactError(
                f"{where}: layer {name!r} has strides {list(attribute.ints)} in the graph and "
                f"{layer.stride} in the metadata; export the file again"
            )


def check_state_bytes(
    artifact: Artifact, batch: int, resolution: tuple[int, int], limit: int, where: str
) -> int:
    """Bytes of all states at a size, refused above ``limit`` before anything is allocated."""
    height, width = resolution
    total = sum(
        math.prod(state.resolved_shape(batch, height, width)) * np.dtype(state.dtype).itemsize
        for state in artifact.states
    )
    if total > limit:
        raise ArtifactError(
            f"{where}: states need {total / 2**30:.1f} GiB at {height} x {width}, batch {batch}, "
            f"more than the limit of {limit / 2**30:.0f} GiB; use a smaller resolution or batch"
        )
    return total

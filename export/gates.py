"""What a graph must be like for its consumer, checked on the graph itself or on ONNX Runtime's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from export.errors import ExportError
from export.grids import constants
from export.trace import first_line
from runtime.graph import all_nodes
from runtime.graph_checks import FLOW

_SCALES = {
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
}
_NEURONS = {"LIF": (2, 3)}
_ERRORS_ONLY = 3

TENSORRT_OPERATORS = frozenset(
    {
        "Abs", "Add", "And", "AveragePool", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear",
        "Div", "Equal", "Flatten", "Gemm", "GlobalAveragePool", "Greater", "HardSigmoid",
        "HardSwish", "Identity", "Less", "MatMul", "MaxPool", "Mul", "Neg", "Not", "Or",
        "QuantizeLinear", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax",
        "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators of TensorRT's ONNX parser that exported graphs may hold (read, not run)."""


class GateError(ExportError):
    """A graph that its consumer would refuse or run slowly."""


def optimised_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that ONNX Runtime executes on a CPU with default options and no op library.

    Raises:
        GateError: ONNX Runtime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="spikedeploy-") as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exception classes have no common base
            raise GateError(f"ONNX Runtime refuses the graph ({first_line(error)})") from error
        return onnx.load_model_from_string(path.read_bytes())


def quantized_convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Convolutions whose weight is dequantized and whose output is quantized, or explicit ones."""
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def dequantized(name: str) -> bool:
        return name in makers and makers[name].op_type == "DequantizeLinear"

    found = []
    for node in graph.node:
        after = readers.get(node.output[0], []) if node.output else []
        fusable = node.op_type == "Conv" and dequantized(node.input[1])
        requantized = bool(after) and all(r.op_type == "QuantizeLinear" for r in after)
        if node.op_type == "QLinearConv" or (fusable and requantized):
            found.append(node)
    return found


def check_fusion(model: onnx.ModelProto) -> int:
    """Every quantized convolution becomes one ``QLinearConv`` in ONNX Runtime; returns how many.

    Raises:
        GateError: fewer or more of them, or none to begin with.
    """
    wanted = quantized_convolutions(model.graph)
    if not wanted:
        raise GateError("the graph has no convolution with a quantized weight and output")
    nodes = list(all_nodes(optimised_graph(model).graph))
    fused = sum(node.op_type == "QLinearConv" for node in nodes)
    if fused != len(wanted):
        left = [node.name for node in nodes if node.op_type in ("Conv", "FusedConv")]
        raise GateError(
            f"ONNX Runtime fuses {fused} of {len(wanted)} quantized convolutions "
            f"(left in float32: {', '.join(left) or 'none'}); a quantized tensor needs one "
            "consumer kind, and activations uint8"
        )
    return fused


def float_constants(
    model: onnx.ModelProto, *, float_neurons: bool = False
) -> Iterator[tuple[str, str]]:
    """(tensor, node) of float constants that are neither scales nor part of the flow head, nor,
    with ``float_neurons``, decays and thresholds of ``snn::LIF``."""
    arrays = constants(model.graph)
    head, spelled = _only_for_flow(model.graph), _requantizing(model.graph)
    allowed = {**_SCALES, **(_NEURONS if float_neurons else {})}
    for node in model.graph.node:
        scales = allowed.get(node.op_type, ())
        for position, name in enumerate(node.input):
            array = arrays.get(name)
            if array is None or array.dtype.kind != "f" or position in scales:
                continue
            if node.output[0] not in head | spelled:
                yield name, node.name or node.output[0]


def _requantizing(graph: onnx.GraphProto) -> set[str]:
    """Results of requantizations in elementary operators: Mul by the scale, Round, Clip."""
    found: set[str] = set()
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        before = makers.get(node.input[0]) if node.input else None
        if node.op_type == "Round" and before is not None and before.op_type == "Mul":
            found.add(before.output[0])
        if node.op_type == "Clip" and before is not None and before.op_type == "Round":
            found.add(node.output[0])
    return found


def _only_for_flow(graph: onnx.GraphProto) -> set[str]:
    """First results of the nodes that reach no output but ``flow``."""
    needed = {output.name for output in graph.output if output.name != FLOW}
    head: set[str] = set()
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            needed.update(node.input)
        else:
            head.add(node.output[0])
    return head


def check_dtypes(model: onnx.ModelProto) -> None:
    """No float constant but scales and the flow head's.

    Raises:
        GateError: the first other one.
    """
    for tensor, node in float_constants(model):
        raise GateError(
            f"node {node!r}: constant {tensor!r} is float32; only scales and the flow head may be"
        )


def check_hybrid_dtypes(model: onnx.ModelProto) -> None:
    """No float constant but scales, the neurons' decays and thresholds, and the flow head's.

    Raises:
        GateError: the first other one.
    """
    for tensor, node in float_constants(model, float_neurons=True):
        raise GateError(
            f"node {node!r}: constant {tensor!r} is float32; only scales, neurons and the flow "
            "head may be"
        )


def check_standard(model: onnx.ModelProto) -> None:
    """Only standard operators, no functions.

    Raises:
        GateError: the first other node.
    """
    for node in all_nodes(model.graph):
        if node.domain not in ("", "ai.onnx"):
            raise GateError(
                f"node {node.name!r} ({node.domain}::{node.op_type}) is no standard operator; "
                "inline its function (inline_functions)"
            )
    if model.functions:
        raise GateError(f"function {model.functions[0].name!r} is still in the file")


def check_tensorrt(model: onnx.ModelProto) -> None:
    """What TensorRT's ONNX parser is documented to take of quantized graphs (read, not run).

    Quantizers are int8 with zero point 0; nothing is uint8, int16 or int32-dequantized; biases are
    float32; weights are per tensor or per output channel; operators are on its list.

    Raises:
        GateError: the first node that is not so.
    """
    check_standard(model)
    arrays = constants(model.graph)
    for node in all_nodes(model.graph):
        label = f"node {node.name or node.output[0]!r} ({node.op_type})"
        if node.op_type not in TENSORRT_OPERATORS:
            raise GateError(f"{label}: TensorRT's parser has no such operator")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check_symmetric(node, arrays, label)
        if node.op_type == "Conv" and len(node.input) > 2:
            bias = arrays.get(node.input[2])
            if bias is None or bias.dtype != np.float32:
                raise GateError(f"{label}: its bias must be a float32 constant; use float_bias")
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8):
            name = onnx.TensorProto.DataType.Name(kind).lower()
            raise GateError(f"{value.name!r} is {name}; TensorRT has float32 and int8 at the edges")


def _check_symmetric(
    node: onnx.NodeProto,
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
    label: str,
) -> None:
    zero = arrays.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None:
        raise GateError(f"{label}: its zero point is not written; use explicit_zero_points")
    if zero.dtype != np.int8:
        raise GateError(f"{label}: quantizes to {zero.dtype}, TensorRT takes int8 only")
    if zero.any():
        raise GateError(f"{label}: its zero point is not 0; use symmetric_activations")
    scale = arrays.get(node.input[1])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if scale is not None and scale.size > 1 and not (axis == 0 and node.input[0] in arrays):
        raise GateError(f"{label}: per-channel scales are for weights, along axis 0")

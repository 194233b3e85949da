"""What an integer graph of any network holds: constants by type, and what stayed in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import numpy_helper

_ISLANDS = frozenset(
    {
        "AveragePool", "BatchNormalization", "Conv", "Div", "Erf", "Exp", "Gelu", "Gemm",
        "GlobalAveragePool", "HardSigmoid", "HardSwish", "InstanceNormalization",
        "LayerNormalization", "Log", "MatMul", "Pow", "ReduceMean", "Resize", "Sigmoid", "Softmax",
        "Sqrt", "Tanh",
    }
)  # fmt: skip
"""Operators whose last bits in float depend on the runtime."""

_SCALE_INPUTS = {
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
}


def islands(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of :func:`island_nodes`, with their operators."""
    return tuple(f"{node.name or node.output[0]} ({node.op_type})" for node in island_nodes(model))


def island_nodes(model: onnx.ModelProto) -> tuple[onnx.NodeProto, ...]:
    """Nodes whose float results depend on how a runtime computes them."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    typed = (*inferred.value_info, *inferred.output)
    types = {entry.name: entry.type.tensor_type.elem_type for entry in typed}
    return tuple(
        node
        for node in model.graph.node
        if types.get(node.output[0]) == onnx.TensorProto.FLOAT
        and node.op_type in _ISLANDS
        and not node.domain
    )


def census(model: onnx.ModelProto) -> dict[str, int]:
    """Number of constant values by element type."""
    counts: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        counts[str(array.dtype)] += array.size
    return dict(sorted(counts.items()))


def float_constants(model: onnx.ModelProto) -> Iterator[str]:
    """Float initializers that some node reads as something else than a scale."""
    floats = {t.name for t in model.graph.initializer if numpy_helper.to_array(t).dtype.kind == "f"}
    for node in model.graph.node:
        scales = _SCALE_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name in floats and position not in scales:
                yield f"{name} of {node.name or node.output[0]} ({node.op_type})"

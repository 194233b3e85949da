"""Questions about QuantizeLinear (Q) and DequantizeLinear (DQ) that several passes ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.passes.base import Array, attribute, constant, is_op

QUANTIZE = "QuantizeLinear"
DEQUANTIZE = "DequantizeLinear"
MOVES = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Standard operators whose every output element is an element of an input."""

_DEFAULT_AXIS = 1
_ZERO_OF_OUTPUT = 7


@dataclass(frozen=True)
class Parameters:
    """What a Q or DQ computes with.

    scale: float array, rank 0 or [C]. zero: integer array of the same shape; its type is the
    quantized type. axis: of the channels, as written in the node.
    """

    scale: Array
    zero: Array
    axis: int

    @property
    def per_tensor(self) -> bool:
        """Whether one scale serves the whole tensor."""
        return self.scale.ndim == 0

    def equals(self, other: Parameters) -> bool:
        """Whether both map the same integers to the same real values."""
        return (
            self.zero.dtype == other.zero.dtype
            and self.scale.dtype == other.scale.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
            and (self.per_tensor or self.axis == other.axis)
        )


def is_quantizer(node: ir.Node | None) -> bool:
    """Whether a node is a Q or a DQ."""
    return is_op(node, QUANTIZE) or is_op(node, DEQUANTIZE)


def quantized_type(node: ir.Node) -> np.dtype[Any] | None:
    """The integer type on the quantized side of a Q or DQ; None where it cannot be told."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        array = constant(zero)
        return array.dtype if array is not None else _numpy_type(zero.dtype)
    if is_op(node, QUANTIZE):
        written = attribute(node, "output_dtype", 0)
        return np.dtype(np.uint8) if not written else _numpy_type(ir.DataType(written))
    x = node.inputs[0]
    return None if x is None else value_type(x)


def quantized_element(node: ir.Node) -> ir.DataType | None:
    """The same type as onnx-ir names it; None for types of less than 8 bits too."""
    dtype = quantized_type(node)
    return ir.DataType.from_numpy(dtype) if is_standard_integer(dtype) and dtype else None


def is_unit_grid(node: ir.Node) -> bool:
    """Whether a Q or DQ has scale 1 and zero point 0, per tensor or in every channel."""
    given = parameters(node)
    return given is not None and bool((given.scale == 1).all() and not given.zero.any())


def value_type(value: ir.Value) -> np.dtype[Any] | None:
    """The element type of a value: as noted, of its constant, or of what computes it."""
    array = constant(value)
    if array is not None:
        return array.dtype
    node = value.producer()
    if value.dtype is not None or node is None:
        return _numpy_type(value.dtype)
    if is_op(node, QUANTIZE):
        return quantized_type(node)
    if is_op(node, "QLinearConv") or is_op(node, "QLinearMatMul"):
        zero = constant(node.inputs[_ZERO_OF_OUTPUT])
        return None if zero is None else zero.dtype
    first = node.inputs[0] if node.inputs else None
    same = not node.domain and (node.op_type in MOVES or node.op_type in ("Clip", "Relu"))
    return value_type(first) if same and first is not None else None


def _numpy_type(dtype: ir.DataType | None) -> np.dtype[Any] | None:
    return None if dtype is None or dtype == ir.DataType.STRING else np.dtype(dtype.numpy())


def parameters(node: ir.Node | None) -> Parameters | None:
    """The parameters of a Q or DQ; None for another node, or unless all are constants.

    A single value in a rank-1 array counts as per tensor, a scalar zero point serves every
    channel. Blocked quantization (``block_size``) has no such parameters.
    """
    if node is None or not is_quantizer(node) or attribute(node, "block_size", 0):
        return None
    scale, dtype = constant(node.inputs[1]), quantized_type(node)
    if scale is None or dtype is None or scale.ndim > 1:
        return None
    zero: Array | None = np.zeros((), dtype)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero = constant(node.inputs[2])
    if zero is None:
        return None
    scale = scale.reshape(()) if scale.size == 1 else scale
    zero = zero.reshape(()) if zero.size == 1 else zero
    if zero.shape not in ((), scale.shape):
        return None
    zero = np.array(np.broadcast_to(zero, scale.shape))
    return Parameters(scale, zero, attribute(node, "axis", _DEFAULT_AXIS))


def is_standard_integer(dtype: npt.DTypeLike | None) -> bool:
    """Whether NumPy itself knows the integer type (int4 and float8 are guests)."""
    return dtype is not None and np.dtype(dtype).kind in "iu"


def moved_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs whose elements a moving operator hands on."""
    inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return [value for value in inputs if value is not None]


def scale_of(value: ir.Value | None) -> Array | None:
    """The one scale of which every element of a real tensor is a multiple, rank 0, else None.

    Seen through operators that move values and through Relu.
    """
    node = None if value is None else value.producer()
    if node is None:
        return None
    if is_op(node, DEQUANTIZE):
        given = parameters(node)
        return given.scale if given is not None and given.per_tensor else None
    if node.domain or not (node.op_type in MOVES or node.op_type == "Relu"):
        return None
    scales = [scale_of(source) for source in moved_inputs(node)]
    first = scales[0] if scales else None
    if first is None or any(s is None or s != first for s in scales):
        return None
    return first


def rank_of(value: ir.Value | None) -> int | None:
    """The rank of a value, seen through operators that keep it; None where it cannot be told."""
    if value is None:
        return None
    if value.shape is not None:
        return value.shape.rank()
    array, node = constant(value), value.producer()
    if array is not None:
        return array.ndim
    if node is None or node.domain:
        return None
    if node.op_type == "Gemm":
        return 2
    if node.op_type in ("MatMul", "Add"):
        ranks = [rank_of(source) for source in node.inputs]
        known = [rank for rank in ranks if rank is not None]
        return max(known) if len(known) == len(ranks) and min(known) >= 1 else None
    same = is_quantizer(node) or node.op_type in ("Relu", "Clip", "Identity", "Conv", "MaxPool")
    return rank_of(node.inputs[0]) if same else 2 if node.op_type == "Flatten" else None

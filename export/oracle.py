"""What an integer graph computes, written down in NumPy: a specification that runs.

``run_integer`` interprets a graph node by node with the rules of :mod:`export.arithmetic` and the
definitions of ``lif_op.spec``; neither ONNX Runtime nor ``onnx.reference`` has a part in it. On
integer tensors its results are exact, and an implementation that differs in one bit is wrong.
Scales are applied in float32 in one stated order, so quantized results are exact as well. Float
islands (Tanh, Sigmoid, Softmax) follow NumPy's float32 functions, whose last bits are nobody's
contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import lif_op.spec
from export import arithmetic
from export.arithmetic import Array
from export.errors import ExportError

Attributes = Mapping[str, Any]
Inputs = Sequence[Any]
Rule = Callable[[Attributes, Inputs], Any]

_RULES: dict[tuple[str, str], Rule] = {}


def known_operators() -> tuple[tuple[str, str], ...]:
    """(domain, operator) of everything ``run_integer`` can compute."""
    return tuple(sorted(_RULES))


def run_integer(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Compute a graph's outputs.

    Args:
        model: an integer graph; ops of domain ``snn`` have the meaning of ``lif_op.spec``, and
            function bodies in the file are not looked at.
        inputs: an array per graph input.

    Returns:
        an array per graph output.

    Raises:
        ExportError: a missing input, or a node whose operator has no rule here.
    """
    values: dict[str, Any] = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
    }
    for entry in model.graph.input:
        if entry.name in inputs:
            values[entry.name] = np.asarray(inputs[entry.name])
        elif entry.name not in values:
            raise ExportError(f"input {entry.name!r} of the graph is not given")
    for node in model.graph.node:
        _run_node(node, values)
    return {entry.name: values[entry.name] for entry in model.graph.output}


def _run_node(node: onnx.NodeProto, values: dict[str, Any]) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    rule = _RULES.get((domain, node.op_type))
    name = node.name or node.output[0]
    kind = f"{domain}::{node.op_type}" if domain else node.op_type
    if rule is None:
        raise ExportError(f"node {name!r} ({kind}): the integer oracle has no rule for it")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes["outputs"] = len(node.output)
    arguments = [values[i] if i else None for i in node.input]
    try:
        results = rule(attributes, arguments)
    except ValueError as error:
        raise ExportError(f"node {name!r} ({kind}): {error}") from error
    if not isinstance(results, tuple):
        results = (results,)
    for output, result in zip(node.output, results, strict=False):
        if output:
            values[output] = np.asarray(result)


def _rule(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names:
            _RULES[domain, name] = rule
        return rule

    return register


def _optional(inputs: Inputs, index: int, default: Any = None) -> Any:
    given = inputs[index] if index < len(inputs) else None
    return default if given is None else given


def _text(attributes: Attributes, name: str, default: str) -> str:
    value = attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


# Quantization.


def _zero(inputs: Inputs, like: Array | None) -> Array:
    return _optional(inputs, 2, np.zeros((), np.uint8 if like is None else like.dtype))


@_rule("QuantizeLinear")
def _quantize(attributes: Attributes, inputs: Inputs) -> Array:
    axis = attributes.get("axis", 1)
    return arithmetic.quantize(inputs[0], inputs[1], _zero(inputs, None), axis)


@_rule("DequantizeLinear")
def _dequantize(attributes: Attributes, inputs: Inputs) -> Array:
    axis = attributes.get("axis", 1)
    return arithmetic.dequantize(inputs[0], inputs[1], _zero(inputs, inputs[0]), axis)


# Sums of products.


def _conv(attributes: Attributes, x: Array, weight: Array, x_zero: Array, w_zero: Array) -> Array:
    rank = x.ndim - 2
    strides = attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    mode = _text(attributes, "auto_pad", "NOTSET")
    pads = attributes.get("pads", [0] * (2 * rank))
    if mode != "NOTSET":
        pads = arithmetic.auto_pads(mode, x.shape[2:], weight.shape[2:], strides, dilations)
    return arithmetic.conv(
        x,
        weight,
        np.asarray(x_zero).reshape(()),
        np.asarray(w_zero),
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=attributes.get("group", 1),
    )


@_rule("ConvInteger")
def _conv_integer(attributes: Attributes, inputs: Inputs) -> Array:
    x, weight = inputs[0], inputs[1]
    x_zero = _optional(inputs, 2, np.zeros((), x.dtype))
    return _conv(attributes, x, weight, x_zero, _optional(inputs, 3, np.zeros((), weight.dtype)))


@_rule("QLinearConv")
def _qlinear_conv(attributes: Attributes, inputs: Inputs) -> Array:
    x, x_scale, x_zero, weight, w_scale, w_zero, y_scale, y_zero = inputs[:8]
    acc = _conv(attributes, x, weight, x_zero, w_zero)
    bias = _optional(inputs, 8)
    if bias is not None:
        acc = acc + arithmetic.along(bias, 1, acc.ndim)
    return arithmetic.requantize(acc, x_scale, w_scale, y_scale, y_zero)


@_rule("MatMulInteger")
def _matmul_integer(attributes: Attributes, inputs: Inputs) -> Array:
    a, b = inputs[0], inputs[1]
    a_zero = _optional(inputs, 2, np.zeros((), a.dtype))
    return arithmetic.matmul(a, b, a_zero, _optional(inputs, 3, np.zeros((), b.dtype)))


@_rule("QLinearMatMul")
def _qlinear_matmul(attributes: Attributes, inputs: Inputs) -> Array:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    acc = arithmetic.matmul(a, b, a_zero, b_zero)
    return arithmetic.requantize(acc, a_scale, b_scale, y_scale, y_zero, axis=acc.ndim - 1)


@_rule("QConv", domain=lif_op.spec.DOMAIN)
def _qconv(attributes: Attributes, inputs: Inputs) -> Array:
    x, weight, bias = inputs
    acc = _conv(attributes, x, weight, np.zeros((), x.dtype), np.zeros((), weight.dtype))
    return acc + arithmetic.along(bias, 1, acc.ndim)


@_rule("QLIF", domain=lif_op.spec.DOMAIN)
def _qlif(attributes: Attributes, inputs: Inputs) -> tuple[Array, Array]:
    acc, mem, decay, threshold = inputs
    reset = _text(attributes, "reset", "zero")
    return lif_op.spec.qlif(acc, mem, decay, threshold, attributes["frac_bits"], reset)


@_rule("LIF", domain=lif_op.spec.DOMAIN)
def _lif(attributes: Attributes, inputs: Inputs) -> tuple[Array, Array]:
    current, mem, beta, threshold = inputs
    return lif_op.spec.lif(current, mem, beta, threshold, _text(attributes, "reset", "zero"))


# Elementwise.


def _divide(a: Array, b: Array) -> Array:
    """Division; of integers, truncated toward zero."""
    if a.dtype.kind == "f":
        return a / b
    quotient = np.floor_divide(a, b)
    return (quotient + ((a % b != 0) & ((a < 0) != (b < 0)))).astype(a.dtype)


_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Equal": np.equal,
    "And": np.logical_and,
    "Or": np.logical_or,
}


def _folded(function: Callable[[Array, Array], Array]) -> Rule:
    def rule(attributes: Attributes, inputs: Inputs) -> Array:
        result = inputs[0]
        for other in inputs[1:]:
            result = function(result, other)
        return result

    return rule


for _name, _function in _BINARY.items():
    _rule(_name)(_folded(_function))


@_rule("Mod")
def _mod(attributes: Attributes, inputs: Inputs) -> Array:
    if attributes.get("fmod", 0):
        return np.fmod(inputs[0], inputs[1])
    return np.mod(inputs[0], inputs[1])


@_rule("Relu")
def _relu(attributes: Attributes, inputs: Inputs) -> Array:
    return np.maximum(inputs[0], np.zeros((), inputs[0].dtype))


@_rule("Clip")
def _clip(attributes: Attributes, inputs: Inputs) -> Array:
    result, low, high = inputs[0], _optional(inputs, 1), _optional(inputs, 2)
    result = result if low is None else np.maximum(result, low)
    return result if high is None else np.minimum(result, high)


@_rule("Neg")
def _neg(attributes: Attributes, inputs: Inputs) -> Array:
    return np.negative(inputs[0])


@_rule("Not")
def _not(attributes: Attributes, inputs: Inputs) -> Array:
    return np.logical_not(inputs[0])


@_rule("Where")
def _where(attributes: Attributes, inputs: Inputs) -> Array:
    condition, yes, no = inputs
    return np.asarray(np.where(condition, yes, no))


@_rule("Cast")
def _cast(attributes: Attributes, inputs: Inputs) -> Array:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    if inputs[0].dtype.kind == "f" and np.dtype(dtype).kind in "iu":
        return inputs[0].astype(np.int64).astype(dtype)
    return inputs[0].astype(dtype)


@_rule("CastLike")
def _cast_like(attributes: Attributes, inputs: Inputs) -> Array:
    return inputs[0].astype(inputs[1].dtype)


@_rule("BitShift")
def _bit_shift(attributes: Attributes, inputs: Inputs) -> Array:
    left = _text(attributes, "direction", "LEFT") == "LEFT"
    return np.left_shift(*inputs) if left else np.right_shift(*inputs)


@_rule("Identity")
def _identity(attributes: Attributes, inputs: Inputs) -> Array:
    return inputs[0]


# Float islands.


@_rule("Tanh")
def _tanh(attributes: Attributes, inputs: Inputs) -> Array:
    return np.tanh(inputs[0])


@_rule("Sigmoid")
def _sigmoid(attributes: Attributes, inputs: Inputs) -> Array:
    one = np.float32(1)
    return one / (one + np.exp(-inputs[0]))


@_rule("Softmax")
def _softmax(attributes: Attributes, inputs: Inputs) -> Array:
    axis = attributes.get("axis", -1)
    powers = np.exp(inputs[0] - inputs[0].max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


# Reductions and pooling.


@_rule("ReduceSum")
def _reduce_sum(attributes: Attributes, inputs: Inputs) -> Array:
    x, axes = inputs[0], _optional(inputs, 1)
    if axes is None and attributes.get("noop_with_empty_axes", 0):
        return x
    over = None if axes is None else tuple(int(a) for a in axes)
    return x.sum(axis=over, keepdims=bool(attributes.get("keepdims", 1)), dtype=x.dtype)


@_rule("MaxPool")
def _max_pool(attributes: Attributes, inputs: Inputs) -> Array:
    x, kernel = inputs[0], attributes["kernel_shape"]
    strides = attributes.get("strides", [1] * len(kernel))
    dilations = attributes.get("dilations", [1] * len(kernel))
    mode = _text(attributes, "auto_pad", "NOTSET")
    pads = attributes.get("pads", [0] * (2 * len(kernel)))
    if mode != "NOTSET":
        pads = arithmetic.auto_pads(mode, x.shape[2:], kernel, strides, dilations)
    ceil_mode = bool(attributes.get("ceil_mode", 0))
    return arithmetic.max_pool(x, kernel, strides, pads, dilations, ceil_mode)


# Movement.


@_rule("Reshape")
def _reshape(attributes: Attributes, inputs: Inputs) -> Array:
    x, wanted = inputs[0], [int(d) for d in inputs[1]]
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return x.reshape(wanted)


@_rule("Flatten")
def _flatten(attributes: Attributes, inputs: Inputs) -> Array:
    x, axis = inputs[0], attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


@_rule("Transpose")
def _transpose(attributes: Attributes, inputs: Inputs) -> Array:
    return np.transpose(inputs[0], attributes.get("perm"))


@_rule("Squeeze")
def _squeeze(attributes: Attributes, inputs: Inputs) -> Array:
    axes = _optional(inputs, 1)
    return np.squeeze(inputs[0], None if axes is None else tuple(int(a) for a in axes))


@_rule("Unsqueeze")
def _unsqueeze(attributes: Attributes, inputs: Inputs) -> Array:
    return np.expand_dims(inputs[0], tuple(int(a) for a in inputs[1]))


@_rule("Concat")
def _concat(attributes: Attributes, inputs: Inputs) -> Array:
    return np.concatenate(inputs, axis=attributes["axis"])


@_rule("Split")
def _split(attributes: Attributes, inputs: Inputs) -> tuple[Array, ...]:
    x, axis, sizes = inputs[0], attributes.get("axis", 0), _optional(inputs, 1)
    if sizes is None:
        size = -(-x.shape[axis] // attributes["outputs"])
        cuts = [size * i for i in range(1, attributes["outputs"])]
    else:
        cuts = [int(c) for c in np.cumsum(sizes)[:-1]]
    return tuple(np.split(x, cuts, axis=axis))


@_rule("Slice")
def _slice(attributes: Attributes, inputs: Inputs) -> Array:
    x, starts, ends = inputs[0], inputs[1], inputs[2]
    axes = _optional(inputs, 3, np.arange(len(starts)))
    steps = _optional(inputs, 4, np.ones(len(starts), np.int64))
    cut = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = x.shape[axis]
        # A negative step that runs off the front has no end a Python slice can spell.
        last = None if step < 0 and end < -size else int(end)
        cut[int(axis)] = slice(int(start), last, int(step))
    return x[tuple(cut)]


@_rule("Gather")
def _gather(attributes: Attributes, inputs: Inputs) -> Array:
    return np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0))


@_rule("GatherElements")
def _gather_elements(attributes: Attributes, inputs: Inputs) -> Array:
    axis = attributes.get("axis", 0)
    size = inputs[0].shape[axis]
    indices = np.where(inputs[1] < 0, inputs[1] + size, inputs[1])
    return np.take_along_axis(inputs[0], indices, axis=axis)


@_rule("Pad")
def _pad(attributes: Attributes, inputs: Inputs) -> Array:
    x, pads = inputs[0], [int(p) for p in inputs[1]]
    axes = _optional(inputs, 3, np.arange(x.ndim))
    border = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        border[int(axis)] = (pads[i], pads[i + len(axes)])
    mode = _text(attributes, "mode", "constant")
    if mode == "constant":
        return np.pad(x, border, constant_values=_optional(inputs, 2, x.dtype.type(0)))
    if mode == "reflect":
        return np.pad(x, border, mode="reflect")
    if mode == "edge":
        return np.pad(x, border, mode="edge")
    if mode == "wrap":
        return np.pad(x, border, mode="wrap")
    raise ValueError(f"pad mode {mode!r}")


@_rule("Expand")
def _expand(attributes: Attributes, inputs: Inputs) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(d) for d in inputs[1]))
    return np.broadcast_to(inputs[0], shape).copy()


@_rule("Tile")
def _tile(attributes: Attributes, inputs: Inputs) -> Array:
    return np.tile(inputs[0], [int(r) for r in inputs[1]])


@_rule("Shape")
def _shape(attributes: Attributes, inputs: Inputs) -> Array:
    shape = np.asarray(inputs[0].shape, np.int64)
    return shape[attributes.get("start", 0) : attributes.get("end")]


@_rule("Resize")
def _resize(attributes: Attributes, inputs: Inputs) -> Array:
    x, scales, sizes = inputs[0], _optional(inputs, 2), _optional(inputs, 3)
    if _text(attributes, "mode", "nearest") != "nearest":
        raise ValueError("only nearest-neighbour Resize is integer arithmetic")
    if attributes.get("axes") is not None or attributes.get("antialias", 0):
        raise ValueError("Resize with axes or antialias has no rule")
    if _text(attributes, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("Resize that keeps the aspect ratio has no rule")
    shape = np.asarray(x.shape)
    if sizes is None or len(sizes) == 0:
        factors = scales.astype(np.float32)
        sizes = np.floor(shape.astype(np.float32) * factors).astype(np.int64)
    else:
        factors = sizes.astype(np.float32) / shape.astype(np.float32)
    transform = _text(attributes, "coordinate_transformation_mode", "half_pixel")
    rounding = _text(attributes, "nearest_mode", "round_prefer_floor")
    for axis in range(x.ndim):
        index = arithmetic.nearest(
            int(shape[axis]), int(sizes[axis]), factors[axis], transform, rounding
        )
        x = np.take(x, index, axis=axis)
    return x

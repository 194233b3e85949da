"""How a DequantizeLinear moves through each operator.

Every function takes the :class:`Site` of a node, emits the integer operator and returns what its
outputs are as quantized operands. It raises :class:`Illegal` where the move would change the real
function; :mod:`export.passes.legality` states the conditions in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

import lif_op.spec
from export.arithmetic import along
from export.passes.base import Array, PassError, attribute, constant
from export.passes.dequantized import Emitter, Facts, Quantized, Shape, dequantized

INT32_LIMIT = 2**31
_ZERO32 = np.zeros((), np.int32)
# Two ways of writing s_x * s_w in float32 differ by a rounding; more is another scale.
_BIAS_SCALE_TOLERANCE = 2.0**-22


class Illegal(Exception):
    """The move would change the function; the message says why."""


@dataclass
class Site:
    """A node, what is known about its graph, and where new nodes go.

    bounds: largest magnitude of int32 values that moves have produced.
    """

    node: ir.Node
    facts: Facts
    bounds: dict[ir.Value, int]
    emit: Emitter

    @property
    def name(self) -> str:
        """What new nodes are called after."""
        return self.node.outputs[0].name or self.node.name or self.node.op_type

    def input(self, index: int) -> ir.Value | None:
        """An input, None where it is absent."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def operand(self, index: int = 0) -> Quantized:
        """A dequantized input."""
        found = dequantized(self.input(index))
        if found is None:
            raise Illegal(f"input {index} is not the result of a DequantizeLinear")
        return found

    def narrow(self, index: int = 0) -> Quantized:
        """A dequantized 8-bit input with one scale."""
        found = self.operand(index)
        if not found.eight_bit:
            raise Illegal(f"input {index} is {found.dtype}, not 8 bits: requantize it first")
        if found.axis is not None or found.zero.ndim:
            raise Illegal(f"input {index} has a scale per channel, and sums run over channels")
        return found

    def array(self, index: int, what: str) -> Array:
        """A constant input."""
        found = constant(self.input(index))
        if found is None:
            raise Illegal(f"{what} is not constant")
        return found

    def rank(self, value: ir.Value | None) -> int:
        """Number of dimensions of a value."""
        rank = None if value is None else self.facts.rank(value)
        if rank is None:
            raise Illegal("the rank of an input is not known")
        return rank

    def shape(self, value: ir.Value | None) -> Shape:
        """Shape of a value."""
        self.rank(value)
        assert value is not None
        return self.facts.shapes[value]

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        return attribute(self.node, name, default)

    def bound(self, operand: Quantized) -> int:
        """Largest magnitude of ``value - zero``."""
        array, zero = constant(operand.value), operand.zero.astype(np.int64)
        if array is not None:
            axis = 0 if operand.axis is None else operand.axis
            return int(np.abs(array.astype(np.int64) - along(zero, axis, array.ndim)).max())
        if operand.dtype.itemsize < 4:
            info = np.iinfo(operand.dtype)
            return int(max((zero - info.min).max(), (info.max - zero).max()))
        if operand.value not in self.bounds:
            raise Illegal("no bound is known for its int32 input")
        return self.bounds[operand.value]

    def accumulator(self, value: ir.Value, bound: int) -> ir.Value:
        """Note the bound of an int32 result.

        Raises:
            PassError: 32 bits may not hold it.
        """
        if bound >= INT32_LIMIT:
            raise PassError(
                self.node,
                f"its integer result may reach {bound}, and int32 ends at {INT32_LIMIT - 1}",
                "supported are results that fit: fewer bits, or the node split in parts",
            )
        self.bounds[value] = bound
        return value

    def clone(self, inputs: Sequence[ir.Value | None], **attributes: Any) -> list[ir.Value]:
        """The node's own operator on other inputs."""
        kept = {k: v for k, v in self.node.attributes.items()}
        return self.emit.op(
            self.node.op_type,
            inputs,
            f"{self.name}.int",
            {**kept, **attributes},
            num_outputs=len(self.node.outputs),
        )

    def with_integers(self, operand: Quantized) -> list[ir.Value]:
        """The node's own operator on the integers of its first input; bounds carry over."""
        results = self.clone([operand.value, *self.node.inputs[1:]])
        if operand.value in self.bounds:
            self.bounds.update(dict.fromkeys(results, self.bounds[operand.value]))
        return results


Move = Callable[[Site], Sequence[Quantized]]


# Sums of products.


def _weight(site: Site, index: int, axis: int) -> tuple[Quantized, Array]:
    """A constant 8-bit operand whose channels, if any, lie on that axis."""
    weight = site.operand(index)
    array = constant(weight.value)
    if array is None:
        raise Illegal(f"input {index} (the weight) is not constant")
    if not weight.eight_bit:
        raise Illegal(f"input {index} (the weight) is {weight.dtype}, not 8 bits")
    if weight.axis is not None and weight.axis != axis:
        raise Illegal(f"the weight's scales lie on axis {weight.axis}, which is summed over")
    return weight, array


def _bias(site: Site, index: int, scale: Array) -> tuple[ir.Value | None, Array]:
    """The int32 bias in units of the accumulator: its value and array; (None, 0) if absent."""
    if site.input(index) is None:
        return None, _ZERO32
    bias = site.operand(index)
    array = constant(bias.value)
    if array is None or bias.dtype != np.int32 or not bias.centred:
        raise Illegal("the bias is not a constant int32 with zero point 0")
    if bias.axis not in (None, 0) or array.ndim != 1:
        raise Illegal("the bias is not one number per output channel")
    if not np.allclose(bias.scale, scale, rtol=_BIAS_SCALE_TOLERANCE, atol=0):
        raise Illegal("the bias's scale is not the input's times the weight's")
    return bias.value, array


def _product_scale(x: Quantized, weight: Quantized) -> Array:
    return np.asarray(np.float32(x.scale) * weight.scale.astype(np.float32))


def _largest(site: Site, x: Quantized, centred: Array, bias: Array) -> int:
    """Bound of ``sum |w| * x_max + |b|``; centred: [channels, terms]."""
    sums = np.abs(centred.astype(np.int64)).sum(axis=1) * site.bound(x)
    return int((sums + np.abs(bias.astype(np.int64))).max(initial=0))


@dataclass(frozen=True)
class Convolution:
    """A quantized convolution. scale: of its sums. bias: None if absent. bound: of its sums."""

    x: Quantized
    weight: Quantized
    weight_array: Array
    bias: ir.Value | None
    bias_array: Array
    scale: Array
    bound: int


def convolution(site: Site) -> Convolution:
    """What a Conv of dequantized operands computes.

    Raises:
        Illegal: it is no integer convolution.
    """
    x = site.narrow(0)
    weight, array = _weight(site, 1, 0)
    if not array.size:
        raise Illegal("the weight is empty")
    zero = weight.zero.astype(np.int64)
    if zero.ndim and zero.any():
        raise Illegal("the weight has a zero point per channel")
    scale = _product_scale(x, weight)
    bias, bias_array = _bias(site, 2, scale)
    centred = (array.astype(np.int64) - (zero if zero.ndim == 0 else 0)).reshape(len(array), -1)
    bound = _largest(site, x, centred, bias_array)
    return Convolution(x, weight, array, bias, bias_array, scale, bound)


def conv(site: Site) -> Sequence[Quantized]:
    """Conv to snn::QConv where that operator can say it, else ConvInteger and Add."""
    found = convolution(site)
    emit = _qconv if _qconv_can_say_it(site, found) else _conv_integer
    acc = site.accumulator(emit(site, found), found.bound)
    return [Quantized(acc, found.scale, _ZERO32, 1 if found.scale.ndim else None)]


def _qconv_can_say_it(site: Site, found: Convolution) -> bool:
    return (
        found.x.dtype == np.uint8
        and found.x.centred
        and found.weight.dtype == np.int8
        and found.weight.centred
        and found.weight_array.ndim == 4
        and site.attribute("group", 1) == 1
        and set(site.attribute("dilations", [1])) == {1}
        and site.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _qconv(site: Site, found: Convolution) -> ir.Value:
    rank, bias = found.weight_array.ndim - 2, found.bias
    if bias is None:
        zeros = np.zeros(len(found.weight_array), np.int32)
        bias = site.emit.constant(f"{site.name}.bias", zeros)
    pads = list(site.attribute("pads", [0] * (2 * rank)))
    if site.attribute("auto_pad", "NOTSET") == "VALID":
        pads = [0] * (2 * rank)
    attributes = {"strides": list(site.attribute("strides", [1] * rank)), "pads": pads}
    inputs = [found.x.value, found.weight.value, bias]
    domain = lif_op.spec.DOMAIN
    return site.emit.op("QConv", inputs, f"{site.name}.acc", attributes, domain=domain)[0]


def _conv_integer(site: Site, found: Convolution) -> ir.Value:
    x, weight = found.x, found.weight
    inputs = [x.value, weight.value, site.emit.parameter(f"{site.name}.x_zero", x.zero)]
    if not weight.centred:
        inputs.append(site.emit.parameter(f"{site.name}.w_zero", weight.zero))
    name = f"{site.name}.acc"
    acc = site.emit.op("ConvInteger", inputs, name, dict(site.node.attributes))[0]
    if not found.bias_array.any():
        return acc
    shaped = along(found.bias_array, 1, found.weight_array.ndim)
    column = site.emit.constant(f"{site.name}.bias", shaped)
    return site.emit.op("Add", [acc, column], f"{site.name}.biased")[0]


def gemm(site: Site) -> Sequence[Quantized]:
    """Gemm to MatMulInteger and Add."""
    if site.attribute("alpha", 1.0) != 1.0 or site.attribute("beta", 1.0) != 1.0:
        raise Illegal("alpha or beta is not 1")
    transposed = bool(site.attribute("transB", 0))
    x = site.narrow(0)
    weight, array = _weight(site, 1, 0 if transposed else 1)
    scale = _product_scale(x, weight)
    bias, bias_array = _bias(site, 2, scale)
    array = array.T if transposed else array
    left = x.value
    if site.attribute("transA", 0):
        left = site.emit.op("Transpose", [left], f"{site.name}.a", {"perm": [1, 0]})[0]
    right = weight.value
    if transposed:
        right = site.emit.constant(f"{right.name}.transposed", array)
    acc = _matmul_integer(site, left, x, right, weight)
    if bias is not None and bias_array.any():
        acc = site.emit.op("Add", [acc, bias], f"{site.name}.biased")[0]
    bound = _largest(site, x, (array.astype(np.int64) - weight.zero).T, bias_array)
    axis = 1 if scale.ndim else None
    return [Quantized(site.accumulator(acc, bound), scale, _ZERO32, axis)]


def _matmul_integer(
    site: Site, left: ir.Value, a: Quantized, right: ir.Value, b: Quantized
) -> ir.Value:
    inputs = [left, right, site.emit.parameter(f"{site.name}.a_zero", a.zero)]
    if not b.centred:
        inputs.append(site.emit.parameter(f"{site.name}.b_zero", b.zero))
    return site.emit.op("MatMulInteger", inputs, f"{site.name}.acc")[0]


def matmul(site: Site) -> Sequence[Quantized]:
    """MatMul to MatMulInteger; the second factor constant or computed."""
    a = site.narrow(0)
    array = constant(site.operand(1).value)
    if array is None:
        b = site.narrow(1)
        terms = site.shape(site.input(1))[-2:][0]
        if not isinstance(terms, int):
            terms = site.shape(site.input(0))[-1]
        if not isinstance(terms, int):
            raise Illegal("the number of terms of its sums is not known")
        bound = terms * site.bound(a) * site.bound(b)
        scale, axis = np.asarray(a.scale * b.scale), None
    else:
        b, array = _weight(site, 1, array.ndim - 1)
        if b.axis is not None and array.ndim != 2:
            raise Illegal("a weight with scales per channel has to be a matrix")
        if not b.centred and b.zero.ndim:
            raise Illegal("the weight has a zero point per channel")
        scale = _product_scale(a, b)
        axis = site.rank(site.input(0)) - 1 if scale.ndim else None
        # [..., K, N] or [K]: one row per sum.
        rows = array.reshape(1, -1) if array.ndim == 1 else np.moveaxis(array, -2, -1)
        centred = (rows.astype(np.int64) - b.zero.astype(np.int64).max()).reshape(
            -1, rows.shape[-1]
        )
        bound = _largest(site, a, centred, _ZERO32)
    acc = _matmul_integer(site, a.value, a, b.value, b)
    return [Quantized(site.accumulator(acc, bound), scale, _ZERO32, axis)]


# Elementwise.


def relu(site: Site) -> Sequence[Quantized]:
    """Relu to the maximum with the zero point; nothing where the type ends there already."""
    x = site.operand()
    if x.dtype == np.int32:
        if not x.centred:
            raise Illegal("an int32 zero point is not 0")
        return [replace(x, value=site.with_integers(x)[0])]
    if x.zero.ndim and np.any(x.zero != x.zero.flat[0]):
        raise Illegal("zero points differ between channels")
    zero = x.zero.reshape(-1)[0]
    if zero == np.iinfo(x.dtype).min:
        return [x]
    if not x.eight_bit:
        raise Illegal(f"no integer Clip of {x.dtype}")
    low = site.emit.parameter(f"{site.name}.zero", np.asarray(zero))
    return [replace(x, value=site.emit.op("Clip", [x.value, low], f"{site.name}.int")[0])]


@dataclass(frozen=True)
class _Pair:
    """Two operands of a broadcasting operator. axis: of the result's channels."""

    a: Quantized
    b: Quantized
    axis: int | None

    def wide(self, site: Site) -> list[ir.Value]:
        """Both as int32 with zero point 0."""
        values = []
        for index, operand in enumerate((self.a, self.b)):
            rank = site.facts.rank(operand.value)
            if rank is None:
                given = site.input(index)
                rank = None if given is None else site.facts.rank(given)
            value = site.emit.widen(operand, rank, f"{site.name}.{'ab'[index]}")
            if value is None:
                raise Illegal("the rank of an input is not known")
            values.append(value)
        return values


def _pair(site: Site) -> _Pair:
    """The two operands; their channels have to lie on the same axis of the result."""
    a, b = site.operand(0), site.operand(1)
    if a.axis is None and b.axis is None:
        return _Pair(a, b, None)
    ranks = site.rank(site.input(0)), site.rank(site.input(1))
    # Broadcasting aligns shapes at their end.
    from_end = {
        rank - operand.axis
        for operand, rank in zip((a, b), ranks, strict=True)
        if operand.axis is not None
    }
    if len(from_end) != 1:
        raise Illegal("the channels of the two inputs lie on different axes")
    return _Pair(a, b, max(ranks) - from_end.pop())


def _sum(site: Site) -> Sequence[Quantized]:
    pair = _pair(site)
    a, b = pair.a.scale, pair.b.scale
    if np.any(a != b):
        raise Illegal("the two inputs have different scales")
    wide = pair.wide(site)
    bound = site.bound(pair.a) + site.bound(pair.b)
    total = site.emit.op(site.node.op_type, wide, f"{site.name}.int")[0]
    scale = a if a.ndim else b
    return [Quantized(site.accumulator(total, bound), scale, _ZERO32, pair.axis)]


add = _sum
sub = _sum


def mul(site: Site) -> Sequence[Quantized]:
    """Mul of two dequantized tensors."""
    pair = _pair(site)
    if pair.a.axis is not None and pair.b.axis is not None:
        raise Illegal("both inputs have a scale per channel")
    bound = site.bound(pair.a) * site.bound(pair.b)
    product = site.emit.op("Mul", pair.wide(site), f"{site.name}.int")[0]
    scale = np.asarray(pair.a.scale * pair.b.scale)
    return [Quantized(site.accumulator(product, bound), scale, _ZERO32, pair.axis)]


def _factor(site: Site, index: int) -> np.float32:
    array = site.array(index, f"input {index}")
    if array.size != 1 or (array.ndim and array.ndim > site.rank(site.input(1 - index))):
        raise Illegal("the factor is not a scalar")
    factor = np.float32(array.reshape(()))
    if not (np.isfinite(factor) and factor > 0):
        raise Illegal("the factor is not positive")
    return factor


def _scaled(x: Quantized, scale: Array) -> Sequence[Quantized]:
    scale = np.asarray(scale, np.float32)
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise Illegal("the product of scale and factor is not a positive float32")
    return [replace(x, scale=scale)]


def mul_constant(site: Site) -> Sequence[Quantized]:
    """Mul by a positive constant: into the scale."""
    index = 0 if dequantized(site.input(0)) is not None else 1
    x = site.operand(index)
    return _scaled(x, x.scale * _factor(site, 1 - index))


def div_constant(site: Site) -> Sequence[Quantized]:
    """Div by a positive constant: into the scale."""
    x = site.operand(0)
    return _scaled(x, x.scale / _factor(site, 1))


# Pooling and means.


def max_pool(site: Site) -> Sequence[Quantized]:
    """MaxPool of 8-bit integers."""
    x = site.operand()
    if not x.eight_bit:
        raise Illegal(f"ONNX Runtime has no MaxPool of {x.dtype}")
    if len(site.node.outputs) > 1:
        raise Illegal("its second output (indices) is used")
    return [replace(x, value=site.with_integers(x)[0])]


def _mean(site: Site, x: Quantized, axes: Sequence[int], keepdims: bool) -> Sequence[Quantized]:
    shape = site.shape(site.input(0))
    sizes = [shape[axis] for axis in axes]
    if not all(isinstance(size, int) for size in sizes):
        raise Illegal("the number of averaged elements is not fixed")
    if x.axis in axes:
        raise Illegal("it averages over channels that have different scales")
    count = int(np.prod([int(str(size)) for size in sizes], dtype=np.int64))
    if not count:
        raise Illegal("it averages over no element")
    wide = site.emit.widen(x, len(shape), f"{site.name}.x")
    assert wide is not None
    over = site.emit.constant(f"{site.name}.axes", np.asarray(axes, np.int64))
    attributes = {"keepdims": int(keepdims), "noop_with_empty_axes": 0}
    total = site.emit.op("ReduceSum", [wide, over], f"{site.name}.sum", attributes)[0]
    axis = x.axis
    if axis is not None and not keepdims:
        axis -= sum(a < axis for a in axes)
    scale = np.asarray(x.scale / np.float32(count))
    acc = site.accumulator(total, site.bound(x) * count)
    return [Quantized(acc, scale, _ZERO32, axis)]


def global_average_pool(site: Site) -> Sequence[Quantized]:
    """GlobalAveragePool to ReduceSum with scale s / n."""
    x = site.operand()
    return _mean(site, x, range(2, site.rank(site.input(0))), keepdims=True)


def reduce_mean(site: Site) -> Sequence[Quantized]:
    """ReduceMean to ReduceSum with scale s / n."""
    x, rank = site.operand(), site.rank(site.input(0))
    # An attribute before opset 18, an input since.
    given = site.attribute("axes")
    if site.input(1) is not None:
        given = site.array(1, "the list of axes")
    if given is None and site.attribute("noop_with_empty_axes", 0):
        raise Illegal("it averages over nothing")
    axes = list(range(rank)) if given is None else sorted(int(a) % rank for a in given)
    if not axes:
        raise Illegal("the list of axes is empty")
    return _mean(site, x, axes, bool(site.attribute("keepdims", 1)))


def average_pool(site: Site) -> Sequence[Quantized]:
    """AveragePool to a depthwise ConvInteger with ones."""
    x = site.narrow()
    kernel = list(site.attribute("kernel_shape"))
    pads = list(site.attribute("pads", [0] * (2 * len(kernel))))
    if site.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Illegal("auto_pad is not written out as pads")
    if site.attribute("ceil_mode", 0):
        raise Illegal("ceil_mode: windows at the end average fewer elements")
    if any(pads) and not site.attribute("count_include_pad", 0):
        raise Illegal("windows at the border average fewer elements")
    channels = site.shape(site.input(0))[1]
    if not isinstance(channels, int):
        raise Illegal("the number of channels is not fixed")
    ones = site.emit.constant(f"{site.name}.ones", np.ones([channels, 1, *kernel], np.int8))
    zero = site.emit.parameter(f"{site.name}.x_zero", x.zero)
    attributes = {
        "kernel_shape": kernel,
        "pads": pads,
        "group": channels,
        "strides": list(site.attribute("strides", [1] * len(kernel))),
        "dilations": list(site.attribute("dilations", [1] * len(kernel))),
    }
    total = site.emit.op("ConvInteger", [x.value, ones, zero], f"{site.name}.sum", attributes)[0]
    count = int(np.prod(kernel))
    scale = np.asarray(x.scale / np.float32(count))
    return [Quantized(site.accumulator(total, site.bound(x) * count), scale, _ZERO32)]


# Movement.


def _count(dims: Shape) -> tuple[int, tuple[str, ...]]:
    """Number of elements as a known factor and the names of the free ones."""
    if None in dims:
        raise Illegal("a dimension before the channels is not known")
    known = int(np.prod([d for d in dims if isinstance(d, int)], dtype=np.int64))
    return known, tuple(sorted(d for d in dims if isinstance(d, str)))


def _axis_after(before: Shape, after: Shape, axis: int) -> int:
    """Where the channels are after a change of shape that keeps the order of elements."""
    for position, size in enumerate(after):
        if size == before[axis] and _count(after[:position]) == _count(before[:axis]):
            return position
    raise Illegal("the channels do not keep an axis of their own")


def reshape(site: Site) -> Sequence[Quantized]:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    x = site.operand()
    axis = x.axis
    if axis is not None:
        axis = _axis_after(site.shape(site.input(0)), site.shape(site.node.outputs[0]), axis)
    return [replace(x, value=site.with_integers(x)[0], axis=axis)]


def identity(site: Site) -> Sequence[Quantized]:
    """Identity: gone."""
    return [site.operand()]


def transpose(site: Site) -> Sequence[Quantized]:
    """Transpose: the axis follows."""
    x = site.operand()
    axis = x.axis
    if axis is not None:
        perm = site.attribute("perm") or list(range(site.rank(site.input(0))))[::-1]
        axis = list(perm).index(axis)
    array = constant(x.value)
    if array is not None:
        moved = np.transpose(array, site.attribute("perm"))
        return [
            replace(x, value=site.emit.constant(f"{x.value.name}.transposed", moved), axis=axis)
        ]
    return [replace(x, value=site.with_integers(x)[0], axis=axis)]


def selection(site: Site) -> Sequence[Quantized]:
    """Expand, Tile, GatherElements, GatherND: any choice of elements with one scale."""
    x = site.operand()
    if x.axis is not None:
        raise Illegal("the scales lie on an axis whose elements it chooses")
    return [replace(x, value=site.with_integers(x)[0])]


def _chosen(x: Quantized, value: ir.Value, index: Any) -> Quantized:
    """The operand of chosen channels."""
    zero = x.zero[index] if x.zero.ndim else x.zero
    return replace(x, value=value, scale=x.scale[index], zero=zero)


def slice_(site: Site) -> Sequence[Quantized]:
    """Slice: scales of the channels that stay."""
    x = site.operand()
    if x.axis is None:
        return [replace(x, value=site.with_integers(x)[0])]
    rank = site.rank(site.input(0))
    starts, ends = site.array(1, "starts"), site.array(2, "ends")
    axes = np.arange(len(starts)) if site.input(3) is None else site.array(3, "axes")
    steps = np.ones(len(starts)) if site.input(4) is None else site.array(4, "steps")
    index = np.arange(x.scale.size)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if int(axis) % rank == x.axis:
            if step < 0:
                raise Illegal("it reverses channels")
            index = index[int(start) : int(end) : int(step)]
    return [_chosen(x, site.with_integers(x)[0], index)]


def split(site: Site) -> Sequence[Quantized]:
    """Split: each part with its own scales."""
    x = site.operand()
    if x.axis is None or x.axis != int(site.attribute("axis", 0)):
        if x.axis is not None and int(site.attribute("axis", 0)) < 0:
            raise Illegal("its axis is counted from the right")
        return [replace(x, value=value) for value in site.with_integers(x)]
    outputs = len(site.node.outputs)
    if site.input(1) is None:
        size = -(-x.scale.size // outputs)
        cuts = np.arange(1, outputs) * size
    else:
        cuts = np.cumsum(site.array(1, "the list of sizes"))[:-1]
    parts = np.split(np.arange(x.scale.size), cuts)
    results = site.with_integers(x)
    return [_chosen(x, value, part) for value, part in zip(results, parts, strict=True)]


def gather(site: Site) -> Sequence[Quantized]:
    """Gather: scales of the channels that are chosen."""
    x, axis = site.operand(), int(site.attribute("axis", 0))
    if x.axis is None:
        return [replace(x, value=site.with_integers(x)[0])]
    if axis < 0:
        axis += site.rank(site.input(0))
    if axis == x.axis:
        indices = site.array(1, "the list of chosen channels")
        if indices.ndim != 1:
            raise Illegal("the chosen channels do not keep an axis of their own")
        if ((indices < -x.scale.size) | (indices >= x.scale.size)).any():
            raise Illegal("it chooses a channel that does not exist")
        return [_chosen(x, site.with_integers(x)[0], indices)]
    shift = site.rank(site.input(1)) - 1 if axis < x.axis else 0
    return [replace(x, value=site.with_integers(x)[0], axis=x.axis + shift)]


def pad(site: Site) -> Sequence[Quantized]:
    """Pad with real zeros, which are zero points."""
    x = site.operand()
    if x.axis is not None:
        pads = site.array(1, "the list of pads")
        rank = site.rank(site.input(0))
        axes = np.arange(rank) if site.input(3) is None else site.array(3, "axes") % rank
        if any(pads[i] or pads[i + len(axes)] for i, a in enumerate(axes) if a == x.axis):
            raise Illegal("it adds channels, which have no scale")
    if site.attribute("mode", "constant") != "constant":
        return [replace(x, value=site.with_integers(x)[0])]
    if site.input(2) is not None and np.any(site.array(2, "the padded value")):
        raise Illegal("the padded value is not 0")
    if x.zero.ndim and np.any(x.zero != x.zero[0]):
        raise Illegal("zero points differ between channels")
    zero = site.emit.parameter(f"{site.name}.zero", np.asarray(x.zero.reshape(-1)[0]))
    result = site.clone([x.value, site.input(1), zero, *site.node.inputs[3:]])[0]
    if x.value in site.bounds:
        site.bounds[result] = site.bounds[x.value]
    return [replace(x, value=result)]


def resize(site: Site) -> Sequence[Quantized]:
    """Resize to the nearest neighbour."""
    x = site.operand()
    if site.attribute("mode", "nearest") != "nearest":
        raise Illegal(f"{site.attribute('mode')} interpolation computes new values and rounds them")
    if site.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Illegal("cropping extrapolates with a real value")
    if x.axis is not None:
        before, after = site.shape(site.input(0)), site.shape(site.node.outputs[0])
        if before[x.axis] != after[x.axis]:
            raise Illegal("it resizes the axis of the channels")
    return [replace(x, value=site.with_integers(x)[0])]


def concat(site: Site) -> Sequence[Quantized]:
    """Concat of operands on one grid, widened to int32 where zero points or types differ."""
    operands = [site.operand(i) for i in range(len(site.node.inputs))]
    axis = int(site.attribute("axis"))
    if axis < 0:
        axis += site.rank(site.input(0))
    scale, scale_axis = _concat_scale(site, operands, axis)
    first = operands[0]
    zeros = {(o.dtype, o.zero.tobytes(), o.zero.ndim) for o in operands}
    if len(zeros) == 1 and (first.zero.ndim == 0 or first.centred):
        parts, zero = [o.value for o in operands], np.asarray(first.zero.reshape(-1)[0])
    else:
        parts, zero = [], _ZERO32
        for i, operand in enumerate(operands):
            wide = site.emit.widen(operand, site.facts.rank(operand.value), f"{site.name}.{i}")
            if wide is None:
                raise Illegal("the rank of an input is not known")
            parts.append(wide)
    value = site.clone(parts)[0]
    if zero.dtype == np.int32:
        site.bounds[value] = max(site.bound(operand) for operand in operands)
    return [Quantized(value, scale, zero, scale_axis)]


def _concat_scale(site: Site, operands: Sequence[Quantized], axis: int) -> tuple[Array, int | None]:
    first = operands[0]
    if all(o.axis is None and o.scale == first.scale for o in operands):
        return first.scale, None
    if axis not in {o.axis for o in operands} or {o.axis for o in operands} - {None, axis}:
        same = all(o.axis == first.axis and np.array_equal(o.scale, first.scale) for o in operands)
        if same and first.axis != axis:
            return first.scale, first.axis
        raise Illegal("its inputs have different scales")
    scales = []
    for index, operand in enumerate(operands):
        size = site.shape(site.input(index))[axis]
        if not isinstance(size, int):
            raise Illegal("the number of channels of an input is not fixed")
        scales.append(np.broadcast_to(operand.scale, (size,)))
    return np.concatenate(scales), axis

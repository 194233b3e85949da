"""Integer convolutions and neurons in Deeploy's dialect."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calib_data.encodings import COUNT_LIMIT
from export.deeploy import DOMAIN, INT32_LIMIT
from export.passes.base import (
    Array,
    GraphPass,
    PassError,
    add_constant,
    attribute,
    constant,
    is_op,
    only_user,
    producer,
    replace,
)
from lif_op.spec import DOMAIN as SNN
from runtime.graph_checks import EVENTS, FLOW, FLOW_ACC

_LARGEST_ADD = 500
"""Deeploy's generic target rounds ``add / mul`` where it is this large or larger."""

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Shift:
    """mul, add: [C]. div: a power of two. n_levels, signed: of the result."""

    mul: Int64
    add: Int64
    div: int
    n_levels: int
    signed: bool


class RequantShift(GraphPass):
    """Convolutions without bias, then ``RequantShift``: the form Deeploy compiles.

    Before::

        QConv(x, w, b) -> QLIF(acc, mem, decay, threshold; frac_bits)
        QConv(x, w, b) -> flow_acc -> DequantizeLinear -> Tanh -> flow
        QLinearConv(x, s_x, 0, w, s_w, 0, s_y, z_y, b)

    After::

        Conv(x, w) -> RequantShift(mul, mul * b; div) -> QLif(current, mem, decay, threshold)
        Conv(x, w) -> RequantShift(1, b; 1) -> flow_acc
        Conv(x, w) -> RequantShift(mul, mul * b + z_y * div; div)

    The neuron's current is exact: ``div = mul * 2^-f`` gives the definition's rounded division, and
    the levels its clamp. ``QLif`` receives it in units of the membrane. The flow head ends at its
    accumulator; the caller applies scale and tanh. ``QLinearConv`` becomes a fixed-point
    multiplier, ``mul / div`` nearest to ``s_x * s_w / s_y`` with as many bits as leave every
    intermediate value in int32; it rounds halves up, where ``QLinearConv`` rounds them to even.
    """

    name = "requant_shift"
    summary = "Conv without bias, RequantShift and QLif: the dialect of Deeploy"

    def rewrite(self, model: ir.Model) -> int:
        """See the class.

        Raises:
            PassError: positive fractional bits, a convolution with zero points or an accumulator
                read by anything else, or values that do not fit int32.
        """
        graph, changes = model.graph, 0
        for node in list(graph):
            if is_op(node, "QConv", SNN):
                changes += _convolution(graph, node)
            elif is_op(node, "QLinearConv"):
                changes += _linear(graph, node)
        for node in list(graph):
            if is_op(node, "QLIF", SNN):
                changes += _neuron(graph, node)
        changes += _end_at_accumulator(graph)
        if changes:
            _relabel(model)
        return changes


def _convolution(graph: ir.Graph, node: ir.Node) -> int:
    weight, bias = _constant(node, 1, "weight"), _constant(node, 2, "bias")
    reach = _reach(node, weight)
    acc = node.outputs[0]
    if acc.name == FLOW_ACC:
        shift = _exact(node, bias, reach, 0, 32)
    else:
        reader = only_user(acc)
        if reader is None or not is_op(reader, "QLIF", SNN):
            raise PassError(
                node,
                "its accumulator is read by something else than one neuron",
                "merge the recurrent convolutions first (merge_recurrent)",
            )
        bits = 16 if reader.inputs[1] is not None and _is_wide(reader.inputs[1]) else 8
        shift = _exact(reader, bias, reach, int(attribute(reader, "frac_bits")), bits)
    result = _emit(graph, node, node.inputs[0], weight, node.inputs[1], shift)
    if result.name != FLOW_ACC:
        result.name = f"{(node.name or 'layer').removesuffix('.acc')}.current"
    return 1


def _exact(node: ir.Node, bias: Array, reach: Int64, frac_bits: int, bits: int) -> _Shift:
    """The neuron's current: ``clamp(floor((acc + b + half) / 2^-f))``, multiplied through."""
    if frac_bits > 0:
        raise PassError(
            node,
            f"frac_bits {frac_bits} scales the current up after its clamp, which no RequantShift "
            "does",
            "quantize with --frac-bits 0 or less",
        )
    # The factor cancels; it only keeps add / mul small enough for the generic target.
    mul = 1
    while int(np.abs(bias).max(initial=0)) >= _LARGEST_ADD * mul:
        mul *= 2
    shift = _Shift(
        np.full(len(bias), mul, np.int64),
        bias.astype(np.int64) * mul,
        mul * 2**-frac_bits,
        2**bits,
        True,
    )
    _check_range(node, shift, reach)
    return shift


def _linear(graph: ir.Graph, node: ir.Node) -> int:
    names = ("scale of x", "zero of x", "weight", "scale of w", "zero of w", "scale of y", "zero")
    x_scale, x_zero, weight, w_scale, w_zero, y_scale, y_zero = (
        _constant(node, k, name) for k, name in enumerate(names, 1)
    )
    if x_zero.any() or w_zero.any():
        raise PassError(
            node,
            "its input or weight has a zero point, which Deeploy's convolution does not subtract",
            "quantize symmetrically, or to unsigned values from 0",
        )
    channels = weight.shape[0]
    has_bias = len(node.inputs) > 8 and node.inputs[8] is not None
    bias = _constant(node, 8, "bias") if has_bias else np.zeros(channels, np.int32)
    factor = np.broadcast_to(
        x_scale.astype(np.float64) * w_scale.reshape(-1) / y_scale.astype(np.float64), channels
    )
    shift = _fixed_point(node, factor, bias, int(y_zero), x_zero.dtype, y_zero.dtype, weight)
    _emit(graph, node, node.inputs[0], weight, node.inputs[3], shift)
    return 1


def _fixed_point(
    node: ir.Node,
    factor: npt.NDArray[np.float64],
    bias: Array,
    zero: int,
    x_type: np.dtype[Any],
    y_type: np.dtype[Any],
    weight: Array,
) -> _Shift:
    """The widest multiplier whose intermediate values fit int32."""
    info = np.iinfo(x_type)
    largest = max(-int(info.min), int(info.max))
    reach = np.abs(weight.astype(np.int64)).sum(axis=tuple(range(1, weight.ndim))) * largest
    signed = y_type == np.int8
    for exponent in range(30, -1, -1):
        mul = np.rint(factor * 2.0**exponent).astype(np.int64)
        add = bias.astype(np.int64) * mul + zero * 2**exponent
        shift = _Shift(mul, add, 2**exponent, 2**8, signed)
        if mul.min() > 0 and _peak(shift, reach) < INT32_LIMIT:
            return shift
    raise PassError(
        node,
        "no multiplier keeps its sums in int32 in every channel",
        "use fewer weight bits or per-tensor weight scales",
    )


def _peak(shift: _Shift, reach: Int64) -> int:
    return int((reach * shift.mul + np.abs(shift.add)).max()) + shift.div // 2


def _check_range(node: ir.Node, shift: _Shift, reach: Int64) -> None:
    peak = _peak(shift, reach)
    if peak >= INT32_LIMIT:
        raise PassError(
            node,
            f"acc * mul + add can reach {peak}, beyond int32",
            "use fewer weight bits or smaller biases",
        )


def _reach(node: ir.Node, weight: Array) -> Int64:
    """Largest magnitude of every channel's sum: counts go to 127, spikes to 1."""
    sums = np.abs(weight.astype(np.int64)).sum(axis=(1, 2, 3))
    x = node.inputs[0]
    return sums * (COUNT_LIMIT if x is not None and x.name == EVENTS else 1)


def _emit(
    graph: ir.Graph,
    node: ir.Node,
    x: ir.Value | None,
    weight: Array,
    weight_value: ir.Value | None,
    shift: _Shift,
) -> ir.Value:
    """Put Conv and RequantShift in the place of a convolution; returns the result."""
    spatial = weight.ndim - 2
    name = node.name or (node.outputs[0].name or "conv")
    shape = (1, len(shift.mul), *[1] * spatial)
    conv = ir.node(
        "Conv",
        [x, weight_value],
        {
            "kernel_shape": list(weight.shape[2:]),
            "strides": attribute(node, "strides", [1] * spatial),
            "pads": attribute(node, "pads", [0] * (2 * spatial)),
            "dilations": attribute(node, "dilations", [1] * spatial),
            "group": attribute(node, "group", 1),
        },
        name=f"{name}.conv",
    )
    factors = [
        add_constant(graph, f"{name}.{what}", values.astype(np.int32).reshape(shape))
        for what, values in (("mul", shift.mul), ("add", shift.add))
    ]
    requantized = ir.node(
        "RequantShift",
        [conv.outputs[0], *factors],
        # The frontend unpacks these from tensors, not from plain integers.
        {
            "div": ir.tensor(np.array(shift.div, np.int64)),
            "n_levels": ir.tensor(np.array(shift.n_levels, np.int64)),
            "signed": ir.tensor(np.array(int(shift.signed), np.int64)),
        },
        domain=DOMAIN,
        name=f"{name}.requant",
    )
    conv.outputs[0].name = f"{name}.sums"
    conv.outputs[0].type = ir.TensorType(ir.DataType.INT32)
    conv.outputs[0].shape = node.outputs[0].shape
    bits = shift.n_levels.bit_length() - 1
    kind = np.dtype(f"{'' if shift.signed else 'u'}int{bits}")
    requantized.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(kind))
    old = list(node.inputs)
    replace(graph, [node], [conv, requantized])
    _remove_unread(graph, old)
    return requantized.outputs[0]


def _neuron(graph: ir.Graph, node: ir.Node) -> int:
    if producer(node.inputs[0], "RequantShift", DOMAIN) is None:
        raise PassError(
            node,
            "its current is not the accumulator of one convolution",
            "quantize with --current accumulator and merge recurrent convolutions",
        )
    parameters = [_constant(node, k, what) for k, what in ((2, "decay"), (3, "threshold"))]
    shape = (1, len(parameters[0]), 1, 1)
    values = [
        add_constant(graph, f"{node.name}.{what}", array.reshape(shape))
        for what, array in zip(("decay", "threshold"), parameters, strict=True)
    ]
    old = list(node.inputs[2:])
    lowered = ir.node(
        "QLif",
        [node.inputs[0], node.inputs[1], *values],
        {"reset": attribute(node, "reset")},
        domain=DOMAIN,
        num_outputs=2,
        name=node.name,
    )
    lowered.outputs[0].type = ir.TensorType(ir.DataType.INT8)
    replace(graph, [node], [lowered])
    _remove_unread(graph, old)
    return 1


def _end_at_accumulator(graph: ir.Graph) -> int:
    """Drop scale and tanh behind ``flow_acc``."""
    flow = next((value for value in graph.outputs if value.name == FLOW), None)
    if flow is None or not any(value.name == FLOW_ACC for value in graph.outputs):
        return 0
    graph.outputs.remove(flow)
    pending = [flow.producer()]
    while pending:
        node = pending.pop()
        if node is None or any(o.uses() or o.is_graph_output() for o in node.outputs):
            continue
        inputs = [value for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        pending += [value.producer() for value in inputs]
        _remove_unread(graph, inputs)
    return 1


def _remove_unread(graph: ir.Graph, values: Iterable[ir.Value | None]) -> None:
    """Drop initializers that nothing reads any more."""
    for value in values:
        if value is None or value.uses() or value.name is None:
            continue
        if value.name in graph.initializers:
            del graph.initializers[value.name]


def _relabel(model: ir.Model) -> None:
    """Counts and spikes are int8 in the dialect: the same bytes, since none exceeds 127."""
    model.graph.opset_imports[DOMAIN] = 1
    for value in model.graph.inputs:
        if value.dtype == ir.DataType.UINT8 and (
            value.name == EVENTS or (value.name or "").startswith("spike.")
        ):
            value.type = ir.TensorType(ir.DataType.INT8)
    for node in model.graph:
        if is_op(node, "QLif", DOMAIN):
            node.outputs[0].type = ir.TensorType(ir.DataType.INT8)


def _is_wide(mem: ir.Value) -> bool:
    return mem.dtype == ir.DataType.INT16


def _constant(node: ir.Node, index: int, what: str) -> Array:
    value = constant(node.inputs[index])
    if value is None:
        raise PassError(node, f"its {what} is not a constant", "make it an initializer")
    return value

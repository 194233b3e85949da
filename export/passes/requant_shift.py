"""Integer convolutions and neurons in Deeploy's dialect."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.deeploy import DOMAIN
from export.passes.base import (
    Array,
    GraphPass,
    PassError,
    add_constant,
    attribute,
    is_op,
    only_user,
    producer,
    replace,
    required_constant,
)
from export.passes.convolution_sums import largest_products
from export.passes.fixed_point import Shift, exact_shift, nearest_shift
from export.passes.ranges import Ranges
from export.passes.rewiring import remove_unread
from export.passes.split_conv_lif import is_fused
from lif_op.spec import DOMAIN as SNN
from runtime.graph_checks import EVENTS, FLOW, FLOW_ACC


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
        graph, changes, ranges = model.graph, 0, Ranges(model)
        for node in list(graph):
            if is_op(node, "QConv", SNN):
                changes += _convolution(graph, node, ranges)
            elif is_op(node, "QLinearConv"):
                changes += _linear(graph, node)
            elif is_fused(node):
                raise PassError(
                    node, "it is a convolution and its neuron in one", "run split_conv_lif before"
                )
        for node in list(graph):
            if is_op(node, "QLIF", SNN):
                changes += _neuron(graph, node)
        changes += _end_at_accumulator(model)
        if changes:
            _relabel(model)
        return changes


def _convolution(graph: ir.Graph, node: ir.Node, ranges: Ranges) -> int:
    weight, bias = required_constant(node, 1, "weight"), required_constant(node, 2, "bias")
    reach = largest_products(node, 1, ranges)
    acc = node.outputs[0]
    if acc.name == FLOW_ACC:
        shift = exact_shift(node, bias, reach, 0, 32)
    else:
        reader = only_user(acc)
        if reader is None or not is_op(reader, "QLIF", SNN):
            raise PassError(
                node,
                "its accumulator is read by something else than one neuron",
                "merge the recurrent convolutions first (merge_recurrent)",
            )
        mem = reader.inputs[1]
        bits = 16 if mem is not None and mem.dtype == ir.DataType.INT16 else 8
        shift = exact_shift(reader, bias, reach, int(attribute(reader, "frac_bits")), bits)
    result = _emit(graph, node, node.inputs[0], weight, node.inputs[1], shift)
    if result.name != FLOW_ACC:
        result.name = f"{(node.name or 'layer').removesuffix('.acc')}.current"
    return 1


def _linear(graph: ir.Graph, node: ir.Node) -> int:
    names = ("scale of x", "zero of x", "weight", "scale of w", "zero of w", "scale of y", "zero")
    x_scale, x_zero, weight, w_scale, w_zero, y_scale, y_zero = (
        required_constant(node, k, name) for k, name in enumerate(names, 1)
    )
    if x_zero.any() or w_zero.any():
        raise PassError(
            node,
            "its input or weight has a zero point, which Deeploy's convolution does not subtract",
            "quantize symmetrically, or to unsigned values from 0",
        )
    channels = weight.shape[0]
    has_bias = len(node.inputs) > 8 and node.inputs[8] is not None
    bias = required_constant(node, 8, "bias") if has_bias else np.zeros(channels, np.int32)
    factor = np.broadcast_to(
        x_scale.astype(np.float64) * w_scale.reshape(-1) / y_scale.astype(np.float64), channels
    )
    info = np.iinfo(x_zero.dtype)
    magnitudes = np.abs(weight.astype(np.int64)).reshape(channels, -1).sum(axis=1)
    reach = magnitudes * max(-int(info.min), int(info.max))
    shift = nearest_shift(node, factor, bias, y_zero, reach)
    _emit(graph, node, node.inputs[0], weight, node.inputs[3], shift)
    return 1


def _emit(
    graph: ir.Graph,
    node: ir.Node,
    x: ir.Value | None,
    weight: Array,
    weight_value: ir.Value | None,
    shift: Shift,
) -> ir.Value:
    """Put Conv and RequantShift in the place of a convolution; returns the result."""
    name = node.name or (node.outputs[0].name or "conv")
    conv = _plain_convolution(node, x, weight, weight_value, f"{name}.conv")
    conv.outputs[0].name = f"{name}.sums"
    requantized = _requantization(graph, conv, shift, weight.ndim - 2, name)
    old = list(node.inputs)
    replace(graph, [node], [conv, requantized])
    remove_unread(graph, old)
    return requantized.outputs[0]


def _plain_convolution(
    node: ir.Node, x: ir.Value | None, weight: Array, weight_value: ir.Value | None, name: str
) -> ir.Node:
    """The convolution of a node without its bias, int32, with every attribute written."""
    spatial = weight.ndim - 2
    attributes = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": attribute(node, "strides", [1] * spatial),
        "pads": attribute(node, "pads", [0] * (2 * spatial)),
        "dilations": attribute(node, "dilations", [1] * spatial),
        "group": attribute(node, "group", 1),
    }
    conv = ir.node("Conv", [x, weight_value], attributes, name=name)
    conv.outputs[0].type = ir.TensorType(ir.DataType.INT32)
    conv.outputs[0].shape = node.outputs[0].shape
    return conv


def _requantization(
    graph: ir.Graph, conv: ir.Node, shift: Shift, spatial: int, name: str
) -> ir.Node:
    shape = (1, len(shift.mul), *[1] * spatial)
    factors = [
        add_constant(graph, f"{name}.{what}", values.astype(np.int32).reshape(shape))
        for what, values in (("mul", shift.mul), ("add", shift.add))
    ]
    # The frontend unpacks these from tensors, not from plain integers.
    attributes = {
        what: ir.tensor(np.array(int(value), np.int64))
        for what, value in (
            ("div", shift.div),
            ("n_levels", shift.n_levels),
            ("signed", shift.signed),
        )
    }
    inputs = [conv.outputs[0], *factors]
    node = ir.node("RequantShift", inputs, attributes, domain=DOMAIN, name=f"{name}.requant")
    bits = shift.n_levels.bit_length() - 1
    kind = np.dtype(f"{'' if shift.signed else 'u'}int{bits}")
    node.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(kind))
    return node


def _neuron(graph: ir.Graph, node: ir.Node) -> int:
    if producer(node.inputs[0], "RequantShift", DOMAIN) is None:
        raise PassError(
            node,
            "its current is not the accumulator of one convolution",
            "quantize with --current accumulator and merge recurrent convolutions",
        )
    parameters = [required_constant(node, k, what) for k, what in ((2, "decay"), (3, "threshold"))]
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
    remove_unread(graph, old)
    return 1


def _end_at_accumulator(model: ir.Model) -> int:
    """Drop scale and tanh behind ``flow_acc``."""
    outputs = model.graph.outputs
    flow = next((value for value in outputs if value.name == FLOW), None)
    if flow is None or not any(value.name == FLOW_ACC for value in outputs):
        return 0
    outputs.remove(flow)
    common.RemoveUnusedNodesPass()(model)
    return 1


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

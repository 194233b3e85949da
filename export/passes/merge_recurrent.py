"""The two convolutions of a recurrent layer become one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.passes.base import Array, GraphPass, attribute, constant, is_op, only_user, producer
from export.passes.rewiring import new_constant, register, remove_unread, take_place
from lif_op.spec import DOMAIN

_INT32 = np.iinfo(np.int32)
_GEOMETRY = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}


class MergeRecurrent(GraphPass):
    """Convolve input and previous spikes side by side instead of adding two results.

    Before, with one weight scale for both (also on ``snn::QConv``, which has no scales)::

        x      -> Conv(DQ(W), DQ(b)) --\\
        z_prev -> Conv(DQ(W_rec))     -- Add -> snn::LIF

    After::

        x, z_prev -> Concat(axis 1) -> Conv(DQ([W | W_rec]), DQ(b)) -> snn::LIF

    Both convolutions have stride 1, no groups and the same kernel, pads and dilations; biases add
    up. The state's part comes second. Sums of other convolutions stay as they are. As a requantized
    current is rounded once instead of twice, merge before currents are quantized.
    """

    name = "merge_recurrent"
    summary = "the sum of a layer's two convolutions becomes one over concatenated inputs"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        changes = 0
        for add in list(model.graph):
            if not is_op(add, "Add"):
                continue
            parts = [_part(add, value) for value in add.inputs]
            if parts[0] is None or parts[1] is None:
                continue
            first, second = parts[0], parts[1]
            if _reads_state(first) and not _reads_state(second):
                first, second = second, first
            changes += _merge(model.graph, add, first, second)
        return changes


@dataclass(frozen=True)
class _Constant:
    """Weight or bias: its values, and the dequantizer they go through, if any."""

    values: Array
    dequantizer: ir.Node | None

    def fits(self, other: _Constant) -> bool:
        """Whether both stand for the same real values."""
        if self.dequantizer is None or other.dequantizer is None:
            return self.dequantizer is other.dequantizer
        mine, theirs = (constant(node.inputs[1]) for node in (self.dequantizer, other.dequantizer))
        return mine is not None and theirs is not None and np.array_equal(mine, theirs)

    def emit(self, name: str, values: Array) -> tuple[ir.Value, list[ir.Node], ir.Value]:
        """Other values in the same form: the constant, the nodes, and what a reader reads."""
        value = new_constant(name, values)
        if self.dequantizer is None:
            return value, [], value
        inputs = [value, *self.dequantizer.inputs[1:]]
        attributes = {key: entry.value for key, entry in self.dequantizer.attributes.items()}
        node = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}_dq")
        return value, [node], node.outputs[0]


@dataclass(frozen=True)
class _Part:
    """One of the two convolutions."""

    conv: ir.Node
    x: ir.Value
    weight: _Constant
    bias: _Constant | None

    @property
    def layer(self) -> str:
        """What the weight's name says about the layer."""
        source = self.conv.inputs[1]
        if self.weight.dequantizer is not None:
            source = self.weight.dequantizer.inputs[0]
        return ((source.name if source else None) or "conv").removesuffix(".weight")

    def geometry(self) -> list[object]:
        """What has to agree: strides, pads, dilations, groups, kernel and channels."""
        values = [attribute(self.conv, name, default) for name, default in _GEOMETRY.items()]
        weight = self.weight.values
        plain = [value if isinstance(value, int) else list(value) for value in values]
        return [self.conv.op_type, *plain, list(weight.shape[2:]), weight.shape[0]]


def _part(add: ir.Node, value: ir.Value | None) -> _Part | None:
    conv = None if value is None else value.producer()
    if conv is None or value is None or only_user(value) is not add:
        return None
    integer = is_op(conv, "QConv", DOMAIN)
    if not integer and not is_op(conv, "Conv"):
        return None
    if attribute(conv, "auto_pad", "NOTSET") != "NOTSET":
        return None
    x, weight = conv.inputs[0], _constant(conv.inputs[1])
    given = conv.inputs[2] if len(conv.inputs) > 2 else None
    bias = _constant(given)
    if x is None or weight is None or (given is not None and bias is None):
        return None
    if not integer and weight.dequantizer is None:
        return None
    return _Part(conv, x, weight, bias)


def _constant(value: ir.Value | None) -> _Constant | None:
    values = constant(value)
    if values is not None:
        return _Constant(values, None)
    node = producer(value, "DequantizeLinear")
    if node is None:
        return None
    values, scale = constant(node.inputs[0]), constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if values is None or scale is None or (zero is not None and zero.any()):
        return None
    along_channels = scale.size == 1 or attribute(node, "axis", 1) == 0
    return _Constant(values, node) if along_channels else None


def _reads_state(part: _Part) -> bool:
    """Whether a convolution reads a spike state, through quantizers or not."""
    value: ir.Value | None = part.x
    while value is not None and not value.is_graph_input():
        node = value.producer()
        passes = is_op(node, "QuantizeLinear") or is_op(node, "DequantizeLinear")
        value = node.inputs[0] if node is not None and passes else None
    return value is not None and (value.name or "").startswith("spike.")


def _mergeable(first: _Part, second: _Part) -> bool:
    geometry = first.geometry()
    strides, group = geometry[1], geometry[4]
    return (
        geometry == second.geometry()
        and strides == [1, 1]
        and group == 1
        and first.weight.fits(second.weight)
        and first.weight.values.dtype == second.weight.values.dtype
    )


def _added(first: _Part, second: _Part) -> tuple[_Constant, Array] | None:
    """The bias of both: a form and values; None if it cannot be said in one constant."""
    one, other = first.bias, second.bias
    if one is None or other is None:
        only = one or other
        return None if only is None else (only, only.values)
    if not one.fits(other) or one.values.dtype != other.values.dtype:
        return None
    if one.values.dtype != np.int32:
        return one, one.values + other.values
    total = one.values.astype(np.int64) + other.values
    inside = bool(((total >= _INT32.min) & (total <= _INT32.max)).all())
    return (one, total.astype(np.int32)) if inside else None


def _merge(graph: ir.Graph, add: ir.Node, first: _Part, second: _Part) -> bool:
    bias = _added(first, second)
    has_bias = first.bias is not None or second.bias is not None
    if not _mergeable(first, second) or (has_bias and bias is None):
        return False
    layer, conv = first.layer, first.conv
    concat = ir.node("Concat", [first.x, second.x], {"axis": 1}, name=f"{layer}.inputs")
    concat.outputs[0].name = f"{layer}.inputs"
    both = np.concatenate([first.weight.values, second.weight.values], axis=1)
    emitted = [first.weight.emit(f"{layer}.weight", both)]
    if bias is not None:
        emitted.append(bias[0].emit(f"{layer}.bias", bias[1]))
    merged = ir.node(
        conv.op_type,
        [concat.outputs[0], *(read for _, _, read in emitted)],
        {key: entry.value for key, entry in conv.attributes.items()},
        domain=conv.domain,
        name=conv.name,
    )
    between = [node for _, nodes, _ in emitted for node in nodes]
    graph.insert_after(add, [concat, *between, merged])
    merged.outputs[0].type = add.outputs[0].type
    take_place(add.outputs[0], merged.outputs[0])
    old = [*first.conv.inputs[1:], *second.conv.inputs[1:]]
    graph.remove([add, first.conv, second.conv], safe=True)
    remove_unread(graph, old)
    register(graph, [value for value, _, _ in emitted])
    return True

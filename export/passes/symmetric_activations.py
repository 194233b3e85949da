"""Quantization as TensorRT takes it: int8 with zero point 0."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.passes.activations import Change, Component, apply, components, shift
from export.passes.base import Array, GraphPass, PassError, constant, is_op, only_user
from export.passes.quantizers import QUANTIZE
from export.passes.ranges import Ranges, clip_bounds
from export.passes.unsigned_activations import refuse_interface, written_levels

_INT8 = np.dtype(np.int8)
_UINT8 = np.dtype(np.uint8)
_MIDDLE, _HIGHEST, _TOP = 128, 127, 255


class SymmetricActivations(GraphPass):
    """Retype uint8 tensors to int8 with zero point 0, and refuse every other zero point of int8.

    Before: ``Q(s, uint8 128) -> MaxPool -> DQ(s, uint8 128)``. After: the same operators on int8
    with zero point 0. Exact changes:

    * zero point 128 -> 0, the same scale, every level 128 lower;
    * zero point 0 -> 0, the same scale and the same bytes, where levels provably end at 127: event
      counts, spikes, and tensors that a Clip limits. Levels below zero saturated in uint8, so a
      Relu comes in front of the Q unless the values are provably non-negative.

    Any other uint8 tensor is refused by the name of the node. With ``approximate=True`` it goes to
    the int8 grid that reaches as far instead, with scale ``s * max(z, 255 - z) / 127``: for zero
    point 0 that is twice as coarse. Real values then move by at most half a unit of the new scale,
    and biases keep their real value, so ``float_bias`` or ``integer_bias`` has to follow.

    Dequantized uint8 constants (weights) change in the same way. A uint8 tensor of the graph's
    interface is left alone unless a convolution or matrix product reads it; then it is refused.
    """

    name = "symmetric_activations"
    summary = "8-bit tensors become int8 with zero point 0 (profile tensorrt)"

    def __init__(self, *, approximate: bool = False) -> None:
        super().__init__()
        self._approximate = approximate

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        changes, ranges = 0, Ranges(model)
        for component in components(model.graph, _UINT8, constants=True):
            if component.is_interface():
                refuse_interface(component, "int8")
                continue
            apply(model.graph, component, self._change(model.graph, component, ranges))
            changes += 1
        for component in components(model.graph, _INT8, constants=True):
            _check_symmetric(component)
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes

    def _change(self, graph: ir.Graph, component: Component, ranges: Ranges) -> Change:
        zeros = component.zero_points()
        if len(zeros) != 1:
            raise PassError(
                component.nodes[0],
                f"the tensors it connects have zero points {sorted(zeros)}",
                "supported is one zero point for tensors that share levels",
            )
        zero = zeros.pop()
        if zero == _MIDDLE:
            return shift(_INT8, -_MIDDLE)
        if zero == 0 and _ends_at_127(component, ranges):
            _keep_positive(graph, component, ranges)
            return shift(_INT8, 0)
        if not self._approximate:
            raise PassError(
                component.nodes[0],
                f"uint8 with zero point {zero} has no equal on int8 with zero point 0",
                "supported are zero point 128 and levels that provably end at 127; quantize "
                "activations symmetrically, or give the pass approximate=True",
            )
        if zero == 0:
            _keep_positive(graph, component, ranges)
        return _coarser(zero)


def _coarser(zero: int) -> Change:
    """The int8 grid around zero that reaches as far as a uint8 grid."""
    factor = max(zero, _TOP - zero) / _HIGHEST

    def level(levels: Array) -> Array:
        return (levels.astype(np.float64) - zero) / factor

    return Change(_INT8, level, lambda zeros: np.zeros(zeros.shape), factor)


def _writers(component: Component) -> list[ir.Node]:
    return [node for node in component.of(QUANTIZE) if node.outputs[0] in component.values]


def _ends_at_127(component: Component, ranges: Ranges) -> bool:
    """Whether int8's upper end changes nothing: levels end below it, or a Clip ends them there."""
    for value in component.values:
        node = value.producer()
        if node is None:
            array = constant(value)
            if array is None or array.max(initial=0) > _HIGHEST:
                return False
        elif node.op_type.startswith("QLinear") or _introduces(node) > _HIGHEST:
            return False
        elif is_op(node, QUANTIZE) and written_levels(node, ranges)[1] > _HIGHEST:
            reader = only_user(value)
            if not is_op(reader, "Clip") or reader is None or clip_bounds(reader)[1] > _HIGHEST:
                return False
    return True


def _introduces(node: ir.Node) -> float:
    """The highest level that a Pad or the lower bound of a Clip can bring in."""
    if is_op(node, "Clip"):
        return clip_bounds(node)[0]
    value = constant(node.inputs[2]) if is_op(node, "Pad") and len(node.inputs) > 2 else None
    return 0 if value is None else float(value.max(initial=0))


def _keep_positive(graph: ir.Graph, component: Component, ranges: Ranges) -> None:
    """A Relu where uint8 saturated at zero and int8 will not."""
    for node in _writers(component):
        source = node.inputs[0]
        if source is None or ranges.of(source)[0] >= 0:
            continue
        relu = ir.node("Relu", [source], name=f"{node.name or node.outputs[0].name}.relu")
        relu.outputs[0].name = f"{node.outputs[0].name}_positive"
        relu.outputs[0].type, relu.outputs[0].shape = source.type, source.shape
        graph.insert_before(node, relu)
        node.replace_input_with(0, relu.outputs[0])


def _check_symmetric(component: Component) -> None:
    zeros = component.zero_points() - {0}
    if zeros and not component.is_interface():
        raise PassError(
            component.nodes[0],
            f"it is int8 with zero point {sorted(zeros)[0]}",
            "supported is int8 with zero point 0; quantize symmetrically",
        )

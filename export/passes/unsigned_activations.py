"""Activations as ONNX Runtime on x86 wants them: uint8."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.passes.activations import Component, apply, components, shift
from export.passes.base import GraphPass, PassError
from export.passes.quantizers import QUANTIZE, parameters
from export.passes.ranges import Ranges

_INT8 = np.dtype(np.int8)
_UINT8 = np.dtype(np.uint8)
_HIGHEST = 127


class UnsignedActivations(GraphPass):
    """Retype int8 activations to uint8 without changing a real value.

    Before: ``Q(s, int8 z) -> MaxPool -> DQ(s, int8 z)``. After: the same operators on uint8, zero
    points, bounds, paddings and constants 128 higher. Where levels are provably within 0..127
    without the saturation of int8 (event counts, spikes), the bytes and the zero point stay and
    only the type changes. Weights stay int8.

    On x86 ONNX Runtime computes int8 convolutions five times slower than float ones, and uint8 by
    int8 more than twice as fast. int8 tensors of the graph's interface are left alone unless a
    convolution or a matrix product reads them; then they are refused, because the caller has to
    change as well. So is an operator that computes with levels instead of handing them on.
    """

    name = "unsigned_activations"
    summary = "int8 activations become uint8 (profile ort-x86)"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        changes, ranges = 0, Ranges(model)
        for component in components(model.graph, _INT8, constants=False):
            if component.is_interface():
                refuse_interface(component, "uint8")
                continue
            apply(model.graph, component, shift(_UINT8, 0 if _counts(component, ranges) else 128))
            changes += 1
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


def refuse_interface(component: Component, wanted: str) -> None:
    """Leave a component that a caller sees, or refuse it where a product reads it.

    Raises:
        PassError: a convolution or matrix product reads it.
    """
    if component.feeds_product():
        seen = [v for v in component.values if v.is_graph_input() or v.is_graph_output()]
        raise PassError(
            component.nodes[0],
            f"{seen[0].name!r} is an input or output of the graph, and its type would change",
            f"supported is {wanted} or float32 at the interface, with a QuantizeLinear behind it",
        )


def _counts(component: Component, ranges: Ranges) -> bool:
    """Whether every level lies in 0..127 before any saturation, and uint8 has the zero points."""
    if any(zero < 0 for zero in component.zero_points()):
        return False
    for node in component.nodes:
        if any(output in component.values for output in node.outputs) and node.op_type == QUANTIZE:
            low, high = written_levels(node, ranges)
            if low < 0 or high > _HIGHEST:
                return False
    written = [value.producer() for value in component.values]
    computed = {node.op_type for node in written if node is not None}
    return not any(name.startswith("QLinear") or name == "Pad" for name in computed) and all(
        ranges.of(value)[0] >= 0 for value in component.values
    )


def written_levels(node: ir.Node, ranges: Ranges) -> tuple[float, float]:
    """The lowest and highest level that a Q would write if its type were wide enough."""
    given = parameters(node)
    if given is None or not given.per_tensor or not given.scale > 0:
        return -np.inf, np.inf
    low, high = (np.rint(bound / float(given.scale)) for bound in ranges.of(node.inputs[0]))
    return float(low + float(given.zero)), float(high + float(given.zero))

"""8-bit tensors between a QuantizeLinear and a DequantizeLinear, and a change of their type.

Levels that operators hand from one tensor to the next have to change together: such tensors form
a component. A change maps every level of it by one rule and rewrites the zero points, scales and
constants around it, so that the real values stay or move by a rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from export.passes.base import Array, PassError, add_constant, attribute, constant, is_op
from export.passes.quantizers import (
    DEQUANTIZE,
    MOVES,
    QUANTIZE,
    Parameters,
    parameters,
    value_type,
)

_KEEPS = MOVES | {"Clip", "Pad", "Max", "Min", "Resize"}
_SEVERAL = ("Concat", "Max", "Min")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

# Position of a zero point by (position of an 8-bit input), and of the output's.
_INTEGER_READERS = {
    "QLinearConv": {0: 2},
    "QLinearMatMul": {0: 2, 3: 5},
    "ConvInteger": {0: 2},
    "MatMulInteger": {0: 2, 1: 3},
}
_INTEGER_WRITERS = {"QLinearConv": 7, "QLinearMatMul": 7}


@dataclass
class Component:
    """8-bit tensors whose levels depend on each other.

    values: the tensors, constants included. nodes: every node that reads or writes one.
    """

    values: list[ir.Value] = field(default_factory=list)
    nodes: list[ir.Node] = field(default_factory=list)

    def of(self, op_type: str) -> list[ir.Node]:
        """The nodes of an operator."""
        return [node for node in self.nodes if is_op(node, op_type)]

    def parameters(self) -> Iterator[Parameters]:
        """Those of every Q and DQ whose parameters are constants."""
        for node in self.nodes:
            given = parameters(node)
            if given is not None:
                yield given

    def zero_points(self) -> set[int]:
        """Every constant zero point of the tensors, in quantizers and in integer operators."""
        zeros = {int(z) for given in self.parameters() for z in np.unique(given.zero)}
        for node in self.nodes:
            for position in self.zero_inputs(node):
                zeros |= {int(z) for z in np.unique(_zero_of(node, position))}
        return zeros

    def zero_inputs(self, node: ir.Node) -> list[int]:
        """Where an integer operator has the zero points of these tensors."""
        if node.domain or node.op_type not in _INTEGER_READERS:
            return []
        pairs = _INTEGER_READERS[node.op_type].items()
        positions = [zero for data, zero in pairs if node.inputs[data] in self.values]
        if node.op_type in _INTEGER_WRITERS and node.outputs[0] in self.values:
            positions.append(_INTEGER_WRITERS[node.op_type])
        return positions

    def is_interface(self) -> bool:
        """Whether a caller sees one of the tensors."""
        return any(value.is_graph_input() or value.is_graph_output() for value in self.values)

    def feeds_product(self) -> bool:
        """Whether a convolution or matrix product reads it, dequantized or as integers."""
        if any(not n.domain and n.op_type in _INTEGER_READERS for n in self.nodes):
            return True
        return any(_feeds_product(node.outputs[0]) for node in self.of(DEQUANTIZE))


def _zero_of(node: ir.Node, position: int) -> Array:
    """A constant zero point; 0 where the operator has none."""
    held = constant(node.inputs[position]) if position < len(node.inputs) else None
    return np.zeros((), np.int64) if held is None else held


def _feeds_product(value: ir.Value) -> bool:
    for use in value.uses():
        if not use.node.domain and use.node.op_type in _PRODUCTS:
            return True
        moves = use.node.op_type in MOVES or use.node.op_type == "Relu"
        if moves and not use.node.domain and _feeds_product(use.node.outputs[0]):
            return True
    return False


def components(graph: ir.Graph, dtype: np.dtype[Any], *, constants: bool) -> list[Component]:
    """The components of one element type.

    Args:
        graph: to look at.
        dtype: int8 or uint8.
        constants: whether dequantized constants (weights) count as well.
    """
    seeds = [value for value in graph.inputs if value_type(value) == dtype]
    for node in graph:
        if is_op(node, QUANTIZE) or (not node.domain and node.op_type in _INTEGER_WRITERS):
            seeds.append(node.outputs[0])
        elif is_op(node, DEQUANTIZE) and node.inputs[0] is not None:
            seeds.append(node.inputs[0])
    found, seen = [], set[ir.Value]()
    for seed in seeds:
        if seed in seen or value_type(seed) != dtype:
            continue
        component = _grow(seed)
        seen.update(component.values)
        if constants or any(constant(value) is None for value in component.values):
            found.append(component)
    return found


def _grow(seed: ir.Value) -> Component:
    component, waiting = Component(), [seed]
    while waiting:
        value = waiting.pop()
        if value in component.values:
            continue
        component.values.append(value)
        writer = value.producer()
        around = [] if writer is None else [writer]
        around += [use.node for use in value.uses()]
        for node in around:
            if node not in component.nodes:
                component.nodes.append(node)
            if value in _levels(node):
                waiting += _levels(node)
    return component


def _levels(node: ir.Node) -> list[ir.Value]:
    """The tensors among which a node hands levels on."""
    if node.domain or node.op_type not in _KEEPS:
        return []
    inputs = node.inputs if node.op_type in _SEVERAL else node.inputs[:1]
    outputs = node.outputs if node.op_type == "Split" else node.outputs[:1]
    return [value for value in (*inputs, *outputs) if value is not None]


@dataclass(frozen=True)
class Change:
    """What happens to the levels of a component.

    dtype: the new type. level: the new level (float64, before rounding) of an old one. zero: the
    new zero point of an old one. scale: the factor on the scale.
    """

    dtype: np.dtype[Any]
    level: Callable[[Array], Array]
    zero: Callable[[Array], Array]
    scale: float = 1.0


def shift(dtype: np.dtype[Any], by: int) -> Change:
    """Every level and zero point moves by one number; no real value changes."""

    def moved(levels: Array) -> Array:
        return levels.astype(np.float64) + by

    return Change(dtype, moved, moved)


def apply(graph: ir.Graph, component: Component, change: Change) -> None:
    """Change a component.

    Raises:
        PassError: a node around it would compute something else afterwards.
    """
    for node in component.nodes:
        _check(component, node, change)
    for node in component.nodes:
        _change_node(graph, component, node, change)
    for value in component.values:
        array = constant(value)
        if array is None:
            value.type = ir.TensorType(ir.DataType.from_numpy(change.dtype))
            continue
        new = add_constant(graph, value.name or "levels", _cast(change.level(array), change.dtype))
        for use in list(value.uses()):
            if use.node in component.nodes:
                use.node.replace_input_with(use.idx, new)


def _check(component: Component, node: ir.Node, change: Change) -> None:
    held = [value for value in component.values if value in node.inputs or value in node.outputs]
    if is_op(node, QUANTIZE) or is_op(node, DEQUANTIZE):
        if parameters(node) is None:
            raise PassError(
                node, "its scale or zero point is computed", "supported are constant ones"
            )
        return
    if not node.domain and node.op_type in _KEEPS:
        _check_mover(node)
        return
    if not node.domain and node.op_type in _INTEGER_READERS and change.scale == 1:
        for position in component.zero_inputs(node):
            given = node.inputs[position] if position < len(node.inputs) else None
            if given is not None and constant(given) is None:
                raise PassError(node, "its zero point is computed", "supported is a constant one")
        return
    raise PassError(
        node,
        f"it works on the levels of {held[0].name!r}, whose type has to become {change.dtype}",
        "supported between QuantizeLinear and DequantizeLinear are operators that hand levels on: "
        + ", ".join(sorted(_KEEPS)),
    )


def _check_mover(node: ir.Node) -> None:
    if node.op_type == "Pad" and attribute(node, "mode", "constant") == "constant":
        given = node.inputs[2] if len(node.inputs) > 2 else None
        if given is not None and constant(given) is None:
            raise PassError(node, "its padding value is computed", "supported is a constant one")
    if node.op_type == "Clip" and any(
        value is not None and constant(value) is None for value in node.inputs[1:]
    ):
        raise PassError(node, "its bounds are computed", "supported are constant ones")
    nearest = attribute(node, "mode", "nearest") == "nearest"
    if node.op_type == "Resize" and not nearest:
        raise PassError(
            node,
            "it interpolates between levels",
            "supported is mode 'nearest', or the Resize on the dequantized tensor",
        )


def _cast(levels: Array, dtype: np.dtype[Any]) -> Array:
    info = np.iinfo(dtype)
    return np.clip(np.rint(levels), info.min, info.max).astype(dtype)


def _change_node(graph: ir.Graph, component: Component, node: ir.Node, change: Change) -> None:
    if is_op(node, QUANTIZE) or is_op(node, DEQUANTIZE):
        given = parameters(node)
        assert given is not None  # _check saw it
        _put(graph, node, 2, _cast(change.zero(given.zero), change.dtype), "zero_point")
        if change.scale != 1:
            scale = (given.scale.astype(np.float64) * change.scale).astype(given.scale.dtype)
            _put(graph, node, 1, np.asarray(scale), "scale")
        node.attributes.pop("output_dtype", None)
    elif node.op_type in _INTEGER_READERS:
        for position in component.zero_inputs(node):
            zero = _cast(change.zero(_zero_of(node, position)), change.dtype)
            _put(graph, node, position, zero, "zero_point")
    elif node.op_type == "Clip":
        for position in (1, 2):
            bound = constant(node.inputs[position]) if position < len(node.inputs) else None
            if bound is not None:
                _put(graph, node, position, _cast(change.level(bound), change.dtype), "bound")
    elif node.op_type == "Pad":
        value = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        filled = np.zeros((), np.int64) if value is None else value
        _put(graph, node, 2, _cast(change.level(filled), change.dtype), "padding")


def _put(graph: ir.Graph, node: ir.Node, position: int, array: Array, what: str) -> None:
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    name = f"{node.outputs[0].name}_{what}"
    node.replace_input_with(position, add_constant(graph, name, array))

"""Small surgery that passes share: taking a value's place, leaving nothing unread behind."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from export.passes.base import Array, free_name, is_op


def take_place(old: ir.Value, new: ir.Value) -> None:
    """Let readers and the graph's outputs use ``new``, under the old name and with its shape."""
    name, old.name = old.name, None
    new.name = name
    new.shape = new.shape if old.shape is None else old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def remove_unread(graph: ir.Graph, candidates: Iterable[ir.Value | None]) -> None:
    """Drop initializers and dequantizers (with their constants) that nothing reads any more."""
    for value in candidates:
        if value is None or value.uses() or value.is_graph_output():
            continue
        if value.is_initializer() and value.name is not None and not value.is_graph_input():
            graph.initializers.pop(value.name, None)
        node = value.producer()
        if node is not None and node.graph is graph and is_op(node, "DequantizeLinear"):
            inputs = list(node.inputs)
            graph.remove(node, safe=True)
            remove_unread(graph, inputs)


def new_constant(name: str, array: Array) -> ir.Value:
    """A constant to be registered later, when the one it replaces has given back its name."""
    return ir.val(name, const_value=ir.tensor(array))


def register(graph: ir.Graph, constants: Iterable[ir.Value]) -> None:
    """Register constants made by ``new_constant``, under their names if these are free."""
    for value in constants:
        value.name = free_name(graph, value.name or "constant")
        graph.register_initializer(value)

"""What every graph pass shares: its form, its refusal, and small questions about a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from export.errors import ExportError

Array = npt.NDArray[Any]


class PassError(ExportError):
    """A node that a pass has to rewrite and cannot.

    The message names the node, the reason and the nearest supported form.
    """

    def __init__(self, node: ir.Node, reason: str, instead: str) -> None:
        super().__init__(f"node {label(node)}: {reason}; {instead}")


class Pass(ABC):
    """One rewrite of a model, in place and idempotent.

    A pass leaves alone what it does not match. ``name`` is its name on the command line and
    ``summary`` one line about it; the docstring of the class shows a subgraph before and after.
    """

    name: ClassVar[str]
    summary: ClassVar[str]


class FunctionPass(Pass):
    """A pass over functions and their calls.

    It sees the model as it is written to a file, because the bodies of the library's ops must keep
    their spelling: loading compares them with the library's own.
    """

    @abstractmethod
    def rewrite_model(self, model: onnx.ModelProto) -> int:
        """Rewrite the model; returns how many places changed.

        Raises:
            ExportError: what has to change and cannot.
        """


class GraphPass(Pass, ir.passes.InPlacePass):
    """A pass over the graph.

    ``counts_on_bodies``: it uses ops of domain snn as this version defines them, which the bodies
    of a file from another version might not.
    """

    counts_on_bodies: ClassVar[bool] = False

    @abstractmethod
    def rewrite(self, model: ir.Model) -> int:
        """Rewrite the model; returns how many places changed.

        Raises:
            PassError: a node that has to change and cannot.
        """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The interface of onnx-ir."""
        return ir.passes.PassResult(model, modified=self.rewrite(model) > 0)


def label(node: ir.Node) -> str:
    """A node as messages name it: its name (or first output) and operator."""
    domain = f"{node.domain}::" if node.domain else ""
    name = node.name or (node.outputs[0].name if node.outputs else "")
    return f"{name!r} ({domain}{node.op_type})"


def is_op(node: ir.Node | None, op_type: str, domain: str = "") -> bool:
    """Whether a node is of that operator."""
    return node is not None and node.op_type == op_type and node.domain == domain


def producer(value: ir.Value | None, op_type: str, domain: str = "") -> ir.Node | None:
    """The node that computes a value if it is of that operator, else None."""
    node = None if value is None else value.producer()
    return node if is_op(node, op_type, domain) else None


def _has_reference(node: ir.Node) -> bool:
    """Whether an attribute of a node is that of the function around it."""
    return any(entry.is_ref() for entry in node.attributes.values())


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer that no caller can replace, else None."""
    if value is None or value.is_graph_input():
        return None
    node = producer(value, "Constant")
    if node is not None and (len(node.attributes) != 1 or _has_reference(node)):
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def required_constant(node: ir.Node, position: int, what: str) -> Array:
    """The array of a node's input.

    Raises:
        PassError: it is absent, or computed in the graph.
    """
    found = constant(node.inputs[position]) if position < len(node.inputs) else None
    if found is None:
        raise PassError(node, f"its {what} is no constant of the file", "make it an initializer")
    return found


def free_name(graph: ir.Graph, name: str) -> str:
    """The name, or with a number if a value of the graph has it already."""
    unique, number = name, 1
    taken = {value.name for value in values(graph)}
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Register an initializer under a name that is not taken yet; returns its value."""
    unique = free_name(graph, name)
    contiguous = array if array.ndim == 0 else np.ascontiguousarray(array)
    value = ir.val(unique, const_value=ir.tensor(contiguous, name=unique))
    graph.register_initializer(value)
    return value


def shared_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """The initializer of that name if it holds this array, else a new one."""
    known = graph.initializers.get(name)
    held = constant(known)
    if known is None or held is None or held.dtype != array.dtype or held.shape != array.shape:
        return add_constant(graph, name, array)
    return known if np.array_equal(held, array) else add_constant(graph, name, array)


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of a graph: inputs, initializers and what its nodes compute."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def only_user(value: ir.Value) -> ir.Node | None:
    """The single node that reads a value (once); None with more readers or a graph output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The Python value of a node's attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def replace(graph: ir.Graph, old: Sequence[ir.Node], new: Sequence[ir.Node]) -> None:
    """Put new nodes in the place of old ones; the last old node's outputs become the last new's.

    Names of the replaced outputs go over to the new ones, because metadata refers to states and
    graph outputs by name. Old nodes that others still read stay.
    """
    last_old, last_new = old[-1], new[-1]
    graph.insert_after(last_old, new)
    for before, after in zip(last_old.outputs, last_new.outputs, strict=True):
        name, before.name = before.name, None
        after.name = name
        after.type = before.type if after.type is None else after.type
        after.shape = before.shape if after.shape is None else after.shape
        before.replace_all_uses_with(after, replace_graph_outputs=True)
    for node in reversed(old):
        unread = not any(list(out.uses()) or out.is_graph_output() for out in node.outputs)
        if unread:
            graph.remove(node, safe=True)

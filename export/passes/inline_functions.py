"""The inverse of attach_functions, for runtimes that take no functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.errors import ExportError
from export.passes.attach_functions import AttachFunctions
from export.passes.base import (
    Array,
    FunctionPass,
    add_constant,
    attribute,
    constant,
    is_op,
    label,
    producer,
    replace,
)
from export.passes.constants import evaluate, is_computable
from runtime.graph import LIBRARY_DOMAINS


class InlineFunctions(FunctionPass):
    """Put the bodies of functions in the place of their calls.

    Before: ``snn::QLIF(...)`` and a function ``snn::QLIF``. After: ``Clip, Mul, Div, Add, ...``,
    standard operators only. What a body asks of its attributes and types (the reset, the fractional
    bits, the membrane's limits) is known here and computed, so no ``If``, no text and no shape
    arithmetic stay behind, nor a ``CastLike`` or an integer factor of 1. Weights stay int8. Ops of
    the library without a body get theirs first.
    """

    name = "inline_functions"
    summary = "function bodies in place of their calls, for runtimes that take no functions"

    def rewrite_model(self, model: onnx.ModelProto) -> int:
        """See the class."""
        AttachFunctions().rewrite_model(model)
        calls = len(model.functions)
        if not calls:
            return 0
        plain = onnx.inliner.inline_local_functions(model)
        graph = ir.from_proto(onnx.shape_inference.infer_shapes(plain, data_prop=True))
        _simplify(graph)
        for node in graph.graph.all_nodes():
            if node.domain:
                raise ExportError(
                    f"node {label(node)}: is no standard operator and has no function body; "
                    "attach one, or leave functions in the file"
                )
        for domain in LIBRARY_DOMAINS:
            graph.graph.opset_imports.pop(domain, None)
        model.CopyFrom(ir.to_proto(graph))
        return calls


def _simplify(model: ir.Model) -> None:
    """Compute everything that constants, ranks and types decide; then drop what nobody reads."""
    graph = model.graph
    changed = True
    while changed:
        changed = False
        for node in list(graph):
            if node.graph is not graph:
                continue
            changed |= (
                _decide(graph, node)
                or _compute(graph, node)
                or _name_type(graph, node)
                or _drop_unit_factor(graph, node)
            )
    for step in (
        common.IdentityEliminationPass(),
        # Text has to be gone before constants are compared.
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(size_limit=4),
        common.RemoveUnusedNodesPass(),
        common.NameFixPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(model)


def _decide(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace an ``If`` on a known condition by the branch it takes."""
    if not is_op(node, "If"):
        return False
    condition = constant(node.inputs[0])
    if condition is None:
        return False
    branch: ir.Graph = attribute(node, "then_branch" if condition.item() else "else_branch")
    results = list(branch.outputs)
    for name in list(branch.initializers):
        graph.register_initializer(branch.initializers.pop(name))
    inner = list(branch)
    branch.outputs.clear()
    branch.remove(inner)
    graph.insert_before(node, inner)
    for before, after in zip(node.outputs, results, strict=True):
        _hand_over(before, after)
    graph.remove(node, safe=True)
    return True


def _compute(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace a node whose inputs, or their types and ranks, are known by its result."""
    arrays = _results(node)
    if arrays is None:
        return False
    for before, array in zip(node.outputs, arrays, strict=True):
        if before.is_graph_output():
            return False
        _hand_over(before, add_constant(graph, before.name or node.op_type, array))
    graph.remove(node, safe=True)
    return True


def _name_type(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace a ``CastLike`` to a known type by the ``Cast``, which more runtimes read."""
    like = node.inputs[1] if is_op(node, "CastLike") else None
    if like is None or like.dtype is None:
        return False
    cast = ir.node("Cast", [node.inputs[0]], {"to": like.dtype.value}, name=node.name)
    replace(graph, [node], [cast])
    return True


def _drop_unit_factor(graph: ir.Graph, node: ir.Node) -> bool:
    """Remove a multiplication of integers by a single 1 that does not change their shape."""
    if not is_op(node, "Mul") or node.outputs[0].is_graph_output():
        return False
    for factor, rest in (node.inputs, reversed(node.inputs)):
        array = constant(factor)
        if array is None or rest is None or array.dtype.kind not in "iu" or array.size != 1:
            continue
        keeps_shape = array.ndim == 0 or (rest.shape is not None and array.ndim <= len(rest.shape))
        if array.item() == 1 and keeps_shape:
            _hand_over(node.outputs[0], rest)
            graph.remove(node, safe=True)
            return True
    return False


def _results(node: ir.Node) -> list[Array] | None:
    measured = producer(node.inputs[0] if node.inputs else None, "Shape")
    if measured is not None and is_op(node, "Shape"):
        inner = measured.inputs[0]
        shape = None if inner is None else inner.shape
        return None if shape is None else [np.array([len(shape)], np.int64)]
    if not is_computable(node) or _widens_a_weight(node):
        return None
    values = [None if value is None else constant(value) for value in node.inputs]
    if is_op(node, "CastLike") and values[0] is not None:
        like = node.inputs[1]
        if like is None or like.dtype is None:
            return None
        values[1] = np.zeros((), like.dtype.numpy())
    if any(v is None and given is not None for v, given in zip(values, node.inputs, strict=True)):
        return None
    return evaluate(node, values)


def _widens_a_weight(node: ir.Node) -> bool:
    """Whether a node's result would store a quantized constant in more bytes."""
    source = node.inputs[0] if node.inputs else None
    array = constant(source)
    if is_op(node, "DequantizeLinear"):
        return array is not None
    return is_op(node, "Cast") and array is not None and array.ndim > 0 and array.itemsize == 1


def _hand_over(before: ir.Value, after: ir.Value) -> None:
    """Let a value stand for another everywhere, under the other's name where it is an output."""
    if before.is_graph_output():
        before.name, after.name = None, before.name
    if after.type is None:
        after.type = before.type
    if after.shape is None:
        after.shape = before.shape
    before.replace_all_uses_with(after, replace_graph_outputs=True)

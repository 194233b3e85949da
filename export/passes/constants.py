"""Constants computed ahead of time: one node, or everything a value depends on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

import lif_op.spec
from export.arithmetic import quantize
from export.passes.base import Array, constant, is_op
from export.passes.quantizers import QUANTIZE, is_standard_integer, parameters

_RANDOM = ("Bernoulli", "Multinomial", "Random")
MAX_ELEMENTS = 1 << 26
"""Of one computed constant; a larger one stays a computation."""


def is_computable(node: ir.Node) -> bool:
    """Whether a node is a standard operator whose result its inputs alone decide."""
    nested = any(
        entry.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for entry in node.attributes.values()
    )
    return not node.domain and not nested and not node.op_type.startswith(_RANDOM)


def evaluate(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array] | None:
    """What a node computes from these inputs; None where the reference evaluator cannot tell.

    Args:
        node: see ``is_computable``.
        inputs: an array per input, None for those left out.
    """
    given = parameters(node) if is_op(node, QUANTIZE) else None
    if given is not None and inputs[0] is not None and is_standard_integer(given.zero.dtype):
        axis = given.axis % inputs[0].ndim if inputs[0].ndim else 0
        return [quantize(inputs[0], given.scale, given.zero, axis)]
    names = ["" if array is None else f"x{n}" for n, array in enumerate(inputs)]
    outputs = [f"y{n}" for n in range(len(node.outputs))]
    proto = ir.to_proto(node)
    attributes = list(proto.attribute)
    bare = onnx.helper.make_node(node.op_type, names, outputs)
    bare.attribute.extend(attributes)
    function = onnx.helper.make_function(
        "constant",
        "Constant",
        [name for name in names if name],
        outputs,
        [bare],
        [onnx.helper.make_opsetid("", _opset(node))],
    )
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if name}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(function).run(None, feeds, attributes={})
    except Exception:  # the evaluator's exceptions have no common base
        return None
    arrays = [np.asarray(result) for result in results]
    return arrays if all(array.size <= MAX_ELEMENTS for array in arrays) else None


def _opset(node: ir.Node) -> int:
    owner = node.graph
    imports: dict[str, int] = {} if owner is None else dict(owner.opset_imports)
    return imports.get("", lif_op.spec.OPSET)


def computed(value: ir.Value | None) -> Array | None:
    """The array of a value that depends on constants alone, computed node by node, else None."""
    known: dict[ir.Value, Array | None] = {}
    return None if value is None else _computed(value, known)


def _computed(value: ir.Value, known: dict[ir.Value, Array | None]) -> Array | None:
    if value in known:
        return known[value]
    array, node = constant(value), value.producer()
    if array is None and node is not None and is_computable(node) and node.op_type != "Constant":
        inputs: list[Any] = []
        for source in node.inputs:
            found = None if source is None else _computed(source, known)
            if found is None and source is not None:
                known[value] = None
                return None
            inputs.append(found)
        results = evaluate(node, inputs) if inputs else None
        array = None if results is None else results[value.index() or 0]
    known[value] = array
    return array

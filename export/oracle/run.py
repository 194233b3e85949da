"""A graph, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from export.arithmetic import Array
from export.errors import ExportError
from export.oracle.table import RULES


def known_operators() -> tuple[tuple[str, str], ...]:
    """(domain, operator) of everything ``run_integer`` can compute."""
    return tuple(sorted(RULES))


def run_integer(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Compute a graph's outputs.

    Args:
        model: an integer graph; ops of domain ``snn`` have the meaning of ``lif_op.spec``, and
            function bodies in the file are not looked at.
        inputs: an array per graph input.

    Returns:
        an array per graph output.

    Raises:
        ExportError: a missing input or attribute, or a node whose operator has no rule here.
    """
    values: dict[str, Any] = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
    }
    for entry in model.graph.input:
        if entry.name in inputs:
            values[entry.name] = np.asarray(inputs[entry.name])
        elif entry.name not in values:
            raise ExportError(f"input {entry.name!r} of the graph is not given")
    for node in model.graph.node:
        _run_node(node, values)
    return {entry.name: values[entry.name] for entry in model.graph.output}


def _run_node(node: onnx.NodeProto, values: dict[str, Any]) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    rule = RULES.get((domain, node.op_type))
    name = node.name or node.output[0]
    kind = f"{domain}::{node.op_type}" if domain else node.op_type
    if rule is None:
        raise ExportError(f"node {name!r} ({kind}): the integer oracle has no rule for it")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes["outputs"] = len(node.output)
    arguments = [values[i] if i else None for i in node.input]
    try:
        results = rule(attributes, arguments)
    except KeyError as error:
        raise ExportError(f"node {name!r} ({kind}): its attribute {error} is missing") from error
    except ValueError as error:
        raise ExportError(f"node {name!r} ({kind}): {error}") from error
    if not isinstance(results, tuple):
        results = (results,)
    for output, result in zip(node.output, results, strict=False):
        if output:
            values[output] = np.asarray(result)

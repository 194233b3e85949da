"""Calls of the library's ops: every input, output and attribute that the definition has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

import lif_op.spec
from export.errors import ExportError
from runtime.graph import LIBRARY_DOMAINS, all_nodes

_FRAC_BITS = range(-15, 15)

# Type, what is asked for in words, and whether a value is that.
_ATTRIBUTES: Mapping[str, tuple[int, str, Callable[[Any], bool]]] = {
    "reset": (
        AttributeProto.STRING,
        f"one of {', '.join(lif_op.spec.RESETS)}",
        lambda value: value.decode("utf-8", "replace") in lif_op.spec.RESETS,
    ),
    "frac_bits": (
        AttributeProto.INT,
        f"an integer from {_FRAC_BITS[0]} to {_FRAC_BITS[-1]}",
        lambda value: value in _FRAC_BITS,
    ),
    "strides": (
        AttributeProto.INTS,
        "two positive integers",
        lambda value: len(value) == 2 and min(value) > 0,
    ),
    "pads": (
        AttributeProto.INTS,
        "four integers from 0 (top, left, bottom, right)",
        lambda value: len(value) == 4 and min(value) >= 0,
    ),
    "channels": (AttributeProto.INT, "a positive integer", lambda value: value > 0),
}

_CONSTANTS: Mapping[str, tuple[type, int]] = {
    "weight": (np.int8, 4),
    "weight_rec": (np.int8, 4),
    "bias": (np.int32, 1),
    "decay": (np.int32, 1),
    "beta": (np.float32, 1),
}
"""Element type and rank of an input; a threshold has those of the decay or beta beside it."""


def check_library_calls(model: onnx.ModelProto) -> None:
    """Check every node of the library's domains against the definition of its op.

    Ops without a definition pass: :class:`export.passes.attach_functions.AttachFunctions` says so.

    Raises:
        ExportError: the node, what is wrong with it, and what to write instead.
    """
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in all_nodes(model.graph):
        if node.domain not in LIBRARY_DOMAINS:
            continue
        try:
            definition = lif_op.spec.function(node.op_type, domain=node.domain)
        except KeyError:
            continue
        _check_operands(node, definition)
        _check_attributes(node, definition)
        if node.domain == lif_op.spec.DOMAIN:
            _check_constants(node, definition, arrays)


def _refuse(node: onnx.NodeProto, reason: str, instead: str) -> NoReturn:
    name = node.name or next(iter(node.output), "")
    raise ExportError(f"node {name!r} ({node.domain}::{node.op_type}): {reason}; {instead}")


def _check_operands(node: onnx.NodeProto, definition: onnx.FunctionProto) -> None:
    for what, given, wanted in (
        ("input", node.input, definition.input),
        ("output", node.output, definition.output),
    ):
        for number, name in enumerate(wanted):
            if number >= len(given) or not given[number]:
                instead = f"connect all of {', '.join(wanted)}, in this order"
                _refuse(node, f"its {what} {name!r} is missing", instead)
        if len(given) > len(wanted):
            instead = f"connect {', '.join(wanted)} and no more"
            _refuse(node, f"it has {len(given)} {what}s instead of {len(wanted)}", instead)


def _check_attributes(node: onnx.NodeProto, definition: onnx.FunctionProto) -> None:
    given = {attribute.name: attribute for attribute in node.attribute}
    for name in definition.attribute:
        kind, words, fits = _ATTRIBUTES[name]
        if name not in given:
            _refuse(node, f"its attribute {name!r} is missing", f"write it: {words}")
        entry = given.pop(name)
        if entry.type != kind or not fits(onnx.helper.get_attribute_value(entry)):
            _refuse(node, f"its attribute {name!r} is not what the op takes", f"write {words}")
    for name in given:
        known = ", ".join(definition.attribute) or "none"
        _refuse(node, f"it has an attribute {name!r}", f"the op takes {known}")


def _check_constants(
    node: onnx.NodeProto, definition: onnx.FunctionProto, arrays: Mapping[str, onnx.TensorProto]
) -> None:
    expected = dict(_CONSTANTS)
    expected["threshold"] = _CONSTANTS["beta" if "beta" in definition.input else "decay"]
    sizes: dict[str, list[int]] = {}
    for name, value in zip(definition.input, node.input, strict=True):
        if name not in expected or value not in arrays:
            continue
        dtype, rank = expected[name]
        array = numpy_helper.to_array(arrays[value])
        if array.dtype != dtype or array.ndim != rank or not array.size:
            shape = "[Cout, Cin, kh, kw]" if rank == 4 else "[C]"
            found = f"{array.dtype} {list(array.shape)}"
            _refuse(node, f"its {name} is {found}", f"give {np.dtype(dtype)} {shape}")
        sizes[name] = list(array.shape[:1])
    if len({tuple(size) for size in sizes.values()}) > 1:
        found = ", ".join(f"{name} {size[0]}" for name, size in sizes.items())
        _refuse(node, f"its constants differ in their channels ({found})", "give them one number")

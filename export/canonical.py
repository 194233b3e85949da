"""Whether two ONNX files are the same graph: names, order and sharing of constants set aside."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Entry = tuple[Any, ...]

_SPATIAL_OPS = ("Conv", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def fingerprint(model: onnx.ModelProto) -> Counter[Entry]:
    """The multiset of a graph's nodes and constants.

    A node counts as ("node", domain, operator, attributes), where attributes that say what holds
    without them are left out; a constant as ("constant", dtype, shape, SHA-256 of its bytes), once
    for every input that reads it, because exporters share equal constants differently.

    Args:
        model: constants as initializers, as after the pass ``clean``.
    """
    constants = _constants(model)
    entries: Counter[Entry] = Counter()
    for node in model.graph.node:
        entries["node", node.domain, node.op_type, _attributes(node, constants)] += 1
        entries.update(constants[name] for name in node.input if name in constants)
    return entries


def expressions(model: onnx.ModelProto) -> dict[str, str]:
    """A digest of how each graph output is computed from named inputs and constants.

    Two graphs with equal digests have the same nodes wired in the same way.
    """
    known = {name: repr(entry) for name, entry in _constants(model).items()}
    known |= {entry.name: f"input {entry.name}" for entry in model.graph.input}
    constants = _constants(model)
    for node in model.graph.node:
        inputs = [known[name] if name else "absent" for name in node.input]
        text = repr((node.domain, node.op_type, _attributes(node, constants), inputs))
        for index, name in enumerate(node.output):
            known[name] = hashlib.sha256(f"{index} {text}".encode()).hexdigest()
    return {entry.name: known[entry.name] for entry in model.graph.output}


def difference(left: onnx.ModelProto, right: onnx.ModelProto) -> str:
    """What one graph has and the other has not, one line each; empty if the fingerprints agree."""
    a, b = fingerprint(left), fingerprint(right)
    lines = [f"- {count} x {entry}" for entry, count in (a - b).items()]
    lines += [f"+ {count} x {entry}" for entry, count in (b - a).items()]
    return "\n".join(lines)


def _constants(model: onnx.ModelProto) -> dict[str, Entry]:
    return {tensor.name: _constant(tensor) for tensor in model.graph.initializer}


def _constant(tensor: onnx.TensorProto) -> Entry:
    array = numpy_helper.to_array(tensor)
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return "constant", str(array.dtype), array.shape, digest


def _attributes(node: onnx.NodeProto, constants: Mapping[str, Entry]) -> Entry:
    """Attributes by name, without those that change nothing."""
    given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    defaults = _defaults(node.op_type) if not node.domain else {}
    spatial = node.op_type in _SPATIAL_OPS
    for name, value in list(given.items()):
        default = name in defaults and defaults[name] == value
        if default or (spatial and _says_nothing(name, value, node.op_type)):
            del given[name]
    if node.op_type in _QUANTIZERS and constants.get(node.input[1], (0, 0, (1,)))[2] == ():
        given.pop("axis", None)
    return tuple(sorted((name, _hashable(value)) for name, value in given.items()))


def _defaults(op_type: str) -> dict[str, Any]:
    schema = onnx.defs.get_schema(op_type)
    return {
        name: onnx.helper.get_attribute_value(entry.default_value)
        for name, entry in schema.attributes.items()
        if entry.default_value.type != onnx.AttributeProto.UNDEFINED
    }


def _says_nothing(name: str, value: Any, op_type: str) -> bool:
    """Lists of ones or zeros that ONNX assumes, and a kernel's shape, which its weight has."""
    if name == "kernel_shape":
        return "Pool" not in op_type
    if name in ("strides", "dilations"):
        return all(item == 1 for item in value)
    return name == "pads" and not any(value)


def _hashable(value: Any) -> Any:
    if isinstance(value, (onnx.TensorProto, onnx.GraphProto)):
        return hashlib.sha256(value.SerializeToString(deterministic=True)).hexdigest()
    return tuple(value) if isinstance(value, list) else value

"""Function bodies in a file are the op library's own, or the file is refused.

A body that differs from the native kernel would make one file compute two things.
"""

from __future__ import annotations

import copy
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, numpy_helper

import lif_op.spec
from runtime.errors import ArtifactError
from runtime.graph import subgraphs

NO_ARRAY = (ValueError, TypeError, KeyError)
"""What onnx.numpy_helper raises for a tensor that is none."""


def canonical_body(function: FunctionProto) -> bytes:
    """The bytes of a function without what has no meaning.

    Documentation, node names, metadata and value information go; attributes and imports are
    sorted. Two bodies that compute differently never become equal by this.
    """
    body = FunctionProto()
    body.CopyFrom(function)
    body.doc_string = ""
    body.ClearField("metadata_props")
    body.ClearField("value_info")
    _sort(body.opset_import, key=lambda entry: str(entry.domain))
    _sort(body.attribute, key=str)
    for node in body.node:
        _strip_node(node)
    return body.SerializeToString(deterministic=True)


def _strip_node(node: NodeProto) -> None:
    node.name = ""
    node.doc_string = ""
    node.ClearField("metadata_props")
    _sort(node.attribute, key=lambda attribute: str(attribute.name))
    for attribute in node.attribute:
        attribute.doc_string = ""
        if attribute.HasField("t"):
            _strip_tensor(attribute.t)
    for graph in subgraphs(node):
        # The name of a branch and the types noted on its values do not change what it computes.
        graph.name = ""
        graph.doc_string = ""
        graph.ClearField("metadata_props")
        graph.ClearField("value_info")
        for value in [*graph.input, *graph.output]:
            value.ClearField("type")
            value.doc_string = ""
        for nested in graph.node:
            _strip_node(nested)


def _strip_tensor(tensor: TensorProto) -> None:
    """One spelling of the values: raw bytes, without the tensor's name."""
    if tensor.data_type == TensorProto.STRING:
        tensor.name = ""
        return
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)))


def _sort(repeated: Any, key: Any) -> None:
    """Sort a repeated field in place; of messages, copies are put back."""
    items = sorted(repeated, key=key)
    copies = [item if isinstance(item, str) else copy.deepcopy(item) for item in items]
    del repeated[:]
    repeated.extend(copies)


def _own_bodies() -> dict[tuple[str, str], list[bytes]]:
    own = lif_op.spec.functions()
    own += [lif_op.spec.function(name, strict_conv=True) for name in lif_op.spec.STRICT_OPS]
    own.append(lif_op.spec.function("LIF", domain=lif_op.spec.FOREIGN_DOMAIN))
    bodies: dict[tuple[str, str], list[bytes]] = {}
    for function in own:
        bodies.setdefault((function.domain, function.name), []).append(canonical_body(function))
    return bodies


def check_functions(model: ModelProto, where: str) -> None:
    """Refuse functions that are not the op library's own, word for word.

    Raises:
        ArtifactError: naming the first of them.
    """
    own = _own_bodies() if model.functions else {}
    seen: set[tuple[str, str, str]] = set()
    for function in model.functions:
        key = (function.domain, function.name)
        label = f"{function.domain}::{function.name}"
        if key not in own:
            raise ArtifactError(
                f"{where}: embedded function {label} is not one of the op library's; "
                "inline it or export the file again with this version"
            )
        if (*key, function.overload) in seen or function.overload:
            raise ArtifactError(
                f"{where}: embedded function {label} appears twice or as an overload; "
                "export the file again"
            )
        seen.add((*key, function.overload))
        if not _is_one_of(function, own[key]):
            raise ArtifactError(
                f"{where}: the embedded body of {label} is not the op library's own, so the file "
                "would compute one thing with the library and another without it; export it again"
            )


def _is_one_of(function: FunctionProto, bodies: list[bytes]) -> bool:
    try:
        return canonical_body(function) in bodies
    except NO_ARRAY:
        return False

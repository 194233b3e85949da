"""Function bodies changed at random: refused, or they compute what the native kernel computes.

A body that disagrees with its kernel is the one trick that would end in a wrong answer instead of
an error: the same file would give one flow with the op library and another without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator

import lif_op.spec
from runtime.artifact import ArtifactError
from runtime.body_checks import check_functions

SETTINGS = settings(
    max_examples=int(os.environ.get("SPIKEDEPLOY_EXAMPLES", "300")),
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)
BODIES = [
    *lif_op.spec.functions(),
    *(lif_op.spec.function(name, strict_conv=True) for name in lif_op.spec.STRICT_OPS),
    lif_op.spec.function("LIF", domain=lif_op.spec.FOREIGN_DOMAIN),
]
SWAPS = {"Add": "Sub", "Sub": "Add", "Mul": "Div", "Div": "Mul", "Greater": "GreaterOrEqual"}

Draw = Callable[[st.SearchStrategy[Any]], Any]


def refused(body: FunctionProto) -> bool:
    model = ModelProto(functions=[body])
    try:
        check_functions(model, "model")
    except ArtifactError:
        return True
    return False


def all_nodes(graph: FunctionProto | GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def other_op(draw: Draw, body: FunctionProto) -> None:
    nodes = [node for node in all_nodes(body) if node.op_type in SWAPS]
    if nodes:
        node = draw(st.sampled_from(nodes))
        node.op_type = SWAPS[node.op_type]


def other_input(draw: Draw, body: FunctionProto) -> None:
    nodes = [node for node in all_nodes(body) if node.input]
    names = sorted({name for node in all_nodes(body) for name in (*node.input, *node.output)})
    node = draw(st.sampled_from(nodes))
    at = draw(st.integers(0, len(node.input) - 1))
    node.input[at] = draw(st.sampled_from([name for name in names if name != node.input[at]]))


def other_attribute(draw: Draw, body: FunctionProto) -> None:
    places = [a for node in all_nodes(body) for a in node.attribute if a.type != a.GRAPH]
    attribute = draw(st.sampled_from(places))
    if attribute.HasField("t"):
        data = bytearray(attribute.t.raw_data or b"\0")
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        attribute.t.raw_data = bytes(data)
    elif attribute.ref_attr_name:
        attribute.ref_attr_name = "other"
    elif attribute.ints:
        attribute.ints[0] += 1
    else:
        attribute.i += 1
        attribute.f += 1


def node_less(draw: Draw, body: FunctionProto) -> None:
    del body.node[draw(st.integers(0, len(body.node) - 1))]


def nodes_swapped(draw: Draw, body: FunctionProto) -> None:
    first = draw(st.integers(0, len(body.node) - 2))
    nodes = list(body.node)
    nodes[first], nodes[first + 1] = nodes[first + 1], nodes[first]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del body.node[:]
    body.node.extend(copies)


def other_version(draw: Draw, body: FunctionProto) -> None:
    body.opset_import[0].version += draw(st.integers(1, 5))


def outputs_swapped(_: Draw, body: FunctionProto) -> None:
    names = list(body.output)[::-1]
    del body.output[:]
    body.output.extend(names)


MUTATIONS = [
    other_op,
    other_input,
    other_attribute,
    node_less,
    nodes_swapped,
    other_version,
    outputs_swapped,
]


def test_own_bodies_are_taken() -> None:
    assert not any(refused(body) for body in BODIES)


@SETTINGS
@given(st.data())
def test_a_changed_body_is_refused(data: st.DataObject) -> None:
    """Every change of the structure, one at a time."""
    own = data.draw(st.sampled_from(BODIES))
    body = FunctionProto.FromString(own.SerializeToString())
    data.draw(st.sampled_from(MUTATIONS))(data.draw, body)
    same = body.SerializeToString(deterministic=True) == own.SerializeToString(deterministic=True)
    assert refused(body) or same


@SETTINGS
@given(st.data())
def test_a_body_with_other_bytes_is_refused_or_the_same(data: st.DataObject) -> None:
    """Flipped bits; what is still taken, the reference evaluator cannot tell from the original."""
    own = data.draw(st.sampled_from([b for b in BODIES if b.name in ("LIF", "QLIF")]))
    content = bytearray(own.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        body = FunctionProto.FromString(bytes(content))
    except DecodeError:
        return
    if refused(body):
        return
    for first, second in zip(outcomes(body), outcomes(own), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{body.domain}.{body.name}")
def test_what_has_no_meaning_may_change(body: FunctionProto) -> None:
    noisy = FunctionProto.FromString(body.SerializeToString())
    noisy.doc_string = "by someone else"
    for number, node in enumerate(all_nodes(noisy)):
        node.name, node.doc_string = f"node {number}", "a note"
    assert not refused(noisy)


def outcomes(body: FunctionProto) -> list[np.ndarray[Any, Any]]:
    """What a neuron's body computes, for every reset."""
    rng = np.random.default_rng(0)
    shape, integer = (2, 3, 4, 5), body.name == "QLIF"
    draw = (
        (lambda size: rng.integers(-300, 300, size).astype(np.int32))
        if integer
        else (lambda size: rng.normal(size=size).astype(np.float32))
    )
    current, mem = draw(shape), draw(shape).astype(np.int16 if integer else np.float32)
    decay, threshold = np.abs(draw(3)) % 256, np.abs(draw(3))
    feeds = dict(zip(body.input, (current, mem, decay, threshold), strict=True))
    made: list[np.ndarray[Any, Any]] = []
    for reset in lif_op.spec.RESETS if "reset" in body.attribute else ("",):
        given = {"reset": reset, "frac_bits": -2}
        attributes = {name: given[name] for name in body.attribute}
        node = helper.make_node(
            body.name, list(body.input), list(body.output), domain=body.domain, **attributes
        )
        values = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in body.output]
        graph = helper.make_graph([node], "one", values, outputs)
        imports = [
            helper.make_opsetid("", lif_op.spec.OPSET),
            helper.make_opsetid(body.domain, 1),
        ]
        model = helper.make_model(graph, functions=[body], opset_imports=imports)
        made += ReferenceEvaluator(model).run(None, feeds)
    return made

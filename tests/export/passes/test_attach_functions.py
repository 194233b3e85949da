"""attach_functions: the library's own bodies, exact where float32 sums would not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import lif_op.spec
from export.errors import ExportError
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.passes import find_pass, run_passes
from export.passes.attach_functions import exact_in_float32
from quant import quantize
from runtime.graph_checks import canonical_body

RESOLUTION = (9, 13)

Make = Callable[..., Any]


def apply(model: onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, int]:
    result, (report,) = run_passes(model, [find_pass(name)()])
    return result, report.changes


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.functions[:]
    return copy


def test_bodies_come_back_as_the_library_spells_them(active_network: Make) -> None:
    model = integer_model(quantize(active_network("LIFFireNet_short")), Dims(RESOLUTION, False))
    again, changes = apply(stripped(model), "attach_functions")
    assert changes == 2
    own = {body.name: canonical_body(body) for body in model.functions}
    assert {body.name: canonical_body(body) for body in again.functions} == own
    assert apply(again, "attach_functions")[1] == 0


def test_sums_beyond_float32_get_the_strict_body(active_network: Make) -> None:
    """One weight of 127 times 1041 inputs times counts of 127 is more than 2^24."""
    network = active_network("LIFFireNet_short", channels=4)
    spec = quantize(network)
    model = stripped(integer_model(spec, Dims(RESOLUTION, False)))
    assert exact_in_float32(model) and spec.exact_in_float32()
    bias = next(t for t in model.graph.initializer if t.name == "head.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, 2**24, np.int32), "head.bias"))
    assert not exact_in_float32(model)
    strict, _ = apply(model, "attach_functions")
    body = next(body for body in strict.functions if body.name == "QConv")
    assert canonical_body(body) == canonical_body(lif_op.spec.function("QConv", strict_conv=True))


def test_an_op_without_definition_is_refused_by_name() -> None:
    node = onnx.helper.make_node("Unheard", ["x"], ["y"], "n", domain="snn")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("snn", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(ExportError, match="snn::Unheard has no definition"):
        apply(model, "attach_functions")

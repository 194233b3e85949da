"""attach_functions: the library's own bodies, exact where float32 sums would not be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

import lif_op.spec
from export.errors import ExportError
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.passes import find_pass, run_passes
from export.passes.attach_functions import inexact_ops
from export.passes.fuse_conv_lif import FuseConvLif
from models.firenet import TOPOLOGIES
from quant import quantize
from runtime.body_checks import canonical_body

RESOLUTION = (9, 13)
NETWORKS = [
    ("LIFFireNet", "head"),
    ("LIFFireNet", "G1"),
    ("LIFFireNet", "pred"),
    ("recurrent from the start", "head"),
]

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
    model = integer_model(
        quantize(active_network("LIFFireNet_short")), Dims(RESOLUTION, False), fused=False
    )
    again, changes = apply(stripped(model), "attach_functions")
    assert changes == 2
    own = {body.name: canonical_body(body) for body in model.functions}
    assert {body.name: canonical_body(body) for body in again.functions} == own
    assert apply(again, "attach_functions")[1] == 0


def replaced(model: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    copy = stripped(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    return copy


def array_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    return onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def is_strict(model: onnx.ModelProto, op: str) -> bool:
    (body,) = (body for body in model.functions if body.name == op)
    found = canonical_body(body)
    strict = canonical_body(lif_op.spec.function(op, strict_conv=True))
    assert found in (strict, canonical_body(lif_op.spec.function(op)))
    return found == strict


@pytest.mark.parametrize(("name", "layer"), NETWORKS)
@pytest.mark.parametrize("over", [0, 1])
def test_the_bound_is_two_to_the_24_exactly(
    name: str, layer: str, over: int, active_network: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts reach 127 and spikes 1, side by side in one convolution of a recurrent layer."""
    monkeypatch.setitem(TOPOLOGIES, "recurrent from the start", (("head", True),))
    spec = quantize(active_network(name, channels=4))
    model = integer_model(spec, Dims(RESOLUTION, False), fused=False)
    spec_of = next((entry for entry in spec.layers if entry.name == layer), None)
    conv, recurrent = (spec.head, None) if spec_of is None else (spec_of.conv, spec_of.weight_rec)
    sums = conv.x_max * np.abs(conv.weight.astype(np.int64)).sum(axis=(1, 2, 3))
    if recurrent is not None:
        sums += np.abs(recurrent.astype(np.int64)).sum(axis=(1, 2, 3))
    bias = array_of(model, f"{layer}.bias").copy()
    bias[-1] = -(2**24 - sums[-1] + over)
    edge = replaced(model, f"{layer}.bias", bias)
    found, _ = apply(edge, "attach_functions")
    assert is_strict(found, "QConv") == bool(over)
    assert inexact_ops(edge) == ({("snn", "QConv")} if over else set())
    if spec_of is None:
        changed = replace(spec, head=replace(conv, bias=bias))
    else:
        entry = replace(spec_of, conv=replace(conv, bias=bias))
        layers = tuple(entry if old is spec_of else old for old in spec.layers)
        changed = replace(spec, layers=layers)
    assert changed.exact_in_float32() == (not over)
    again = integer_model(changed, Dims(RESOLUTION, False), fused=False)
    assert is_strict(again, "QConv") == bool(over)


@pytest.mark.parametrize("over", [0, 1])
def test_a_fused_op_is_strict_by_itself(over: int, active_network: Make) -> None:
    """Packed spikes are words whose bits are summed; another op's bound does not matter."""
    spec = quantize(active_network("LIFFireNet_short", channels=4))
    model, _ = run_passes(
        integer_model(spec, Dims(RESOLUTION, False), fused=False), [FuseConvLif()]
    )
    layer = next(entry for entry in spec.layers if entry.weight_rec is not None)
    assert layer.weight_rec is not None and layer.conv.x_max == 1
    sums = sum(
        np.abs(w.astype(np.int64)).sum(axis=(1, 2, 3))
        for w in (layer.conv.weight, layer.weight_rec)
    )
    bias = array_of(model, f"{layer.name}.bias").copy()
    bias[0] = 2**24 - sums[0] + over
    found, _ = apply(replaced(model, f"{layer.name}.bias", bias), "attach_functions")
    assert is_strict(found, "QConvLIFRec") == bool(over)
    assert not is_strict(found, "QConv") and not is_strict(found, "QConvLIF")


def test_bytes_of_unknown_origin_reach_255() -> None:
    helper = onnx.helper
    arrays = {"w": np.full((1, 1, 1, 1), 127, np.int8), "b": np.zeros(1, np.int32)}
    node = helper.make_node("QConv", ["x", "w", "b"], ["y"], "n", domain="snn")
    node.attribute.append(helper.make_attribute("strides", [1, 1]))
    node.attribute.append(helper.make_attribute("pads", [0] * 4))
    value = helper.make_tensor_value_info
    for over in (0, 1):
        arrays["b"][:] = 2**24 - 255 * 127 + over
        tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
        given, result = value("x", 2, [1, 1, 3, 3]), value("y", 6, [1, 1, 3, 3])
        graph = helper.make_graph([node], "g", [given], [result], tensors)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("snn", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        assert is_strict(apply(model, "attach_functions")[0], "QConv") == bool(over)


def test_a_body_that_became_inexact_is_replaced(active_network: Make) -> None:
    spec = quantize(active_network("LIFFireNet_short", channels=4))
    model = integer_model(spec, Dims(RESOLUTION, False), fused=False)
    bodies = list(model.functions)
    model = replaced(model, "head.bias", np.full(4, 2**24, np.int32))
    model.functions.extend(bodies)
    strict, changes = apply(model, "attach_functions")
    assert changes == 2 and is_strict(strict, "QConv")
    assert apply(strict, "attach_functions")[1] == 0


def test_a_body_that_nothing_calls_goes(active_network: Make) -> None:
    model = integer_model(
        quantize(active_network("LIFFireNet_short")), Dims(RESOLUTION, False), fused=False
    )
    model.functions.append(lif_op.spec.function("LIF"))
    found, changes = apply(model, "attach_functions")
    assert changes == 1 and {body.name for body in found.functions} == {"QConv", "QLIF"}


def test_a_computed_weight_is_refused(active_network: Make) -> None:
    model = integer_model(
        quantize(active_network("LIFFireNet_short")), Dims(RESOLUTION, False), fused=False
    )
    (tensor,) = (t for t in model.graph.initializer if t.name == "R1a.bias")
    model.graph.initializer.remove(tensor)
    model.graph.input.append(onnx.helper.make_tensor_value_info("R1a.bias", 6, list(tensor.dims)))
    with pytest.raises(ExportError, match=r"'R1a.*' \(snn::QConv\): its bias is no constant"):
        apply(model, "attach_functions")


def test_an_op_without_definition_is_refused_by_name() -> None:
    node = onnx.helper.make_node("Unheard", ["x"], ["y"], "n", domain="snn")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("snn", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(ExportError, match="snn::Unheard has no definition"):
        apply(model, "attach_functions")

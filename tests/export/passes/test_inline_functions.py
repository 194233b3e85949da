"""inline_functions: the same integers, wherever the arithmetic is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from export.errors import ExportError
from export.graphs.builder import Dims
from export.graphs.floating import float_model
from export.graphs.integer import integer_model
from export.passes import find_pass, run_passes
from quant import QuantOptions, quantize

RESOLUTION = (9, 13)
TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 5: np.int16}

Make = Callable[..., Any]
Arrays = dict[str, Any]


def apply(model: onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, int]:
    result, (report,) = run_passes(model, [find_pass(name)()])
    return result, report.changes


def zero_states(model: onnx.ModelProto) -> Arrays:
    sizes = {"N": 1, "H": RESOLUTION[0], "W": RESOLUTION[1]}
    states = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [d.dim_value or sizes[d.dim_param] for d in tensor.shape.dim]
        states[value.name] = np.zeros(shape, TYPES[tensor.elem_type])
    return {name: array for name, array in states.items() if name != "events"}


def drive(
    model: onnx.ModelProto, step: Callable[[Arrays], list[Any]], windows: list[Any]
) -> list[Arrays]:
    names = [output.name for output in model.graph.output]
    states, results = zero_states(model), []
    for events in windows:
        outputs = dict(zip(names, step({"events": events, **states}), strict=True))
        states = {name: outputs[name.replace(".", "_out.", 1)] for name in states}
        results.append(outputs)
    return results


def onnxruntime_step(model: onnx.ModelProto) -> Callable[[Arrays], list[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda inputs: list(session.run(None, inputs))


def openvino_step(model: onnx.ModelProto) -> Callable[[Arrays], list[Any]]:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    read = core.read_model(model.SerializeToString())
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def step(inputs: Arrays) -> list[Any]:
        found = compiled(inputs)
        return [found[output.name].copy() for output in model.graph.output]

    return step


def same(a: list[Arrays], b: list[Arrays]) -> None:
    for step, (left, right) in enumerate(zip(a, b, strict=True)):
        for name, array in left.items():
            if name == "flow":
                assert np.allclose(array, right[name], atol=1e-6, rtol=0), (step, name)
            else:
                assert array.dtype == right[name].dtype, name
                assert np.array_equal(array, right[name]), (step, name)


def unit_factors(model: onnx.ModelProto) -> int:
    """Multiplications by a single integer 1."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    ones = {n for n, a in arrays.items() if a.dtype.kind in "iu" and a.size == 1 and a.item() == 1}
    return sum(n.op_type == "Mul" and bool(ones & set(n.input)) for n in model.graph.node)


def one_function(op_type: str, other: onnx.TensorProto, kind: int) -> onnx.ModelProto:
    """A graph ``y = abs(f(x))`` with ``f(x) = op_type(x, other)`` in a function."""
    helper = onnx.helper
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ours", 1)]
    constant = helper.make_node("Constant", [], ["c"], value=other)
    body = helper.make_node(op_type, ["a", "c"], ["b"])
    function = helper.make_function("ours", "F", ["a"], ["b"], [constant, body], opsets)
    nodes = [
        helper.make_node("F", ["x"], ["f"], "call", domain="ours"),
        helper.make_node("Abs", ["f"], ["y"], "abs"),
    ]
    x = helper.make_tensor_value_info("x", kind, [2])
    result = other.data_type if op_type == "CastLike" else kind
    y = helper.make_tensor_value_info("y", result, [1] * (len(other.dims) - 1) + [2])
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])


@pytest.mark.parametrize(
    ("array", "stays"),
    [
        (np.array(1, np.int32), False),
        (np.array([1], np.int32), False),
        (np.array([[1]], np.int32), True),
        (np.array(2, np.int32), True),
        (np.array([1, 1], np.int32), True),
        (np.array(1, np.float32), True),
    ],
)
def test_an_integer_factor_of_one_that_keeps_the_shape_goes(array: Any, stays: bool) -> None:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    model = one_function("Mul", onnx.numpy_helper.from_array(array), kind)
    inlined, _ = apply(model, "inline_functions")
    assert ("Mul" in {node.op_type for node in inlined.graph.node}) == stays
    x = np.array([-7, 3], array.dtype)
    (left,), (right,) = (onnxruntime_step(m)({"x": x}) for m in (model, inlined))
    assert left.shape == right.shape and left.dtype == right.dtype
    assert np.array_equal(left, right)


def test_a_cast_like_a_known_type_becomes_that_cast() -> None:
    model = one_function("CastLike", onnx.numpy_helper.from_array(np.array(0, np.int16)), 6)
    model.graph.node[1].op_type = "Identity"
    inlined, _ = apply(model, "inline_functions")
    (cast,) = inlined.graph.node
    assert cast.op_type == "Cast" and cast.attribute[0].i == onnx.TensorProto.INT16
    x = np.array([-7, 3], np.int32)
    (left,), (right,) = (onnxruntime_step(m)({"x": x}) for m in (model, inlined))
    assert left.dtype == right.dtype == np.int16 and np.array_equal(left, right)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(
    ("options", "reset"),
    [
        (QuantOptions(), "zero"),
        (QuantOptions(8, 8, -3), "subtract"),
        (QuantOptions(7, 16, 2), "none"),
    ],
)
def test_inlined_integers_are_equal_everywhere(
    options: QuantOptions, reset: str, free: bool, active_network: Make, moving_counts: Make
) -> None:
    """ONNX Runtime, the reference evaluator and OpenVINO on standard operators alone."""
    network = active_network("LIFFireNet_short", channels=5, reset=reset)
    model = integer_model(quantize(network, options), Dims(RESOLUTION, free), fused=False)
    inlined, changes = apply(model, "inline_functions")
    assert changes == 2 and not inlined.functions
    assert not any(node.domain for node in inlined.graph.node)
    assert {entry.domain for entry in inlined.opset_import} == {""}
    kinds = {node.op_type for node in inlined.graph.node}
    shapes = {"Shape", "ConstantOfShape", "Reshape", "Split"}
    assert not kinds & {"If", "Constant", "Pow", "CastLike", *shapes}
    assert unit_factors(inlined) == 0
    assert sum(t.data_type == onnx.TensorProto.INT8 for t in inlined.graph.initializer) == 6
    assert not any(t.data_type == onnx.TensorProto.STRING for t in inlined.graph.initializer)
    onnx.checker.check_model(inlined, full_check=True)
    windows = moving_counts(6, RESOLUTION)
    wanted = drive(model, onnxruntime_step(model), windows)
    assert wanted[-1]["spike_out.G2"].any()
    evaluator = ReferenceEvaluator(inlined)
    steps = [onnxruntime_step(inlined), openvino_step(inlined)]
    for step in [*steps, lambda inputs: list(evaluator.run(None, inputs))]:
        same(wanted, drive(inlined, step, windows))


def test_inlining_twice_changes_nothing(active_network: Make) -> None:
    model = integer_model(
        quantize(active_network("LIFFireNet_short")), Dims(RESOLUTION, False), fused=False
    )
    once, _ = apply(model, "inline_functions")
    twice, changes = apply(once, "inline_functions")
    assert changes == 0
    assert twice == once


def test_float_neurons_inline_too(active_network: Make, moving_counts: Make) -> None:
    network = active_network("LIFFireNet_short", channels=5)
    model = float_model(network, Dims(RESOLUTION, False))
    inlined, _ = apply(model, "inline_functions")
    windows = [counts.astype(np.float32) for counts in moving_counts(3, RESOLUTION)]
    left = drive(model, onnxruntime_step(model), windows)
    right = drive(inlined, onnxruntime_step(inlined), windows)
    for a, b in zip(left, right, strict=True):
        assert np.array_equal(a["spike_out.G1"], b["spike_out.G1"])


def test_a_foreign_domain_without_body_is_refused_by_name(active_network: Make) -> None:
    model = integer_model(
        quantize(active_network("LIFFireNet_short")), Dims(RESOLUTION, False), fused=False
    )
    model.graph.node.append(
        onnx.helper.make_node("Theirs", ["flow"], ["more"], "odd", domain="else")
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("more", 1, ["a"]))
    model.opset_import.append(onnx.helper.make_opsetid("else", 1))
    with pytest.raises(ExportError, match=r"'odd' \(else::Theirs\).*no function body"):
        apply(model, "inline_functions")


def test_a_body_for_another_opset_is_refused(active_network: Make) -> None:
    model = integer_model(
        quantize(active_network("LIFFireNet_short")), Dims(RESOLUTION, False), fused=False
    )
    model.functions[0].opset_import[0].version = 20
    with pytest.raises(ExportError, match="imports version 20 whereas model imports version 21"):
        apply(model, "inline_functions")

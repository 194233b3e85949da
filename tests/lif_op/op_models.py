"""Small ONNX models around the ops, and the inputs to run them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lif_op import spec

Array = npt.NDArray[Any]

_ELEMENT_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int16): TensorProto.INT16,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.uint32): TensorProto.UINT32,
}


def tensor_info(name: str, dtype: Any, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _ELEMENT_TYPES[np.dtype(dtype)], list(shape))


def single_node(
    op_type: str,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Any],
    *,
    constants: Mapping[str, Array] | None = None,
    domain: str = spec.DOMAIN,
    domain_version: int = spec.DOMAIN_VERSION,
    with_bodies: bool = True,
    order: Sequence[str] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node. `outputs` maps names to dtypes; `constants` become initializers; `order` is that of
    the node's inputs where it is not that of `inputs` and `constants`."""
    constants = constants or {}
    names = [*inputs, *constants] if order is None else list(order)
    if op_type == "QLIF":
        names = ["acc", "mem", "decay", "threshold"]
    elif op_type == "LIF":
        names = ["input" if domain == spec.FOREIGN_DOMAIN else "current", "mem"]
        names += ["beta", "threshold"]
    elif op_type == "QConv":
        names = ["x", "weight", "bias"]
    node = helper.make_node(op_type, names, list(outputs), domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        op_type,
        [tensor_info(name, value.dtype, value.shape) for name, value in inputs.items()],
        [tensor_info(name, dtype, ["?"] * 0) for name, dtype in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    functions: list[onnx.FunctionProto] = []
    if with_bodies:
        functions = (
            spec.functions()
            if domain == spec.DOMAIN
            else [spec.function(op_type, domain=spec.FOREIGN_DOMAIN)]
        )
    opsets = [helper.make_opsetid("", spec.OPSET), helper.make_opsetid(domain, domain_version)]
    return helper.make_model(
        graph, opset_imports=opsets, functions=functions, ir_version=spec.IR_VERSION
    )


def session(
    model: onnx.ModelProto,
    register: Callable[[onnxruntime.SessionOptions], None] | None,
    *,
    threads: int = 1,
    level: Any = None,
    profile_prefix: str | None = None,
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if level is not None:
        options.graph_optimization_level = level
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if register is not None:
        register(options)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def assert_same(got: Sequence[Array], expected: Sequence[Array]) -> None:
    """Equal values, types and shapes, bit for bit."""
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def lif_inputs(seed: int, shape: Sequence[int]) -> dict[str, Array]:
    """Random inputs; a quarter of the membranes end around the least normal number."""
    rng = np.random.default_rng(seed)
    tiny = rng.random(shape) < 0.25
    mem = rng.normal(size=shape).astype(np.float32)
    return {
        "current": np.where(tiny, 0, rng.normal(size=shape)).astype(np.float32),
        "mem": np.where(tiny, mem * np.finfo(np.float32).tiny, mem),
        "beta": rng.random(shape[1], dtype=np.float32),
        "threshold": rng.random(shape[1], dtype=np.float32),
    }


def qlif_inputs(seed: int, shape: Sequence[int], mem_dtype: Any = np.int16) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    lo, hi = spec.membrane_limits(mem_dtype)
    return {
        "acc": rng.integers(-2 * hi, 2 * hi, shape, dtype=np.int32),
        "mem": rng.integers(lo, hi + 1, shape).astype(mem_dtype),
        "decay": rng.integers(0, 257, shape[1], dtype=np.int32),
        "threshold": rng.integers(0, hi, shape[1], dtype=np.int32),
    }


def qconv_inputs(
    seed: int, x_shape: Sequence[int], out_channels: int, kernel: Sequence[int] = (3, 3)
) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    weight_shape = (out_channels, x_shape[1], *kernel)
    return {
        "x": rng.integers(0, 256, x_shape, dtype=np.uint8),
        "weight": rng.integers(-128, 128, weight_shape, dtype=np.int8),
        "bias": rng.integers(-5000, 5000, out_channels, dtype=np.int32),
    }

"""Quantized graphs in canonical spelling, built by hand, and ways to run them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import lif_op.spec
from export.oracle import run_integer
from export.passes.base import GraphPass
from export.passes.fuse_qlinear import FuseQLinear
from export.passes.run import run_passes
from export.passes.sink_dequantize import SinkDequantize

LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class Graph:
    """Collects nodes; every method returns the name of a tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inits: dict[str, np.ndarray] = {}
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def const(self, array: np.ndarray) -> str:
        name = f"c{len(self.inits)}"
        self.inits[name] = array
        return name

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(
            helper.make_node(op_type, inputs, names, name=f"n{len(self.nodes)}", **attributes)
        )
        return names[0] if outputs == 1 else names

    def _parameters(self, scale: Any, zero: Any, dtype: Any) -> list[str]:
        scale = np.asarray(scale, np.float32)
        zeros = np.broadcast_to(np.asarray(zero, dtype), scale.shape).copy()
        return [self.const(scale), self.const(zeros.reshape(scale.shape))]

    def q(self, x: str, scale: Any, zero: Any = 0, dtype: Any = np.uint8) -> str:
        return self.op("QuantizeLinear", x, *self._parameters(scale, zero, dtype))

    def dq(self, x: str, scale: Any, zero: Any = 0, dtype: Any = np.uint8, axis: int = 1) -> str:
        attributes = {"axis": axis} if np.ndim(scale) else {}
        return self.op("DequantizeLinear", x, *self._parameters(scale, zero, dtype), **attributes)

    def qdq(self, x: str, scale: Any, zero: Any = 0, dtype: Any = np.uint8) -> str:
        return self.dq(self.q(x, scale, zero, dtype), scale, zero, dtype)

    def weight(self, array: np.ndarray, scale: Any, axis: int = 0, zero: int = 0) -> str:
        return self.dq(self.const(array), scale, zero, array.dtype, axis)

    def bias(self, array: np.ndarray, scale: Any) -> str:
        return self.dq(self.const(array.astype(np.int32)), scale, 0, np.int32, 0)

    def model(self, outputs: dict[str, Any]) -> onnx.ModelProto:
        """outputs: names of tensors with their types."""
        infos = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(t)), None)
            for n, t in outputs.items()
        ]
        inits = [numpy_helper.from_array(a, n) for n, a in self.inits.items()]
        graph = helper.make_graph(self.nodes, "g", self.inputs, infos, inits)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", lif_op.spec.OPSET)],
            ir_version=lif_op.spec.IR_VERSION,
        )
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
        del model.graph.output[:]
        model.graph.output.extend(inferred)
        return model


def apply(model: onnx.ModelProto, *passes: GraphPass) -> onnx.ModelProto:
    return run_passes(model, passes)[0]


def integer(model: onnx.ModelProto) -> onnx.ModelProto:
    return apply(model, SinkDequantize(), FuseQLinear())


def with_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the bodies of what it uses from domain snn, convolutions exact."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    used = {n.op_type for n in model.graph.node if n.domain == lif_op.spec.DOMAIN}
    for op_type in sorted(used):
        bare.functions.append(lif_op.spec.function(op_type, strict_conv=True))
    return bare


def run_ort(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], level: str = "off", threads: int = 1
) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(
        with_bodies(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def assert_equal(got: dict[str, np.ndarray], want: dict[str, np.ndarray], what: str = "") -> None:
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=f"{what} {name}")
        assert got[name].dtype == want[name].dtype


def assert_runtimes_agree(
    model: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    levels: Iterable[str] = LEVELS,
    threads: Iterable[int] = (1, 2),
) -> dict[str, np.ndarray]:
    """ONNX Runtime at those levels and thread counts equals the oracle bit for bit."""
    want = run_integer(model, feeds)
    for level in levels:
        for count in threads:
            assert_equal(run_ort(model, feeds, level, count), want, f"level {level}")
    return want


def has_float(model: onnx.ModelProto) -> bool:
    """Whether an initializer besides scales is float."""
    scales = {
        name
        for n in model.graph.node
        for i, name in enumerate(n.input)
        if (n.op_type in ("QuantizeLinear", "DequantizeLinear") and i == 1)
        or (n.op_type == "QLinearConv" and i in (1, 4, 6))
    }
    return any(
        t.data_type == TensorProto.FLOAT and t.name not in scales for t in model.graph.initializer
    )

"""One spiking layer with something between convolution and neuron, and ways to step graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import lif_op.spec

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

CHANNELS = 4
SIDE = (7, 9)


class Layer:
    """Builds ``x -> Conv -> (what a test adds) -> snn::LIF`` with a membrane state.

    integer: weights and membrane are dequantized integers, else everything is float32.
    """

    def __init__(self, *, integer: bool, seed: int = 0, bias: bool = True) -> None:
        self.integer = integer
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.inputs = [self.info("x", TensorProto.FLOAT, 3)]
        self.scale = self.rng.uniform(0.01, 0.05, CHANNELS).astype(np.float32)
        self.membrane_scale = self.scale.copy()
        self.threshold = self.rng.uniform(0.4, 1.5, CHANNELS).astype(np.float32)
        self.current = self.conv("conv", "x", 3, bias=bias)

    @staticmethod
    def info(name: str, kind: int, channels: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [1, channels, *SIDE])

    def const(self, name: str, array: Any) -> str:
        self.constants[name] = np.asarray(array)
        return name

    def op(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def dequantized(self, name: str, values: Array) -> str:
        zero = self.const(f"{name}_zero", np.zeros(CHANNELS, values.dtype))
        inputs = [self.const(name, values), self.const(f"{name}_scale", self.scale), zero]
        return self.op("DequantizeLinear", inputs, f"{name}_dq", axis=0)

    def conv(
        self, name: str, x: str, cin: int, *, bias: bool = True, kernel: int = 3, **attributes: Any
    ) -> str:
        weight = self.rng.integers(-63, 64, (CHANNELS, cin, kernel, kernel)).astype(np.int8)
        offset = self.rng.integers(-20, 20, CHANNELS).astype(np.int32)
        if self.integer:
            inputs = [x, self.dequantized(f"{name}.weight", weight)]
            inputs += [self.dequantized(f"{name}.bias", offset)] if bias else []
        else:
            scale = self.scale.reshape(-1, 1, 1, 1)
            inputs = [x, self.const(f"{name}.weight", weight * scale)]
            inputs += (
                [self.const(f"{name}.bias", (offset * self.scale).astype(np.float32))]
                if bias
                else []
            )
        shape = {"strides": [1, 1], "pads": [kernel // 2] * 4}
        return self.op("Conv", inputs, name, **{**shape, **attributes})

    def affine(
        self, op_type: str, values: Any, name: str = "affine", *, first: bool = False
    ) -> str:
        """An operator with a constant, one value or one per channel, on the current."""
        array = np.asarray(values, np.float32)
        shaped = array if array.ndim == 0 else array.reshape(1, -1, 1, 1)
        inputs = [self.current, self.const(f"{name}.constant", shaped)]
        self.current = self.op(op_type, inputs[::-1] if first else inputs, name)
        return self.current

    def model(self, reset: str = "zero") -> onnx.ModelProto:
        """Finish with the neuron."""
        beta = self.const("beta", np.full(CHANNELS, 0.75, np.float32))
        threshold = self.const("threshold", self.threshold)
        kind, mem = TensorProto.FLOAT, "mem.L"
        zero = self.const("mem_zero", np.zeros(CHANNELS, np.int16))
        grid = [self.const("mem_scale", self.membrane_scale), zero]
        if self.integer:
            kind = TensorProto.INT16
            mem = self.op("DequantizeLinear", ["mem.L", *grid], "mem_dq", axis=1)
        out = "mem_real" if self.integer else "mem_out.L"
        inputs = [self.current, mem, beta, threshold]
        self.nodes.append(
            helper.make_node("LIF", inputs, ["spike", out], "neuron", domain="snn", reset=reset)
        )
        if self.integer:
            self.op("QuantizeLinear", [out, *grid], "mem_out.L", axis=1)
        else:
            del self.constants["mem_scale"], self.constants["mem_zero"]
        return self.finish(
            [*self.inputs, self.info("mem.L", kind, CHANNELS)],
            [
                self.info("spike", TensorProto.FLOAT, CHANNELS),
                self.info("mem_out.L", kind, CHANNELS),
            ],
        )

    def finish(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """A model of what was collected, with the bodies of every op."""
        constants = [numpy_helper.from_array(v, name) for name, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "layer", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", lif_op.spec.OPSET), helper.make_opsetid("snn", 1)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            functions=lif_op.spec.functions(),
            ir_version=lif_op.spec.IR_VERSION,
        )


def types(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def constants(model: onnx.ModelProto) -> Arrays:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Unoptimised, by function bodies."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def drive(model: onnx.ModelProto, windows: Iterable[Array]) -> list[Arrays]:
    """Outputs of every step; states start at zero and are fed back by name."""
    runner = session(model)
    names = [output.name for output in model.graph.output]
    states = {
        value.name: np.zeros(
            [d.dim_value for d in value.type.tensor_type.shape.dim],
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in model.graph.input
        if "." in value.name
    }
    (entry,) = (value for value in model.graph.input if "." not in value.name)
    kind = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
    steps = []
    for window in windows:
        values = runner.run(names, {entry.name: window.astype(kind), **states})
        outputs = dict(zip(names, values, strict=True))
        states = {name: outputs[name.replace(".", "_out.", 1)] for name in states}
        steps.append(outputs)
    return steps


def windows(count: int = 12, channels: int = 3, seed: int = 1) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.poisson(0.3, (1, channels, *SIDE)).astype(np.float32) for _ in range(count)]

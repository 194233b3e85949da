"""One node of the op library in an ONNX Runtime session of its own, for one kernel target."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import lif_op
import lif_op.spec
from bench.kernel_cases import Case
from runtime.graph import load_proto, uses_library

_VARIABLE = "LIF_OP_TARGET"
_ERRORS_ONLY = 3


class NoKernelError(ValueError):
    """The op library has no kernel of this op for these tensors."""


@contextlib.contextmanager
def forced_target(name: str) -> Iterator[None]:
    """Sessions created in the block use the kernels of this target."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def build(case: Case) -> onnx.ModelProto:
    """A model of one node: constants as initializers, its function embedded as in every file."""
    function = lif_op.spec.function(case.op)
    inputs = [_info(name, array.shape, array.dtype) for name, array in case.inputs.items()]
    outputs = [_info(name, shape, kind) for name, (shape, kind) in case.outputs.items()]
    node = helper.make_node(
        case.op,
        list(function.input),
        list(function.output),
        name=case.op,
        domain=lif_op.spec.DOMAIN,
        **case.attributes,
    )
    constants = [numpy_helper.from_array(array, name) for name, array in case.constants.items()]
    graph = helper.make_graph([node], case.op, inputs, outputs, constants)
    opsets = [helper.make_opsetid("", lif_op.spec.OPSET)]
    opsets.append(helper.make_opsetid(lif_op.spec.DOMAIN, lif_op.spec.DOMAIN_VERSION))
    ir_version = lif_op.spec.IR_VERSION
    return helper.make_model(
        graph, functions=[function], opset_imports=opsets, ir_version=ir_version
    )


class KernelNode:
    """A case on one target, ready to run; the membrane is updated in place from run to run."""

    def __init__(self, case: Case, target: str) -> None:
        """Raises NoKernelError where ONNX Runtime would run the function body, or cannot run the
        node on these tensors at all."""
        with forced_target(target), tempfile.TemporaryDirectory(prefix="spikedeploy-") as folder:
            executed = Path(folder) / "executed.onnx"
            self._session = _create(build(case), executed)
            if not uses_library(load_proto(executed.read_bytes()).graph):
                raise NoKernelError("no kernel: only the function body runs")
        # ONNX Runtime keeps neither the arrays nor the values alive.
        self._values: list[Any] = []
        self._binding = self._session.io_binding()
        tensors = {name: array.copy() for name, array in case.inputs.items()}
        for name, array in tensors.items():
            self._binding.bind_ortvalue_input(name, self._value(array))
        for name, (shape, kind) in case.outputs.items():
            over = case.inplace.get(name)
            array = np.zeros(shape, kind) if over is None else tensors[over]
            self._binding.bind_ortvalue_output(name, self._value(array))
            tensors[name] = array
        self.tensors = tensors
        try:
            self.run()
        except Exception as error:  # ONNX Runtime's exception classes have no common base
            raise NoKernelError(f"no kernel for these tensors ({_reason(error)})") from error

    def _value(self, array: Any) -> Any:
        self._values.append((array, ort.OrtValue.ortvalue_from_numpy(array)))
        return self._values[-1][1]

    def run(self) -> None:
        """One step."""
        self._session.run_with_iobinding(self._binding)


def _create(model: onnx.ModelProto, executed: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = os.fspath(executed)
    lif_op.register(options)
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exception classes have no common base
        raise NoKernelError(f"no kernel for these tensors ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _info(name: str, shape: tuple[int, ...], kind: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape
    )

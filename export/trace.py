"""Every tensor of a graph, computed as the graph is written: no optimiser, no op library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

import lif_op.spec
from export.errors import ExportError

Array = npt.NDArray[Any]

FORCED = "forced."
"""Prefix of the graph inputs that stand in for tensors a caller dictates."""

_ERRORS_ONLY = 3


class Tracer:
    """Runs a model in ONNX Runtime and returns what each node of its main graph computes.

    Args:
        model: any model whose operators ONNX Runtime or the model's own functions define.
        forced: names of tensors that are dictated: whoever reads one of them reads the graph input
            ``forced.<name>`` instead, while the tensor itself is still computed and returned.
            Their types have to be written in the graph.

    Attributes:
        names: what the nodes compute, in order.
        forced: the graph inputs that ``forced`` added; a tensor nobody reads has none.

    Raises:
        ExportError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: onnx.ModelProto, forced: Iterable[str] = ()) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        _add_bodies(copy)
        self.names = tuple(tensor_names(copy.graph))
        self.forced = _force(copy.graph, [name for name in forced if name in self.names])
        present = {output.name for output in copy.graph.output}
        for name in self.names:
            if name not in present:
                copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exception classes have no common base
            raise ExportError(f"ONNX Runtime refuses the graph ({first_line(error)})") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every tensor.

        Args:
            inputs: of the graph, by name.

        Returns:
            the graph's inputs and every tensor in the order in which it is computed.

        Raises:
            ExportError: the inputs do not fit the graph.
        """
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise ExportError(f"the graph cannot run on these inputs ({first_line(error)})") from (
                error
            )
        found = dict(zip(self._outputs, (np.asarray(value) for value in values), strict=True))
        given = {name: value for name, value in inputs.items() if not name.startswith(FORCED)}
        return given | {name: found[name] for name in self.names}


def with_types(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the model in which these tensors have a written type, so that they can be forced.

    Args:
        model: stays as it is.
        values: a value of each tensor that is meant, as the graph computes it; its element type
            and rank are written, its sizes are not.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [value for value in copy.graph.value_info if value.name not in values]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(kept)
    results = {value.name for value in copy.graph.output}
    for name, value in values.items():
        if name not in results:
            element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            copy.graph.value_info.append(
                onnx.helper.make_tensor_value_info(name, element, (None,) * value.ndim)
            )
    return copy


def _add_bodies(model: onnx.ModelProto) -> None:
    """The op library's own function bodies for nodes whose body the file does not carry."""
    carried = {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for node in model.graph.node}
    for function in lif_op.spec.functions(strict_conv=True):
        if (function.domain, function.name) in used - carried:
            model.functions.append(function)


def tensor_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of what the nodes of a graph compute, in their order."""
    for node in graph.node:
        yield from (name for name in node.output if name)


def _force(graph: onnx.GraphProto, names: list[str]) -> frozenset[str]:
    """Let the readers of these tensors read inputs of their own; returns those inputs."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in names:
                node.input[position] = FORCED + name
    read = {name for node in graph.node for name in node.input}
    types = {value.name: value for value in (*graph.output, *graph.value_info)}
    for name in names:
        if FORCED + name not in read:
            continue
        value = onnx.ValueInfoProto()
        if name not in types:
            raise ExportError(f"the type of tensor {name!r} is not written in the graph")
        value.CopyFrom(types[name])
        value.name = FORCED + name
        graph.input.append(value)
    return frozenset(FORCED + name for name in names if FORCED + name in read)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

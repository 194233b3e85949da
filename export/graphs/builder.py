"""A thin layer over onnx-ir for graphs with state: inputs, initializers, nodes, paired states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.tape import Tape

import lif_op.spec
from runtime.metadata import METADATA_KEY, Artifact, State

Shape = Sequence[int | str]

_DTYPES = {
    "float32": ir.DataType.FLOAT,
    "uint8": ir.DataType.UINT8,
    "int8": ir.DataType.INT8,
    "int16": ir.DataType.INT16,
    "int32": ir.DataType.INT32,
}


def tool_version() -> str:
    """Version recorded in artifacts."""
    try:
        return version("spikedeploy")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Dims:
    """Batch and spatial dimensions of a graph: fixed at 1 x H x W, or free.

    resolution: (H, W); nominal only when free.
    """

    resolution: tuple[int, int]
    free: bool

    def shape(self, channels: int) -> tuple[int | str, ...]:
        """Shape of a tensor of that many channels."""
        if self.free:
            return ("N", channels, "H", "W")
        return (1, channels, *self.resolution)


class GraphBuilder:
    """Collects one graph.

    Args:
        name: of the graph.
    """

    def __init__(self, name: str) -> None:
        self._graph = ir.Graph(
            [],
            [],
            nodes=[],
            name=name,
            opset_imports={"": lif_op.spec.OPSET, lif_op.spec.DOMAIN: lif_op.spec.DOMAIN_VERSION},
        )
        self._tape = Tape(self._graph)
        self.states: list[State] = []
        self._state_outputs: list[ir.Value] = []

    def input(self, name: str, dtype: str, shape: Shape) -> ir.Value:
        """Add a graph input."""
        value = ir.val(name, _DTYPES[dtype], ir.Shape(shape))
        self._graph.inputs.append(value)
        return value

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Add an initializer, or return the one of that name."""
        if name in self._graph.initializers:
            return self._graph.initializers[name]
        return self._tape.initializer(ir.tensor(np.ascontiguousarray(array), name=name), name)

    def scalar(self, name: str, value: float, dtype: npt.DTypeLike) -> ir.Value:
        """Add a scalar initializer (rank 0), or return the one of that name."""
        if name in self._graph.initializers:
            return self._graph.initializers[name]
        return self._tape.initializer(ir.tensor(np.array(value, dtype), name=name), name)

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
    ) -> ir.Value:
        """Add a node with one output, both called ``name``."""
        value = self._tape.op(op_type, inputs, attributes, domain=domain, name=name)
        value.name = name
        return value

    def neuron(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        layer: str,
        attributes: Mapping[str, Any],
    ) -> tuple[ir.Value, ir.Value]:
        """Add a spiking node of domain ``snn``; returns (spike, membrane)."""
        spike, mem = self._tape.op_multi_out(
            op_type,
            inputs,
            attributes,
            num_outputs=2,
            domain=lif_op.spec.DOMAIN,
            name=f"{layer}.{op_type}",
        )
        spike.name, mem.name = f"spike_out.{layer}", f"mem_out.{layer}"
        return spike, mem

    def output(self, value: ir.Value, dtype: str, shape: Shape) -> None:
        """Make a value a graph output."""
        value.dtype, value.shape = _DTYPES[dtype], ir.Shape(shape)
        self._graph.outputs.append(value)

    def state_input(self, role: str, layer: str, dtype: str, shape: Shape) -> ir.Value:
        """Add a state's input, ``mem.<layer>`` or ``spike.<layer>``, and record the pair."""
        name = f"{role}.{layer}"
        self.states.append(State(name, f"{role}_out.{layer}", role, "NCHW", dtype, tuple(shape), 0))
        return self.input(name, dtype, shape)

    def state_output(self, value: ir.Value, dtype: str, shape: Shape) -> None:
        """Return a state; states follow every other output of the graph."""
        value.dtype, value.shape = _DTYPES[dtype], ir.Shape(shape)
        self._state_outputs.append(value)

    def model(
        self, functions: Sequence[onnx.FunctionProto], artifact: Artifact | None
    ) -> onnx.ModelProto:
        """Finish: an ONNX model that carries its functions and its metadata, checked.

        Args:
            functions: bodies of the ops of domain ``snn`` that the graph uses.
            artifact: what the file says about itself; None for plain test vectors.

        Raises:
            onnx.checker.ValidationError: the graph is not valid ONNX.
        """
        self._graph.outputs.extend(self._state_outputs)
        model = ir.Model(
            self._graph,
            ir_version=lif_op.spec.IR_VERSION,
            producer_name="spikedeploy",
            producer_version=tool_version(),
            metadata_props={} if artifact is None else {METADATA_KEY: artifact.to_json()},
        )
        proto = ir.to_proto(model)
        # Loading compares bodies with the library's own: they go in as they are.
        proto.functions.extend(functions)
        onnx.checker.check_model(proto)
        return proto

"""The dialect of Deeploy's frontend: what its operators compute, and the folder it reads.

Deeploy compiles integer graphs whose convolutions are ``Conv`` without bias into int32, followed
by ``RequantShift``. The neuron has no operator there; ``QLif`` stands for it and is registered from
outside. ``docs/targets/deeploy.md`` describes both. ``run_dialect`` is this dialect's oracle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

import lif_op.spec
from calib_data.files import atomic_path
from export import arithmetic
from export.errors import ExportError
from export.files import write_arrays, write_model
from export.trace import tensor_names

DOMAIN = "deeploy"
"""Domain of the dialect's own operators between passes; Deeploy's files use the default one."""

DIALECT = frozenset({"RequantShift", "QLif"})
OPSET = 13
IR_VERSION = 8
INT32_LIMIT = 2**31

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

_C_TYPES = {"uint8": "uint8_t", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t"}


def is_dialect(model: onnx.ModelProto) -> bool:
    """Whether a graph holds operators of the dialect."""
    return any(node.op_type in DIALECT for node in model.graph.node)


class DialectTracer:
    """Computes every tensor of a graph in the dialect; the interface of ``export.trace.Tracer``."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.names = tuple(tensor_names(model.graph))

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Compute every tensor.

        Args:
            inputs: of the graph, by name.

        Returns:
            the inputs and every tensor in the order in which it is computed.

        Raises:
            ExportError: a missing input, an operator that is not of the dialect, or a sum that
                does not fit int32.
        """
        fixed = {t.name: numpy_helper.to_array(t) for t in self._model.graph.initializer}
        for value in self._model.graph.input:
            if value.name not in fixed and value.name not in inputs:
                raise ExportError(f"input {value.name!r} of the graph is not given")
        found: Arrays = {}
        for node in self._model.graph.node:
            rule = _RULES.get(node.op_type)
            if rule is None or node.domain not in ("", DOMAIN):
                raise ExportError(f"node {node.name!r} ({node.op_type}) is not of the dialect")
            attributes = {a.name: _attribute(a) for a in node.attribute}
            arguments = [
                next(table[name] for table in (fixed, found, inputs) if name in table)
                for name in node.input
            ]
            results = rule(node.name, attributes, arguments)
            found |= dict(zip(node.output, results, strict=True))
        return dict(inputs) | found


def run_dialect(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> Arrays:
    """Outputs of a graph in the dialect, by name; see :class:`DialectTracer`."""
    values = DialectTracer(model).run(inputs)
    return {output.name: values[output.name] for output in model.graph.output}


def requant_shift(
    x: Array, mul: Array, add: Array, *, div: int, n_levels: int, signed: bool
) -> npt.NDArray[np.int64]:
    """``clip(floor((x * mul + add + div / 2) / div))`` to the levels, in 32-bit arithmetic.

    Args:
        x: integers [N, C, ...].
        mul, add: int32 [1, C, 1, 1], or anything that broadcasts.
        div: a power of two; the half is 0 where it is 1.
        n_levels: number of levels of the result.
        signed: whether they lie around 0 or start there.

    Raises:
        ExportError: an intermediate value that does not fit int32.
    """
    wide = x.astype(np.int64) * mul.astype(np.int64) + add.astype(np.int64) + div // 2
    if wide.size and int(np.abs(wide).max()) >= INT32_LIMIT:
        raise ExportError(f"the sum {int(np.abs(wide).max())} does not fit int32")
    low = -(n_levels // 2) if signed else 0
    return np.clip(wide // div, low, low + n_levels - 1)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    if attribute.HasField("t"):
        return numpy_helper.to_array(attribute.t).item()
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


Rule = Callable[[str, Mapping[str, Any], list[Array]], tuple[Array, ...]]


def _conv(name: str, attributes: Mapping[str, Any], inputs: list[Array]) -> tuple[Array, ...]:
    x, weight = inputs
    none = np.array(0)
    return (
        arithmetic.conv(
            x,
            weight,
            none,
            none,
            strides=attributes["strides"],
            pads=attributes["pads"],
            dilations=attributes["dilations"],
            group=attributes["group"],
        ),
    )


def _shift(name: str, attributes: Mapping[str, Any], inputs: list[Array]) -> tuple[Array, ...]:
    div, n_levels, signed = (int(attributes[key]) for key in ("div", "n_levels", "signed"))
    try:
        levels = requant_shift(*inputs, div=div, n_levels=n_levels, signed=bool(signed))
    except ExportError as error:
        raise ExportError(f"node {name!r} (RequantShift): {error}") from None
    bits = next(b for b in (8, 16, 32) if n_levels <= 2**b)
    return (levels.astype(f"{'' if signed else 'u'}int{bits}"),)


def _qlif(name: str, attributes: Mapping[str, Any], inputs: list[Array]) -> tuple[Array, ...]:
    current, mem, decay, threshold = inputs
    spike, mem_out = lif_op.spec.qlif(
        current.astype(np.int32),
        mem,
        decay.reshape(-1),
        threshold.reshape(-1),
        frac_bits=0,
        reset=attributes["reset"],
    )
    return spike.astype(np.int8), mem_out


def _concat(name: str, attributes: Mapping[str, Any], inputs: list[Array]) -> tuple[Array, ...]:
    return (np.concatenate(inputs, axis=attributes["axis"]),)


def _max_pool(name: str, attributes: Mapping[str, Any], inputs: list[Array]) -> tuple[Array, ...]:
    kernel = attributes["kernel_shape"]
    ones = [1] * len(kernel)
    pooled = arithmetic.max_pool(
        inputs[0],
        kernel,
        attributes.get("strides", ones),
        attributes.get("pads", [0] * (2 * len(kernel))),
        attributes.get("dilations", ones),
        bool(attributes.get("ceil_mode", 0)),
    )
    return (pooled,)


_RULES: dict[str, Rule] = {
    "Conv": _conv,
    "RequantShift": _shift,
    "QLif": _qlif,
    "Concat": _concat,
    "MaxPool": _max_pool,
}


@dataclass(frozen=True)
class Bundle:
    """A written folder; command: the frontend's call, with every type it has to be told."""

    folder: Path
    command: str


def frontend_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph in the dialect as Deeploy's frontend reads it: default domain, opset 13, IR 8."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = IR_VERSION
    del copy.functions[:]
    del copy.opset_import[:]
    copy.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    for node in copy.graph.node:
        if node.domain == DOMAIN:
            node.domain = ""
    return copy


def write_bundle(model: onnx.ModelProto, folder: Path, inputs: Mapping[str, Array]) -> Bundle:
    """Write ``network.onnx``, ``inputs.npz``, ``outputs.npz`` and ``types.json``.

    Args:
        model: in the dialect, batch 1, fixed sizes.
        folder: made when missing.
        inputs: an array per graph input; the outputs follow from them by ``run_dialect``.

    Raises:
        ExportError: the graph leaves a size free, holds foreign operators, or does not fit int32.
    """
    _check_fixed(model)
    network = frontend_model(model)
    values = DialectTracer(network).run(inputs)
    outputs = {output.name: values[output.name] for output in network.graph.output}
    _declare(network, values)
    names = [value.name for value in network.graph.input]
    types = {f"input_{k}": _C_TYPES[str(inputs[name].dtype)] for k, name in enumerate(names)}
    command = _command(types)
    write_model(network, folder / "network.onnx")
    write_arrays({f"input_{k}": inputs[n] for k, n in enumerate(names)}, folder / "inputs.npz")
    results = {f"output_{k}": value for k, value in enumerate(outputs.values())}
    write_arrays(results, folder / "outputs.npz")
    described = {
        "inputs": [
            {"key": f"input_{k}", "tensor": n, "type": types[f"input_{k}"], "offset": 0}
            for k, n in enumerate(names)
        ],
        "outputs": [
            {"key": f"output_{k}", "tensor": n, "type": _C_TYPES[str(v.dtype)]}
            for k, (n, v) in enumerate(outputs.items())
        ],
        "command": command,
    }
    with atomic_path(folder / "types.json") as path:
        path.write_text(json.dumps(described, indent=2) + "\n")
    return Bundle(folder, command)


def _declare(network: onnx.ModelProto, values: Mapping[str, Array]) -> None:
    """Write down type and shape of every tensor: the frontend's passes read them and infer none."""
    graph = network.graph
    known = {value.name for value in (*graph.input, *graph.output)}
    del graph.value_info[:]
    graph.value_info.extend(
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in values.items()
        if name not in known
    )


def _command(types: Mapping[str, str]) -> str:
    maps = " ".join(f"{key}={kind}" for key, kind in types.items())
    offsets = " ".join(f"{key}=0" for key in types)
    return (
        "python generateNetwork.py -t . -d build -p Generic "
        f"--input-type-map {maps} --input-offset-map {offsets}"
    )


def _check_fixed(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        for size in value.type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                raise ExportError(
                    f"input {value.name!r} leaves a size free, and C code has none; "
                    "export with --resolution H W"
                )

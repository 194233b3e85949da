"""Whether a model can be handed to passes: valid ONNX, with sizes that fit each other.

ONNX's checker does not compare the sizes of constants. Passes compute with them, so what does not
fit is refused here, by the node's name, and not by each pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

import onnx

from export.deeploy import is_dialect
from export.errors import ExportError
from runtime.graph import all_nodes

_MASK = "masked"


def check_valid(model: onnx.ModelProto, what: str) -> None:
    """Check a model by ONNX's own rules of structure.

    Args:
        model: to check.
        what: it is called in messages.

    Raises:
        ExportError: it is not valid ONNX.
    """
    _check(model, what, types=False)


def check_types(model: onnx.ModelProto, what: str) -> None:
    """Check that element types and shapes agree.

    Those of Deeploy's dialect are not looked at: it gives operators another meaning.

    Raises:
        ExportError: they do not, or a size is below zero.
    """
    if not is_dialect(model):
        _check_sizes(model)
        _check(model, what, types=True)


def _check(model: onnx.ModelProto, what: str, *, types: bool) -> None:
    try:
        onnx.checker.check_model(model, full_check=types)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        TypeError,
    ) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ExportError(f"{what} is not valid ONNX ({first})") from error


def check_constants(model: onnx.ModelProto) -> None:
    """Check that scales and biases have one value, or one for each channel.

    Raises:
        ExportError: the node whose constants do not fit each other.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in all_nodes(model.graph):
        if node.domain:
            continue
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check_quantizer(node, shapes)
            if node.input[0] in shapes:
                shapes[node.output[0]] = shapes[node.input[0]]
        elif node.op_type in ("Conv", "ConvTranspose"):
            _check_bias(node, shapes)


def _refuse(node: onnx.NodeProto, reason: str, instead: str) -> NoReturn:
    raise ExportError(f"node {node.name or node.output[0]!r} ({node.op_type}): {reason}; {instead}")


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((entry.i for entry in node.attribute if entry.name == name), default)


def _check_quantizer(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> None:
    x, scale = shapes.get(node.input[0]), shapes.get(node.input[1])
    zero = shapes.get(node.input[2]) if len(node.input) > 2 else None
    if _attribute(node, "block_size", 0):
        return
    differ = scale is not None and zero is not None and zero != scale
    if differ and _size(scale or []) > 1 and _size(zero or []) > 1:
        _refuse(node, f"its scale has shape {scale}, its zero point {zero}", "give them one")
    for what, given in (("scale", scale), ("zero point", zero)):
        if given is not None and not _size(given):
            _refuse(node, f"its {what} is empty", "give one value, or one for each channel")
        if given is None or x is None or len(given) != 1 or given == [1]:
            continue
        axis = _attribute(node, "axis", 1)
        if not -len(x) <= axis < len(x) or x[axis] != given[0]:
            reason = f"its {what} has {given[0]} values, axis {axis} of a tensor {x} has not"
            _refuse(node, reason, "give one value, or one for each channel")


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _check_bias(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> None:
    weight = shapes.get(node.input[1])
    bias = shapes.get(node.input[2]) if len(node.input) > 2 else None
    if weight is None or bias is None or len(weight) < 2:
        return
    group = _attribute(node, "group", 1)
    channels = weight[0] if node.op_type == "Conv" else weight[1] * group
    if bias != [channels]:
        _refuse(node, f"its bias has shape {bias}", f"give one value for each of {channels}")


def _check_sizes(model: onnx.ModelProto) -> None:
    """Refuse sizes below zero, on which ONNX's inference of a Slice ends the process."""
    if not any(node.op_type == "Slice" for node in model.graph.node):
        return
    masked = onnx.ModelProto()
    masked.CopyFrom(model)
    masked.opset_import.append(onnx.helper.make_opsetid(_MASK, 1))
    for node in masked.graph.node:
        if node.op_type == "Slice":
            node.domain = _MASK
    try:
        inferred = onnx.shape_inference.infer_shapes(masked, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(f"shapes in the model contradict each other ({error})") from error
    sizes = dict(_negative_sizes(inferred))
    for node in model.graph.node:
        for name in node.output:
            if name in sizes:
                reason = f"its result {name!r} has a size of {sizes[name]}"
                _refuse(node, reason, "kernels, pads and scales have to leave something over")


def _negative_sizes(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    for value in [*model.graph.value_info, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                yield value.name, dim.dim_value

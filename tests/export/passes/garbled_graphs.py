"""Graphs with something broken in them: attributes, inputs, constants, names, types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import AttributeProto, helper, numpy_helper

Draw = st.DrawFn
NUMBERS = (0, 1, -1, 2, 3, 7, -5, 127, 255, 2**31 - 1, -(2**40))
TEXTS = (b"", b"zero", b"subtract", b"SAME_UPPER", b"nearest", b"linear", b"\xff\xfe")
TYPES = (np.float32, np.float64, np.float16, np.int8, np.uint8, np.int16, np.int32, np.int64, bool)


def _integers(draw: Draw) -> list[int]:
    return draw(st.lists(st.sampled_from(NUMBERS), max_size=5))


def _value(draw: Draw) -> Any:
    return draw(
        st.one_of(
            st.sampled_from(NUMBERS),
            st.builds(lambda: _integers(draw)),
            st.sampled_from(TEXTS),
            st.sampled_from((0.0, -1.5, float("nan"), float("inf"))),
        )
    )


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    kind = AttributeProto.INTS if isinstance(value, list) else None
    node.attribute.extend([*kept, helper.make_attribute(name, value, attr_type=kind)])


def drop_attribute(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """One attribute less."""
    if node.attribute:
        del node.attribute[draw(st.integers(0, len(node.attribute) - 1))]


def garble_attribute(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Another value, of any type or of the same; or an attribute nobody knows."""
    names = [entry.name for entry in node.attribute]
    name = draw(st.sampled_from([*names, "axis", "unheard_of"]))
    old = next((e for e in node.attribute if e.name == name), None)
    if old is None or draw(st.booleans()):
        _set(node, name, _value(draw))
    elif old.type == AttributeProto.INTS:
        changed = list(old.ints)
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.sampled_from(NUMBERS))
        _set(node, name, changed)
    elif old.type == AttributeProto.STRING:
        _set(node, name, draw(st.sampled_from(TEXTS)))
    else:
        _set(node, name, draw(st.sampled_from(NUMBERS)))


def drop_input(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """One input less, from the end or between others."""
    if not node.input:
        return
    index = draw(st.integers(0, len(node.input) - 1))
    if draw(st.booleans()):
        node.input[index] = ""
    else:
        del node.input[index:]


def drop_output(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """One output less."""
    if len(node.output) > 1:
        if draw(st.booleans()):
            node.output[draw(st.integers(0, len(node.output) - 1))] = ""
        else:
            del node.output[-1]


def rewire(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """An input reads another tensor of the graph."""
    if not node.input:
        return
    names = [tensor.name for tensor in model.graph.initializer]
    names += [value.name for value in model.graph.input]
    for other in model.graph.node:
        if other is node:
            break
        names += [name for name in other.output if name]
    names = sorted(set(names))
    index = draw(st.integers(0, len(node.input) - 1))
    node.input[index] = draw(st.sampled_from(names))


def swap_inputs(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Two inputs in the other order."""
    if len(node.input) > 1:
        first, second = draw(st.permutations(range(len(node.input))))[:2]
        node.input[first], node.input[second] = node.input[second], node.input[first]


def repeat_input(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """An input more."""
    if node.input:
        node.input.append(draw(st.sampled_from(list(node.input))))


def rename_op(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """The node is another operator, of any domain."""
    others = sorted({(n.op_type, n.domain) for n in model.graph.node})
    node.op_type, node.domain = draw(st.sampled_from([*others, ("Unheard", "snn"), ("Relu", "")]))


def drop_name(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """A node without a name, or with that of another."""
    node.name = draw(st.sampled_from(["", model.graph.node[0].name]))


def make_output(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """A tensor between nodes is shown to the caller."""
    name = draw(st.sampled_from([name for name in node.output if name] or [""]))
    if name and name not in {value.name for value in model.graph.output}:
        model.graph.output.append(helper.make_empty_tensor_value_info(name))


def _constant(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.TensorProto | None:
    tensors = [t for t in model.graph.initializer if t.name in node.input]
    return draw(st.sampled_from(tensors)) if tensors else None


def retype_constant(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """A constant of another element type."""
    tensor = _constant(draw, model, node)
    if tensor is not None:
        with np.errstate(all="ignore"):
            array = numpy_helper.to_array(tensor).astype(draw(st.sampled_from(TYPES)))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def reshape_constant(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """A constant of another shape: flat, one value, none, one dimension more or fewer channels."""
    tensor = _constant(draw, model, node)
    if tensor is None:
        return
    array = numpy_helper.to_array(tensor)
    forms: list[Callable[[], Any]] = [
        lambda: array.reshape(-1),
        lambda: array.reshape(-1)[:1].reshape(()) if array.size else array,
        lambda: array.reshape(-1)[:1],
        lambda: array.reshape(-1)[:0],
        lambda: array[None],
        lambda: array[:-1] if array.ndim else array,
        lambda: np.concatenate([array, array]) if array.ndim else array,
    ]
    changed = np.ascontiguousarray(draw(st.sampled_from(forms))())
    tensor.CopyFrom(numpy_helper.from_array(changed.reshape(changed.shape), tensor.name))


def garble_constant(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """One element is extreme, or no number."""
    tensor = _constant(draw, model, node)
    if tensor is None:
        return
    array = numpy_helper.to_array(tensor).copy()
    if not array.size or array.dtype.kind not in "iuf":
        return
    flat = array.reshape(-1)
    if array.dtype.kind == "f":
        values: tuple[float, ...] = (0.0, -1.0, float("nan"), float("inf"), 1e-40, 3e38)
    else:
        info = np.iinfo(array.dtype)
        values = (info.min, info.max, 0)
    flat[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from(values))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def compute_constant(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """A constant becomes an input of the graph."""
    tensor = _constant(draw, model, node)
    if tensor is not None:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)
        if draw(st.booleans()):
            model.graph.initializer.remove(tensor)


def remove_node(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """The node is gone; what read it reads its first input."""
    if not node.input or not node.output:
        return
    for other in model.graph.node:
        for index, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[index] = node.input[0]
    model.graph.node.remove(node)


def garble_metadata(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """The file's own description says something else, or nothing that can be read."""
    if not model.metadata_props:
        return
    entry = draw(st.sampled_from(list(model.metadata_props)))
    cut = draw(st.integers(0, len(entry.value)))
    texts = [entry.value[:cut], "{}", "[]", "null", entry.value.replace("mem.", "mom.")]
    texts += [entry.value.replace("NCHW", "NHWC"), entry.value.replace("float32", "int8")]
    entry.value = draw(st.sampled_from(texts))


def drop_shapes(draw: Draw, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Nothing is noted of shapes, or all of them are free."""
    del model.graph.value_info[:]
    for value in [*model.graph.input, *model.graph.output]:
        tensor = value.type.tensor_type
        if draw(st.booleans()):
            tensor.ClearField("shape")
        else:
            for dim in tensor.shape.dim:
                dim.Clear()


MUTATIONS = (
    *[drop_attribute, garble_attribute, drop_input] * 2,
    drop_output,
    rewire,
    swap_inputs,
    repeat_input,
    rename_op,
    drop_name,
    make_output,
    *[retype_constant, reshape_constant, garble_constant] * 2,
    compute_constant,
    remove_node,
    garble_metadata,
    drop_shapes,
)


@st.composite
def garbled(draw: Draw, models: dict[str, onnx.ModelProto]) -> onnx.ModelProto:
    """One of the models with one to three things broken."""
    model = onnx.ModelProto()
    model.CopyFrom(models[draw(st.sampled_from(sorted(models)))])
    for _ in range(draw(st.integers(1, 3))):
        if not model.graph.node:
            break
        node = model.graph.node[draw(st.integers(0, len(model.graph.node) - 1))]
        draw(st.sampled_from(MUTATIONS))(draw, model, node)
    return model

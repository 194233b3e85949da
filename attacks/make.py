"""Writes the hostile artifacts of this folder, each a sound network with one trick.

    python attacks/make.py [FOLDER]

``sound/int8.onnx`` and ``sound/float.onnx`` are where they start from. A trick edits a copy; its
function's name is the file's, its docstring says what a stranger would gain.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import lif_op.spec

HERE = Path(__file__).parent
SOUND = HERE / "sound"
ARTIFACTS = HERE / "artifacts"

Trick = Callable[[ModelProto], object]

TRICKS: dict[str, tuple[str, Trick]] = {}
"""Name of a trick -> which sound network it edits, and how."""


def trick(base: str) -> Callable[[Trick], Trick]:
    def register(edit: Trick) -> Trick:
        TRICKS[edit.__name__] = (base, edit)
        return edit

    return register


# --- reading and changing a model ----------------------------------------------------------------


def node(model: ModelProto, op_type: str) -> NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def tensor(model: ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def graph_input(model: ModelProto, name: str) -> onnx.ValueInfoProto:
    return next(value for value in model.graph.input if value.name == name)


def own_body(name: str) -> FunctionProto:
    return lif_op.spec.function(name)


def replace(model: ModelProto, name: str, values: npt.ArrayLike) -> None:
    """Other values of the same type and shape, the first of them ``values``."""
    old = tensor(model, name)
    array = numpy_helper.to_array(old).copy()
    array.flat[0] = values
    old.CopyFrom(numpy_helper.from_array(array, name))


def metadata(model: ModelProto, change: Callable[[dict[str, Any]], object]) -> None:
    entry = model.metadata_props[0]
    values = json.loads(entry.value)
    change(values)
    entry.value = json.dumps(values, separators=(",", ":"))


def metadata_text(model: ModelProto, old: str, new: str) -> None:
    entry = model.metadata_props[0]
    if old not in entry.value:
        raise ValueError(f"{old!r} is not in the metadata")
    entry.value = entry.value.replace(old, new, 1)


def elsewhere(tensor: TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def hidden(location: str = "/etc/passwd") -> TensorProto:
    made = numpy_helper.from_array(np.zeros(2, np.float32), "hidden")
    elsewhere(made, location)
    return made


def graph(
    nodes: list[NodeProto], output: str, tensors: list[TensorProto] | None = None
) -> GraphProto:
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "inner", [], [value], tensors)


def function(domain: str, name: str, nodes: list[NodeProto]) -> FunctionProto:
    imports = [helper.make_opsetid("", lif_op.spec.OPSET), helper.make_opsetid("snn", 1)]
    return helper.make_function(domain, name, ["x"], ["y"], nodes, imports)


# --- values in other files ------------------------------------------------------------------------


@trick("int8")
def external_absolute(model: ModelProto) -> None:
    """Weights read from any file of the machine."""
    elsewhere(model.graph.initializer[0], "/etc/passwd")


@trick("int8")
def external_traversal(model: ModelProto) -> None:
    """The same by way of parent folders."""
    elsewhere(model.graph.initializer[0], "../../../../etc/passwd")


@trick("int8")
def external_link(model: ModelProto) -> None:
    """The same by a link that lies beside the model."""
    elsewhere(model.graph.initializer[0], "link")


@trick("int8")
def external_constant(model: ModelProto) -> None:
    """In a Constant node instead of an initializer."""
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=hidden()))


@trick("int8")
def external_in_branch(model: ModelProto) -> None:
    """In a graph inside a node."""
    branch = graph([], "hidden", [hidden()])
    model.graph.node.append(
        helper.make_node("If", ["flow"], ["unused"], then_branch=branch, else_branch=branch)
    )


@trick("int8")
def external_in_function(model: ModelProto) -> None:
    """In the body of an op."""
    body = own_body("QConv")
    body.node.append(helper.make_node("Constant", [], ["unused"], value=hidden()))
    model.functions.append(body)


@trick("int8")
def external_in_sparse(model: ModelProto) -> None:
    """In a sparse tensor."""
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(hidden())
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 1]), "indices"))


@trick("int8")
def external_in_training(model: ModelProto) -> None:
    """In a part of the file that nothing here uses."""
    model.training_info.add().initialization.initializer.append(hidden())


# --- metadata that lies ---------------------------------------------------------------------------


@trick("int8")
def metadata_missing(model: ModelProto) -> None:
    """An ONNX file that never was an artifact."""
    del model.metadata_props[:]


@trick("int8")
def metadata_twice(model: ModelProto) -> None:
    """One reader takes the first, another the last."""
    model.metadata_props.append(model.metadata_props[0])


@trick("int8")
def metadata_key_twice(model: ModelProto) -> None:
    """The same, inside the JSON."""
    metadata_text(model, '"flow_scaling":', '"flow_scaling":1.0,"flow_scaling":')


@trick("int8")
def metadata_no_json(model: ModelProto) -> None:
    """Text that ends early."""
    model.metadata_props[0].value = model.metadata_props[0].value[:-1]


@trick("int8")
def metadata_nested(model: ModelProto) -> None:
    """A parser that recurses runs out of stack."""
    model.metadata_props[0].value = "[" * 20_000


@trick("int8")
def metadata_not_a_number(model: ModelProto) -> None:
    """NaN, which JSON has not, but many parsers take."""
    metadata(model, lambda values: values.update(flow_scaling=float("nan")))


@trick("int8")
def metadata_infinity(model: ModelProto) -> None:
    """A number that becomes infinite when it is read."""
    metadata_text(model, '"flow_scaling":128.0', '"flow_scaling":1e999')


@trick("int8")
def metadata_many_digits(model: ModelProto) -> None:
    """An integer whose conversion takes minutes."""
    metadata_text(model, '"num_bins":2', '"num_bins":' + "9" * 10_000)


@trick("int8")
def metadata_schema(model: ModelProto) -> None:
    """A schema of another version."""
    metadata(model, lambda values: values.update(schema=2))


@trick("int8")
def metadata_kind(model: ModelProto) -> None:
    """Integers that say they are floats."""
    metadata(model, lambda values: values.update(kind="float"))


@trick("int8")
def resolution_zero(model: ModelProto) -> None:
    """No pixels at all."""
    metadata(model, lambda values: values.update(resolution=[0, 18]))


@trick("int8")
def resolution_huge(model: ModelProto) -> None:
    """Terabytes of state."""
    metadata(model, lambda values: values.update(resolution=[1 << 40, 1 << 40]))


@trick("int8")
def state_missing(model: ModelProto) -> None:
    """A state that nobody would carry."""
    metadata(model, lambda values: values["states"].pop(0))


@trick("int8")
def state_type(model: ModelProto) -> None:
    """A buffer half as large as the graph's."""
    metadata(model, lambda values: values["states"][0].update(dtype="int8"))


@trick("int8")
def state_rank(model: ModelProto) -> None:
    """A buffer without one of its dimensions."""
    metadata(model, lambda values: values["states"][0].update(shape=["N", "H", 4]))


@trick("int8")
def state_shape(model: ModelProto) -> None:
    """A buffer with fewer channels than the graph's."""
    metadata(model, lambda values: values["states"][0].update(shape=["N", "H", "W", 3]))


@trick("int8")
def state_zero(model: ModelProto) -> None:
    """A buffer without elements."""
    metadata(model, lambda values: values["states"][0].update(shape=["N", "H", "W", 0]))


@trick("int8")
def state_negative(model: ModelProto) -> None:
    """A size that wraps around when it is multiplied."""
    metadata(model, lambda values: values["states"][0].update(shape=["N", "H", "W", -4]))


@trick("int8")
def state_swapped(model: ModelProto) -> None:
    """Two layers that get each other's membranes."""

    def swap(values: dict[str, Any]) -> None:
        first, other = [state for state in values["states"] if state["role"] == "mem"][:2]
        first["output"], other["output"] = other["output"], first["output"]

    metadata(model, swap)


@trick("int8")
def state_init(model: ModelProto) -> None:
    """A first value that its type cannot hold."""
    metadata(model, lambda values: values["states"][0].update(init=1 << 20))


@trick("int8")
def layer_twice(model: ModelProto) -> None:
    """Two layers of one name."""
    metadata(model, lambda values: values["layers"][1].update(name=values["layers"][0]["name"]))


@trick("int8")
def layer_decay(model: ModelProto) -> None:
    """A decay that the graph does not compute with."""
    metadata(model, lambda values: values["layers"][0]["decay"].__setitem__(0, 1))


@trick("int8")
def layer_scale(model: ModelProto) -> None:
    """A weight scale of zero, which a consumer would divide by."""
    metadata(model, lambda values: values["layers"][0]["weight_scale"].__setitem__(0, 0))


@trick("int8")
def layer_kernel(model: ModelProto) -> None:
    """Another kernel than that of the weights."""
    metadata(model, lambda values: values["layers"][0].update(kernel=5))


# --- parameters -----------------------------------------------------------------------------------


@trick("int8")
def decay_above(model: ModelProto) -> None:
    """A membrane that grows by itself."""
    replace(model, "head.decay", 257)


@trick("int8")
def decay_negative(model: ModelProto) -> None:
    """A membrane that changes its sign."""
    replace(model, "head.decay", -1)


@trick("int8")
def threshold_negative(model: ModelProto) -> None:
    """A neuron that fires in silence."""
    replace(model, "head.threshold", -1)


@trick("int8")
def threshold_above(model: ModelProto) -> None:
    """A threshold beyond every membrane."""
    replace(model, "head.threshold", 1 << 20)


@trick("float")
def decay_nan(model: ModelProto) -> None:
    """One NaN, and after a few windows all of the flow."""
    replace(model, "head.beta", np.nan)


@trick("float")
def decay_above_one(model: ModelProto) -> None:
    """A membrane that grows to infinity."""
    replace(model, "head.beta", 1.5)


@trick("float")
def threshold_nan(model: ModelProto) -> None:
    """A neuron that never fires, whatever comes."""
    replace(model, "head.threshold", np.nan)


@trick("float")
def threshold_infinite(model: ModelProto) -> None:
    """The same with infinity."""
    replace(model, "head.threshold", np.inf)


@trick("float")
def threshold_zero(model: ModelProto) -> None:
    """A neuron that fires on rounding errors."""
    replace(model, "head.threshold", 0.0)


@trick("float")
def weight_nan(model: ModelProto) -> None:
    """A weight that is not a number."""
    replace(model, "head.weight", np.nan)


@trick("int8")
def bias_overflow(model: ModelProto) -> None:
    """Sums that float32 rounds and int32 does not: two answers of one file."""
    replace(model, "head.bias", 1 << 25)


@trick("int8")
def bias_short(model: ModelProto) -> None:
    """Fewer biases than channels: a kernel that trusted it would read beyond."""
    old = tensor(model, "head.bias")
    old.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(old)[:-1], "head.bias"))


@trick("int8")
def weight_channels(model: ModelProto) -> None:
    """Weights for more input channels than there are."""
    old = tensor(model, "head.weight")
    twice = np.repeat(numpy_helper.to_array(old), 2, axis=1)
    old.CopyFrom(numpy_helper.from_array(twice, "head.weight"))


@trick("int8")
def parameter_as_input(model: ModelProto) -> None:
    """A decay that the caller can replace after it was checked."""
    model.graph.input.append(helper.make_tensor_value_info("head.decay", TensorProto.INT32, [4]))


# --- dimensions -----------------------------------------------------------------------------------


@trick("int8")
def dimension_zero(model: ModelProto) -> None:
    """Events without channels."""
    graph_input(model, "events").type.tensor_type.shape.dim[1].dim_value = 0


@trick("int8")
def dimension_huge(model: ModelProto) -> None:
    """Events of 2^62 channels."""
    graph_input(model, "events").type.tensor_type.shape.dim[1].dim_value = 1 << 62


@trick("int8")
def initializer_huge(model: ModelProto) -> None:
    """Weights that claim 2^64 elements and have some bytes."""
    del tensor(model, "head.weight").dims[:]
    tensor(model, "head.weight").dims.extend([1 << 32, 1 << 32, 1, 1])


@trick("int8")
def initializer_negative(model: ModelProto) -> None:
    """A negative dimension."""
    tensor(model, "head.weight").dims[0] = -4


@trick("int8")
def initializer_short(model: ModelProto) -> None:
    """One byte less than the dimensions say."""
    tensor(model, "head.weight").raw_data = tensor(model, "head.weight").raw_data[:-1]


@trick("int8")
def allocates_at_load(model: ModelProto) -> None:
    """A petabyte of ones, made by whoever folds constants."""
    size = numpy_helper.from_array(np.array([1 << 25, 1 << 25], np.int64), "size")
    model.graph.initializer.append(size)
    one = numpy_helper.from_array(np.ones(1, np.float32))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["ones"], value=one))


@trick("int8")
def endless_loop(model: ModelProto) -> None:
    """A step that never returns."""
    names = ("count", "go", "x")
    types = (TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT)
    values = [helper.make_tensor_value_info(n, t, []) for n, t in zip(names, types, strict=True)]
    outputs = [
        helper.make_tensor_value_info(n, t, []) for n, t in (("go_on", types[1]), ("y", types[2]))
    ]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["x"], ["y"])],
        "body", values, outputs,
    )  # fmt: skip
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(True), "true"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ]
    )
    model.graph.node.append(helper.make_node("Loop", ["", "true", "one"], ["unused"], body=body))


# --- names and order ------------------------------------------------------------------------------


@trick("int8")
def input_twice(model: ModelProto) -> None:
    """Two inputs of one name."""
    model.graph.input.append(graph_input(model, "mem.head"))


@trick("int8")
def initializer_twice(model: ModelProto) -> None:
    """One that is checked and one that is used."""
    model.graph.initializer.append(tensor(model, "head.decay"))
    replace(model, "head.decay", 257)


@trick("int8")
def constant_beside_initializer(model: ModelProto) -> None:
    """The same with a Constant node of the initializer's name."""
    value = numpy_helper.from_array(np.full(4, 257, np.int32))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["head.decay"], value=value))


@trick("int8")
def output_twice(model: ModelProto) -> None:
    """Two nodes that write one tensor."""
    model.graph.node.append(helper.make_node("Neg", ["flow"], ["flow"]))


@trick("int8")
def cycle(model: ModelProto) -> None:
    """Two nodes that wait for each other."""
    model.graph.node.append(helper.make_node("Neg", ["b"], ["a"]))
    model.graph.node.append(helper.make_node("Neg", ["a"], ["b"]))


@trick("int8")
def input_unknown(model: ModelProto) -> None:
    """An input that nobody feeds."""
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


@trick("int8")
def state_unread(model: ModelProto) -> None:
    """A recurrent layer without its recurrence."""
    node(model, "QConvLIFRec").input[3] = "mem.head"


@trick("int8")
def nested_graphs(model: ModelProto) -> None:
    """Graphs in graphs, until a parser runs out of stack."""
    inner = graph([helper.make_node("Identity", ["c"], ["y"])], "y")
    for _ in range(20):
        inner = graph([helper.make_node("If", ["c"], ["y"], then_branch=inner)], "y")
    model.graph.node.extend(inner.node)


# --- ops and function bodies ----------------------------------------------------------------------


@trick("int8")
def op_unknown(model: ModelProto) -> None:
    """An op of the library's domain that it does not have."""
    node(model, "QConvLIF").op_type = "QConvLIFTree"


@trick("int8")
def op_foreign(model: ModelProto) -> None:
    """An op of somebody else's library, for whoever has loaded that."""
    model.opset_import.add(domain="evil.ops", version=1)
    model.graph.node.append(helper.make_node("Shell", ["flow"], ["unused"], domain="evil.ops"))


@trick("int8")
def attribute_missing(model: ModelProto) -> None:
    """A neuron that leaves its reset to whoever runs it."""
    neuron = node(model, "QConvLIF")
    kept = [attribute for attribute in neuron.attribute if attribute.name != "reset"]
    del neuron.attribute[:]
    neuron.attribute.extend(kept)


@trick("int8")
def opset_missing(model: ModelProto) -> None:
    """No version of the standard operators."""
    del model.opset_import[:]
    model.opset_import.add(domain="snn", version=1)


@trick("int8")
def opset_future(model: ModelProto) -> None:
    """A version that nobody knows yet."""
    next(entry for entry in model.opset_import if not entry.domain).version = 9999


@trick("int8")
def opset_of_ours(model: ModelProto) -> None:
    """A version of the library's ops that it does not have."""
    next(entry for entry in model.opset_import if entry.domain == "snn").version = 2


@trick("int8")
def body_compares_otherwise(model: ModelProto) -> None:
    """A neuron that fires at its threshold without the library, and above it with."""
    body = own_body("QConvLIF")
    next(n for n in body.node if n.op_type == "Greater").op_type = "GreaterOrEqual"
    model.functions.append(body)


@trick("int8")
def body_of_another_decay(model: ModelProto) -> None:
    """A constant of the body changed by one."""
    body = own_body("QConvLIF")
    unit = next(n for n in body.node if n.output[0] == "decay_unit")
    unit.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array(255, np.int32)))
    model.functions.append(body)


@trick("int8")
def body_recursive(model: ModelProto) -> None:
    """A body that calls itself: whoever expands it never ends."""
    call = helper.make_node("QConv", ["x"], ["y"], domain="snn")
    model.functions.append(function("snn", "QConv", [call]))


@trick("int8")
def body_mutual(model: ModelProto) -> None:
    """Two bodies that call each other."""
    for name, other in (("QConvLIF", "QConvLIFRec"), ("QConvLIFRec", "QConvLIF")):
        call = helper.make_node(other, ["x"], ["y"], domain="snn")
        model.functions.append(function("snn", name, [call]))


@trick("int8")
def body_of_another_op(model: ModelProto) -> None:
    """A function that is none of the library's."""
    negate = helper.make_node("Neg", ["x"], ["y"])
    model.functions.append(function("snn", "Sneaky", [negate]))


@trick("int8")
def body_of_a_standard_op(model: ModelProto) -> None:
    """A function in the place of Tanh."""
    model.functions.append(function("", "Tanh", [helper.make_node("Neg", ["x"], ["y"])]))


@trick("int8")
def body_twice(model: ModelProto) -> None:
    """Two bodies of one op."""
    model.functions.extend([own_body("QConv"), own_body("QConv")])


@trick("int8")
def body_overloaded(model: ModelProto) -> None:
    """A body that is found under a second name."""
    body = own_body("QConv")
    body.overload = "other"
    model.functions.append(body)


def sound(kind: str) -> ModelProto:
    """The network that tricks of a kind start from."""
    return onnx.load_model(SOUND / f"{kind}.onnx", load_external_data=False)


def make(name: str) -> bytes:
    """The file of a trick."""
    base, edit = TRICKS[name]
    model = sound(base)
    edit(model)
    return model.SerializeToString(deterministic=True)


def main(folder: Path) -> None:
    """Write all files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TRICKS:
        (folder / f"{name}.onnx").write_bytes(make(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ARTIFACTS)

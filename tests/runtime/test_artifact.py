"""Loading an artifact: good ones come through whole, bad ones end in one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lif_op.spec
from runtime.artifact import METADATA_KEY, Artifact, ArtifactError, load_model, validate_model
from runtime.body_checks import canonical_body
from runtime.graph_checks import check_state_bytes

Edit = Callable[[onnx.ModelProto], object]


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "int8"},
        {"kind": "int8", "mem": "int8"},
        {"kind": "int8", "strict": True},
        {"kind": "int8", "resolution": None},
        {"kind": "float"},
        {"kind": "float", "resolution": None},
    ],
)
def test_good_artifacts_load(make_file: Any, options: dict[str, Any]) -> None:
    loaded = load_model(make_file(**options))
    assert loaded.artifact.kind == options["kind"]
    assert [layer.name for layer in loaded.artifact.layers] == ["head", "G1"]
    assert {s.input for s in loaded.artifact.states} == {"mem.head", "mem.G1", "spike.G1"}


def test_json_round_trip_keeps_everything(make_model: Any) -> None:
    artifact = Artifact.from_model(make_model())
    assert Artifact.from_json(artifact.to_json()) == artifact


def test_unknown_keys_survive(make_model: Any) -> None:
    values = Artifact.from_model(make_model()).to_dict()
    values["origin"] = "elsewhere"
    values["layers"][0]["note"] = [1, 2]
    again = Artifact.from_json(json.dumps(values)).to_dict()
    assert again["origin"] == "elsewhere" and again["layers"][0]["note"] == [1, 2]


def test_resolved_shape(make_model: Any) -> None:
    state = Artifact.from_model(make_model(resolution=None)).states[0]
    assert state.shape == ("N", 4, "H", "W")
    assert state.resolved_shape(2, 5, 7) == (2, 4, 5, 7)


# --- the file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08"])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        load_model(path)


def test_truncated(make_file: Any) -> None:
    path = make_file()
    data = path.read_bytes()
    for share in (0.2, 0.5, 0.99):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ArtifactError):
            load_model(path)


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent.onnx")


# --- metadata -----------------------------------------------------------------------------------


def change(**changes: Any) -> Edit:
    """An edit of the metadata: ``states__0__dtype=...`` sets values["states"][0]["dtype"]."""

    def edit(model: onnx.ModelProto) -> None:
        values = json.loads(model.metadata_props[0].value)
        for place, value in changes.items():
            *path, last = (int(k) if k.isdigit() else k for k in place.split("__"))
            target: Any = values
            for key in path:
                target = target[key]
            if value is ...:
                del target[last]
            else:
                target[last] = value
        model.metadata_props[0].value = json.dumps(values)

    return edit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "packed32"}, r"'spike.G1' of uint8 in layout packed32; packed32 is for spikes"),
        ({"dtype": "uint32"}, r"of uint32 in layout NCHW; .* uint32 for nothing else"),
        ({"layout": "NHWC"}, r"in layout NHWC, expected 4 at position 3 for 4 channels"),
        (
            {"layout": "packed32", "dtype": "uint32"},
            r"layout packed32, expected 1 at position 3 for 4 channels",
        ),
    ],
)
def test_layouts_say_where_the_channels_are(
    make_file: Any, changes: dict[str, str], message: str
) -> None:
    edit = change(**{f"states__1__{key}": value for key, value in changes.items()})
    with pytest.raises(ArtifactError, match=message):
        load_model(make_file(edit=edit))


def test_qdq_files_may_hold_integers(make_model: Any) -> None:
    """Membranes, spikes and events; what they hold survives a round trip."""
    model = make_model(kind="int8")
    change(kind="qdq", events="uint8")(model)
    artifact = Artifact.from_model(model)
    assert artifact.event_dtype == np.uint8 and not artifact.is_integer
    assert artifact.layers[0].decay is not None
    assert Artifact.from_json(artifact.to_json()) == artifact
    change(events="int16")(model)
    with pytest.raises(ArtifactError, match="events = 'int16', expected one of float32, uint8"):
        Artifact.from_model(model)


def no_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def twice(model: onnx.ModelProto) -> None:
    model.metadata_props.append(model.metadata_props[0])


def not_json(model: onnx.ModelProto) -> None:
    model.metadata_props[0].value = "{"


def deep_json(model: onnx.ModelProto) -> None:
    model.metadata_props[0].value = "[" * 100_000


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (no_metadata, "no 'snn.artifact' metadata"),
        (twice, "appears twice"),
        (not_json, "not JSON"),
        (deep_json, "not JSON"),
        (change(schema=2), "schema 2 is not known"),
        (change(schema=...), "lacks 'schema'"),
        (change(kind="int4"), "kind = 'int4'"),
        (change(encoding="image"), "encoding = 'image'"),
        (change(num_bins=3), "counts .cnt. have 2"),
        (change(flow_scaling=0), "flow_scaling = 0"),
        (change(flow_scaling=float("nan")), "flow_scaling"),
        (change(resolution=[12]), "1 values in resolution"),
        (change(resolution=[12, 0]), "resolution = 0"),
        (change(spatial_free="no"), "spatial_free = 'no'"),
        (change(states__0=...), "lacks the state pair mem.head"),
        (change(states__1=...), "lacks the state pair spike.G1"),
        (change(states__0__role="other"), "role = 'other'"),
        (
            change(states__0__dtype="float32"),
            "dtype float32, but mem states of kind int8 are int16",
        ),
        (change(states__0__dtype="int8"), "int8, but mem_bits = 16"),
        (change(states__0__init=40000), "outside int16"),
        (change(states__0__init=0.5), "expected an integer"),
        (change(states__0__shape=[1, 4, 12, "W"]), "leaves W free"),
        (change(states__0__shape=[1, 4, 12, "Q"]), "free dimension 'Q'"),
        (change(states__0__shape=[1, 4, 12, 10**9]), "shape = 1000000000"),
        (change(states__0__output="mem_out.G1"), "twice"),
        (change(states__0__output="elsewhere"), "pairs state 'mem.head' with 'elsewhere'"),
        (change(states__0__input="mem.tail"), "mem.head"),
        (change(layers__0__decay=[257, 0, 0, 0]), "decay = 257"),
        (change(layers__0__decay=[-1, 0, 0, 0]), "decay = -1"),
        (change(layers__0__decay=[1, 2]), "2 values in decay, expected 4"),
        (change(layers__0__threshold=[40000, 0, 0, 0]), "threshold = 40000"),
        (change(layers__0__weight_scale=[1, 1, 1, 0]), "wrong weight_scale"),
        (change(layers__0__reset="soft"), "reset = 'soft'"),
        (change(layers__0__mem_bits=12), "mem_bits = 12"),
        (change(layers__0__channels=True), "channels = True"),
        (change(layers__0__name="G1"), "names layer 'G1' twice"),
        (change(layers=[]), "belongs to no layer"),
        (change(layers=3), "expected a list"),
        (change(states__0=7), "expected an object"),
    ],
)
def test_bad_metadata(make_file: Any, edit: Edit, message: str) -> None:
    path = make_file(edit=edit)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# --- metadata against graph ---------------------------------------------------------------------


def replace_initializer(name: str, array: np.ndarray[Any, Any]) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return edit


def input_type(name: str, kind: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        value = next(v for v in model.graph.input if v.name == name)
        value.type.tensor_type.elem_type = kind

    return edit


def drop_dimension(model: onnx.ModelProto) -> None:
    value = next(v for v in model.graph.input if v.name == "mem.head")
    del value.type.tensor_type.shape.dim[3]


def widen(model: onnx.ModelProto) -> None:
    value = next(v for v in model.graph.input if v.name == "mem.head")
    value.type.tensor_type.shape.dim[3].dim_value = 1000


def extra_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("secret", TensorProto.FLOAT, [1]))


def drop_output(name: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        for number, value in enumerate(model.graph.output):
            if value.name == name:
                del model.graph.output[number]
                return

    return edit


def override_decay(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("head.decay", TensorProto.INT32, [4]))


def neuron_attribute(name: str, value: object) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "QLIF")
        for attribute in node.attribute:
            if attribute.name == name:
                attribute.CopyFrom(helper.make_attribute(name, value))

    return edit


def without_attribute(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "QLIF")
    kept = [a for a in node.attribute if a.name != "reset"]
    del node.attribute[:]
    node.attribute.extend(kept)


def unread_state(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Add")
    node.input[1] = node.input[0]
    nodes = [n for n in model.graph.node if "spike.G1" not in n.input]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def unknown_op(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "QLIF").op_type = "QConvLIFTree"


def snn_version_2(model: onnx.ModelProto) -> None:
    next(entry for entry in model.opset_import if entry.domain == "snn").version = 2


def bad_order(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def short_weights(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "head.weight")
    tensor.raw_data = tensor.raw_data[:-1]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (input_type("mem.head", TensorProto.FLOAT), "'mem.head' is float32 in the graph and int16"),
        (input_type("events", TensorProto.FLOAT), "'events' is float32 in the graph and uint8"),
        (input_type("mem.head", 99), "'mem.head' is element type 99"),
        (drop_dimension, r"'mem.head' has shape \[1, 4, 12\] in the graph and \[1, 4, 12, 16\]"),
        (widen, r"\[1, 4, 12, 1000\] in the graph"),
        (extra_input, "'secret' is neither"),
        (drop_output("flow"), "no graph output 'flow'"),
        (drop_output("flow_acc"), "no graph output 'flow_acc'"),
        (drop_output("mem_out.G1"), "no state output 'mem_out.G1'"),
        (override_decay, "'head.decay'.* is not a constant"),
        (
            replace_initializer("head.decay", np.full(4, 300, np.int32)),
            "decay of layer 'head' is 300",
        ),
        (
            replace_initializer("head.decay", np.full(4, -1, np.int32)),
            "decay of layer 'head' is -1",
        ),
        (
            replace_initializer("head.decay", np.full(4, 1, np.int32)),
            "decay of layer 'head' differs",
        ),
        (replace_initializer("head.decay", np.ones(5, np.int32)), "5 values in the graph"),
        (replace_initializer("head.decay", np.ones(4, np.float32)), "float32, expected int32"),
        (replace_initializer("head.threshold", np.full(4, -2, np.int32)), "threshold .* is -2"),
        (replace_initializer("head.weight", np.ones((4, 2, 3, 3), np.uint8)), "is uint8 of rank 4"),
        (replace_initializer("head.bias", np.zeros(3, np.int32)), r"int32 \[3\], expected int32"),
        (replace_initializer("head.bias", np.full(4, 1 << 25, np.int32)), "float32 holds exactly"),
        (neuron_attribute("reset", "none"), "resets by 'none' in the graph and by 'zero'"),
        (neuron_attribute("reset", "soft"), "has reset b'soft'"),
        (neuron_attribute("frac_bits", 3), "frac_bits 3 in the graph and 0"),
        (without_attribute, "every attribute must be written"),
        (unread_state, "nothing in the graph reads state 'spike.G1'"),
        (unknown_op, "op snn::QConvLIFTree is not known"),
        (snn_version_2, "version 2 of domain snn"),
        (bad_order, "not a valid ONNX graph"),
        (short_weights, "not a valid ONNX graph|is damaged"),
    ],
)
def test_graph_that_disagrees(make_file: Any, edit: Edit, message: str) -> None:
    path = make_file(edit=edit)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head.threshold", 0.0, "threshold of layer 'head' is 0.0"),
        ("head.threshold", -1.0, "threshold of layer 'head' is -1.0"),
        ("head.threshold", np.nan, "threshold of layer 'head' is nan"),
        ("head.threshold", np.inf, "threshold of layer 'head' is inf"),
        ("head.decay", 1.5, "decay .beta. of layer 'head' is 1.5"),
        ("head.decay", np.nan, "decay .beta. of layer 'head' is nan"),
    ],
)
def test_bad_float_parameters(make_file: Any, name: str, value: float, message: str) -> None:
    edit = replace_initializer(name, np.array([0.5, value, 0.5, 0.5], np.float32))
    with pytest.raises(ArtifactError, match=message):
        load_model(make_file(kind="float", edit=edit))


def test_strict_convolution_may_exceed_float32(make_file: Any) -> None:
    edit = replace_initializer("head.bias", np.full(4, 1 << 25, np.int32))
    assert load_model(make_file(strict=True, edit=edit)).artifact.kind == "int8"


@pytest.mark.parametrize("over", [0, 1])
def test_counts_beside_spikes_are_bounded_apart(make_model: Any, over: int) -> None:
    """Of 2 channels of counts and 4 of spikes only the former reach 127."""
    model = make_model(kind="int8")
    (conv,) = (node for node in model.graph.node if node.name == "head.conv")
    conv.input[0] = "both"
    concat = helper.make_node("Concat", ["events", "spike.G1"], ["both"], "both", axis=1)
    model.graph.node.insert(0, concat)
    largest = 127 * 2 * 9 + 4 * 9
    values = {
        "head.weight": np.ones((4, 6, 3, 3), np.int8),
        "head.bias": np.full(4, (1 << 24) - largest + over, np.int32),
    }
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    if not over:
        validate_model(model)
        return
    with pytest.raises(ArtifactError, match=f"'head.weight' can sum to {(1 << 24) + 1}, more"):
        validate_model(model)


# --- what a stranger could hide -----------------------------------------------------------------


def externalise(tensor: TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def external_weight(model: onnx.ModelProto) -> None:
    externalise(model.graph.initializer[0])


def external_constant(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "hidden")
    externalise(tensor)
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def external_in_branch(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "hidden")
    externalise(tensor)
    value = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [2])
    branch = helper.make_graph([], "branch", [], [value], [tensor])
    model.graph.node.append(
        helper.make_node("If", ["flow"], ["unused"], then_branch=branch, else_branch=branch)
    )


def external_in_function(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "hidden")
    externalise(tensor)
    model.functions[0].node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


@pytest.mark.parametrize(
    "edit", [external_weight, external_constant, external_in_branch, external_in_function]
)
def test_external_data_is_refused(make_file: Any, edit: Edit) -> None:
    with pytest.raises(ArtifactError, match="keeps its values in another file"):
        load_model(make_file(edit=edit))


def changed_body(model: onnx.ModelProto) -> None:
    qlif = next(f for f in model.functions if f.name == "QLIF")
    next(n for n in qlif.node if n.op_type == "Greater").op_type = "GreaterOrEqual"


def changed_constant(model: onnx.ModelProto) -> None:
    qlif = next(f for f in model.functions if f.name == "QLIF")
    for node in qlif.node:
        if node.op_type == "Constant" and node.output[0] == "decay_unit":
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.int32(255)))


def changed_branch(model: onnx.ModelProto) -> None:
    qlif = next(f for f in model.functions if f.name == "QLIF")
    node = [n for n in qlif.node if n.op_type == "If"][-1]
    branch = next(a.g for a in node.attribute if a.name == "then_branch")
    branch.node[-1].input[0] = "acc"


def foreign_function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function(
            "snn",
            "Sneaky",
            ["x"],
            ["y"],
            [helper.make_node("Neg", ["x"], ["y"])],
            [helper.make_opsetid("", 21)],
        )
    )


def shadowed_operator(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function(
            "",
            "Tanh",
            ["x"],
            ["y"],
            [helper.make_node("Neg", ["x"], ["y"])],
            [helper.make_opsetid("", 21)],
        )
    )


def double_function(model: onnx.ModelProto) -> None:
    model.functions.append(model.functions[0])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (changed_body, "embedded body of snn::QLIF is not the op library's own"),
        (changed_constant, "embedded body of snn::QLIF is not the op library's own"),
        (changed_branch, "embedded body of snn::QLIF is not the op library's own"),
        (foreign_function, "snn::Sneaky is not one of the op library's"),
        (shadowed_operator, "::Tanh is not one of the op library's"),
        (double_function, "appears twice"),
    ],
)
def test_foreign_function_bodies(make_file: Any, edit: Edit, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        load_model(make_file(edit=edit))


def test_body_comparison_ignores_what_has_no_meaning() -> None:
    plain = lif_op.spec.function("QLIF")
    noisy = lif_op.spec.function("QLIF")
    noisy.doc_string = "by someone"
    for number, node in enumerate(noisy.node):
        node.name = f"node {number}"
        node.doc_string = "note"
    constant = next(n for n in noisy.node if n.output[0] == "decay_unit").attribute[0].t
    constant.CopyFrom(numpy_helper.from_array(np.int32(256), "named"))
    assert canonical_body(noisy) == canonical_body(plain)
    assert canonical_body(lif_op.spec.function("LIF")) != canonical_body(plain)


def test_deep_nesting_is_refused(make_file: Any) -> None:
    def nest(model: onnx.ModelProto) -> None:
        value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Identity", ["c"], ["y"])], "g", [], [value])
        for _ in range(20):
            node = helper.make_node("If", ["c"], ["y"], then_branch=graph)
            graph = helper.make_graph([node], "g", [], [value])
        model.graph.node.extend(graph.node)

    with pytest.raises(ArtifactError, match=r"nested more than|not an ONNX file"):
        load_model(make_file(edit=nest))


def test_state_size_is_capped_before_allocation(make_model: Any) -> None:
    artifact = validate_model(make_model(resolution=None))
    assert check_state_bytes(artifact, 1, (12, 16), 1 << 20, "m") == 12 * 16 * 4 * (2 + 2 + 1)
    with pytest.raises(ArtifactError, match=r"states need .* GiB at 60000 x 60000"):
        check_state_bytes(artifact, 1, (60000, 60000), 4 << 30, "m")


def test_metadata_key_is_the_published_one() -> None:
    assert METADATA_KEY == "snn.artifact"

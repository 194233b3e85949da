"""Synaptic operations: every count equals one made by brute force, in every form of a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lif_op.spec
from bench import energy, inputs, synops
from bench.activity import Geometry, dense_operations, effective_operations, is_binary
from bench.connections import HEAD, read_network
from bench.errors import BenchError
from bench.synops_count import Counter, Synops, count
from calib_data import console
from calib_data.events import Events
from runtime import StatefulSession, load_model
from runtime.layout import channels_first
from runtime.metadata import METADATA_KEY, Artifact, Layer, State

Array = np.ndarray[Any, Any]
SIZE = (12, 16)


def run(*arguments: object) -> int:
    return console.run(synops.main, [str(argument) for argument in arguments])


# --- one convolution ----------------------------------------------------------------------------


def by_hand(x: Array, weight: Array, geometry: Geometry, groups: int) -> int:
    """Every output, every tap, one by one."""
    (kh, kw), (sy, sx), (dy, dx) = geometry.kernel, geometry.strides, geometry.dilations
    top, left, bottom, right = geometry.pads
    batch, _, height, width = x.shape
    rows = (height + top + bottom - dy * (kh - 1) - 1) // sy + 1
    columns = (width + left + right - dx * (kw - 1) - 1) // sx + 1
    share = len(weight) // groups
    total = 0
    for n, o, row, column in np.ndindex(batch, len(weight), rows, columns):
        for c, i, j in np.ndindex(*weight.shape[1:]):
            y, z = row * sy + i * dy - top, column * sx + j * dx - left
            if 0 <= y < height and 0 <= z < width:
                source = x[n, o // share * weight.shape[1] + c, y, z]
                total += bool(weight[o, c, i, j] != 0 and source != 0)
    return total


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((1, 1)),
        Geometry((3, 3), pads=(1, 1, 1, 1)),
        Geometry((3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        Geometry((3, 5), strides=(2, 1), pads=(0, 2, 1, 0)),
        Geometry((2, 3), strides=(1, 3), pads=(3, 0, 2, 4), dilations=(2, 1)),
        Geometry((5, 5), pads=(2, 2, 2, 2), dilations=(2, 2)),
        Geometry((3, 3), strides=(4, 4)),
        Geometry((5, 5)),
    ],
)
def test_one_convolution_is_counted_exactly(geometry: Geometry, groups: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-1, 2, (4, 4 // groups, *geometry.kernel))
    x = rng.poisson(0.4, (2, 4, 5, 7))
    grouped = (weight != 0).reshape(groups, -1, *weight.shape[1:])
    nonzero = grouped.sum(axis=1).reshape(-1, *geometry.kernel)
    exact = by_hand(x, weight, geometry, groups)
    assert effective_operations(nonzero, geometry, x != 0) == exact
    dense = by_hand(np.ones((1, 4, 5, 7)), np.ones_like(weight), geometry, groups)
    assert dense_operations(4, 4 // groups, geometry, (5, 7)) == dense
    assert (exact > 0) == (dense > 0)


def test_kernel_larger_than_the_image_counts_nothing() -> None:
    geometry = Geometry((5, 5))
    assert dense_operations(3, 4, geometry, (4, 9)) == 0
    assert effective_operations(np.ones((1, 5, 5), int), geometry, np.ones((1, 1, 4, 9), bool)) == 0


def test_a_spike_in_the_corner_reaches_four_of_nine_taps() -> None:
    geometry, active = Geometry((3, 3), pads=(1, 1, 1, 1)), np.zeros((1, 1, 6, 6), bool)
    active[0, 0, 0, 0] = True
    assert effective_operations(np.full((1, 3, 3), 32), geometry, active) == 4 * 32


def test_large_images_are_counted_exactly() -> None:
    active = np.ones((1, 2, 700, 900), bool)
    geometry = Geometry((3, 3), pads=(1, 1, 1, 1))
    nonzero = np.full((2, 3, 3), 64)
    expected = 2 * 64 * (3 * 700 - 2) * (3 * 900 - 2)
    assert effective_operations(nonzero, geometry, active) == expected
    assert dense_operations(2, 64, geometry, (700, 900)) == expected


def test_binary_values() -> None:
    assert is_binary(np.array([0, 1, 1], np.uint8)) and is_binary(np.array([-1.0, 0, 1]))
    assert not is_binary(np.array([0, 2], np.uint8)) and not is_binary(np.array([0.5]))


# --- whole networks -----------------------------------------------------------------------------

Edge = tuple[str, str, bool, Array, int]
"""Receiver, source, whether previous, weight, stride."""


def sparsify(model: onnx.ModelProto) -> None:
    """Set a third of the weights to 0, a whole output channel and a whole input channel among
    them."""
    rng = np.random.default_rng(5)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if array.ndim == 4 and array.dtype != np.int64 and array.shape[2:] == (3, 3):
            array[rng.random(array.shape) < 1 / 3] = 0
            array[1], array[:, 0] = 0, 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def weights(path: Path) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def operations(x: Array, weight: Array, stride: int) -> int:
    """NeuroBench's own form: the binarized convolution of binarized inputs, summed up."""
    pad = weight.shape[2] // 2
    ones, taps = (x != 0).astype(np.uint8), (weight != 0).astype(np.int8)
    bias = np.zeros(len(weight), np.int32)
    return int(lif_op.spec.qconv(ones, taps, bias, (stride, stride), (pad,) * 4).sum())


def brute_force(
    path: Path, edges: Sequence[Edge], tensors: Sequence[Array]
) -> tuple[dict[tuple[str, str, bool], list[int]], dict[str, list[int]]]:
    """Dense operations, ACs and MACs by connection; spikes and changed membranes by layer."""
    session = StatefulSession(path, resolution=tensors[0].shape[2:]).diagnostic()
    artifact = session.artifact
    sums = {edge[:3]: [0, 0, 0] for edge in edges}
    neurons: dict[str, list[int]] = {layer.name: [0, 0] for layer in artifact.layers}
    for number, events in enumerate(tensors):
        before = session.states()
        session.step(events)
        spikes, after = session.spikes(), session.states()
        for receiver, source, previous, weight, stride in edges:
            x = events if source == "events" else spikes[source]
            if previous:
                state = next(s for s in artifact.states if s.input == f"spike.{source}")
                x = channels_first(artifact, state, before[state.input])
            dense, acs, macs = sums[receiver, source, previous]
            done = operations(x, weight, stride)
            binary = set(np.unique(x).tolist()) <= {-1, 0, 1}
            sums[receiver, source, previous] = [
                dense + operations(np.ones_like(x), np.ones_like(weight), stride),
                acs + done * binary,
                macs + done * (not binary),
            ]
        for name, values in neurons.items():
            changed = before[f"mem.{name}"] != after[f"mem.{name}"]
            values[0] += int(spikes[name].sum())
            values[1] += int(changed.sum()) if number else changed.size
    return sums, neurons


def assert_equal(
    result: Synops,
    expected: tuple[dict[tuple[str, str, bool], list[int]], dict[str, list[int]]],
) -> None:
    counted = {
        (layer.name, c.source, c.previous): [c.dense, c.acs, c.macs]
        for layer in result.layers
        for c in layer.connections
    }
    assert counted == expected[0]
    for layer in result.layers:
        if layer.name != HEAD:
            assert [layer.spikes, layer.changed] == expected[1][layer.name]
            assert 0 < layer.spikes < layer.neurons and 0 < layer.changed < layer.neurons
    for connection, (dense, acs, macs) in expected[0].items():
        assert 0 < acs + macs < dense, f"nothing to compare in {connection}"


def counted(path: Path, tensors: Sequence[Array]) -> Synops:
    counter = Counter(load_model(path), tensors[0].shape[2:])
    for events in tensors:
        counter.step(events)
    return counter.result


def windows_of(dtype: Any, size: tuple[int, int] = SIZE) -> list[Array]:
    """Event counts with many pixels above 1, none, and one window of zeros and ones only."""
    rng = np.random.default_rng(1)
    windows = [rng.poisson(0.4, (1, 2, *size)) for _ in range(5)]
    return [w.astype(dtype) for w in (*windows, windows[0] * 0, windows[1] > 0, windows[2])]


def small_edges(path: Path) -> list[Edge]:
    arrays = weights(path)
    return [
        ("head", "events", False, arrays["head.weight"], 1),
        ("G1", "head", False, arrays["G1.weight"], 1),
        ("G1", "G1", True, arrays["G1.rec.weight"], 1),
        (HEAD, "G1", False, arrays["pred.weight"], 1),
    ]


@pytest.mark.parametrize("kind", ["int8", "float"])
@pytest.mark.parametrize("size", [SIZE, (7, 9)])
def test_small_networks(make_file: Any, kind: str, size: tuple[int, int]) -> None:
    path = make_file(f"n.{kind}.onnx", sparsify, kind=kind, resolution=None)
    tensors = windows_of(np.uint8 if kind == "int8" else np.float32, size)
    assert_equal(counted(path, tensors), brute_force(path, small_edges(path), tensors))


def strided_model(size: tuple[int, int]) -> onnx.ModelProto:
    """Fused layers, the first and the recurrent one with stride 2, and flow at full size."""
    rng = np.random.default_rng(2)
    nodes: list[onnx.NodeProto] = []
    constants, states, layers = [], [], []
    values: dict[str, list[onnx.ValueInfoProto]] = {"in": [], "out": []}

    def constant(name: str, array: Array) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    def value(where: str, name: str, kind: int, shape: Sequence[int]) -> None:
        values[where].append(helper.make_tensor_value_info(name, kind, list(shape)))

    def state(role: str, layer: str, kind: str, layout: str, shape: tuple[int, ...]) -> str:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        value("in", f"{role}.{layer}", element, shape)
        value("out", f"{role}_out.{layer}", element, shape)
        names = (f"{role}.{layer}", f"{role}_out.{layer}")
        states.append(State(*names, role, layout, kind, shape, 0))
        return f"{role}.{layer}"

    value("in", "events", TensorProto.UINT8, (1, 2, *size))
    value("out", "flow", TensorProto.FLOAT, (1, 2, *size))
    value("out", "flow_acc", TensorProto.INT32, (1, 2, *size))
    x, cin, plane = "events", 2, size
    for name, channels, recurrent in (("head", 5, False), ("G1", 33, True)):
        plane = (-(-plane[0] // 2), -(-plane[1] // 2))
        shape = (channels, cin, 3, 3)
        parts = [x, constant(f"{name}.weight", rng.integers(-40, 63, shape).astype(np.int8))]
        parts.append(constant(f"{name}.bias", rng.integers(-5, 6, channels).astype(np.int32)))
        if recurrent:
            words = lif_op.spec.words(channels)
            parts.append(state("spike", name, "uint32", "packed32", (1, *plane, words)))
            own = rng.integers(-40, 63, (channels, channels, 3, 3)).astype(np.int8)
            parts.append(constant(f"{name}.rec.weight", own))
        parts.append(state("mem", name, "int16", "NHWC", (1, *plane, channels)))
        decay = rng.integers(100, 250, channels).astype(np.int32)
        threshold = rng.integers(100, 300, channels).astype(np.int32)
        parts += [constant(f"{name}.decay", decay), constant(f"{name}.threshold", threshold)]
        op = "QConvLIFRec" if recurrent else "QConvLIF"
        outputs = [f"spike_out.{name}", f"mem_out.{name}"]
        attributes: dict[str, Any] = {"strides": [2, 2], "pads": [1] * 4, "frac_bits": 0}
        attributes |= {"reset": "zero", "domain": "snn"}
        nodes.append(helper.make_node(op, parts, outputs, name, **attributes))
        numbers = (tuple(decay.tolist()), tuple(threshold.tolist()), (0.01,) * channels)
        layers.append(Layer(name, recurrent, channels, 3, 2, "zero", 0, 16, 7, *numbers))
        x, cin = f"spike_out.{name}", channels
    nodes.append(helper.make_node("UnpackSpikes", [x], ["bytes"], domain="snn", channels=cin))
    head = [
        constant("pred.weight", rng.integers(-40, 63, (2, cin, 1, 1)).astype(np.int8)),
        constant("pred.bias", np.zeros(2, np.int32)),
    ]
    shape = {"strides": [1, 1], "pads": [0] * 4}
    nodes.append(helper.make_node("QConv", ["bytes", *head], ["acc"], domain="snn", **shape))
    sizes = constant("sizes", np.array([1, 2, *size]))
    mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    nodes.append(helper.make_node("Resize", ["acc", "", "", sizes], ["flow_acc"], **mode))
    nodes.append(helper.make_node("Cast", ["flow_acc"], ["real"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Tanh", ["real"], ["flow"]))
    graph = helper.make_graph(nodes, "strided", values["in"], values["out"], constants)
    ops = ("QConvLIF", "QConvLIFRec", "QConv", "UnpackSpikes")
    model = helper.make_model(
        graph,
        ir_version=lif_op.spec.IR_VERSION,
        functions=[lif_op.spec.function(name) for name in ops],
        opset_imports=[helper.make_opsetid("", lif_op.spec.OPSET), helper.make_opsetid("snn", 1)],
    )
    about = Artifact(
        "Strided", "int8", "cnt", 2, size, False, 128.0, tuple(states), tuple(layers), version="1"
    )
    helper.set_model_props(model, {METADATA_KEY: about.to_json()})
    return model


def test_strided_fused_layers(tmp_path: Path) -> None:
    size = (13, 18)
    model, path = strided_model(size), tmp_path / "strided.onnx"
    sparsify(model)
    path.write_bytes(model.SerializeToString())
    edges = small_edges(path)
    edges = [(*edge[:4], 2 if edge[1] in ("events", "head") else 1) for edge in edges]
    tensors = windows_of(np.uint8, size)
    result = counted(path, tensors)
    assert_equal(result, brute_force(path, edges, tensors))
    # (7, 9) and (4, 5) neurons, 5 and 33 channels, so one and two words of spikes a pixel.
    traffic = {layer.name: layer.traffic for layer in result.layers}
    steps = len(tensors)
    assert traffic["G1"] == {
        "parameters": steps * (33 * 5 * 9 + 33 * 33 * 9 + 3 * 33 * 4),
        "membranes_read": steps * 4 * 5 * 33 * 2,
        "membranes_written": steps * 4 * 5 * 33 * 2,
        "inputs_read": steps * 4 * (7 * 9 * 1 + 4 * 5 * 2),
        "outputs_written": steps * 4 * 4 * 5 * 2,
    }
    assert traffic["head"]["inputs_read"] == steps * 2 * 13 * 18


@pytest.fixture(scope="module")
def forms(active_network: Callable[..., Any], tmp_path_factory: Any) -> dict[str, Path]:
    """One quantized network in every form that has integer neurons, and others beside it."""
    from export.graphs.builder import Dims
    from export.graphs.floating import float_model
    from export.profile_export import build_profile
    from export.profiles import PROFILES
    from quant import QuantOptions, quantize

    network, dims = active_network("LIFFireNet_short"), Dims(SIZE, free=True)
    spec = quantize(network, QuantOptions(weight_bits=4))
    folder, models = tmp_path_factory.mktemp("forms"), {"float": float_model(network, dims)}
    for name in ("integer", "integer-nchw", "portable-int", "portable"):
        models[name] = build_profile(PROFILES[name], spec, dims)[0]
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return {path.stem: path for path in folder.glob("*.onnx")}


def network_edges(path: Path) -> list[Edge]:
    """Connections of the integer form, whose recurrent weights are side by side."""
    arrays, artifact = weights(path), load_model(path).artifact
    edges: list[Edge] = []
    source, cin = "events", artifact.num_bins
    for layer in artifact.layers:
        weight = arrays[f"{layer.name}.weight"]
        edges.append((layer.name, source, False, weight[:, :cin], 1))
        if layer.recurrent:
            edges.append((layer.name, layer.name, True, weight[:, cin:], 1))
        source, cin = layer.name, layer.channels
    return [*edges, (HEAD, source, False, arrays["pred.weight"], 1)]


def test_every_integer_form_has_the_same_counts(forms: dict[str, Path]) -> None:
    tensors = windows_of(np.uint8)
    edges = network_edges(forms["integer-nchw"])
    assert any((edge[3] == 0).mean() > 0.05 for edge in edges), "4-bit weights have zeros"
    expected = brute_force(forms["integer-nchw"], edges, tensors)
    names = ("integer", "integer-nchw", "portable-int")
    results = {name: counted(forms[name], tensors) for name in names}
    for result in results.values():
        assert_equal(result, expected)
    packed, whole = (
        sum(layer.traffic["outputs_written"] for layer in results[name].layers[:-1])
        for name in ("integer", "integer-nchw")
    )
    # 8 channels are one word of 4 bytes, or 8 bytes.
    assert packed * 2 == whole


def test_requantized_currents(active_network: Any, tmp_path: Path) -> None:
    """Their convolutions are QLinearConv nodes, whose weights have zero points."""
    import torch

    from export.graphs.builder import Dims
    from export.graphs.integer import integer_model
    from quant import QuantOptions, calibrate, quantize

    network = active_network("LIFFireNet_short")
    scales = calibrate(network, [torch.from_numpy(window) for window in windows_of(np.float32)])
    spec = quantize(network, QuantOptions(4, current="uint8"), scales)
    path = tmp_path / "net.onnx"
    path.write_bytes(integer_model(spec, Dims(SIZE, free=True)).SerializeToString())
    assert "QLinearConv" in {node.op_type for node in onnx.load(path).graph.node}
    tensors = windows_of(np.uint8)
    expected = brute_force(path, network_edges(path), tensors)
    assert_equal(counted(path, tensors), expected)


def test_zeros_of_weights_are_their_zero_points(make_file: Any) -> None:
    """A grouped integer convolution of unsigned weights, zero at 7, one of them per channel."""
    weight = np.random.default_rng(3).integers(6, 9, (4, 1, 3, 3)).astype(np.uint8)

    def unsigned(model: onnx.ModelProto) -> None:
        for name, array in {"u.w": weight, "u.x0": np.uint8(0), "u.w0": np.uint8(7)}.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        conv = next(n for n in model.graph.node if n.name == "head.conv")
        attributes = {"pads": [1] * 4, "group": 2}
        made = [
            helper.make_node("Cast", ["events"], ["u.x"], to=TensorProto.UINT8),
            helper.make_node(
                "ConvInteger", ["u.x", "u.w", "u.x0", "u.w0"], ["u.acc"], **attributes
            ),
            helper.make_node("Cast", ["u.acc"], list(conv.output), to=TensorProto.FLOAT),
        ]
        others = [node for node in model.graph.node if node.name != "head.conv"]
        del model.graph.node[:]
        model.graph.node.extend([*made, *others])

    path = make_file("u.onnx", unsigned, kind="float")
    tensors = windows_of(np.float32)
    sums = counted(path, tensors).layers[0].connections[0]
    geometry = Geometry((3, 3), pads=(1, 1, 1, 1))
    taps = weight.astype(int) - 7
    assert sums.acs + sums.macs == sum(by_hand(x, taps, geometry, 2) for x in tensors)
    ones = np.ones_like(tensors[0])
    assert sums.dense == len(tensors) * by_hand(ones, np.ones_like(weight), geometry, 2)
    assert sums.acs > 0 and sums.macs > 0 and sums.integer


@pytest.mark.parametrize("name", ["float", "portable"])
def test_float_neurons(forms: dict[str, Path], name: str) -> None:
    """The QDQ file has the integer file's weights, so also its dense operations."""
    tensors = windows_of(np.float32)
    result = counted(forms[name], tensors)
    integer = counted(forms["integer"], windows_of(np.uint8))
    for ours, theirs in zip(result.layers, integer.layers, strict=True):
        assert ours.name == theirs.name and ours.total("dense") == theirs.total("dense")
        assert ours.total("active") > 0 and ours.integer in (False, None)
    first, other = result.layers[0], integer.layers[0]
    if name == "portable":
        assert (first.total("acs"), first.total("macs")) == (
            other.total("acs"),
            other.total("macs"),
        )
        assert all(c.integer for layer in result.layers for c in layer.connections)
    sizes = {"float": 4, "portable": 2}
    neurons = 8 * SIZE[0] * SIZE[1] * len(tensors)
    assert first.traffic["membranes_read"] == neurons * sizes[name]
    assert first.traffic["outputs_written"] == neurons * 4


def test_energy_is_what_the_constants_say(make_file: Any) -> None:
    values = counted(make_file(), windows_of(np.uint8)).to_dict("sram-8k")
    for row in [*values["layers"], values["total"]]:
        assert row["synapses_pj"] == pytest.approx(0.1 * row["acs"] + 0.3 * row["macs"])
        assert row["dense_synapses_pj"] == pytest.approx(0.3 * row["dense"])
        assert row["updates_pj"] == pytest.approx(3.3 * row["neurons"])
        moved = sum(value for key, value in row.items() if key.endswith("_bytes"))
        assert row["memory_pj"] == pytest.approx(moved / 8 * 10)
        parts = row["synapses_pj"] + row["updates_pj"] + row["memory_pj"]
        assert row["energy_pj"] == pytest.approx(parts)
    real = counted(make_file("f.onnx", kind="float"), windows_of(np.float32)).to_dict("dram")
    total = real["total"]
    assert total["synapses_pj"] == pytest.approx(0.9 * total["acs"] + 4.6 * total["macs"])
    assert total["updates_pj"] == pytest.approx(5.5 * total["neurons"])
    moved = sum(value for key, value in total.items() if key.endswith("_bytes"))
    assert total["memory_pj"] == pytest.approx(moved / 8 * 1300)


def test_totals_are_sums(make_file: Any) -> None:
    values = counted(make_file(), windows_of(np.uint8)).to_dict("sram-1m")
    total = values["total"]
    for key in set(total) - {"layer", "input_density", "spike_rate"}:
        assert total[key] == pytest.approx(sum(row[key] for row in values["layers"]))
    connections = [c for row in values["layers"] for c in row["connections"]]
    assert total["acs"] * values["steps"] == sum(c["acs"] for c in connections)
    assert values["layers"][-1]["spike_rate"] is None


# --- refusals -----------------------------------------------------------------------------------


def insert(model: onnx.ModelProto, before: str, node: onnx.NodeProto) -> None:
    """Put a node in front of the one of that name, which from then on reads its output."""
    nodes = list(model.graph.node)
    place = next(i for i, n in enumerate(nodes) if n.name == before)
    nodes[place].input[0] = node.output[0]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], node, *nodes[place:]])


def rectified(model: onnx.ModelProto) -> None:
    insert(model, "G1.conv", helper.make_node("Relu", ["spike_out.head"], ["other"]))


def quantized(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(4), "four"))
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(0), "zero"))
    insert(
        model, "head.conv", helper.make_node("DequantizeLinear", ["q", "four", "zero"], ["other"])
    )
    quantizer = helper.make_node("QuantizeLinear", ["events", "four", "zero"], ["q"], "coarse")
    model.graph.node.insert(0, quantizer)


def automatic(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.name == "G1.conv")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))


def multiplied(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.eye(16, dtype=np.float32), "eye"))
    insert(model, "G1.neuron", helper.make_node("MatMul", ["G1.sum", "eye"], ["other"], "mixing"))


def shared(model: onnx.ModelProto) -> None:
    insert(model, "G1.neuron", helper.make_node("Add", ["G1.sum", "spike_out.head"], ["other"]))


def computed(model: onnx.ModelProto) -> None:
    node = helper.make_node("Mul", ["G1.weight", "largest"], ["other"])
    nodes = list(model.graph.node)
    place = next(i for i, n in enumerate(nodes) if n.name == "G1.conv")
    nodes[place].input[1] = "other"
    largest = helper.make_node("ReduceMax", ["events"], ["largest"], keepdims=0)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], largest, node, *nodes[place:]])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rectified, "'G1.conv' reads 'other', which is neither events nor spikes"),
        (quantized, "'coarse' quantizes events with a scale other than 1"),
        (automatic, "'G1.conv' leaves its padding to auto_pad"),
        (multiplied, "G1 computes with MatMul (node 'mixing')"),
        (shared, "G1 reads spikes of another layer without a convolution"),
        (computed, "a weight of node 'G1.conv' depends on 'events'"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    make_file: Any, edit: Any, message: str, capsys: Any
) -> None:
    path = make_file("odd.onnx", edit, kind="float")
    assert run(path, "--steps", 1) == 2
    error = capsys.readouterr().err
    assert message in error and str(path) in error and error.count("\n") == 1


def test_channels_must_fit(make_file: Any) -> None:
    def doubled(model: onnx.ModelProto) -> None:
        insert(model, "G1.conv", helper.make_node("Concat", ["spike_out.head"] * 2, ["o"], axis=1))

    with pytest.raises(BenchError, match="has weights for 4 input channels and reads 8"):
        read_network(load_model(make_file("odd.onnx", doubled, kind="float")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--density", "-1"], "density -1"),
        (["--data", "absent.h5", "--density", "1"], "brings its own resolution and density"),
        (["--data", "absent.h5"], "absent.h5"),
        (["absent.onnx"], "absent.onnx"),
        (["a.onnx", "b.onnx"], "3 files given"),
        (["--resolution", "8", "8"], "made for 12 x 16, not for 8 x 8"),
        (["--plot", "chart.txt"], "pictures end in .png, .svg, .pdf"),
    ],
)
def test_errors_are_one_line(
    make_file: Any, capsys: Any, arguments: list[str], message: str
) -> None:
    assert run(make_file(), *arguments, "--steps", 2) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


# --- the command --------------------------------------------------------------------------------


def test_sizes_that_do_not_fit_into_memory_are_refused(make_file: Any, capsys: Any) -> None:
    path = make_file("free.onnx", resolution=None)
    assert run(path, "--resolution", 100_000, 100_000) == 2
    assert "states need" in capsys.readouterr().err


def test_command_on_random_events(make_file: Any, capsys: Any) -> None:
    assert run(make_file(), "--steps", 70, "--density", 0.3) == 0
    printed = capsys.readouterr().out
    for text in ("12 x 16 pixels", "random events", "70 steps", "flow head", "int32 multiply 3.1"):
        assert text in printed
    assert "Horowitz" in printed and "SRAM 1 MB" in printed and "DRAM" not in printed
    assert "times the bytes" not in printed


def test_two_artifacts_side_by_side(
    make_file: Any, recording: Path, tmp_path: Path, capsys: Any
) -> None:
    real, integer = make_file("n.float.onnx", kind="float"), make_file("n.int8.onnx")
    table, chart = tmp_path / "out" / "layers.csv", tmp_path / "out" / "chart.svg"
    arguments = (real, integer, "--data", recording, "--csv", table, "--plot", chart)
    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    assert "n.int8.onnx beside n.float.onnx: " in printed and "times the bytes" in printed
    assert "means of 6 steps" in printed
    assert chart.read_text().lstrip().startswith("<?xml")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["head", "G1", "flow head", "total"] * 2
    assert run(*arguments, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    layers = [row for m in values["models"] for row in [*m["layers"], m["total"]]]
    assert [float(row["acs"]) for row in rows] == [row["acs"] for row in layers]
    assert values["constants"]["int32 add"]["picojoules"] == 0.1
    assert values["input"]["data"] == str(recording)
    # The same windows went through both, and float states are twice as wide.
    first, second = (model["total"] for model in values["models"])
    assert first["dense"] == second["dense"]
    assert first["membranes_read_bytes"] == 2 * second["membranes_read_bytes"]


def test_windows_of_a_recording_have_a_length_by_default(
    make_file: Any, recording: Path, capsys: Any
) -> None:
    arguments = (make_file(), "--data", recording, "--mode", "events", "--steps", 3, "--json")
    assert run(*arguments) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["input"]["events_per_pixel"] == pytest.approx(1000 / 128**2, rel=0.05)
    assert values["models"][0]["steps"] == 3


def test_two_files_of_one_kind_go_by_their_names(make_file: Any, capsys: Any) -> None:
    assert run(make_file("a.onnx"), make_file("b.onnx", seed=3), "--steps", 2) == 0
    printed = capsys.readouterr().out
    assert "a.onnx" in printed and "b.onnx beside a.onnx" in printed


def test_silence_is_pointed_out(make_file: Any, capsys: Any) -> None:
    path = make_file("f.onnx", kind="float")
    assert run(path, "--density", 0, "--steps", 2) == 0
    assert "no neuron fired" in capsys.readouterr().out


def test_chart_needs_matplotlib(
    make_file: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert run(make_file(), "--steps", 1, "--plot", tmp_path / "chart.png") == 2
    assert "pip install 'spikedeploy[report]'" in capsys.readouterr().err
    assert not (tmp_path / "chart.png").exists()


def test_every_step_starts_from_the_first_state(make_file: Any) -> None:
    loaded = load_model(make_file())
    windows: list[Events] = inputs.random_windows(SIZE, 0.5, 3)
    first, second = (count([loaded], windows, SIZE, quiet=True)[0] for _ in range(2))
    assert first.to_dict("dram") == second.to_dict("dram")
    assert set(energy.used_constants("dram")) >= {"DRAM, 64 bits", "int8 multiply"}
    assert "SRAM 1 MB, 64 bits" not in energy.used_constants("dram")

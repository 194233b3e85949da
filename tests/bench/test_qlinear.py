"""The yardstick of 8-bit convolutions: it computes what it says, on the layers of the artifact."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bench import qlinear
from bench.errors import BenchError
from lif_op import spec
from runtime.artifact import load_model


def test_every_convolution_is_there_with_its_shape(make_file: Any) -> None:
    loaded = load_model(make_file())
    layers = qlinear.convolutions(loaded.model)
    nodes = [node for node in loaded.model.graph.node if node.op_type == "QConv"]
    assert len(layers) == len(nodes) > 2
    model = qlinear.build(loaded.model, (12, 16))
    made = [node for node in model.graph.node if node.op_type == "QLinearConv"]
    assert len(made) == len(nodes)
    assert all(node.domain == "com.microsoft" for node in made)


def test_the_stream_computes_the_convolutions() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(-63, 64, (4, 2, 3, 3), dtype=np.int8)
    second = rng.integers(-63, 64, (3, 4, 3, 3), dtype=np.int8)
    layers = [
        qlinear.Convolution(first, (1, 1), (1, 1, 1, 1), 0),
        qlinear.Convolution(second, (2, 2), (1, 1, 1, 1), 0),
    ]
    counts = rng.integers(0, 9, (1, 2, 6, 8), dtype=np.uint8)

    def layer(x: Any, conv: qlinear.Convolution) -> Any:
        acc = spec.qconv(
            x, conv.weight, np.zeros(len(conv.weight), np.int32), (*conv.strides,), conv.pads
        )
        return np.clip(np.rint(acc * 0.25), 0, 255).astype(np.uint8)

    expected = layer(layer(counts, layers[0]), layers[1])
    nodes = [
        onnx.helper.make_node(
            "QConv",
            ["x", f"w{i}", "b"],
            [f"y{i}"],
            domain="snn",
            strides=conv.strides,
            pads=conv.pads,
        )
        for i, conv in enumerate(layers)
    ]
    weights = [onnx.numpy_helper.from_array(c.weight, f"w{i}") for i, c in enumerate(layers)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], weights))

    class Loaded:
        path = "memory"

    loaded: Any = Loaded()
    loaded.model = model
    stream = qlinear.QlinearStream(loaded, (6, 8))
    result = stream.step(qlinear.channels_last([counts])[0])
    np.testing.assert_array_equal(result.transpose(0, 3, 1, 2), expected)


def test_recurrent_layers_read_their_previous_output() -> None:
    weights = {"w": np.ones((8, 2, 3, 3), np.int8), "r": np.ones((8, 8, 3, 3), np.int8)}
    inputs = ["x", "w", "b", "previous", "r", "mem", "decay", "threshold"]
    node = onnx.helper.make_node(
        "QConvLIFRec", inputs, ["s", "m"], domain="snn", strides=[1, 1], pads=[1, 1, 1, 1]
    )
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], constants))
    (layer,) = qlinear.convolutions(model)
    assert layer.weight.shape == (8, 10, 3, 3) and layer.recurrent_channels == 8
    built = qlinear.build(model, (5, 6))
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in built.graph.input
    }
    assert shapes == {"events": [1, 5, 6, 2], "layer0.previous": [1, 5, 6, 8]}


def test_float_artifacts_are_refused(make_file: Any) -> None:
    with pytest.raises(BenchError, match="no integer convolutions"):
        qlinear.QlinearStream(load_model(make_file(kind="float")), (12, 16))

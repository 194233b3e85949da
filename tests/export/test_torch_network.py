"""Both torch exporters and the graph built from integers give one canonical graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.canonical import difference, expressions, fingerprint
from export.errors import ExportError
from export.graphs.builder import Dims
from export.graphs.source import source_model
from export.passes import run_passes
from export.profiles import CANONICAL
from export.torch_graph import ROUTES
from export.torch_network import QuantizedNetwork, export_network, quantized_conv
from quant import LayerOptions, QuantOptions
from quant.spec import ConvSpec
from runtime.metadata import Artifact

RESOLUTION = (18, 26)
VARIANTS = {
    "8-bit": QuantOptions(8, 8, -3),
    "4-bit": QuantOptions(4, 16, 3),
    "mixed": QuantOptions(7, layers={"G1": LayerOptions(weight_bits=4, mem_bits=8, frac_bits=-4)}),
    "uint8": QuantOptions(current="uint8"),
}


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    return run_passes(model, [step.make() for step in CANONICAL])[0]


def assert_same(left: onnx.ModelProto, right: onnx.ModelProto) -> None:
    assert difference(left, right) == ""
    assert fingerprint(left) == fingerprint(right)
    assert expressions(left) == expressions(right)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["LIFFireNet", "LIFFireNet_short"])
def test_one_graph_from_three_sources(
    name: str, route: Any, make_sources: Callable[..., Any]
) -> None:
    spec, dims = make_sources(name).spec, Dims(RESOLUTION, free=False)
    source = canonical(source_model(spec, dims))
    exported = canonical(export_network(spec, dims, route))
    assert_same(source, exported)
    assert [i.name for i in exported.graph.input] == [i.name for i in source.graph.input]
    assert [o.name for o in exported.graph.output] == [o.name for o in source.graph.output]
    assert Artifact.from_model(exported) == Artifact.from_model(source)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(variant: str, make_sources: Callable[..., Any]) -> None:
    spec, dims = make_sources(options=VARIANTS[variant]).spec, Dims(RESOLUTION, free=False)
    assert_same(canonical(source_model(spec, dims)), canonical(export_network(spec, dims)))


@pytest.mark.parametrize("route", ROUTES)
def test_free_dimensions_and_float_membranes(route: Any, sources: Any) -> None:
    dims = Dims(RESOLUTION, free=True)
    source = source_model(sources.spec, dims, conv_only=True)
    exported = export_network(sources.spec, dims, route, conv_only=True)
    assert_same(canonical(source), canonical(exported))
    for left, right in zip(source.graph.input, exported.graph.input, strict=True):
        assert left.type == right.type


def test_the_module_computes_what_the_graph_computes(sources: Any, moving_counts: Any) -> None:
    """Eager PyTorch and NumPy's reading of the file, over steps with states fed back."""
    spec, dims = sources.spec, Dims(RESOLUTION, free=False)
    network = QuantizedNetwork(spec)
    model = canonical(export_network(spec, dims))
    session = onnx.reference.ReferenceEvaluator(model)
    names = [entry.name for entry in model.graph.input]
    outputs = [entry.name for entry in model.graph.output]
    artifact = Artifact.from_model(model)
    feed = {
        state.input: np.zeros(state.resolved_shape(1, *RESOLUTION), state.dtype)
        for state in artifact.states
    }
    spikes = 0.0
    for events in moving_counts(3, RESOLUTION):
        feed["events"] = events.astype(np.float32)
        with torch.no_grad():
            expected = network(*(torch.from_numpy(feed[name]) for name in names))
        got = dict(zip(outputs, session.run(None, feed), strict=True))
        for name, tensor in zip(outputs, expected, strict=True):
            unequal = got[name] != tensor.numpy()
            # A float membrane on its threshold, or halfway between two integers.
            assert name == "flow" or unequal.mean() < 0.01
        np.testing.assert_allclose(got["flow"], expected[0].numpy(), atol=0.05)
        spikes += float(got["spike_out.G1"].sum())
        feed |= {state.input: got[state.output] for state in artifact.states}
    assert spikes > 0


def test_a_fingerprint_sees_one_changed_weight(sources: Any) -> None:
    dims = Dims(RESOLUTION, free=False)
    layer = sources.spec.layers[2]
    weight = layer.conv.weight.copy()
    weight[0, 0, 0, 0] += 1
    changed = replace(layer, conv=replace(layer.conv, weight=weight))
    layers = (*sources.spec.layers[:2], changed, *sources.spec.layers[3:])
    left = source_model(sources.spec, dims)
    right = source_model(replace(sources.spec, layers=layers), dims)
    assert len(difference(left, right).splitlines()) == 2
    assert expressions(left)["flow"] != expressions(right)["flow"]
    assert expressions(left)["mem_out.head"] == expressions(right)["mem_out.head"]


def test_a_bias_that_float32_cannot_hold_is_refused() -> None:
    conv = ConvSpec(
        np.ones((1, 1, 3, 3), np.int8),
        np.array([2**24 + 1], np.int32),
        np.array([1.0]),
        stride=1,
        x_max=1,
    )
    with pytest.raises(ExportError, match="layer 'R1a'"):
        quantized_conv(conv, conv.weight, "R1a")

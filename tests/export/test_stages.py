"""Evidence between stages: equal where integers, bounded where a neuron is real, loud if not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.graphs.builder import Dims
from export.graphs.source import source_model
from export.passes import find_pass, run_passes
from export.stage import StageError
from export.stages import Stages
from quant import QuantOptions

DIMS = Dims((18, 26), free=False)


def edit(model: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(change(values), name))
    return copy


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    names = ("concat_quantized", "integer_inputs", "lower_lif")
    return run_passes(model, [find_pass(name)() for name in names])[0]


@pytest.mark.parametrize(
    "options",
    [
        QuantOptions(7, 16),
        QuantOptions(8, 8),
        QuantOptions(4, 16, 3),
        QuantOptions(8, 16, current="uint8"),
    ],
)
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_float_to_source_to_integer_neurons(
    options: QuantOptions, reset: str, make_sources: Any
) -> None:
    sources = make_sources("LIFFireNet_short", options, channels=4, reset=reset)
    stages = Stages(sources.spec, sources.model)
    assert stages.add("float", sources.graph("float")) is None
    source = source_model(sources.spec, DIMS)
    quantized = stages.add("source", source)
    assert quantized is not None and quantized.relation == "bounded"
    assert 0 < quantized.largest <= quantized.bound and quantized.values > 10_000
    integer = stages.add("lower_lif", lowered(source), 5)
    assert integer is not None and integer.largest <= integer.bound
    assert [stage.name for stage in stages.stages] == ["source", "lower_lif"]


def test_equal_stages_are_equal_bit_for_bit(sources: Any) -> None:
    model = sources.graph("int8")
    stages = Stages(sources.spec, None)
    stages.add("integer", model)
    stage = stages.add("renamed", model)
    assert stage is not None and (stage.relation, stage.largest, stage.flow) == ("equal", 0, 0)
    wrong = edit(model, "R1a.weight", lambda w: w ^ (np.arange(w.size).reshape(w.shape) == 40))
    with pytest.raises(StageError, match=r"stage weights: .*R1a differs in \d+ values at step 0"):
        stages.add("weights", wrong)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("R1b.weight", lambda w: np.roll(w, 1, axis=1)),
        ("G1.threshold", lambda t: t * np.float32(1.2)),
        ("head.beta", lambda b: 1 - b),
    ],
)
def test_a_broken_bound_names_stage_and_layer(
    name: str, change: Callable[[Any], Any], make_sources: Any
) -> None:
    sources = make_sources("LIFFireNet", QuantOptions(8, 16, 2))
    stages = Stages(sources.spec, sources.model)
    stages.add("float", sources.graph("float"))
    wrong = edit(source_model(sources.spec, DIMS), name, change)
    layer = name.partition(".")[0]
    with pytest.raises(StageError, match=rf"stage source: layer {layer} at step .*bound"):
        stages.add("source", wrong)


def test_a_wrong_head_is_found(make_sources: Any) -> None:
    sources = make_sources("LIFFireNet_short", channels=4)
    stages = Stages(sources.spec, sources.model)
    source = source_model(sources.spec, DIMS)
    stages.add("source", source)
    with pytest.raises(StageError, match=r"stage head: flow differs by .* on equal spikes"):
        stages.add("head", edit(source, "pred.weight", lambda w: -w))

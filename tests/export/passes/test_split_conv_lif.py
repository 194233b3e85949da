"""split_conv_lif: what fuse_conv_lif did, undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import neuron_graphs as graphs
import numpy as np
import onnx
import pytest
import torch

from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.passes import run_passes
from export.passes.attach_functions import AttachFunctions
from export.passes.base import PassError
from export.passes.fuse_conv_lif import FuseConvLif
from export.passes.requant_shift import RequantShift
from export.passes.split_conv_lif import SplitConvLif
from quant import IntegerNetwork, QuantOptions, quantize
from runtime.artifact import load_model
from runtime.graph import diagnostic_copy
from runtime.metadata import Artifact
from runtime.parity import compare
from runtime.session import StatefulSession

RESOLUTION = (11, 19)
Make = Callable[..., Any]


def split(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    result, reports = run_passes(model, [SplitConvLif(), AttachFunctions()])
    return result, reports[0].changes


def described(model: onnx.ModelProto) -> Any:
    """Nodes, constants, interface and metadata, without the order of constants."""
    graph = model.graph
    nodes = [(n.domain, n.op_type, n.name, tuple(n.input), tuple(n.output)) for n in graph.node]
    constants = {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in graph.initializer}
    edges = [v.SerializeToString() for v in (*graph.input, *graph.output)]
    return nodes, constants, edges, Artifact.from_model(model)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(
    ("name", "options", "config"),
    [
        ("LIFFireNet", QuantOptions(), {"channels": 33}),
        ("LIFFireNet_short", QuantOptions(8, 8, -3), {"channels": 5, "reset": "subtract"}),
        ("LIFFireFlowNet", QuantOptions(), {"channels": 6}),
    ],
)
def test_the_unfused_graph_comes_back(
    name: str, options: Any, config: dict[str, Any], free: bool, active_network: Make
) -> None:
    spec = quantize(active_network(name, **config), options)
    fused = integer_model(spec, Dims(RESOLUTION, free))
    model, changes = split(fused)
    assert changes == len(spec.layers)
    plain = integer_model(spec, Dims(RESOLUTION, free), fused=False)
    assert described(model) == described(plain)
    again, unchanged = split(model)
    assert unchanged == 0 and described(again) == described(model)
    refused = run_passes(model, [FuseConvLif(), AttachFunctions()])[0]
    assert described(refused) == described(fused)


def test_steps_equal_pytorch(active_network: Make, moving_counts: Make, tmp_path: Path) -> None:
    spec = quantize(active_network("LIFFireNet", channels=6))
    model, _ = split(integer_model(spec, Dims(RESOLUTION, False)))
    session = StatefulSession(write_model(model, tmp_path / "m.onnx"))
    network, states = IntegerNetwork(spec), None
    for events in moving_counts(10, RESOLUTION):
        session.step(events)
        expected = network.step(torch.from_numpy(events), states)
        states = expected.states
        np.testing.assert_array_equal(session.outputs()["flow_acc"], expected.flow_acc.numpy())
    assert states is not None and states["R2b"].spike.any()


def test_packed_outputs_stay_packed(active_network: Make, tmp_path: Path) -> None:
    """A diagnostic copy returns words, which somebody may read."""
    spec = quantize(active_network("LIFFireNet_short", channels=5))
    path = write_model(integer_model(spec, Dims(RESOLUTION, False)), tmp_path / "m.onnx")
    loaded = load_model(path)
    copy, _ = diagnostic_copy(loaded.model, loaded.artifact)
    model, _ = split(copy)
    outputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    assert outputs["spike_out.R1a.packed"] == onnx.TensorProto.UINT32
    assert graphs.types(model)["PackSpikes"] == 3
    onnx.checker.check_model(model, full_check=False)


def test_other_kernels_of_the_previous_spikes_add_up(
    active_network: Make, moving_counts: Make, tmp_path: Path
) -> None:
    """Where the two kernels differ, two convolutions stand side by side."""
    spec = quantize(active_network("LIFFireNet_short", channels=4))
    fused = integer_model(spec, Dims(RESOLUTION, False))
    tensor = next(t for t in fused.graph.initializer if t.name == "G1.weight_rec")
    wide = np.random.default_rng(0).integers(-9, 10, (4, 4, 5, 5)).astype(np.int8)
    tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    del fused.graph.value_info[:]  # which tell the old shape
    model, _ = split(fused)
    assert graphs.types(model)["Add"] == 1 and graphs.types(model)["Concat"] == 1
    paths = [write_model(m, tmp_path / f"{i}.onnx") for i, m in enumerate((fused, model))]
    steps = [(events, events) for events in moving_counts(10, RESOLUTION)]
    result = compare(*[StatefulSession(path) for path in paths], steps)
    assert result.equal and not result.silent_layers


def test_layers_without_states_stay(active_network: Make) -> None:
    spec = quantize(active_network("LIFFireNet_short", channels=4))
    fused = integer_model(spec, Dims(RESOLUTION, False))
    for value in fused.graph.output:
        if value.name == "mem_out.head":
            value.name = "other"
    for node in fused.graph.node:
        for position, name in enumerate(node.output):
            if name == "mem_out.head":
                node.output[position] = "other"
    del fused.metadata_props[:]
    model, changes = split(fused)
    assert changes == len(spec.layers) - 1
    assert graphs.types(model)["QConvLIF"] == 1 and graphs.types(model)["UnpackSpikes"] == 1


def test_deeploy_asks_for_it(active_network: Make) -> None:
    spec = quantize(active_network("LIFFireNet_short", channels=4))
    with pytest.raises(PassError, match="run split_conv_lif before"):
        run_passes(integer_model(spec, Dims(RESOLUTION, False)), [RequantShift()])

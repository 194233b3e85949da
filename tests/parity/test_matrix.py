"""Every variant the toolkit claims is equal over 1000 steps, not only the shipped one.

Four networks, three widths of the weights, both membrane types and two resets, each driven over
1000 windows of a tiny image: the PyTorch emulation, ONNX Runtime with the op library and ONNX
Runtime on the function bodies agree on every state and on the flow accumulator. Thread counts,
kernel targets, optimisation levels and the reference evaluator are the matter of
``test_integer.py``; this file goes wide instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from models import TOPOLOGIES
from quant import IntegerNetwork, QuantOptions, calibrate, quantize
from runtime.session import StatefulSession

STEPS = 1000
RESOLUTION = (8, 12)

Make = Callable[..., Any]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("mem_bits", [16, 8])
@pytest.mark.parametrize("weight_bits", [8, 7, 4])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_variant(
    name: str,
    weight_bits: int,
    mem_bits: int,
    reset: str,
    active_network: Make,
    moving_counts: Make,
    tmp_path: Path,
) -> None:
    """PyTorch == native kernels == function bodies, every state after every step."""
    model = active_network(name, channels=4, reset=reset)
    windows = moving_counts(STEPS, RESOLUTION, seed=weight_bits)
    calibration = calibrate(model, [torch.from_numpy(w).float() for w in windows[:40]])
    spec = quantize(model, QuantOptions(weight_bits, mem_bits), calibration)
    path = write_model(integer_model(spec, Dims(RESOLUTION, False)), tmp_path / "m.int8.onnx")
    runners = {library: StatefulSession(path, library=library) for library in ("require", "never")}
    network, states = IntegerNetwork(spec), None
    fired: set[str] = set()
    for step, events in enumerate(windows):
        result = network.step(torch.from_numpy(events), states)
        states = result.states
        wanted = {"flow_acc": result.flow_acc.numpy()}
        for layer, state in states.items():
            wanted |= {f"mem.{layer}": state.mem.numpy(), f"spike.{layer}": state.spike.numpy()}
            if state.spike.any():
                fired.add(layer)
        for library, runner in runners.items():
            runner.step(events)
            got = runner.states() | {"flow_acc": runner.outputs()["flow_acc"]}
            for tensor, array in got.items():
                assert array.dtype == wanted[tensor].dtype
                assert np.array_equal(array, wanted[tensor]), (step, library, tensor)
    assert fired == {layer.name for layer in spec.layers}

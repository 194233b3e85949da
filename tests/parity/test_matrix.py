"""Every variant the toolkit claims is equal over 1000 steps, not only the shipped one.

Four networks, three widths of the weights, both membrane types, two resets and both modes of the
currents, each driven over 1000 windows of a tiny image: the PyTorch emulation, the network as it
is trained (in eval mode), ONNX Runtime with the op library and ONNX Runtime on the function bodies
agree on every state and on the flow accumulator. Thread counts,
kernel targets, optimisation levels and the reference evaluator are the matter of
``test_integer.py``; this file goes wide instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import parity_replay
import pytest
import torch

from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from models import TOPOLOGIES
from quant import IntegerNetwork, QuantFireNet, QuantOptions, calibrate, quantize
from quant.spec import NetworkSpec
from runtime.session import StatefulSession

STEPS = 1000
RESOLUTION = (8, 12)

Make = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A float network that fires, its calibration, and the windows it is driven over."""

    model: Any
    calibration: Any
    windows: list[Any]

    def spec(self, options: QuantOptions) -> NetworkSpec:
        return quantize(self.model, options, self.calibration)


@pytest.fixture(scope="module")
def make_case(active_network: Make, moving_counts: Make) -> Callable[[str, str], Case]:
    @cache
    def make(name: str, reset: str) -> Case:
        model = active_network(name, channels=4, reset=reset)
        windows = moving_counts(STEPS, RESOLUTION)
        floats = [torch.from_numpy(w).float() for w in windows[:40]]
        return Case(model, calibrate(model, floats), windows)

    return make


def sessions(spec: NetworkSpec, folder: Path) -> dict[str, StatefulSession]:
    path = write_model(integer_model(spec, Dims(RESOLUTION, False)), folder / "m.int8.onnx")
    return {library: StatefulSession(path, library=library) for library in ("require", "never")}


def drive(spec: NetworkSpec, runners: dict[str, StatefulSession], windows: list[Any]) -> None:
    """PyTorch == native kernels == function bodies, every state after every step."""
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
            got = parity_replay.observed(runner)
            for tensor, array in got.items():
                assert array.dtype == wanted[tensor].dtype
                assert np.array_equal(array, wanted[tensor]), (step, library, tensor)
    assert fired == {layer.name for layer in spec.layers}


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("mem_bits", [16, 8])
@pytest.mark.parametrize("weight_bits", [8, 7, 4])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_accumulators(
    name: str, weight_bits: int, mem_bits: int, reset: str, make_case: Make, tmp_path: Path
) -> None:
    """The membrane lives in the accumulator's unit."""
    case = make_case(name, reset)
    spec = case.spec(QuantOptions(weight_bits, mem_bits))
    drive(spec, sessions(spec, tmp_path), case.windows)


@pytest.mark.parametrize("mem_bits", [16, 8])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_requantized_currents(name: str, mem_bits: int, make_case: Make, tmp_path: Path) -> None:
    """Currents of 8 bits, by QLinearConv."""
    case = make_case(name, "zero")
    spec = case.spec(QuantOptions(7, mem_bits, current="uint8"))
    assert {layer.current for layer in spec.layers} == {"uint8"}
    drive(spec, sessions(spec, tmp_path), case.windows)


@pytest.mark.parametrize("steps", [STEPS // 5, pytest.param(STEPS, marks=pytest.mark.long)])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("mem_bits", [16, 8])
@pytest.mark.parametrize("weight_bits", [8, 7, 4])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_network_that_is_trained(
    name: str,
    weight_bits: int,
    mem_bits: int,
    reset: str,
    steps: int,
    make_case: Make,
    tmp_path: Path,
) -> None:
    """Quantization-aware training in eval mode == native kernels."""
    case = make_case(name, reset)
    options = QuantOptions(weight_bits, mem_bits)
    trained = QuantFireNet.from_float(case.model, options, case.calibration).eval()
    spec = trained.spec()
    runner = sessions(spec, tmp_path)["require"]
    states, fired = None, 0
    for step, events in enumerate(case.windows[:steps]):
        with torch.no_grad():
            flow, states = trained.step(torch.from_numpy(events).float(), states)
        runner.step(events)
        got = parity_replay.observed(runner)
        for layer, state in states.items():
            assert np.array_equal(got[f"mem.{layer}"], state.mem.numpy()), (step, layer)
            if f"spike.{layer}" in got:
                assert np.array_equal(got[f"spike.{layer}"], state.spike.numpy()), (step, layer)
            fired += int(state.spike.any())
        accumulator = runner.outputs()["flow_acc"]
        scale = spec.head.weight_scale.astype(np.float32).reshape(1, -1, 1, 1)
        wanted = torch.tanh(torch.from_numpy(accumulator).float() * torch.from_numpy(scale))
        assert torch.equal(flow, wanted), step
    assert fired > steps

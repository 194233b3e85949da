"""One integer network, many ways to run it: every state of every step is equal, bit for bit.

The PyTorch emulation runs 1000 steps once and records a checksum per tensor and step; ONNX Runtime
replays them in processes of their own, without the op library and with each of its kernel targets.
12 x 32 pixels keep all of that under two minutes; rows of 32 pixels are whole vectors of the
kernels, and the random network's 12 channels are not. The shipped network is large for the slow
paths (scalar kernels, function bodies): these make the full 1000 steps in one setting and 100 in
the others, which the random network covers in full.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import parity_replay
import pytest
import torch

import lif_op
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from models import CheckpointError, load_checkpoint, shipped_checkpoint
from quant import IntegerNetwork, IntegerState, QuantOptions, quantize
from quant.spec import NetworkSpec
from runtime.reference import ReferenceStream
from runtime.session import StatefulSession

STEPS = 1000
SHORT_STEPS = 100
RESOLUTION = (12, 32)
SMALL = (11, 19)
NETWORKS = ("random", "separate", "shipped")

# Every pair of settings occurs: optimisation x threads, optimisation x binding, threads x binding.
NATIVE = [("all", 1, "auto"), ("all", 2, "pingpong"), ("basic", 2, "auto")]
NATIVE += [("basic", 1, "pingpong"), ("off", 1, "auto"), ("off", 2, "pingpong")]
BODIES = [(level, threads, "auto") for level in ("all", "basic", "off") for threads in (1, 2)]

Make = Callable[..., Any]


def tensors(result: Any, *, spikes: bool) -> dict[str, Any]:
    """States (and every layer's spikes) of a step by the names the artifact gives them."""
    named = {"flow_acc": result.flow_acc.numpy()}
    for layer, state in result.states.items():
        named[f"mem.{layer}"] = state.mem.numpy()
        named[f"spike.{layer}"] = state.spike.numpy()
        if spikes:
            named[f"spikes.{layer}"] = state.spike.numpy()
    return named


@dataclass(frozen=True)
class Recorded:
    """A network's file and its trace; share of neurons that fired per layer.

    slow_steps: steps that slow paths make in all settings but the first.
    """

    model: Path
    trace: Path
    rates: dict[str, float]
    recurrent: set[str]
    slow_steps: int = STEPS


def record(spec: NetworkSpec, windows: list[Any], folder: Path, *, fused: bool) -> Recorded:
    """Run the emulation and write the file and the checksums."""
    network = IntegerNetwork(spec)
    states: dict[str, IntegerState] | None = None
    sums: dict[str, list[int]] = {}
    fired: dict[str, list[float]] = {}
    for events in windows:
        result = network.step(torch.from_numpy(events), states)
        states = result.states
        for name, array in tensors(result, spikes=True).items():
            sums.setdefault(name, []).append(parity_replay.checksum(array))
        for layer, state in states.items():
            fired.setdefault(layer, []).append(float(state.spike.float().mean()))
    trace = folder / "trace.npz"
    arrays = {name: np.array(values, np.uint32) for name, values in sums.items()}
    np.savez(trace, **{"events": np.concatenate(windows), **arrays})
    graph = integer_model(spec, Dims(RESOLUTION, False), fused=fused)
    model = write_model(graph, folder / "model.int8.onnx")
    rates = {layer: float(np.mean(values)) for layer, values in fired.items()}
    recurrent = {layer.name for layer in spec.layers if layer.weight_rec is not None}
    return Recorded(model, trace, rates, recurrent)


@pytest.fixture(scope="module", params=NETWORKS)
def recorded(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    active_network: Make,
    moving_counts: Make,
) -> Recorded:
    """1000 steps of a random network of 12 channels, fused or not, or of the shipped one."""
    if request.param == "shipped":
        try:
            model = load_checkpoint(shipped_checkpoint())
        except CheckpointError:
            pytest.skip("no weights are shipped")
    else:
        model = active_network(channels=12, rate=0.12)
    windows = moving_counts(STEPS, RESOLUTION)
    folder = tmp_path_factory.mktemp(request.param)
    made = record(quantize(model), windows, folder, fused=request.param != "separate")
    return replace(made, slow_steps=SHORT_STEPS) if request.param == "shipped" else made


def replay(recorded: Recorded, target: str | None, runs: list[dict[str, Any]]) -> list[Any]:
    """Results of ``parity_replay`` with the kernels of a target (None: the default ones)."""
    task = {"model": str(recorded.model), "trace": str(recorded.trace), "runs": runs}
    environment = {k: v for k, v in os.environ.items() if k != "LIF_OP_TARGET"}
    if target is not None:
        environment["LIF_OP_TARGET"] = target
    result = subprocess.run(
        [sys.executable, parity_replay.__file__],
        input=json.dumps(task),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert not answer["torch"]
    return list(answer["results"])


def runs(
    library: str, settings: list[tuple[str, int, str]], later_steps: int = STEPS
) -> list[dict[str, Any]]:
    """One run per setting, and one more that watches every layer's spikes."""
    plain: list[dict[str, Any]] = [
        {"library": library, "optimization": o, "threads": t, "binding": b, "watched": False}
        for o, t, b in settings
    ]
    every = [*plain, {**plain[0], "watched": True}]
    return [{**run, "steps": later_steps if i else STEPS} for i, run in enumerate(every)]


def check(recorded: Recorded, runs: list[dict[str, Any]], results: list[Any]) -> None:
    """Nothing differed, and everything that should be compared was."""
    layers = recorded.rates
    compared = {"flow_acc", *(f"mem.{name}" for name in layers)}
    compared |= {f"spike.{name}" for name in recorded.recurrent}
    assert len(results) == len(runs)
    for run, result in zip(runs, results, strict=True):
        assert result["difference"] is None, (run, result)
        assert result["steps"] == run["steps"]
        watched = {f"spikes.{name}" for name in layers} if run["watched"] else set()
        assert set(result["compared"]) == compared | watched


def test_the_networks_are_active(recorded: Recorded, request: pytest.FixtureRequest) -> None:
    """Equality of silent networks would prove nothing."""
    assert all(rate > 0 for rate in recorded.rates.values()), recorded.rates
    if "random" in request.node.name:
        assert all(0.02 < rate < 0.3 for rate in recorded.rates.values()), recorded.rates


@pytest.mark.parametrize("target", lif_op.targets())
def test_native_kernels(target: str, recorded: Recorded) -> None:
    """Each target, 1 and 2 threads, optimisation off / basic / all, in place and ping-pong."""
    wanted = runs("require", NATIVE, recorded.slow_steps if target == "scalar" else STEPS)
    results = replay(recorded, target, wanted)
    check(recorded, wanted, results)
    for run, result in zip(wanted, results, strict=True):
        assert result["native"] and result["target"] == target
        assert result["inplace"] == (len(recorded.rates) if run["binding"] == "auto" else 0)


def test_function_bodies(recorded: Recorded) -> None:
    """Stock ONNX Runtime with nothing installed, 1 and 2 threads, off / basic / all."""
    wanted = runs("never", BODIES, recorded.slow_steps)
    results = replay(recorded, None, wanted)
    check(recorded, wanted, results)
    assert not any(result["native"] or result["inplace"] for result in results)


def test_a_wrong_trace_is_noticed(recorded: Recorded, tmp_path: Path) -> None:
    """The comparison can fail: one flipped bit of one checksum is found where it is."""
    with np.load(recorded.trace) as file:
        trace = {name: file[name].copy() for name in file.files}
    trace["mem.R1a"][7] ^= 1
    np.savez(tmp_path / "wrong.npz", **trace)
    wrong = replace(recorded, trace=tmp_path / "wrong.npz")
    result, _ = replay(wrong, None, runs("require", NATIVE[:1]))
    assert result["difference"] == [7, "mem.R1a"]


# --- variants, and the reference evaluator ------------------------------------------------------

VARIANTS: dict[str, tuple[QuantOptions, dict[str, Any]]] = {
    "subtract": (QuantOptions(), {"reset": "subtract"}),
    "none": (QuantOptions(), {"reset": "none"}),
    "mem8": (QuantOptions(8, 8, -3), {}),
    "mem8_subtract": (QuantOptions(8, 8, -4), {"reset": "subtract"}),
    "mem8_none": (QuantOptions(7, 8, 0), {"reset": "none"}),
    "weights2": (QuantOptions(2, 16), {}),
    "frac3": (QuantOptions(8, 16, 3), {"reset": "subtract"}),
    "frac-2": (QuantOptions(7, 16, -2), {}),
    "frac14": (QuantOptions(7, 16, 14), {"reset": "none"}),
    "kernel5": (QuantOptions(), {"kernel_size": 5, "name": "LIFFireNet_short"}),
    "flow": (QuantOptions(), {"name": "LIFFireFlowNet"}),
    "channels33": (QuantOptions(), {"channels": 33, "name": "LIFFireNet_short"}),
}


def small_file(spec: NetworkSpec, folder: Path, *, free: bool = False) -> Path:
    return write_model(integer_model(spec, Dims(SMALL, free)), folder / "model.int8.onnx")


def sessions(path: Path) -> dict[str, StatefulSession]:
    """Without the library at every level, and with it."""
    made = {
        f"bodies, {level}": StatefulSession(path, library="never", optimization=level)
        for level in ("off", "basic", "all")
    }
    for level in ("off", "all"):
        for binding in ("auto", "pingpong"):
            made[f"native, {level}, {binding}"] = StatefulSession(
                path, threads=2, library="require", optimization=level, binding=binding
            )
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, active_network: Make, moving_counts: Make, tmp_path: Path) -> None:
    """Other resets, membranes, weights and shapes over 80 steps; the evaluator over 6."""
    options, config = VARIANTS[variant]
    spec = quantize(active_network(**config), options)
    path = small_file(spec, tmp_path)
    runners = sessions(path)
    evaluator = ReferenceStream(path)
    network, states = IntegerNetwork(spec), None
    fired: set[str] = set()
    for step, events in enumerate(moving_counts(80, SMALL, seed=2)):
        result = network.step(torch.from_numpy(events), states)
        states = result.states
        wanted = tensors(result, spikes=False)
        fired |= {layer for layer, state in states.items() if state.spike.any()}
        stepped: dict[str, Any] = {**runners, **({"evaluator": evaluator} if step < 6 else {})}
        for label, runner in stepped.items():
            runner.step(events)
            got = parity_replay.observed(runner)
            for name, array in got.items():
                assert array.dtype == wanted[name].dtype
                assert np.array_equal(array, wanted[name]), (step, label, name)
    # With 14 fractional bits a threshold saturates like everything else, and nothing exceeds it.
    assert fired == (set() if variant == "frac14" else {layer.name for layer in spec.layers})
    if variant == "frac14":
        assert states is not None and (states["head"].mem != 0).any()


def test_reference_evaluator(active_network: Make, moving_counts: Make, tmp_path: Path) -> None:
    """Nobody's optimiser: 40 steps of a whole network, every layer's spikes included."""
    spec = quantize(active_network("LIFFireNet", channels=5))
    stream = ReferenceStream(small_file(spec, tmp_path)).diagnostic()
    network, states = IntegerNetwork(spec), None
    for step, events in enumerate(moving_counts(40, SMALL)):
        result = network.step(torch.from_numpy(events), states)
        states = result.states
        stream.step(events)
        wanted = tensors(result, spikes=True)
        got = parity_replay.observed(stream)
        got |= {f"spikes.{layer}": spikes for layer, spikes in stream.spikes().items()}
        assert len(got) == 7 + 2 + 1 + 7
        for name, array in got.items():
            assert np.array_equal(array, wanted[name]), (step, name)


@pytest.mark.parametrize("library", ["never", "require"])
def test_batches_of_any_size(
    library: str, active_network: Make, moving_counts: Make, tmp_path: Path
) -> None:
    """A file with free dimensions, batch 3, two sizes one after the other."""
    spec = quantize(active_network("LIFFireNet_short"))
    path = small_file(spec, tmp_path, free=True)
    network = IntegerNetwork(spec)
    for resolution in ((7, 33), (16, 16)):
        session = StatefulSession(path, resolution=resolution, batch=3, library=library)
        windows = [moving_counts(25, resolution, seed) for seed in range(3)]
        states = None
        for parts in zip(*windows, strict=True):
            events = np.concatenate(parts)
            result = network.step(torch.from_numpy(events), states)
            states = result.states
            session.step(events)
            wanted = tensors(result, spikes=False)
            got = parity_replay.observed(session)
            assert all(np.array_equal(array, wanted[name]) for name, array in got.items())
        assert states is not None and states["G2"].spike.any()


def test_extreme_parameters(active_network: Make, moving_counts: Make, tmp_path: Path) -> None:
    """Decays of 0 and 256, thresholds of 0 and 32767, channels of zero weights, huge biases."""
    model = active_network("LIFFireNet_short")
    with torch.no_grad():
        for _, layer in model.named_layers():
            layer.beta[:3] = torch.tensor([0.0, 1.0, 0.9999])
            layer.threshold[2:4] = torch.tensor([1e9, 0.01])
            layer.weight[3] *= 100
            layer.weight[4] = 0
            layer.bias[5] = 1e4 * float(layer.weight[5].abs().max())
            if layer.weight_rec is not None:
                layer.weight_rec[4] = 0
    spec = quantize(model)
    drawn = {int(v) for layer in spec.layers for v in (*layer.decay, *layer.threshold)}
    assert {0, 256, 32767} <= drawn
    assert any(0 in layer.threshold for layer in spec.layers)
    network, states = IntegerNetwork(spec), None
    runners = sessions(small_file(spec, tmp_path))
    highest = 0
    for step, events in enumerate(moving_counts(60, SMALL)):
        result = network.step(torch.from_numpy(events), states)
        states = result.states
        wanted = tensors(result, spikes=False)
        highest = max(highest, *(int(state.mem.max()) for state in states.values()))
        for label, runner in runners.items():
            runner.step(events)
            for name, array in parity_replay.observed(runner).items():
                assert np.array_equal(array, wanted[name]), (step, label, name)
    assert highest > 20000

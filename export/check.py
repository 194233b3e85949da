"""An exported file is run before it is handed over: against the PyTorch network it came from.

Integer graphs must be equal, value for value. Float graphs are compared step by step from equal
states with the optimiser off: a float spike may flip where the membrane all but touches its
threshold, so membranes are compared where the spikes agree, and the share of flips is bounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from export.errors import ExportError
from models import LIFState, SpikingFireNet
from quant import HybridNetwork, IntegerNetwork
from quant.spec import NetworkSpec
from quant.stepping import SteppedNetwork
from runtime.artifact import Artifact, load_model
from runtime.layout import states_channels_first

STEPS = 3
CHECK_RESOLUTION = (48, 64)
MEMBRANE_BOUND = 1e-4
FLIP_SHARE = 1e-4
_EVENTS_PER_PIXEL = 0.1

Arrays = dict[str, npt.NDArray[Any]]


class _Runner:
    """One-step runs of a file in ONNX Runtime, without the op library."""

    def __init__(self, path: Path, *, optimised: bool = False) -> None:
        loaded = load_model(path)
        self.artifact: Artifact = loaded.artifact
        options = onnxruntime.SessionOptions()
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            loaded.data, options, providers=["CPUExecutionProvider"]
        )
        free = self.artifact.spatial_free
        self.resolution = CHECK_RESOLUTION if free else self.artifact.resolution

    def events(self) -> list[npt.NDArray[np.uint8]]:
        """Random event counts, the same at every call."""
        generator = np.random.default_rng(0)
        shape = (1, self.artifact.num_bins, *self.resolution)
        return [generator.poisson(_EVENTS_PER_PIXEL, shape).astype(np.uint8) for _ in range(STEPS)]

    def zero_states(self) -> Arrays:
        return {
            state.input: np.zeros(state.resolved_shape(1, *self.resolution), state.dtype)
            for state in self.artifact.states
        }

    def run(self, events: npt.NDArray[Any], states: Arrays) -> tuple[Arrays, Arrays]:
        """Returns every output, and the states as the next step's inputs."""
        names = [output.name for output in self._session.get_outputs()]
        values = self._session.run(names, {"events": events, **states})
        outputs = dict(zip(names, values, strict=True))
        return outputs, {state.input: outputs[state.output] for state in self.artifact.states}


def check_loads(path: Path) -> None:
    """Load a file as the runtime would and make one step in ONNX Runtime.

    Raises:
        ArtifactError: the file is not a valid artifact.
        ExportError: it computes values that are not finite.
    """
    runner = _Runner(path)
    events = runner.events()[0].astype(runner.artifact.event_dtype)
    outputs, _ = runner.run(events, runner.zero_states())
    for name, value in outputs.items():
        if not np.isfinite(value).all():
            raise ExportError(f"{path}: {name} holds values that are not finite")


def check_integer(path: Path, spec: NetworkSpec, *, optimised: bool = False) -> None:
    """Compare an artifact with integer neurons with the PyTorch emulation: equality.

    Args:
        path: the file; its flow accumulator is compared where it has one.
        spec: the integers of the network.
        optimised: run with ONNX Runtime's optimiser on, for files whose quantized convolutions it
            has to fuse before they compute the defined integers.

    Raises:
        ExportError: a state or the flow accumulator differs.
    """
    _check_equal(path, IntegerNetwork(spec), optimised=optimised)


def check_hybrid(path: Path, spec: NetworkSpec) -> None:
    """Compare an artifact with integer convolutions and float neurons with PyTorch: equality.

    Every float32 operation of a neuron is an operator of its own in both, with the optimiser off,
    so that nothing is fused or reordered.

    Args:
        path: the file.
        spec: the integers of the network, currents not requantized.

    Raises:
        ExportError: a state or the flow accumulator differs.
    """
    _check_equal(path, HybridNetwork(spec), optimised=False)


def _check_equal(path: Path, network: SteppedNetwork[Any], *, optimised: bool) -> None:
    runner = _Runner(path, optimised=optimised)
    states: dict[str, Any] = {}
    inputs = runner.zero_states()
    for step, events in enumerate(runner.events()):
        given = events.astype(runner.artifact.event_dtype)
        outputs, inputs = runner.run(given, inputs)
        spikes, states = network.advance(network.spec.layers, torch.from_numpy(events), states)
        wanted = {"flow_acc": network.head(spikes)[0].numpy()}
        for name, state in states.items():
            wanted |= {f"mem.{name}": state.mem.numpy(), f"spike.{name}": state.spike.numpy()}
        seen = {name: outputs[name] for name in ("flow_acc",) if name in outputs}
        seen |= states_channels_first(runner.artifact, inputs)
        for name, value in seen.items():
            if not np.array_equal(value, wanted[name]):
                count = int((value != wanted[name]).sum())
                raise ExportError(
                    f"{path}: {name} differs from PyTorch in {count} values at step {step}"
                )


def check_float(path: Path, model: SpikingFireNet) -> None:
    """Compare a float artifact with PyTorch from equal states, within a bound.

    Raises:
        ExportError: a membrane or too many spikes differ.
    """
    runner, states = _Runner(path), None
    inputs = runner.zero_states()
    for step, events in enumerate(runner.events()):
        counts = events.astype(np.float32)
        outputs, _ = runner.run(counts, inputs)
        with torch.no_grad():
            _, states = model.step(torch.from_numpy(counts), states)
        for name, state in states.items():
            _compare_membranes(path, step, name, state, outputs[f"mem_out.{name}"])
        inputs = _as_inputs(runner.artifact, states)


def _as_inputs(artifact: Artifact, states: dict[str, LIFState]) -> Arrays:
    tensors = {
        state.input: states[state.layer].mem if state.role == "mem" else states[state.layer].spike
        for state in artifact.states
    }
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _compare_membranes(
    path: Path, step: int, name: str, state: LIFState, mem: npt.NDArray[np.float32]
) -> None:
    difference = np.abs(mem - state.mem.numpy())
    scale = 1 + float(state.mem.abs().max())
    # A flipped spike resets one of the two membranes, which shows as a large difference.
    flipped = difference > MEMBRANE_BOUND * scale
    if flipped.mean() > FLIP_SHARE:
        raise ExportError(
            f"{path}: membrane of layer {name} differs from PyTorch by more than "
            f"{MEMBRANE_BOUND * scale:.1e} in {int(flipped.sum())} places at step {step}"
        )

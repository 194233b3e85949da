"""A quantized network to the files of its profiles, each stage measured, each file checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from export.check import check_hybrid, check_integer, check_loads
from export.deeploy import frontend_model, run_dialect, write_bundle
from export.errors import ExportError
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.floating import float_model
from export.graphs.source import source_model
from export.passes import GraphPass
from export.passes.base import FunctionPass
from export.profiles import Profile, ProfileError, check_result
from export.stage import run_staged
from export.stages import Stage, Stages
from models import SpikingFireNet
from quant import IntegerNetwork
from quant.spec import NetworkSpec
from runtime.graph_checks import EVENTS, FLOW_ACC
from runtime.metadata import Artifact

BUNDLE_STEPS = 4
"""Steps before the one whose inputs a Deeploy folder holds, so that its states are not zero."""

_EVENTS_PER_PIXEL = 0.15

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Written:
    """One profile's file or folder, and how it came about."""

    profile: str
    path: Path
    stages: list[Stage]
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes of the ONNX file."""
        file = self.path / "network.onnx" if self.path.is_dir() else self.path
        return file.stat().st_size

    def to_dict(self) -> dict[str, Any]:
        """File and stages as JSON values."""
        return {
            "profile": self.profile,
            "file": str(self.path),
            "bytes": self.size,
            "note": self.note,
            "stages": [stage.to_dict() for stage in self.stages],
        }


def staged(
    source: onnx.ModelProto,
    passes: Iterable[GraphPass | FunctionPass],
    spec: NetworkSpec,
    dims: Dims,
    network: SpikingFireNet | None = None,
) -> tuple[onnx.ModelProto, list[Stage]]:
    """Run passes over a source graph and compare every stage with the one before.

    Args:
        source: the source graph.
        passes: in order; those that change nothing are no stage.
        spec: the integers.
        dims: of the source graph.
        network: the float network behind the integers, if there is one.

    Raises:
        PassError: a node that a pass has to rewrite and cannot.
        StageError: a stage changes more than it may.
    """
    stages = Stages(spec, network)
    if network is not None:
        stages.add("float", float_model(network, dims))
    stages.add("source", source)
    return run_staged(source, passes, stages), stages.stages


def build_profile(
    profile: Profile, spec: NetworkSpec, dims: Dims, network: SpikingFireNet | None = None
) -> tuple[onnx.ModelProto, list[Stage]]:
    """The graph of a profile, and its stages from the float network on.

    Args:
        profile: which.
        spec: the integers.
        dims: fixed or free spatial dimensions.
        network: the float network behind the integers, if there is one.

    Raises:
        ProfileError: the profile cannot express the network, or a check of it fails.
        PassError: a node that a pass has to rewrite and cannot.
        StageError: a stage changes more than it may.
    """
    profile.refuse(spec)
    if profile.fixed_size and dims.free:
        raise ProfileError(
            f"profile {profile.name}: the size of the images is free, and generated C code has one "
            "size; give --resolution H W"
        )
    source = source_model(spec, dims, conv_only=profile.float_membranes)
    passes = [step.make() for step in profile.steps]
    model, stages = staged(source, passes, spec, dims, network)
    check_result(profile, model)
    return model, stages


def export_profile(
    profile: Profile,
    spec: NetworkSpec,
    dims: Dims,
    folder: Path,
    network: SpikingFireNet | None = None,
) -> Written:
    """Build a profile's graph, check it, and write its file or folder.

    Raises:
        As :func:`build_profile`; ExportError: the file does not compute what PyTorch computes.
    """
    model, stages = build_profile(profile, spec, dims, network)
    path = folder / profile.file
    if profile.name == "deeploy":
        bundle = write_bundle(model, path, _driven_inputs(model, spec, dims))
        return Written(profile.name, path, stages, bundle.command)
    write_model(model, path, _check(profile, spec))
    return Written(profile.name, path, stages)


def _check(profile: Profile, spec: NetworkSpec) -> Callable[[Path], None]:
    """What a profile's file has to compute."""
    if not profile.exact:
        return check_loads
    if profile.float_membranes:
        return partial(check_hybrid, spec=spec)
    return partial(check_integer, spec=spec, optimised="fusion" in profile.checks)


def export_profiles(
    profiles: Sequence[Profile],
    specs: Mapping[str, NetworkSpec],
    dims: Dims,
    folder: Path,
    network: SpikingFireNet | None = None,
) -> list[Written]:
    """Write several profiles; nothing is written if one of them cannot express the network.

    Args:
        profiles: which.
        specs: the integers by profile.
        dims, folder, network: as :func:`export_profile`.
    """
    chosen = [(profile, specs[profile.name]) for profile in profiles]
    for profile, spec in chosen:
        profile.refuse(spec)
    return [export_profile(profile, spec, dims, folder, network) for profile, spec in chosen]


def _driven_inputs(model: onnx.ModelProto, spec: NetworkSpec, dims: Dims) -> Arrays:
    """Inputs with a past: a few steps of events, in which the dialect equals PyTorch.

    Raises:
        ExportError: it does not.
    """
    network, states = IntegerNetwork(spec), None
    artifact = Artifact.from_model(model)
    inputs: Arrays = {
        state.input: np.zeros(state.resolved_shape(1, *dims.resolution), _dtype(state.dtype))
        for state in artifact.states
    }
    generator = np.random.default_rng(0)
    for step in range(BUNDLE_STEPS):
        counts = generator.poisson(_EVENTS_PER_PIXEL, (1, spec.num_bins, *dims.resolution))
        events = np.minimum(counts, 127).astype(np.uint8)
        inputs[EVENTS] = events.astype(np.int8)
        if step == BUNDLE_STEPS - 1:
            break
        outputs = run_dialect(frontend_model(model), inputs)
        expected = network.step(torch.from_numpy(events), states)
        states = expected.states
        wanted = {FLOW_ACC: expected.flow_acc.numpy()}
        wanted |= {f"mem_out.{name}": state.mem.numpy() for name, state in states.items()}
        for name, value in wanted.items():
            if not np.array_equal(outputs[name], value):
                raise ExportError(f"{name} differs from PyTorch at step {step} in the dialect")
        for state in artifact.states:
            inputs[state.input] = outputs[state.output]
    return inputs


def _dtype(name: str) -> str:
    """Spikes are int8 in the dialect."""
    return "int8" if name == "uint8" else name

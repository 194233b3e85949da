"""One small network that fires, its integers, and its three graphs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from calib_data.synthetic import SceneConfig, write_scene
from export.graphs.builder import Dims
from export.graphs.floating import float_model
from export.graphs.integer import integer_model
from export.graphs.quantize_dequantize import qdq_model
from models import SpikingFireNet, save_checkpoint
from quant import LayerCalibration, QuantOptions, calibrate, quantize
from quant.spec import NetworkSpec

# Makes the helper modules of this folder importable, whatever the import mode of pytest.
sys.path.insert(0, str(Path(__file__).parent))

RESOLUTION = (18, 26)


@dataclass(frozen=True)
class Sources:
    """What graphs are built from."""

    model: SpikingFireNet
    spec: NetworkSpec
    calibration: dict[str, LayerCalibration]

    def graph(self, kind: str, *, free: bool = False) -> onnx.ModelProto:
        """An artifact of that kind; "separate" is the integer one with unfused layers."""
        dims = Dims(RESOLUTION, free)
        if kind == "float":
            return float_model(self.model, dims)
        if kind == "qdq":
            return qdq_model(self.model, self.spec, self.calibration, dims)
        return integer_model(self.spec, dims, fused=kind != "separate")


@pytest.fixture(scope="session")
def make_sources(
    active_network: Callable[..., Any], moving_counts: Callable[..., Any]
) -> Callable[..., Sources]:
    """make_sources(name, options=None, **config) -> Sources"""

    def make(
        name: str = "LIFFireNet", options: QuantOptions | None = None, **config: Any
    ) -> Sources:
        options = QuantOptions() if options is None else options
        model = active_network(name, **config)
        model.checkpoint_sha256 = "0" * 64
        windows = [torch.from_numpy(counts).float() for counts in moving_counts(8, RESOLUTION)]
        calibration = calibrate(model, windows)
        return Sources(model, quantize(model, options, calibration), calibration)

    return make


@pytest.fixture(scope="session")
def sources(make_sources: Callable[..., Sources]) -> Sources:
    return make_sources()


@pytest.fixture(scope="session")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, active_network: Callable[..., Any]
) -> Path:
    """A file of our form with a small network that fires."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return save_checkpoint(active_network(), folder / "active.safetensors")


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recording with exact flow: 12 windows of 32 x 48 pixels."""
    path = tmp_path_factory.mktemp("scene") / "scene.h5"
    return write_scene(SceneConfig.random(3, (32, 48), 0.4), path)


@pytest.fixture(scope="session")
def bundles(make_sources: Callable[..., Sources], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """bundles(case) -> the bundle of a case of ``bundle_tools.CASES``; each is made once."""
    from bundle_tools import CASES, SIZE, Written, write

    made: dict[str, Written] = {}

    def make(case: str) -> Written:
        if case not in made:
            name, options, config, fixed = CASES[case]
            spec = make_sources(name, options, **config).spec
            model = integer_model(spec, Dims(SIZE, free=False))
            made[case] = write(model, tmp_path_factory.mktemp("bundle"), fixed=fixed)
        return made[case]

    return make

"""One network to its three artifacts: calibrate, quantize, build, write, check."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from calib_data.console import progress
from calib_data.encodings import COUNT_LIMIT, event_counts
from calib_data.events import EventSource
from calib_data.npz import open_events
from calib_data.synthetic import SceneConfig, write_scene
from calib_data.windows import iterate_windows
from export.check import check_float, check_integer, check_loads
from export.errors import ExportError
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.floating import float_model
from export.graphs.integer import PASSES, integer_model
from export.graphs.quantize_dequantize import qdq_model
from export.graphs.source import source_model
from export.profile_export import staged
from export.stages import Stage
from models import SpikingFireNet
from quant import LayerActivity, QuantOptions, calibrate, observe, quantize
from quant.spec import NetworkSpec

FILES = {"float": "model.float.onnx", "qdq": "model.qdq.onnx", "int8": "model.int8.onnx"}
CALIBRATION_SEEDS = (200_000, 200_001)
CALIBRATION_RESOLUTION = (128, 128)
CALIBRATION_SECONDS = 1.0

Counts = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Windows:
    """How a calibration recording is cut; see ``calib_data.windows``."""

    mode: str = "gtflow_dt1"
    window: float = 1.0
    limit: int = 60


@dataclass(frozen=True)
class Exported:
    """The written files by kind, the integers behind them, each integer layer's activity on the
    calibration windows, and the stages from the float to the integer graph."""

    paths: dict[str, Path]
    spec: NetworkSpec
    activity: dict[str, LayerActivity]
    calibration_windows: int
    stages: list[Stage]


def _read_counts(file: EventSource, plan: Windows) -> list[Counts]:
    return [
        event_counts(window.events, file.resolution, np.uint8, saturate=COUNT_LIMIT)
        for window in iterate_windows(file, plan.mode, plan.window, limit=plan.limit)
    ]


def calibration_sequences(recording: Path | None, plan: Windows) -> list[list[Counts]]:
    """Windows to calibrate on: of a recording, or of two synthetic scenes made on the spot.

    Returns:
        sequences of consecutive uint8 [2, H, W] event counts.

    Raises:
        ExportError: the recording has no window.
        DataError: it cannot be read.
    """
    if recording is not None:
        with open_events(recording) as file:
            counts = _read_counts(file, plan)
        if not counts:
            raise ExportError(f"{recording}: shorter than one window of mode {plan.mode}")
        return [counts]
    sequences = []
    with tempfile.TemporaryDirectory(prefix="spikedeploy-") as folder:
        for seed in CALIBRATION_SEEDS:
            config = SceneConfig.random(seed, CALIBRATION_RESOLUTION, CALIBRATION_SECONDS)
            path = write_scene(config, Path(folder) / f"scene_{seed}.h5")
            with open_events(path) as file:
                sequences.append(_read_counts(file, Windows()))
    return sequences


def export_artifacts(
    model: SpikingFireNet,
    sequences: list[list[Counts]],
    options: QuantOptions,
    dims: Dims,
    folder: Path,
    *,
    quiet: bool = False,
) -> Exported:
    """Write ``model.float.onnx``, ``model.qdq.onnx`` and ``model.int8.onnx``, each one checked.

    Args:
        model: float network in canonical form.
        sequences: calibration windows; the state is carried along each and starts at zero.
        options: bit widths.
        dims: fixed or free spatial dimensions.
        folder: for the files.
        quiet: no progress bar.

    Raises:
        QuantError: the network has no integer form, or is silent on the calibration windows.
        ExportError: a file does not compute what PyTorch computes, or a stage changes more than
            it may.
    """
    flat = [torch.from_numpy(counts)[None] for counts in sequences[0]]
    windows = progress(flat, "calibrating", len(flat), quiet=quiet)
    calibration = calibrate(model, (counts.float() for counts in windows))
    spec = quantize(model, options, calibration)
    held_out = [torch.from_numpy(counts)[None] for counts in sequences[-1]]
    activity = observe(spec, progress(held_out, "observing", len(held_out), quiet=quiet))
    paths = {kind: folder / name for kind, name in FILES.items()}
    write_model(float_model(model, dims), paths["float"], partial(check_float, model=model))
    write_model(qdq_model(model, spec, calibration, dims), paths["qdq"], check_loads)
    write_model(integer_model(spec, dims), paths["int8"], partial(check_integer, spec=spec))
    _, stages = staged(source_model(spec, dims), [p() for p in PASSES], spec, dims, model)
    return Exported(paths, spec, activity, len(flat), stages)

"""Recordings in memory: what post-training quantization calibrates and scores on."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calib_data.encodings import COUNT_LIMIT, event_counts, event_mask
from calib_data.events import EventSource
from calib_data.npz import open_events
from calib_data.synthetic import SceneConfig, write_scene
from calib_data.windows import Window, default_window, iterate_windows
from quant.errors import QuantError

SCENE_SEEDS = (200_000, 200_001)
SCENE_RESOLUTION = (128, 128)
SCENE_SECONDS = 1.0
WARMUP_WINDOWS = 3
"""Windows of a recording that are run but not scored, while states fill."""


@dataclass(frozen=True)
class Plan:
    """How recordings are cut: mode and window as in ``calib_data.windows``, window None for its
    usual length; limit: most windows of each."""

    mode: str = "gtflow_dt1"
    window: float | None = None
    limit: int = 60


@dataclass(frozen=True)
class Truth:
    """Ground truth of one window.

    flow: float32 [2, H, W], pixels over its interval. mask: bool [H, W], pixels to score: ground
    truth and at least one event. stretch: length of that interval over the time the window's
    events took.
    """

    flow: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    stretch: float


@dataclass(frozen=True)
class Recording:
    """Consecutive windows: counts uint8 [1, 2, H, W] each, and the ground truth of each or None."""

    name: str
    counts: list[Tensor]
    truths: list[Truth | None]

    def floats(self) -> list[Tensor]:
        """The counts as float32."""
        return [counts.float() for counts in self.counts]


def read_recordings(paths: Sequence[Path], plan: Plan) -> list[Recording]:
    """Read recordings, or render two synthetic scenes where none are given.

    Raises:
        DataError: a file that is no recording, or lacks what the mode needs.
        QuantError: a recording of no window.
    """
    if paths:
        return [_read(path, path.name, plan) for path in paths]
    recordings = []
    with tempfile.TemporaryDirectory(prefix="spikedeploy-") as folder:
        for seed in SCENE_SEEDS:
            config = SceneConfig.random(seed, SCENE_RESOLUTION, SCENE_SECONDS)
            path = write_scene(config, Path(folder) / f"scene_{seed}.h5")
            recordings.append(_read(path, f"synthetic scene {seed}", plan))
    return recordings


def _read(path: Path, name: str, plan: Plan) -> Recording:
    with open_events(path) as file:
        length = plan.window
        if length is None:
            length = default_window(plan.mode, file.resolution)
        windows = iterate_windows(file, plan.mode, length, limit=plan.limit)
        rows = [(_counts(window, file), _truth(window, file)) for window in windows]
    if not rows:
        raise QuantError(
            f"{path}: shorter than one window of mode {plan.mode}, length {length:g}; use a "
            "shorter window or a longer recording"
        )
    return Recording(name, [counts for counts, _ in rows], [truth for _, truth in rows])


def _counts(window: Window, file: EventSource) -> Tensor:
    counts = event_counts(window.events, file.resolution, np.uint8, saturate=COUNT_LIMIT)
    return torch.from_numpy(counts)[None]


def _truth(window: Window, file: EventSource) -> Truth | None:
    """None where there is nothing to score; the rule is that of ``runtime.sequence``."""
    timed = window.dt_gt > 0 and window.dt_input > 0
    if window.flow is None or not window.interval_end or not timed:
        return None
    flow = window.flow
    present = np.isfinite(flow).all(axis=0) & (flow != 0).any(axis=0)
    mask = present & event_mask(window.events, file.resolution)
    return Truth(flow, mask, window.dt_gt / window.dt_input) if mask.any() else None

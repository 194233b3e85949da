"""Networks on real recordings: flow warp loss, and error against the camera's rotational flow.

The folder holds ``events/*.npz`` and, for some clips, ``flow/<clip>_rotflow_px_per_s.npy`` or
``flow/<clip>_gt_flow_px_total.npy``; see docs/recordings.md. That flow is approximate: it is
constant over the clip and leaves translation out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from calib_data.console import progress
from calib_data.encodings import COUNT_LIMIT, event_counts
from calib_data.events import Events
from calib_data.npz import open_events
from calib_data.windows import iterate_windows
from runtime.metrics import end_point_error, flow_warp_loss
from training.heldout import WARMUP_WINDOWS, Predictor

EVENTS_PER_PIXEL = 1000 / 128**2
EVENTS_PER_FWL = 15_000
CLIP_WINDOWS = 60

Plane = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """The first windows of a recording.

    events: of each window. counts: uint8 [T, 2, H, W]. truth: float32 [2, H, W], pixels per second,
    or None. seconds: first to last event of each window.
    """

    name: str
    events: list[Events]
    counts: npt.NDArray[np.uint8]
    truth: Plane | None
    seconds: list[float]


@dataclass(frozen=True)
class ClipScore:
    """fwl: mean flow warp loss, NaN where the clip is too short. error, zero_error: mean endpoint
    error against rotational flow and of zero flow, pixels per window; NaN without such flow."""

    fwl: float
    error: float
    zero_error: float


def data_folder() -> Path | None:
    """$SNN_DATA, else ../shared/data; None where neither holds recordings."""
    for place in (os.environ.get("SNN_DATA"), "../shared/data"):
        if place is not None and (Path(place) / "events").is_dir():
            return Path(place)
    return None


def load_clips(folder: Path, limit: int = CLIP_WINDOWS) -> list[Clip]:
    """Every clip of more than three windows, at most ``limit`` windows of each."""
    clips = [_load(path, folder, limit) for path in sorted((folder / "events").glob("*.npz"))]
    return [clip for clip in clips if len(clip.events) > WARMUP_WINDOWS]


def _load(path: Path, folder: Path, limit: int) -> Clip:
    with open_events(path) as file:
        height, width = file.resolution
        length = round(EVENTS_PER_PIXEL * height * width)
        windows = list(iterate_windows(file, "events", length, limit=limit))
        counts = [
            event_counts(window.events, file.resolution, np.uint8, saturate=COUNT_LIMIT)
            for window in windows
        ]
        truth = _rotational_flow(folder, path.stem, file.duration)
    stack = np.stack(counts) if counts else np.zeros((0, 2, height, width), np.uint8)
    events = [window.events for window in windows]
    return Clip(path.stem, events, stack, truth, [window.dt_input for window in windows])


def _rotational_flow(folder: Path, clip: str, duration: float) -> Plane | None:
    rate = folder / "flow" / f"{clip}_rotflow_px_per_s.npy"
    total = folder / "flow" / f"{clip}_gt_flow_px_total.npy"
    if rate.exists():
        return np.asarray(np.load(rate), np.float32)
    if total.exists():
        return np.asarray(np.load(total) / duration, np.float32)
    return None


def score_clips(
    predict: Predictor, clips: Sequence[Clip], label: str, *, quiet: bool = False
) -> dict[str, ClipScore]:
    """Scores by clip, each from the zero state; the first three windows do not count."""
    bar = progress(clips, label, total=len(clips), quiet=quiet)
    return {clip.name: score_clip(predict, clip) for clip in bar}


def score_clip(predict: Predictor, clip: Clip) -> ClipScore:
    """Score one clip."""
    states, held, values = None, [], []
    errors: list[npt.NDArray[np.float64]] = []
    zeros: list[npt.NDArray[np.float64]] = []
    for index, (events, counts) in enumerate(zip(clip.events, clip.counts, strict=True)):
        (flow,), _, states = predict(torch.from_numpy(counts[None]), states)
        if index < WARMUP_WINDOWS:
            continue
        held.append((events, flow))
        if sum(len(window) for window, _ in held) >= EVENTS_PER_FWL:
            values.append(flow_warp_loss(held))
            held = []
        if clip.truth is not None:
            truth = clip.truth * np.float32(clip.seconds[index])
            mask = counts.any(0) & np.isfinite(truth).all(0)
            errors.append(end_point_error(flow, truth)[mask])
            zeros.append(end_point_error(np.zeros_like(truth), truth)[mask])
    finite = [value for value in values if np.isfinite(value)]
    return ClipScore(float(np.mean(finite)) if finite else np.nan, _mean(errors), _mean(zeros))


def _mean(parts: list[npt.NDArray[np.float64]]) -> float:
    return float(np.concatenate(parts).mean()) if sum(map(len, parts)) else float("nan")

"""Event tensors to time networks with: from a recording, or random ones of a given density."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.errors import BenchError
from calib_data.events import Events
from calib_data.npz import open_events
from calib_data.windows import iterate_windows
from runtime.artifact import Artifact, LoadedModel
from runtime.graph_checks import check_state_bytes
from runtime.runner import Array, encode
from runtime.session import MAX_STATE_BYTES

DEFAULT_DENSITY = 0.061
"""Events per pixel and window: 1000 at 128 x 128, what the published networks were trained on."""


def random_windows(
    resolution: tuple[int, int], density: float, count: int, seed: int = 0
) -> list[Events]:
    """Windows of uniformly scattered events of random polarity, the same for the same seed.

    density: mean events per pixel and window. Raises BenchError for a density outside 0..100.
    """
    if not 0 <= density <= 100:
        raise BenchError(f"density {density:g}: expected 0 to 100 events per pixel and window")
    generator = np.random.default_rng(seed)
    height, width = resolution
    windows = []
    for _ in range(count):
        events = generator.poisson(density * height * width)
        windows.append(
            Events(
                xs=generator.integers(0, width, events).astype(np.int16),
                ys=generator.integers(0, height, events).astype(np.int16),
                ts=np.sort(generator.random(events)),
                ps=np.where(generator.random(events) < 0.5, -1, 1).astype(np.int8),
            )
        )
    return windows


def check_size(loaded: LoadedModel, resolution: tuple[int, int]) -> None:
    """Refuse a size at which no session of the artifact is made, before events are drawn for it.

    Raises ArtifactError when its states would be too big, BenchError for another size than the
    artifact's only one, or a side that coordinates of events do not reach.
    """
    artifact, (height, width) = loaded.artifact, resolution
    if not artifact.spatial_free and (height, width) != artifact.resolution:
        own = " x ".join(map(str, artifact.resolution))
        raise BenchError(
            f"{loaded.path} is made for {own}, not for {height} x {width}; export it without a "
            "resolution or with that one"
        )
    check_state_bytes(artifact, 1, resolution, MAX_STATE_BYTES, str(loaded.path))
    furthest = int(np.iinfo(np.int16).max)
    if max(resolution) > furthest:
        raise BenchError(f"resolution {height} x {width}: a side is at most {furthest}")


def recorded_windows(
    path: Path, mode: str, window: float, count: int
) -> tuple[list[Events], tuple[int, int]]:
    """The first windows of a recording, and its resolution.

    Raises BenchError when there is not one, DataError for a damaged recording.
    """
    with open_events(path) as file:
        windows = [cut.events for cut in iterate_windows(file, mode, window, limit=count)]
        resolution = file.resolution
    if not windows:
        raise BenchError(
            f"{path}: shorter than one window of mode {mode}, length {window:g}; use a shorter one"
        )
    return windows, resolution


def encode_windows(
    artifact: Artifact, windows: Sequence[Events], resolution: tuple[int, int]
) -> list[Array]:
    """The windows as ``events`` tensors of an artifact."""
    return [encode(artifact, events, resolution) for events in windows]


def events_per_pixel(windows: Sequence[Events], resolution: tuple[int, int]) -> float:
    """Mean events per pixel and window."""
    pixels = resolution[0] * resolution[1]
    return sum(len(events) for events in windows) / (len(windows) * pixels)


def active_pixels(windows: Sequence[Events], resolution: tuple[int, int]) -> float:
    """Mean share of pixels with at least one event."""
    pixels = resolution[0] * resolution[1]
    flat = [events.ys.astype(np.int64) * resolution[1] + events.xs for events in windows]
    return sum(len(np.unique(places)) for places in flat) / (len(windows) * pixels)

"""Recordings of random events with constant ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from calib_data import EventFileWriter, Events

RESOLUTION = (12, 16)


def write_recording(
    path: Path,
    resolution: tuple[int, int] = RESOLUTION,
    maps: int = 6,
    events_per_map: int = 120,
    flow: tuple[float, float] = (2.0, -1.0),
    seed: int = 0,
) -> Path:
    """A recording of random events with constant flow, its first two rows without ground truth."""
    rng = np.random.default_rng(seed)
    height, width = resolution
    total = maps * events_per_map
    times = np.sort(rng.uniform(0, maps * 0.1, total))
    truth = np.zeros((2, *resolution), np.float32)
    truth[0, 2:], truth[1, 2:] = flow
    with EventFileWriter(path, resolution) as writer:
        writer.append(
            Events(
                rng.integers(0, width, total).astype(np.int16),
                rng.integers(0, height, total).astype(np.int16),
                times,
                rng.choice([-1, 1], total).astype(np.int8),
            )
        )
        for number in range(maps + 1):
            writer.add_flow("dt1", number * 0.1, truth)
    return path

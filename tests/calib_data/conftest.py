"""Small recordings for the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from calib_data.events import Events
from calib_data.hdf5 import EventFileWriter

RESOLUTION = (12, 16)


@pytest.fixture
def events() -> Events:
    """1000 events over 2 s; timestamps repeat here and there."""
    rng = np.random.default_rng(0)
    ts = np.sort(np.round(rng.uniform(0, 2, 1000), 3))
    return Events(
        rng.integers(0, RESOLUTION[1], 1000).astype(np.int16),
        rng.integers(0, RESOLUTION[0], 1000).astype(np.int16),
        ts,
        rng.choice(np.array([-1, 1], np.int8), 1000),
    )


@pytest.fixture
def recording(tmp_path: Path, events: Events) -> Path:
    """The events with five flow maps and images 0.4 s apart, from second 0.2 on, and two of dt4."""
    path = tmp_path / "recording.h5"
    with EventFileWriter(path, RESOLUTION, t0=1000.25) as writer:
        writer.append(events.slice(0, 300))
        writer.append(events.slice(300, 1000))
        for number in range(5):
            stamp = 0.2 + 0.4 * number
            writer.add_flow("dt1", stamp, np.full((2, *RESOLUTION), number, np.float32))
            writer.add_image(stamp, np.full(RESOLUTION, number, np.uint8))
            if number % 4 == 0:
                writer.add_flow("dt4", stamp, np.full((2, *RESOLUTION), 10 + number, np.float32))
    return path


@pytest.fixture
def spoil(recording: Path) -> Callable[[Callable[[h5py.File], None]], Path]:
    """Apply a change to the recording and return its path."""

    def change(edit: Callable[[h5py.File], None]) -> Path:
        with h5py.File(recording, "r+") as file:
            edit(file)
        return recording

    return change

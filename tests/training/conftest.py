"""Tiny recordings in memory, and a configuration that trains on them in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml

from calib_data.events import Events
from training.config import TrainingConfig
from training.data import Sequence, WindowEvents

SIDE = 16


def random_sequence(seed: int, length: int) -> Sequence:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.4, (length, 2, SIDE, SIDE)).astype(np.uint8)
    flow = rng.normal(0, 2, (1, 2, 1, 1)) + rng.normal(0, 0.3, (length, 2, SIDE, SIDE))
    return Sequence(counts, flow.astype(np.float32), events_of(counts, rng))


def events_of(counts: npt.NDArray[np.uint8], rng: np.random.Generator) -> WindowEvents:
    """Events that give these counts, at random times."""
    windows = []
    for window in counts:
        p, y, x = np.repeat(np.nonzero(window), window[window > 0], axis=1)
        ts = np.sort(rng.random(len(p)))
        windows.append(
            Events(x.astype(np.int16), y.astype(np.int16), ts, (1 - 2 * p).astype(np.int8))
        )
    return WindowEvents.of(windows)


@pytest.fixture
def make_config() -> Callable[..., TrainingConfig]:
    """make_config(**top_level_overrides) -> configuration of a tiny run"""

    def make(**overrides: Any) -> TrainingConfig:
        values: dict[str, Any] = {
            "model": {"name": "LIFFireNet_short", "base_num_channels": 4},
            "data": {"crop": 8},
            "loss": {"window_loss": 3},
            "optimizer": {"lr": 0.01, "warmup_updates": 2},
            "batch_size": 3,
            "updates": 8,
            "validate_every": 4,
            "checkpoint_every": 3,
            "device": "cpu",
            "tracking": {"kind": "none"},
        }
        return TrainingConfig.model_validate(values | overrides)

    return make


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """write_config(data=None, **top_level) -> YAML file of a run of two updates on one scene"""

    def write(data: dict[str, Any] | None = None, **overrides: Any) -> Path:
        scenes = {
            "train_scenes": 1,
            "validation_scenes": 1,
            "duration": 0.4,
            "resolution": [24, 24],
            "crop": 12,
            "cache": str(tmp_path / "scenes"),
        }
        values: dict[str, Any] = {
            "model": {"name": "LIFFireNet_short", "base_num_channels": 2},
            "data": scenes | (data or {}),
            "loss": {"window_loss": 2},
            "batch_size": 2,
            "updates": 2,
            "device": "cpu",
            "tracking": {"kind": "none"},
        }
        path = tmp_path / "config.yml"
        path.write_text(yaml.safe_dump(values | overrides))
        return path

    return write


@pytest.fixture
def parameters() -> Callable[[Any], dict[str, torch.Tensor]]:
    """parameters(trainer) -> a copy of everything its network holds, by name"""

    def copy(trainer: Any) -> dict[str, torch.Tensor]:
        return {key: value.detach().clone() for key, value in trainer.model.state_dict().items()}

    return copy


@pytest.fixture
def make_sequence() -> Callable[..., Sequence]:
    """make_sequence(counts, flow) -> recording of these windows"""
    return Sequence


@pytest.fixture
def make_trainer() -> Callable[..., Any]:
    """make_trainer(config, folder, motion=None) -> trainer on four short recordings, one held out

    motion: true flow (x, y) of every pixel, instead of each recording's own.
    """

    def make(
        config: TrainingConfig, folder: Path, motion: tuple[float, float] | None = None
    ) -> Any:
        from training.trainer import Trainer

        folder.mkdir(exist_ok=True)
        train = [random_sequence(seed, 5 + 2 * seed) for seed in range(4)]
        for sequence in train if motion else ():
            sequence.flow[:] = np.reshape(motion, (1, 2, 1, 1))
        return Trainer(config, folder, train, [random_sequence(9, 6)])

    return make

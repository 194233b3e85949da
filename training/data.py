"""Sequences in memory and the slots that walk along them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calib_data.console import progress
from calib_data.encodings import event_counts
from calib_data.hdf5 import EventFile
from calib_data.synthetic import SceneConfig, write_scene
from calib_data.windows import iterate_windows
from training.config import ConfigError

VALIDATION_SEED_OFFSET = 100_000


@dataclass(frozen=True)
class Sequence:
    """One recording as consecutive windows.

    counts: uint8 [T, 2, H, W], events per pixel and polarity, saturated at 127.
    flow: float32 [T, 2, H, W], ground truth in pixels per window, x right and y down.
    """

    counts: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.counts)


def scene_path(cache: Path, seed: int, resolution: tuple[int, int], duration: float) -> Path:
    """Where a synthetic scene is cached; writes it when it is absent."""
    path = cache / f"scene_{seed}_{resolution[0]}x{resolution[1]}_{duration:g}s.h5"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        write_scene(SceneConfig.random(seed, resolution, duration), path)
    return path


def load_sequence(path: Path) -> Sequence:
    """Read a whole recording with dt1 ground truth into memory.

    Raises:
        ConfigError: it has no window with ground truth.
    """
    with EventFile(path) as file:
        counts, flow = [], []
        for window in iterate_windows(file, "gtflow_dt1", 1):
            if window.flow is not None:
                counts.append(event_counts(window.events, file.resolution, np.uint8, saturate=127))
                flow.append(window.flow)
    if not counts:
        raise ConfigError(f"{path}: no window has ground truth; raise data.duration")
    return Sequence(np.stack(counts), np.stack(flow))


def synthetic_sequences(
    cache: Path, seeds: range, resolution: tuple[int, int], duration: float, label: str
) -> list[Sequence]:
    """Load the scenes of these seeds, generating the missing ones (progress bar)."""
    return [
        load_sequence(scene_path(cache, seed, resolution, duration))
        for seed in progress(seeds, label, total=len(seeds))
    ]


class SlotSampler:
    """Hands out chunks of consecutive windows; each batch slot walks its own sequence.

    A slot keeps one random crop and one random flip for as long as it stays in a sequence, so the
    state carried between chunks stays meaningful.

    Args:
        sequences: to draw from, uniformly.
        batch_size: number of slots B.
        chunk: windows per chunk K; sequences shorter than that are never drawn.
        crop: side of the square crop in pixels.
        seed: of all random choices.

    Raises:
        ConfigError: no sequence is long or large enough.
    """

    def __init__(
        self, sequences: list[Sequence], batch_size: int, chunk: int, crop: int, seed: int
    ) -> None:
        self._sequences = [
            s for s in sequences if len(s) >= chunk and min(s.counts.shape[2:]) >= crop
        ]
        if not self._sequences:
            raise ConfigError(
                f"no sequence has {chunk} windows of at least {crop} pixels; raise data.duration, "
                "or lower loss.window_loss or data.crop"
            )
        self._chunk, self._crop = chunk, crop
        self.rng = np.random.default_rng(seed)
        self._slots = [self._draw() for _ in range(batch_size)]

    def _draw(self) -> _Slot:
        index = int(self.rng.integers(len(self._sequences)))
        height, width = self._sequences[index].counts.shape[2:]
        # A random start spreads the slots, so that they do not all restart together.
        return _Slot(
            sequence=index,
            position=int(self.rng.integers(0, len(self._sequences[index]) - self._chunk + 1)),
            top=int(self.rng.integers(0, height - self._crop + 1)),
            left=int(self.rng.integers(0, width - self._crop + 1)),
            flip_x=bool(self.rng.integers(2)),
            flip_y=bool(self.rng.integers(2)),
            swap_polarity=bool(self.rng.integers(2)),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything the next chunk depends on, as plain values."""
        return {
            "generator": self.rng.bit_generator.state,
            "slots": [asdict(slot) for slot in self._slots],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.rng.bit_generator.state = state["generator"]
        self._slots = [_Slot(**slot) for slot in state["slots"]]

    def next_chunk(self) -> tuple[Tensor, Tensor, Tensor]:
        """Next K windows of every slot.

        Returns:
            counts float32 [K, B, 2, crop, crop], flow float32 of the same shape, and
            fresh bool [B]: the slots that begin a new sequence and need a zero state.
        """
        fresh, counts, flow = [], [], []
        for index, slot in enumerate(self._slots):
            ended = slot.position + self._chunk > len(self._sequences[slot.sequence])
            if ended:
                slot = self._slots[index] = self._draw()
            fresh.append(ended or not slot.started)
            slot.started = True
            slot_counts, slot_flow = slot.cut(self._sequences, self._chunk, self._crop)
            counts.append(slot_counts)
            flow.append(slot_flow)
            slot.position += self._chunk
        return (
            torch.from_numpy(np.stack(counts, 1)).float(),
            torch.from_numpy(np.stack(flow, 1)),
            torch.tensor(fresh),
        )


@dataclass
class _Slot:
    sequence: int
    position: int
    top: int
    left: int
    flip_x: bool
    flip_y: bool
    swap_polarity: bool
    started: bool = False

    def cut(
        self, sequences: list[Sequence], chunk: int, crop: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        rows, columns = slice(self.top, self.top + crop), slice(self.left, self.left + crop)
        span = slice(self.position, self.position + chunk)
        counts = sequences[self.sequence].counts[span, :, rows, columns]
        flow = sequences[self.sequence].flow[span, :, rows, columns].copy()
        if self.flip_x:
            counts, flow = counts[..., ::-1], flow[..., ::-1].copy()
            flow[:, 0] *= -1
        if self.flip_y:
            counts, flow = counts[..., ::-1, :], flow[..., ::-1, :].copy()
            flow[:, 1] *= -1
        if self.swap_polarity:
            counts = counts[:, ::-1]
        return np.ascontiguousarray(counts), flow

"""Slots that walk along sequences and hand out chunks of consecutive windows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.chunk import Chunk, EventBatch
from training.config import ConfigError
from training.sequences import Sequence, WindowEvents


@dataclass(frozen=True)
class Augmentation:
    """Probabilities of a mirror image in x, one in y, and of swapped polarities.

    Drawn when a slot enters a sequence, and held until it leaves it. A mirror image negates the
    flow's component along its axis.
    """

    horizontal: float = 0.5
    vertical: float = 0.5
    polarity: float = 0.5


class SlotSampler:
    """Hands out chunks of consecutive windows; each batch slot walks its own sequence.

    A slot keeps one random crop and one choice of augmentations for as long as it stays in a
    sequence, so the state carried between chunks stays meaningful. Equal seeds and sequences give
    equal chunks.

    Args:
        sequences: to draw from, uniformly. Windows of different numbers of events mix freely.
        batch_size: number of slots B.
        chunk: windows per chunk K; sequences shorter than that are never drawn.
        crop: side of the square crop in pixels.
        seed: of all random choices.
        augmentation: probabilities.
        with_events: hand out single events too.
        max_events: of a window; where there are more, as many evenly spaced in their order are
            handed out. The inputs still show all of them. None for no limit.

    Raises:
        ConfigError: no sequence is long or large enough, or they lack the events asked for.
    """

    def __init__(
        self,
        sequences: list[Sequence],
        batch_size: int,
        chunk: int,
        crop: int,
        seed: int,
        *,
        augmentation: Augmentation | None = None,
        with_events: bool = False,
        max_events: int | None = None,
    ) -> None:
        self._sequences = [s for s in sequences if len(s) >= chunk and min(s.resolution) >= crop]
        if not self._sequences:
            raise ConfigError(
                f"no sequence has {chunk} windows of at least {crop} pixels; raise data.duration, "
                "or lower data.window, loss.window_loss or data.crop"
            )
        for sequence in self._sequences:
            if with_events and not sequence.has_events:
                raise ConfigError(f"sequence {sequence.name}: was loaded without its events")
        if max_events is not None and max_events < 1:
            raise ConfigError(f"at least one event per window must be allowed, got {max_events}")
        self._chunk, self._crop = chunk, crop
        self._augmentation = augmentation or Augmentation()
        self._with_events, self._max_events = with_events, max_events
        self.rng = np.random.default_rng(seed)
        self._slots = [self._draw() for _ in range(batch_size)]

    def _draw(self) -> _Slot:
        index = int(self.rng.integers(len(self._sequences)))
        height, width = self._sequences[index].resolution
        chances = self._augmentation
        # A random start spreads the slots, so that they do not all restart together.
        return _Slot(
            sequence=index,
            position=int(self.rng.integers(0, len(self._sequences[index]) - self._chunk + 1)),
            top=int(self.rng.integers(0, height - self._crop + 1)),
            left=int(self.rng.integers(0, width - self._crop + 1)),
            flip_x=bool(self.rng.random() < chances.horizontal),
            flip_y=bool(self.rng.random() < chances.vertical),
            swap_polarity=bool(self.rng.random() < chances.polarity),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything the next chunk depends on beside the arguments, as plain values."""
        return {
            "generator": self.rng.bit_generator.state,
            "slots": [asdict(slot) for slot in self._slots],
            "sequences": self._identities(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ConfigError: the sequences are others than there, or the number of slots is.
        """
        if state["sequences"] != self._identities() or len(state["slots"]) != len(self._slots):
            raise ConfigError(
                "the training data is not what the run was started with; put the same recordings "
                "in place, or start a new run"
            )
        self.rng.bit_generator.state = state["generator"]
        self._slots = [_Slot(**slot) for slot in state["slots"]]

    def _identities(self) -> list[list[Any]]:
        return [[s.name, len(s), *s.resolution] for s in self._sequences]

    def next_chunk(self) -> Chunk:
        """Next K windows of every slot.

        Raises:
            DataError: a recording that is read as it is used cannot be read.
        """
        parts, fresh = [], []
        for index, slot in enumerate(self._slots):
            ended = slot.position + self._chunk > len(self._sequences[slot.sequence])
            if ended:
                slot = self._slots[index] = self._draw()
            fresh.append(ended or not slot.started)
            slot.started = True
            start = slot.position
            parts.append(self._sequences[slot.sequence].cut(start, start + self._chunk))
            slot.position += self._chunk
        seen = list(zip(self._slots, parts, strict=True))
        return Chunk(
            inputs=_tensor([slot.inputs(part, self._crop) for slot, part in seen]).float(),
            mask=_tensor([slot.mask(part, self._crop) for slot, part in seen]),
            flow=_tensor([slot.flow(part, self._crop) for slot, part in seen]),
            events=self._events(seen) if self._with_events else None,
            fresh=torch.tensor(fresh),
        )

    def _events(self, seen: list[tuple[_Slot, Sequence]]) -> EventBatch:
        """Events of [K, B] windows; at least one place per window, so that no axis is empty."""
        slots = [slot.events(part, self._crop, self._max_events) for slot, part in seen]
        largest = max(1, *(window.shape[1] for windows in slots for window in windows))
        batch = np.zeros((4, self._chunk, len(slots), largest), np.float32)
        for index, windows in enumerate(slots):
            for step, window in enumerate(windows):
                batch[:, step, index, : window.shape[1]] = window
        return EventBatch(*torch.from_numpy(batch))


def _tensor(slots: list[npt.NDArray[Any]]) -> Tensor:
    """[K, ...] of every slot to [K, B, ...]."""
    return torch.from_numpy(np.stack(slots, 1))


@dataclass
class _Slot:
    """Where a slot is, and how it sees its sequence."""

    sequence: int
    position: int
    top: int
    left: int
    flip_x: bool
    flip_y: bool
    swap_polarity: bool
    started: bool = False

    def _view(self, images: npt.NDArray[Any], crop: int) -> npt.NDArray[Any]:
        """The crop of images [..., H, W], mirrored."""
        rows, columns = slice(self.top, self.top + crop), slice(self.left, self.left + crop)
        return images[..., rows, columns][
            ..., :: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1
        ]

    def inputs(self, part: Sequence, crop: int) -> npt.NDArray[Any]:
        """[K, bins, crop, crop]; swapped polarities swap counts and negate voxel grids."""
        seen = self._view(part.inputs, crop)
        if not self.swap_polarity:
            return seen
        return -seen if part.signed else seen[:, ::-1]

    def mask(self, part: Sequence, crop: int) -> npt.NDArray[np.bool_]:
        """bool [K, 1, crop, crop]."""
        mask: npt.NDArray[np.bool_] = self._view(part.counts, crop).max(1, keepdims=True) > 0
        return mask

    def flow(self, part: Sequence, crop: int) -> npt.NDArray[np.float32]:
        """float32 [K, 2, crop, crop]."""
        signs = np.array([-1 if self.flip_x else 1, -1 if self.flip_y else 1], np.float32)
        flow: npt.NDArray[np.float32] = self._view(part.flow, crop) * signs[:, None, None]
        return flow

    def events(self, part: Sequence, crop: int, limit: int | None) -> list[npt.NDArray[np.float32]]:
        """Rows t, y, x, p of each window's events within the crop: float32 [4, N]."""
        if part.events is None:
            raise ValueError("a sequence without events")
        return [
            self._seen_events(part.events.cut(step, step + 1), crop, limit)
            for step in range(len(part))
        ]

    def _seen_events(
        self, window: WindowEvents, crop: int, limit: int | None
    ) -> npt.NDArray[np.float32]:
        y, x = window.ys - self.top, window.xs - self.left
        inside = np.flatnonzero((y >= 0) & (y < crop) & (x >= 0) & (x < crop))
        if limit is not None and len(inside) > limit:
            inside = inside[np.arange(limit) * len(inside) // limit]
        y, x, p = y[inside], x[inside], window.ps[inside]
        return np.stack(
            [
                window.ts[inside],
                crop - 1 - y if self.flip_y else y,
                crop - 1 - x if self.flip_x else x,
                -p if self.swap_polarity else p,
            ]
        ).astype(np.float32)

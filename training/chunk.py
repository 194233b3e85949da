"""What one step of training takes in: consecutive windows of every batch slot."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EventBatch(NamedTuple):
    """The events of K consecutive windows of B slots, padded to the largest number N of any window.

    t: float32 [K, B, N], time within the event's own window, 0 to 1.
    y, x: float32 [K, B, N], row and column within the crop, whole numbers.
    p: float32 [K, B, N], +1 (ON), -1 (OFF), 0 where there is no event.
    """

    t: Tensor
    y: Tensor
    x: Tensor
    p: Tensor


class Chunk(NamedTuple):
    """K consecutive windows of every slot.

    inputs: float32 [K, B, bins, H, W], what the network sees: event counts or voxel grids.
    mask: bool [K, B, 1, H, W], pixels with at least one event.
    flow: float32 [K, B, 2, H, W], ground truth in pixels per window, x right and y down; NaN where
        there is none.
    events: the events themselves, where they were asked for.
    fresh: bool [B], slots that begin a new sequence and need a zero state.
    """

    inputs: Tensor
    mask: Tensor
    flow: Tensor
    events: EventBatch | None
    fresh: Tensor

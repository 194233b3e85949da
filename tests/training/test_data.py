"""The sampler: crops and flips that keep events and flow together, and walks that can resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data import Sequence, SlotSampler

SIDE, STEPS = 24, 9
VELOCITY = (2, -1)


def moving_dot() -> Sequence:
    """One ON event per window that moves 2 pixels right and 1 up; the flow says so everywhere."""
    counts = np.zeros((STEPS, 2, SIDE, SIDE), np.uint8)
    for step in range(STEPS):
        counts[step, 0, 12 + VELOCITY[1] * step, 3 + VELOCITY[0] * step] = 1
    flow = np.empty((STEPS, 2, SIDE, SIDE), np.float32)
    flow[:, 0], flow[:, 1] = VELOCITY
    return Sequence(counts, flow)


def numbered(first: int, length: int, side: int = 12) -> Sequence:
    """Every count of a window is the window's number, every flow is 100 times that."""
    number = np.arange(first, first + length).reshape(-1, 1, 1, 1)
    shape = (length, 2, side, side)
    return Sequence(
        np.broadcast_to(number, shape).astype(np.uint8),
        np.broadcast_to(100.0 * number, shape).astype(np.float32),
    )


def test_flips_keep_motion_and_flow_together() -> None:
    """In whichever way a slot is flipped, the dot moves by the flow it is labelled with."""
    sampler = SlotSampler([moving_dot()], batch_size=40, chunk=4, crop=SIDE, seed=0)
    counts, mask, flow, events, fresh = sampler.next_chunk()
    assert events is None and torch.equal(mask, counts.sum(2, keepdim=True) > 0)
    assert counts.shape == flow.shape == (4, 40, 2, SIDE, SIDE) and bool(fresh.all())
    assert counts.dtype == flow.dtype == torch.float32
    seen = set()
    for slot in range(40):
        places = counts[:, slot].nonzero()
        assert len(places) == 4
        motion = (places[1:, 2:] - places[:-1, 2:]).flip(1)
        label = flow[0, slot, :, 0, 0]
        assert bool((flow[:, slot] == label.view(1, 2, 1, 1)).all())
        assert bool((motion == label).all())
        seen.add((int(label[0]), int(label[1]), int(places[0, 1])))
    # Both signs of both components with both polarities.
    assert seen == {(x, y, p) for x in (2, -2) for y in (1, -1) for p in (0, 1)}


def test_crops_cut_events_and_flow_alike() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 127, (6, 2, SIDE, SIDE)).astype(np.uint8)
    # Without the signs that flips change, the flow is a copy of the counts.
    sequence = Sequence(counts, counts.sum(1, keepdims=True).repeat(2, 1).astype(np.float32) + 1)
    sampler = SlotSampler([sequence], batch_size=20, chunk=2, crop=7, seed=3)
    places = set()
    for _ in range(5):
        chunk = sampler.next_chunk()
        got, flow = chunk.inputs, chunk.flow
        assert torch.equal(got.sum(2) + 1, flow[:, :, 0].abs())
        assert torch.equal(got.sum(2) + 1, flow[:, :, 1].abs())
        places |= {tuple(window.flatten().tolist()) for window in got[0]}
    assert len(places) > 30


def test_slots_walk_until_their_sequence_ends() -> None:
    """Consecutive chunks are consecutive windows; only a fresh slot jumps, at a sequence's end."""
    sequences = [numbered(0, 10), numbered(50, 7), numbered(100, 3)]
    sampler = SlotSampler(sequences, batch_size=6, chunk=3, crop=5, seed=1)
    ends = {start + len(s) for start, s in zip((0, 50, 100), sequences, strict=True)}
    last: list[int | None] = [None] * 6
    restarts = 0
    for chunk in range(40):
        drawn = sampler.next_chunk()
        counts, flow, fresh = drawn.inputs, drawn.flow, drawn.fresh
        assert torch.equal(flow.abs(), 100 * counts)
        for slot in range(6):
            numbers = [int(window.max()) for window in counts[:, slot]]
            assert numbers == list(range(numbers[0], numbers[0] + 3))
            previous = last[slot]
            if fresh[slot]:
                assert previous is None or any(0 <= end - 1 - previous < 3 for end in ends)
                restarts += previous is not None
            else:
                assert previous is not None and numbers[0] == previous + 1
            last[slot] = numbers[-1]
        assert bool(fresh.all()) or chunk > 0
    assert restarts > 20


def test_seeds_differ() -> None:
    sequences = [numbered(0, 30)]
    first, second = (SlotSampler(sequences, 8, 3, 5, seed).next_chunk().inputs for seed in (0, 1))
    assert not torch.equal(first, second)


def test_short_and_small_sequences_are_left_out() -> None:
    sampler = SlotSampler([numbered(0, 2), numbered(50, 5), numbered(100, 5, 4)], 8, 3, 5, 0)
    for _ in range(10):
        counts = sampler.next_chunk().inputs
        assert int(counts.min()) >= 50 and int(counts.max()) < 55
    with pytest.raises(ValueError, match="no sequence has 9 windows of at least 5 pixels"):
        SlotSampler([numbered(0, 8)], 1, 9, 5, 0)

"""Spikes counted where they lie are those of the unpacked copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lif_op.spec
from runtime import StatefulSession, spikes
from runtime.pooling import PooledRunner
from runtime.spikes import count_spikes, spike_counts


@pytest.mark.parametrize("channels", [1, 8, 31, 32, 33, 64, 70])
@pytest.mark.parametrize("old_numpy", [False, True])
def test_packed_bits(channels: int, old_numpy: bool, monkeypatch: Any) -> None:
    if old_numpy:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    fired = np.random.default_rng(0).random((3, channels, 5, 6)) < 0.3
    words = lif_op.spec.pack_spikes(fired.astype(np.uint8))
    words[..., -1] |= np.uint32(0xFFFFFFFF << channels % 32 & 0xFFFFFFFF if channels % 32 else 0)
    count = count_spikes(words, channels)
    assert count.fired.tolist() == fired.sum(axis=(1, 2, 3)).tolist()
    assert count.neurons == channels * 30


@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.int8, np.bool_])
def test_plain_spikes(kind: Any) -> None:
    fired = (np.random.default_rng(0).random((2, 4, 5, 6)) < 0.3).astype(kind)
    count = count_spikes(fired, 4)
    assert count.fired.tolist() == (fired != 0).sum(axis=(1, 2, 3)).tolist()
    assert count.neurons == 120


def test_streams_count_what_they_show(make_file: Any, counts: Any) -> None:
    stream = StatefulSession(make_file(), library="never").diagnostic()
    pooled = PooledRunner(stream, (24, 32), "sum")
    for events in counts(5, rate=2.0):
        stream.step(events)
        shown = {name: int(array.sum()) for name, array in stream.spikes().items()}
        assert {n: int(c.fired[0]) for n, c in stream.spike_counts().items()} == shown
        assert spike_counts(pooled).keys() == shown.keys()
    assert sum(shown.values()) > 0
    assert spikes.spike_counts(StatefulSession(make_file(), library="never")) == {}

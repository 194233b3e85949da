"""How many neurons fired, counted where the spikes lie rather than in copies of them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from runtime.runner import Array, Runner


class SpikeCount(NamedTuple):
    """fired: int64 [N], neurons that fired in each sequence of the batch. neurons: how many each
    sequence has."""

    fired: npt.NDArray[np.int64]
    neurons: int


@runtime_checkable
class SpikeCounter(Protocol):
    """A runner that counts spikes itself."""

    def spike_counts(self) -> dict[str, SpikeCount]: ...


def spike_counts(runner: Runner) -> dict[str, SpikeCount]:
    """Spikes of a runner's last step by layer; empty unless it is diagnostic."""
    if isinstance(runner, SpikeCounter):
        return runner.spike_counts()
    return {layer: count_spikes(array) for layer, array in runner.spikes().items()}


def count_spikes(spikes: Array, channels: int | None = None) -> SpikeCount:
    """Count what is not 0 in [N, ...]; uint32 [N, H, W, words] are packed bits of ``channels``."""
    if spikes.dtype == np.uint32 and channels is not None:
        return _count_bits(spikes.astype(np.uint32, copy=False), channels)
    fired = np.array([np.count_nonzero(one != 0) for one in spikes], np.int64)
    return SpikeCount(fired, spikes[0].size)


def _count_bits(words: npt.NDArray[np.uint32], channels: int) -> SpikeCount:
    neurons = words.shape[1] * words.shape[2] * channels
    if channels % 32:
        used = np.full(words.shape[-1], 0xFFFFFFFF, np.uint32)
        used[-1] = (1 << channels % 32) - 1
        words = words & used
    fired = [np.sum(_bits_set(one), dtype=np.int64) for one in words]
    return SpikeCount(np.array(fired, np.int64), neurons)


def _bits_set(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """Bits set in each word, or each byte where NumPy 1 does not count them itself."""
    count: Any = getattr(np, "bitwise_count", None)
    if count is not None:
        return count(words)
    return _BITS_OF_A_BYTE[np.ascontiguousarray(words).view(np.uint8)]


_BITS_OF_A_BYTE = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)

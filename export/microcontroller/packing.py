"""Weights of spikes packed to words, so that one addition adds two of them.

A layer's sums are kept two to a 32-bit word where every one of them, without the bias, fits 16 bits
whichever inputs fire. Weights are then stored as unsigned numbers, each plus an offset which the
kernels take off again for every spike: four of 8 bits to a word, or eight of 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.microcontroller.network import Convolution, Network, SpikingLayer


@dataclass(frozen=True)
class Packing:
    """bits: of a stored weight, 8 or 4."""

    bits: int

    @property
    def offset(self) -> int:
        """What is added to a weight."""
        return 1 << (self.bits - 1)

    @property
    def parts(self) -> int:
        """Pairs of weights in a word."""
        return 16 // self.bits

    def words(self, channels: int) -> int:
        """Words that hold the weights of so many channels."""
        return -(-channels // (2 * self.parts))

    def filled(self, channels: int) -> int:
        """Channels in these words, with those that only fill the last one."""
        return 2 * self.parts * self.words(channels)

    def pack(self, taps: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        """Words [N, words] of weights [N, channels]; the first channel is in the lowest bits."""
        channels = taps.shape[1]
        unused = self.filled(channels) - channels
        stored = np.pad(taps.astype(np.int64), ((0, 0), (0, unused))) + self.offset
        in_words = stored.reshape(len(taps), -1, 2 * self.parts)
        return (in_words << (self.bits * np.arange(2 * self.parts))).sum(axis=2)


def packing_of(network: Network, layer: SpikingLayer) -> Packing | None:
    """How the weights of a layer are packed, or None where its sums need more than 16 bits.

    The first layer's inputs are counts, which multiply its weights; they stay as they are.
    """
    if layer is network.layers[0]:
        return None
    sums = layer.convolution.largest_sums(1)
    if layer.recurrent is not None:
        sums = sums + layer.recurrent.largest_sums(1)
    if int(sums.max()) >= 1 << 15:
        return None
    both = [layer.convolution, layer.recurrent]
    small = all(_fits(each, 4) for each in both if each is not None)
    return Packing(4 if small else 8)


def _fits(convolution: Convolution, bits: int) -> bool:
    limit = 1 << (bits - 1)
    return int(convolution.weight.min()) >= -limit and int(convolution.weight.max()) < limit

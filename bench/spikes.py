"""Random spikes and events of a wanted density, scattered or in clusters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.errors import BenchError

PATTERNS = ("uniform", "clustered")
_GRAIN = 24
"""Pixels between the points of the coarse noise that clusters follow."""


def check_density(density: float) -> None:
    """Raise BenchError for a density outside 0..1."""
    if not 0 <= density <= 1:
        raise BenchError(f"density {density:g}: expected 0 to 1, the share of neurons that fire")


def smooth_field(size: tuple[int, int], generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Noise [H, W] without detail: random values on a coarse grid, interpolated between."""
    coarse = generator.normal(size=tuple(side // _GRAIN + 2 for side in size))
    rows, columns = (
        np.linspace(0, n - 1, side) for n, side in zip(coarse.shape, size, strict=True)
    )
    below = np.stack([np.interp(columns, np.arange(coarse.shape[1]), line) for line in coarse])
    upright = np.arange(coarse.shape[0])
    return np.stack([np.interp(rows, upright, line) for line in below.T], axis=1)


def probability(
    size: tuple[int, int], density: float, pattern: str, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Chance of firing per pixel, [H, W], with mean ``density``.

    Clustered: sqrt(density) of the image, where a smooth field is high, fires at sqrt(density) and
    the rest is silent.
    """
    check_density(density)
    if pattern == "uniform" or density in (0, 1):
        return np.full(size, density)
    share = float(np.sqrt(density))
    field = smooth_field(size, generator)
    inside = field > np.quantile(field, 1 - share)
    return np.where(inside, density / max(float(inside.mean()), density), 0.0)


def draw(
    chance: npt.NDArray[np.float64], channels: int, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Spikes uint8 [1, C, H, W], 0 or 1, given the chance of each pixel [H, W]."""
    fires = generator.random((1, channels, *chance.shape), np.float32) < chance
    return fires.astype(np.uint8)

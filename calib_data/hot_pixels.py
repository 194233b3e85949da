"""Finding pixels that fire all the time whatever the scene does, and blanking them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError


class HotPixelFilter:
    """Blanks pixels that were active in nearly every window so far, as event_flow's loader does.

    resolution: (H, W). max_pixels: most pixels blanked at a time, the most active first.
    min_observations: windows to see before any is blanked. max_rate: share of windows above which a
    pixel is hot. One filter belongs to one recording; call ``reset`` before the next.
    """

    def __init__(
        self,
        resolution: tuple[int, int],
        max_pixels: int = 100,
        min_observations: int = 5,
        max_rate: float = 0.8,
    ) -> None:
        self._max_pixels = max_pixels
        self._min_observations = min_observations
        self._max_rate = max_rate
        self._active = np.zeros(resolution, np.int64)
        self._windows = 0

    def reset(self) -> None:
        """Forget everything seen."""
        self._active[:] = 0
        self._windows = 0

    def update(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Take in where events fell in one window; return the pixels to keep: both bool [H, W].

        Raises DataError for a mask of another shape.
        """
        if mask.shape != self._active.shape:
            raise DataError(
                f"hot-pixel filter made for {self._active.shape}, got a mask of {mask.shape}"
            )
        self._active += mask != 0
        self._windows += 1
        keep = np.ones(mask.shape, np.bool_)
        if self._windows <= self._min_observations:
            return keep
        rates = (self._active / self._windows).ravel()
        hot = np.flatnonzero(rates > self._max_rate)
        most_active = hot[np.argsort(-rates[hot], kind="stable")][: self._max_pixels]
        keep.ravel()[most_active] = False
        return keep

    def apply(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Take in one window's counts or voxel grid [C, H, W]; return it with hot pixels zeroed."""
        keep = self.update((counts != 0).any(axis=0))
        kept: NDArray[Any] = counts * keep.astype(counts.dtype)
        return kept

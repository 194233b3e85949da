"""The hot-pixel filter against the original's loop."""

from __future__ import annotations

import numpy as np
import pytest

from calib_data.errors import DataError
from calib_data.hot_pixels import HotPixelFilter

SHAPE = (6, 8)


def _masks(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    rates = rng.choice([0.1, 0.5, 0.85, 1.0], SHAPE, p=[0.5, 0.2, 0.2, 0.1])
    return [rng.random(SHAPE) < rates for _ in range(count)]


@pytest.mark.parametrize("max_pixels", [3, 100])
def test_equals_the_loop(max_pixels: int) -> None:
    filter_ = HotPixelFilter(SHAPE, max_pixels=max_pixels)
    total, blanked = np.zeros(SHAPE), 0
    for number, mask in enumerate(_masks(30), start=1):
        total += mask
        keep = np.ones(SHAPE, bool)
        rate = total / number
        if number > 5:
            for _ in range(max_pixels):
                at = np.unravel_index(np.argmax(rate), SHAPE)
                if rate[at] <= 0.8:
                    break
                keep[at], rate[at] = False, 0
        np.testing.assert_array_equal(filter_.update(mask), keep)
        blanked = max(blanked, int((~keep).sum()))
    assert blanked == 3 if max_pixels == 3 else blanked > 3


def test_apply_blanks_counts() -> None:
    filter_ = HotPixelFilter(SHAPE)
    counts = np.zeros((2, *SHAPE), np.uint8)
    counts[1, 2, 3] = 9
    for _ in range(5):
        np.testing.assert_array_equal(filter_.apply(counts), counts)
    other = counts.copy()
    other[0, 0, 0] = 1
    filtered = filter_.apply(other)
    assert filtered.dtype == np.uint8
    assert filtered[1, 2, 3] == 0
    assert filtered[0, 0, 0] == 1
    filter_.reset()
    np.testing.assert_array_equal(filter_.apply(counts), counts)


def test_wrong_shape() -> None:
    with pytest.raises(DataError, match="got a mask of"):
        HotPixelFilter(SHAPE).update(np.zeros((2, 2), bool))

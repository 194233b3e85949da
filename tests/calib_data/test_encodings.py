"""Counts, voxel grids and masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib_data.encodings import event_counts, event_mask, voxel_grid
from calib_data.errors import DataError
from calib_data.events import Events

RESOLUTION = (5, 7)


def _events(rows: list[tuple[int, int, float, int]]) -> Events:
    xs, ys, ts, ps = (np.array(column) for column in zip(*sorted(rows, key=lambda r: r[2])))  # noqa: B905
    return Events(xs.astype(np.int16), ys.astype(np.int16), ts.astype(float), ps.astype(np.int8))


any_events = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.integers(0, 4),
        st.floats(0, 10, allow_nan=False),
        st.sampled_from([-1, 1]),
    ),
    min_size=1,
    max_size=60,
).map(_events)


@given(any_events)
def test_counts_are_sums_over_events(events: Events) -> None:
    expected = np.zeros((2, *RESOLUTION))
    for x, y, p in zip(events.xs, events.ys, events.ps, strict=True):
        expected[0 if p > 0 else 1, y, x] += 1
    np.testing.assert_array_equal(event_counts(events, RESOLUTION), expected)
    np.testing.assert_array_equal(event_mask(events, RESOLUTION), expected.sum(0) > 0)


@given(any_events, st.integers(1, 6), st.booleans())
def test_voxel_grid_is_the_formula(events: Events, bins: int, round_time: bool) -> None:
    span = events.ts[-1] - events.ts[0]
    expected = np.zeros((bins, *RESOLUTION))
    for x, y, t, p in zip(events.xs, events.ys, events.ts, events.ps, strict=True):
        tau = (t - events.ts[0]) / span * (bins - 1) if span > 0 else 0.0
        tau = float(np.rint(tau)) if round_time else tau
        for b in range(bins):
            expected[b, y, x] += p * max(0.0, 1 - abs(tau - b))
    got = voxel_grid(events, bins, RESOLUTION, round_time=round_time)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_voxel_grid_by_hand() -> None:
    # Unit times 0.3 and 0.8 at one pixel; events elsewhere span the window.
    rows = [(0, 0, 0.0, 1), (3, 2, 0.3, 1), (3, 2, 0.8, -1), (6, 4, 1.0, 1)]
    grid = voxel_grid(_events(rows), 3, RESOLUTION)
    np.testing.assert_allclose(grid[:, 2, 3], (0.4, 0.2, -0.6), atol=1e-6)
    rounded = voxel_grid(_events(rows), 3, RESOLUTION, round_time=True)
    np.testing.assert_array_equal(rounded[:, 2, 3], (0, 1, -1))


def test_nothing_in_nothing_out() -> None:
    empty = Events.empty()
    assert event_counts(empty, RESOLUTION).shape == (2, *RESOLUTION)
    assert not event_counts(empty, RESOLUTION).any()
    assert not voxel_grid(empty, 4, RESOLUTION).any()
    assert not event_mask(empty, RESOLUTION).any()


def test_counts_in_a_byte() -> None:
    many = _events([(1, 1, i * 1e-3, 1) for i in range(300)])
    with pytest.raises(DataError, match="300 events in this window, more than uint8 holds"):
        event_counts(many, RESOLUTION, np.uint8)
    counts = event_counts(many, RESOLUTION, np.uint8, saturate=127)
    assert counts.dtype == np.uint8
    assert counts[0, 1, 1] == 127
    assert event_counts(many, RESOLUTION)[0, 1, 1] == 300


def test_refusals() -> None:
    outside = _events([(7, 0, 0.0, 1)])
    for encode in (event_counts, event_mask):
        with pytest.raises(DataError, match="outside the image of 7 x 5"):
            encode(outside, RESOLUTION)
    with pytest.raises(DataError, match="at least one bin"):
        voxel_grid(Events.empty(), 0, RESOLUTION)

"""Statistics in constant memory equal those made of everything at the end."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.streaming import Histogram, MeanMap, Spread, Timeline


@pytest.mark.parametrize("signed", [False, True])
def test_histogram_is_that_of_all_values_in_any_order(signed: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 3000) * 10.0 ** rng.integers(-4, 4, 3000)
    values = values if signed else np.abs(values)
    forwards, backwards = Histogram(signed=signed), Histogram(signed=signed)
    for part in np.array_split(values, 50):
        forwards.add(part)
    for part in np.array_split(np.sort(values)[::-1], 7):
        backwards.add(part)
    low = -forwards.top if signed else 0.0
    expected, edges = np.histogram(values, len(forwards.counts), (low, forwards.top))
    assert forwards.top > np.abs(values).max() >= forwards.top / 2
    assert np.array_equal(forwards.counts, expected) and np.array_equal(forwards.edges, edges)
    assert np.array_equal(backwards.counts, expected) and backwards.total == 3000


def test_histogram_percentiles_are_off_by_less_than_a_bin() -> None:
    values = np.random.default_rng(1).gamma(2.0, 3.0, 5000)
    histogram = Histogram()
    histogram.add(values)
    width = histogram.edges[1]
    for percent in (5, 50, 95, 99.9):
        assert histogram.percentile(percent) == pytest.approx(
            np.percentile(values, percent, method="inverted_cdf"), abs=width / 2
        )
    assert np.isnan(Histogram().percentile(50))


def test_histogram_view_accounts_for_every_value() -> None:
    histogram = Histogram(signed=True)
    histogram.add(np.random.default_rng(2).normal(0, 1, 9999))
    histogram.add([100.0])
    view = histogram.view(40, tail=0.01)
    assert 20 <= len(view.shares) <= 42 and len(view.edges) == len(view.shares) + 1
    assert view.shares.sum() + view.below + view.above == pytest.approx(1)
    assert 0 < view.above <= 0.011 and 0 < view.below <= 0.011
    assert -6 < view.edges[0] < 0 < view.edges[-1] < 6
    with pytest.raises(ValueError, match="without values"):
        Histogram().view()


def test_histogram_leaves_out_what_is_not_finite_and_refuses_what_is_negative() -> None:
    histogram = Histogram()
    histogram.add([0.0, np.nan, np.inf, 1e300])
    assert histogram.total == 1 and histogram.counts[0] == 1
    with pytest.raises(ValueError, match="value -2"):
        histogram.add([1.0, -2.0])


def test_timeline_averages_neighbours_once_it_is_full() -> None:
    timeline = Timeline(limit=8)
    for number in range(50):
        timeline.add(float(number), {"a": number**2, "b": 1.0})
        assert len(timeline.series()[0]) <= 8
    times, series = timeline.series()
    assert timeline.values_per_point == 8
    groups = [np.arange(start, min(start + 8, 50)) for start in range(0, 50, 8)]
    assert times == pytest.approx([group.mean() for group in groups])
    assert series["a"] == pytest.approx([(group.astype(float) ** 2).mean() for group in groups])
    assert series["b"] == pytest.approx([1.0] * 7)


def test_timeline_keeps_few_values_as_they_are() -> None:
    timeline = Timeline()
    assert timeline.series() == ([], {})
    timeline.add(0.5, {"a": 3.0})
    assert timeline.series() == ([0.5], {"a": [3.0]}) and timeline.values_per_point == 1


@pytest.mark.parametrize("total", [1, 3, 4, 9, 100, 1000])
def test_spread_is_even_and_bounded(total: int) -> None:
    spread = Spread[int](4)
    for number in range(total):
        if spread.due():
            spread.add(number)
        else:
            spread.skip()
        assert len(spread.items) <= 8
    chosen = spread.chosen()
    assert spread.items == list(range(0, total, spread.stride))
    assert len(chosen) == min(4, total) and chosen == sorted(set(chosen))
    if total >= 9:
        gaps = np.diff(chosen)
        assert gaps.max() <= 2 * gaps.min() and chosen[-1] >= 0.5 * total


def test_mean_map_counts_each_pixel_where_it_is_seen() -> None:
    maps = MeanMap((2, 2))
    maps.add(np.array([[1.0, np.nan], [3.0, 4.0]]), np.array([[True, False], [True, True]]))
    maps.add(np.array([[3.0, np.nan], [9.0, 4.0]]), np.array([[True, False], [False, True]]))
    assert np.array_equal(maps.mean(), [[2.0, 0.0], [3.0, 4.0]])
    assert np.array_equal(maps.frames, [[2, 0], [1, 2]])

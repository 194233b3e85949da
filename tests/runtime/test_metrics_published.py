"""Metrics by name against plain loops and known angles; the published ones with their quirks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib_data import Events
from runtime import metrics, published
from runtime.metrics import METRICS, ChosenMetrics, averaged_image

Array = np.ndarray[Any, Any]
FRAME_METRICS = [name for name, metric in METRICS.items() if metric.frame is not None]
PUBLISHED = [name for name in FRAME_METRICS if name.endswith("_published")]
CORRECTED = [name for name in FRAME_METRICS if not name.endswith("_published")]
ANGLES = ("aae", "aae_spacetime", "aae_weighted", "aae_filtered", "angle_of_means")


def value(name: str, flow: Array, truth: Array, events: Array) -> float:
    """The metric of one frame; NaN where it has none."""
    frame = METRICS[name].frame
    assert frame is not None
    total, weight = frame(flow, truth, events)
    return total / weight if weight else math.nan


def polar(length: float, degrees: float, shape: tuple[int, int] = (3, 4)) -> Array:
    angle = math.radians(degrees)
    flow = np.empty((2, *shape), np.float32)
    flow[0], flow[1] = length * math.cos(angle), length * math.sin(angle)
    return flow


def everywhere(shape: tuple[int, int] = (3, 4)) -> Array:
    return np.ones(shape, np.bool_)


def random_frame(seed: int) -> tuple[Array, Array, Array]:
    """Flow, ground truth and events with unscored pixels of both kinds."""
    generator = np.random.default_rng(seed)
    flow = generator.normal(0, 4, (2, 6, 7)).astype(np.float32)
    truth = (flow + generator.normal(0, 3, flow.shape)).astype(np.float32)
    truth[:, 0, :3] = 0
    return flow, truth, generator.random((6, 7)) < 0.7


# --- plain loops: every definition written out pixel by pixel -------------------------------------


def clipped_arc(cosine: float) -> float:
    return math.acos(min(max(cosine, -1 + 1e-5), 1 - 1e-5))


def pixels(flow: Array, truth: Array, events: Array) -> list[tuple[float, float, float, float]]:
    """(Fx, Fy, Gx, Gy) of the scored pixels."""
    return [
        (float(flow[0, y, x]), float(flow[1, y, x]), float(truth[0, y, x]), float(truth[1, y, x]))
        for y in range(flow.shape[1])
        for x in range(flow.shape[2])
        if events[y, x] and (truth[0, y, x] != 0 or truth[1, y, x] != 0)
    ]


def turn(a: float, b: float, c: float, d: float) -> float:
    """Angle between (a, b) and (c, d) in degrees, as a difference of directions."""
    difference = abs(math.degrees(math.atan2(b, a) - math.atan2(d, c)))
    return min(difference, 360 - difference)


def cosine(a: float, b: float, c: float, d: float) -> float:
    return (a * c + b * d) / (math.hypot(a, b) * math.hypot(c, d) + 1e-9)


def mean_of(term: Callable[..., float]) -> Callable[[list[Any], list[Any]], float]:
    return lambda scored, _: sum(term(*vectors) for vectors in scored) / len(scored)


def weighted_published(scored: list[Any], whole: list[Any]) -> float:
    total = sum(clipped_arc(cosine(*v)) * math.hypot(v[0], v[1]) for v in whole)
    return total / sum(math.hypot(v[0], v[1]) for v in scored)


def filtered(angle: Callable[..., float]) -> Callable[[list[Any], list[Any]], float]:
    def mean(scored: list[Any], _: list[Any]) -> float:
        kept = [angle(*v) for v in scored if math.hypot(v[0], v[1]) >= 0.5]
        return sum(kept) / len(kept)

    return mean


def inverted(a: float, b: float, c: float, d: float) -> float:
    return clipped_arc(math.hypot(a, b) * math.hypot(c, d) / (a * c + b * d + 0.01))


def relative(a: float, b: float, c: float, d: float) -> float:
    return math.hypot(a - c, b - d) / (math.hypot(c, d) + 0.01)


def relative_published(a: float, b: float, c: float, d: float) -> float:
    return math.hypot(a - c, b - d) / (min(math.hypot(a, b), math.hypot(c, d)) + 0.01)


def far(error: float, magnitude: float) -> bool:
    return error > 3 and error > 0.05 * magnitude


def means(scored: list[Any]) -> list[float]:
    return [sum(v[i] for v in scored) / len(scored) for i in range(4)]


def weighted(scored: list[Any], _: list[Any]) -> float:
    total = sum(turn(*v) * math.hypot(v[2], v[3]) for v in scored)
    return total / sum(math.hypot(v[2], v[3]) for v in scored)


def spacetime(a: float, b: float, c: float, d: float) -> float:
    lengths = math.sqrt(a * a + b * b + 1) * math.sqrt(c * c + d * d + 1)
    return math.degrees(math.acos(min(1.0, (a * c + b * d + 1) / lengths)))


def mean_error(scored: list[Any], _: list[Any]) -> float:
    x, y = means(scored)[2:]
    return sum(math.hypot(v[2] - x, v[3] - y) for v in scored) / len(scored)


LOOPS: dict[str, Callable[[list[Any], list[Any]], float]] = {
    "aee": mean_of(lambda a, b, c, d: math.hypot(a - c, b - d)),
    "outliers": mean_of(lambda a, b, c, d: far(math.hypot(a - c, b - d), math.hypot(c, d))),
    "aae": mean_of(turn),
    "aae_outliers": mean_of(lambda *v: turn(*v) > 30),
    "aae_spacetime": mean_of(spacetime),
    "aae_weighted": weighted,
    "aae_filtered": filtered(turn),
    "nee": mean_of(relative),
    "nee_outliers": mean_of(lambda *v: relative(*v) > 0.5),
    "naae": mean_of(lambda a, b, c, d: turn(a, b, c, d) / (math.hypot(c, d) + 0.01)),
    "angle_of_means": lambda scored, _: turn(*means(scored)),
    "zero_aee": mean_of(lambda a, b, c, d: math.hypot(c, d)),
    "mean_aee": mean_error,
    "aee_published": mean_of(lambda a, b, c, d: math.hypot(a - c, b - d)),
    "outliers_published": mean_of(
        lambda a, b, c, d: far(math.hypot(a - c, b - d), math.hypot(a, b))
    ),
    "aae_published": mean_of(inverted),
    "aae_outliers_published": mean_of(lambda *v: inverted(*v) > math.pi / 6),
    "aae_weighted_published": weighted_published,
    "aae_filtered_published": filtered(lambda *v: clipped_arc(cosine(*v))),
    "nee_published": mean_of(relative_published),
    "nee_outliers_published": mean_of(lambda *v: relative_published(*v) > 0.5),
    "naae_published": mean_of(
        lambda a, b, c, d: clipped_arc(cosine(a, b, c, d)) / (math.hypot(a, b) + 1e-9)
    ),
    "angle_of_means_published": lambda scored, _: clipped_arc(cosine(*means(scored))),
}


def test_every_frame_metric_has_a_loop() -> None:
    assert set(LOOPS) == set(FRAME_METRICS)


@pytest.mark.parametrize("name", FRAME_METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_metric_equals_its_loop(name: str, seed: int) -> None:
    flow, truth, events = random_frame(seed)
    scored = pixels(flow, truth, events)
    # Pixels without ground truth count as well where the numerator is not masked.
    tiny = np.where((truth == 0).all(axis=0), np.float32(1e-30), truth)
    whole = pixels(flow, tiny, np.ones_like(events))
    expected = LOOPS[name](scored, whole)
    assert value(name, flow, truth, events) == pytest.approx(expected, rel=1e-6, abs=1e-6)


# --- peculiarities of the published figures -------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "degrees", "shown"),
    [
        (20, 10, 0.26), (20, 45, 0.26), (20, 80, 0.26), (20, 100, 179.74), (20, 135, 179.74),
        (0.05, 0, 78.5), (0.05, 180, 70.5), (1, 0, 8.1),
    ],
)  # fmt: skip
def test_published_aae_is_upside_down(length: float, degrees: float, shown: float) -> None:
    flow, truth = polar(length, degrees), polar(length, 0)
    angle = math.degrees(published.aae(flow, truth, everywhere()))
    assert angle == pytest.approx(shown, abs=0.06)
    assert value("aae", flow, truth, everywhere()) == pytest.approx(degrees, abs=1e-4)


@pytest.mark.parametrize(("length", "outlier"), [(0.228, 1), (0.3, 0)])
def test_published_angle_outliers_start_at_30_degrees(length: float, outlier: int) -> None:
    """Exact predictions: acos(m / (m + 0.01)) is 33 degrees at m = 0.228^2 and 26 at 0.3^2."""
    flow = polar(length, 0)
    share = value("aae_outliers_published", flow, flow, everywhere())
    assert share == pytest.approx(outlier)
    assert value("aae_outliers", flow, flow, everywhere()) == 0


def test_published_outliers_are_relative_to_the_prediction() -> None:
    flow, truth = polar(80, 0), polar(76.1, 0)  # 3.9 px: 5.1 % of the truth, 4.9 % of the other
    assert value("outliers", flow, truth, everywhere()) == 1
    assert value("outliers_published", flow, truth, everywhere()) == 0


def test_published_outliers_of_a_batch_are_summed() -> None:
    far_off, exact = polar(20, 0), polar(1, 0)
    flows, truths = np.stack([far_off, exact]), np.stack([exact, exact])
    masks = np.stack([everywhere(), everywhere()])
    masks[1, 1:] = False
    shares = published.outliers_of_batch(flows, truths, masks)
    assert shares == pytest.approx([12 / 12, 12 / 4])


def test_published_weighted_angle_exceeds_180_degrees() -> None:
    flow, truth, events = polar(1, 180), polar(1, 0), everywhere()
    events[1:] = False
    assert math.degrees(published.aae_weighted(flow, truth, events)) > 500
    assert value("aae_weighted", flow, truth, events) == pytest.approx(180)


def test_small_predictions_blow_up_the_published_normalised_figures() -> None:
    flow, truth = polar(1e-4, 90), polar(1, 0)
    assert value("naae_published", flow, truth, everywhere()) == pytest.approx(
        math.pi / 2 / (1e-4 + 1e-9), rel=1e-4
    )
    assert value("naae", flow, truth, everywhere()) == pytest.approx(90 / 1.01)
    assert value("nee_published", flow, truth, everywhere()) > 98
    assert value("nee", flow, truth, everywhere()) < 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_frame_without_pixels(name: str) -> None:
    nothing = np.zeros((3, 4), np.bool_)
    result = value(name, polar(1, 90), polar(1, 0), nothing)
    if name == "angle_of_means_published":
        assert result == pytest.approx(math.pi / 2)
    elif name == "aae_weighted_published":
        assert result == pytest.approx(12 * math.pi / 2 / 1e-9)
    else:
        assert result == 0


@pytest.mark.parametrize("name", CORRECTED)
def test_frame_without_pixels_has_no_value(name: str) -> None:
    assert math.isnan(value(name, polar(1, 90), polar(1, 0), np.zeros((3, 4), np.bool_)))


@pytest.mark.parametrize("seed", range(3))
def test_published_and_corrected_agree_where_they_must(seed: int) -> None:
    flow, truth, events = random_frame(seed)
    for name in ("aee", "angle_of_means", "aae_filtered"):
        factor = 180 / math.pi if name != "aee" else 1
        other = value(f"{name}_published", flow, truth, events) * factor
        # The clip moves an angle by at most 0.2563 degrees.
        bound = 1e-5 if name == "aee" else 0.257
        assert other == pytest.approx(value(name, flow, truth, events), rel=0, abs=bound)
    same_length = np.stack([truth[1], -truth[0]])  # so |F| = |G|: the normalisations are the same
    for name in ("nee", "nee_outliers", "outliers"):
        pair = [value(n, same_length, truth, events) for n in (name, f"{name}_published")]
        assert pair[0] == pytest.approx(pair[1], rel=1e-6)


def test_published_forms_name_their_corrected_ones() -> None:
    for name in PUBLISHED:
        assert METRICS[name].faithful_of == name.removesuffix("_published") in METRICS


# --- properties -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 360))
def test_rotating_both_fields_changes_nothing(seed: int, degrees: float) -> None:
    flow, truth, events = random_frame(seed)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = [np.stack([c * f[0] - s * f[1], s * f[0] + c * f[1]]) for f in (flow, truth)]
    for name in ("aee", "aae", "aae_spacetime", "aae_weighted", "nee", "naae", "nee_published"):
        before, after = value(name, flow, truth, events), value(name, turned[0], turned[1], events)
        assert after == pytest.approx(before, rel=1e-3, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_scaling_both_fields(seed: int, scale: float) -> None:
    flow, truth, events = random_frame(seed)
    larger = (flow * np.float32(scale), truth * np.float32(scale), events)
    for name in ("aee", "zero_aee", "mean_aee", "aee_published"):
        assert value(name, *larger) == pytest.approx(scale * value(name, flow, truth, events))
    for name in ("aae", "aae_outliers", "aae_weighted", "angle_of_means"):
        assert value(name, *larger) == pytest.approx(value(name, flow, truth, events))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bounds(seed: int) -> None:
    flow, truth, events = random_frame(seed)
    for name in CORRECTED:
        result = value(name, flow, truth, events)
        ceiling = {"deg": 180.0, "share": 1.0}.get(METRICS[name].unit, math.inf)
        assert math.isnan(result) or 0 <= result <= ceiling
    for name in ANGLES:
        assert value(name, truth, truth, events) == pytest.approx(0, abs=1e-5)


# --- what is not finite ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", CORRECTED)
def test_prediction_that_is_not_finite_never_improves_a_figure(name: str, bad: float) -> None:
    flow, truth = polar(1, 0), polar(1, 0)
    flow[0, 1, 1] = bad
    result = value(name, flow, truth, everywhere())
    if METRICS[name].better == "reference":
        assert result == value(name, truth, truth, everywhere())
    elif METRICS[name].unit == "share":
        assert result == pytest.approx(1 / 12)
    else:
        assert not math.isfinite(result)


@pytest.mark.parametrize("name", CORRECTED)
def test_ground_truth_that_is_not_finite_is_not_scored(name: str) -> None:
    flow, truth, events = random_frame(5)
    holed, fewer = truth.copy(), events.copy()
    holed[1, 3, 3], fewer[3, 3] = math.nan, False
    assert value(name, flow, holed, events) == value(name, flow, truth, fewer)


@pytest.mark.parametrize("name", ["aee_published", "naae_published", "aae_weighted_published"])
def test_a_nan_outside_the_mask_reaches_the_published_figures(name: str) -> None:
    flow, truth, events = polar(1, 10), polar(1, 0), everywhere()
    events[0, 0] = False
    flow[0, 0, 0] = math.nan
    assert math.isnan(value(name, flow, truth, events))


# --- over a sequence ------------------------------------------------------------------------------


def test_averages_over_a_sequence() -> None:
    chosen = ChosenMetrics(["aee", "aee_published", "aae_weighted", "angle_of_means"])
    sequence = metrics.SequenceScore()
    few = everywhere()
    few[1:] = False
    frames = [(polar(3, 90), everywhere()), (polar(7, 0), few), (polar(1, 0), few & False)]
    for flow, events in frames:
        chosen.add_frame(flow, polar(1, 0), events)
        sequence.add(metrics.score_frame(flow, polar(1, 0), events))
    values = chosen.values()
    assert values["aee"].by_frames == pytest.approx((math.sqrt(10) + 6) / 2)
    assert values["aee"].by_pixels == pytest.approx((12 * math.sqrt(10) + 4 * 6) / 16)
    assert values["aee"].values == 2
    # The frame without a scored pixel counts as 0.
    assert values["aee_published"].by_frames == pytest.approx((math.sqrt(10) + 6) / 3)
    assert values["aee_published"].by_pixels is None and values["aee_published"].values == 3
    assert values["angle_of_means"].by_frames == pytest.approx(45, abs=1e-4)
    for name in ("aee", "aae_weighted"):
        assert values[name].by_frames == pytest.approx(sequence.by_frames()[name])
        assert values[name].by_pixels == pytest.approx(sequence.by_pixels()[name])


def test_nothing_taken_nothing_shown() -> None:
    shown = ChosenMetrics(list(METRICS)).to_dict()
    assert list(shown) == list(METRICS)
    assert all(row["by_frames"] is None and row["values"] == 0 for row in shown.values())


def test_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(metrics.MetricError, match="'aae_weigted'; nearest: 'aae_weighted'"):
        ChosenMetrics(["aee", "aae_weigted"])


def test_a_name_twice_counts_once() -> None:
    assert [m.name for m in metrics.find_metrics(["rsat", "aee", "rsat"])] == ["rsat", "aee"]


# --- warped events --------------------------------------------------------------------------------


def events_at(*rows: tuple[int, int, float, int]) -> Events:
    """Events from (x, y, t, polarity)."""
    xs, ys, ts, ps = (np.array(column) for column in zip(*rows, strict=True))
    return Events(xs.astype(np.int16), ys.astype(np.int16), ts.astype(float), ps.astype(np.int8))


def test_event_metrics_wait_for_enough_events() -> None:
    chosen = ChosenMetrics(["fwl", "rsat", "aee"], events_per_value=4)
    events, flow = events_at((1, 0, 0, 1), (3, 0, 1, -1)), polar(2, 0, (1, 5))
    for _ in range(3):
        chosen.add_window(events, flow)
    values = chosen.values()
    assert values["fwl"].values == values["rsat"].values == 1 and values["aee"].values == 0
    assert values["fwl"].by_frames == metrics.flow_warp_loss([(events, flow)] * 2)
    assert values["rsat"].by_frames == metrics.rsat([(events, flow)] * 2)


def test_rsat_by_hand() -> None:
    """Positive events at t = 0 and 1 meet: (1/2)^2 over one pixel, against (0 + 1) over two."""
    events = events_at((1, 0, 0, 1), (3, 0, 1, 1))
    assert metrics.rsat([(events, polar(2, 0, (1, 5)))]) == pytest.approx(0.25 / 0.5)


def test_averaged_image_by_hand() -> None:
    """At t = 0 the flow moves by 2: three events from two pixels meet one that stays."""
    events = events_at(
        (1, 0, 0, 1), (1, 0, 0, 1), (1, 0, 0, -1), (4, 0, 0, 1), (3, 0, 1, 1), (0, 0, 1, -1)
    )
    image = averaged_image([(events, polar(2, 0, (1, 5)))])
    assert image.tolist() == [[[0, 0, 0, 1.5, 0]], [[1, 0, 0, 1, 0]]]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_averaged_image_equals_a_loop(seed: int) -> None:
    generator = np.random.default_rng(seed)
    windows = []
    for _ in range(2):
        ts = np.sort(generator.random(60))
        columns = [generator.integers(0, n, 60) for n in (6, 5)]
        rows = zip(*columns, ts, generator.choice([-1, 1], 60), strict=True)
        windows.append((events_at(*rows), generator.normal(0, 2, (2, 5, 6)).astype(np.float32)))
    counts: dict[tuple[int, int, int], int] = {}
    sources: dict[tuple[int, int, int], set[tuple[int, int, int]]] = {}
    for number, (events, flow) in enumerate(windows):
        for x, y, t, p in zip(events.xs, events.ys, events.ts, events.ps, strict=True):
            scaled = (t - events.ts[0]) / (events.ts[-1] - events.ts[0])
            to_x = round(float(x + (2 - number - scaled) * flow[0, y, x]))
            to_y = round(float(y + (2 - number - scaled) * flow[1, y, x]))
            if 0 <= to_x < 6 and 0 <= to_y < 5:
                key = (0 if p > 0 else 1, to_y, to_x)
                counts[key] = counts.get(key, 0) + 1
                sources.setdefault(key, set()).add((number, int(y), int(x)))
    expected = np.zeros((2, 5, 6))
    for key, count in counts.items():
        expected[key] = count / len(sources[key])
    np.testing.assert_array_equal(averaged_image(windows), expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_flow_that_is_not_finite_takes_its_events_out(bad: float) -> None:
    events, flow = events_at((1, 0, 0, 1), (3, 0, 0.5, 1), (2, 0, 1, 1)), polar(0, 0, (1, 5))
    flow[0, 0, 1] = bad
    assert averaged_image([(events, flow)])[0].tolist() == [[0, 0, 1, 1, 0]]


def test_no_events_no_image() -> None:
    assert not averaged_image([(Events.empty(), polar(1, 0))]).any()

"""Flow errors against values worked out by hand, and against their known defects elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calib_data import Events
from runtime import metrics
from runtime.warping import WarpMeter, flow_warp_loss, rsat, warp_to_end

EVERYWHERE = np.ones((4, 5), np.bool_)


def constant(x: float, y: float, shape: tuple[int, int] = (4, 5)) -> np.ndarray[Any, Any]:
    flow = np.zeros((2, *shape), np.float32)
    flow[0], flow[1] = x, y
    return flow


def test_end_point_error_and_outliers() -> None:
    score = metrics.score_frame(constant(3, 4), constant(0.5, 0), EVERYWHERE)
    assert score.pixels == 20
    assert score.aee == pytest.approx(np.hypot(2.5, 4))
    assert score.outliers == 1.0
    assert score.zero_aee == pytest.approx(0.5)
    assert score.mean_aee == pytest.approx(0.0)
    assert score.nee == pytest.approx(np.hypot(2.5, 4) / 0.51)


@pytest.mark.parametrize(
    ("predicted", "true", "outlier"),
    [
        (104.0, 100.0, False),  # 4 px, but 4 % of the truth
        (94.0, 100.0, True),  # 6 px and 6 % of the truth
        (2.9, 0.1, False),  # under 3 px
        (3.2, 0.1, True),
        (80.0, 76.1, True),  # 3.9 px: 5.1 % of the truth but 4.9 % of the prediction
        (76.1, 80.0, False),  # 3.9 px: 4.9 % of the truth but 5.1 % of the prediction
    ],
)
def test_outliers_are_relative_to_the_truth(predicted: float, true: float, outlier: bool) -> None:
    score = metrics.score_frame(constant(predicted, 0), constant(true, 0), EVERYWHERE)
    assert score.outliers == float(outlier)


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 10.0, 45.0, 80.0, 90.0, 100.0, 135.0, 180.0])
@pytest.mark.parametrize("length", [0.05, 1.0, 20.0])
def test_angular_error_is_the_angle(degrees: float, length: float) -> None:
    angle = np.radians(degrees)
    predicted = np.array([length * np.cos(angle), length * np.sin(angle)]).reshape(2, 1)
    truth = np.array([2.0, 0.0]).reshape(2, 1)
    assert metrics.angle_degrees(predicted, truth)[0] == pytest.approx(degrees, abs=1e-9)


def test_no_direction_counts_ninety_degrees() -> None:
    assert metrics.score_frame(constant(0, 0), constant(1, 1), EVERYWHERE).aae == 90.0


def test_spacetime_angle() -> None:
    score = metrics.score_frame(constant(0, 0), constant(1, 0), EVERYWHERE)
    assert score.aae_spacetime == pytest.approx(45.0)
    score = metrics.score_frame(constant(1, 0), constant(0, 1), EVERYWHERE)
    assert score.aae_spacetime == pytest.approx(60.0)


def test_weighted_angle_never_exceeds_180() -> None:
    truth, flow = constant(1, 0), constant(50, 0)
    flow[0, :, 0] = -50
    truth[:, :, 0] *= 3
    mask = EVERYWHERE.copy()
    mask[0] = False
    score = metrics.score_frame(flow, truth, mask)
    assert score.aae_weighted == pytest.approx(180 * 3 / 7)
    assert score.aae == pytest.approx(36.0)


def test_angle_of_means() -> None:
    flow = constant(1, 0)
    flow[1, ::2] = 2
    flow[1, 1::2] = -2
    assert metrics.score_frame(flow, constant(1, 0), EVERYWHERE).angle_of_means == pytest.approx(0)


def test_mask_leaves_pixels_out() -> None:
    truth = constant(1, 0)
    truth[:, 0] = 0
    truth[0, 1, 1] = np.nan
    events = EVERYWHERE.copy()
    events[:, 0] = False
    mask = metrics.scoring_mask(truth, events)
    assert mask.sum() == 3 * 4 - 1
    flow = constant(1, 0)
    flow[:, ~mask] = 1e9
    assert metrics.score_frame(flow, truth, mask).aee == 0


def test_one_zero_component_is_ground_truth() -> None:
    assert metrics.valid_ground_truth(constant(0, 2)).all()
    assert not metrics.valid_ground_truth(constant(0, 0)).any()


def test_frame_without_pixels_does_not_count() -> None:
    empty = metrics.score_frame(constant(1, 0), constant(1, 0), np.zeros((4, 5), np.bool_))
    assert np.isnan(empty.aee)
    sequence = metrics.SequenceScore()
    sequence.add(empty)
    sequence.add(metrics.score_frame(constant(1, 0), constant(2, 0), EVERYWHERE))
    assert sequence.by_frames()["aee"] == 1.0 and sequence.frames == 1


def test_two_averages_of_a_sequence() -> None:
    small = EVERYWHERE.copy()
    small[1:] = False
    sequence = metrics.SequenceScore()
    sequence.add(metrics.score_frame(constant(2, 0), constant(1, 0), EVERYWHERE))
    sequence.add(metrics.score_frame(constant(6, 0), constant(1, 0), small))
    assert sequence.by_frames()["aee"] == pytest.approx(3.0)
    assert sequence.by_pixels()["aee"] == pytest.approx((20 * 1 + 5 * 5) / 25)
    assert sequence.by_pixels()["outliers"] == pytest.approx(5 / 25)
    values = sequence.to_dict()
    assert values["frames"] == 2 and values["pixels"] == 25


def test_empty_sequence_has_no_values() -> None:
    values = metrics.SequenceScore().to_dict()
    assert values["by_pixels"]["aee"] is None and values["by_frames"]["aee"] is None  # type: ignore[index]


def test_mean_flow_yardstick() -> None:
    truth = constant(1, 0)
    truth[0, :2] = 3
    assert metrics.score_frame(truth, truth, EVERYWHERE).mean_aee == pytest.approx(1.0)


def test_flow_in_pixels() -> None:
    flow = constant(0.5, -0.25)
    scaled = metrics.flow_in_pixels(flow, 128, dt_gt=0.2, dt_input=0.05)
    assert scaled.dtype == np.float32
    assert scaled[0, 0, 0] == pytest.approx(256.0) and scaled[1, 0, 0] == pytest.approx(-128.0)
    with pytest.raises(ValueError, match="must be positive"):
        metrics.flow_in_pixels(flow, 128, 0.2, 0.0)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        metrics.score_frame(constant(1, 0), constant(1, 0, (4, 6)), EVERYWHERE)
    with pytest.raises(ValueError, match="do not fit together"):
        metrics.score_frame(constant(1, 0), constant(1, 0), EVERYWHERE.T)


# --- without ground truth -----------------------------------------------------------------------


def moving_line(speed: float, height: int = 20, width: int = 40) -> Events:
    """A vertical line that moves to the right by ``speed`` pixels during the window."""
    times = np.repeat(np.linspace(0, 1, 21), height)
    xs = np.rint(5 + speed * times).astype(np.int16)
    ys = np.tile(np.arange(height), 21).astype(np.int16)
    return Events(xs, ys, times + 3.0, np.ones(len(xs), np.int8))


def test_warping_by_the_true_flow_gathers_a_line() -> None:
    window = (moving_line(20), constant(20, 0, (20, 40)))
    pixels, inside = warp_to_end([window])
    assert inside.all() and set(pixels % 40) == {25}


def test_several_windows_meet_at_the_end_of_the_last() -> None:
    size, events = (20, 60), moving_line(20)
    later = Events((events.xs + 20).astype(np.int16), events.ys, events.ts + 1, events.ps)
    pixels, inside = warp_to_end([(events, constant(20, 0, size)), (later, constant(20, 0, size))])
    assert inside.all() and set(pixels % 60) == {45}


def test_flow_warp_loss() -> None:
    events, size = moving_line(20), (20, 40)

    def loss(x: float) -> float:
        return flow_warp_loss([(events, constant(x, 0, size))])

    assert loss(0) == pytest.approx(1.0)
    assert loss(20) > 10
    assert loss(-10) < loss(10) < loss(20)


def test_flow_warp_loss_by_hand() -> None:
    """Two events at different pixels meet: variance 4/n - (2/n)^2 over 2/n - (2/n)^2."""
    events = Events(
        np.array([1, 3], np.int16), np.array([0, 0], np.int16), np.array([0.0, 1.0]),
        np.array([1, -1], np.int8),
    )  # fmt: skip
    value = flow_warp_loss([(events, constant(2, 0, (1, 5)))])
    assert value == pytest.approx((4 / 5 - 0.16) / (2 / 5 - 0.16))


def test_events_that_leave_the_image_are_dropped() -> None:
    events = moving_line(20)
    _, inside = warp_to_end([(events, constant(100, 0, (20, 40)))])
    assert 0 < inside.sum() < len(events)


def test_rsat() -> None:
    events, size = moving_line(20), (20, 40)
    assert rsat([(events, constant(0, 0, size))]) == pytest.approx(1.0)
    assert rsat([(events, constant(20, 0, size))]) < 0.9


def test_no_events_no_value() -> None:
    nothing = (Events.empty(), constant(1, 0))
    assert np.isnan(flow_warp_loss([nothing]))
    assert np.isnan(rsat([nothing]))


def test_meter_waits_for_enough_events() -> None:
    events, flow = moving_line(20), constant(0, 0, (20, 40))
    meter = WarpMeter(2 * len(events))
    values = [meter.add(events, flow) for _ in range(5)]
    assert [value is not None for value in values] == [False, True, False, True, False]
    assert values[1] == pytest.approx(1.0)
    assert WarpMeter(1).add(Events.empty(), flow) is None

"""The event sensor: crossings, thresholds, noise, refractory time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from calib_data.encodings import event_counts
from calib_data.events import Events
from calib_data.sensor import TIME_STEP, Sensor, SensorConfig

IDEAL = SensorConfig(
    resolution=(10, 12),
    threshold_on=0.25,
    threshold_off=0.25,
    threshold_spread=0.0,
    noise_rate_hz=0.0,
    refractory_s=0.0,
    hot_pixels=0,
    hot_pixel_rate_hz=0.0,
)


def _sensor(first: NDArray[np.float32], **changes: float) -> Sensor:
    config = dataclasses.replace(IDEAL, resolution=first.shape, **changes)
    return Sensor(config, np.random.default_rng(0), first)


def _flat(value: float) -> NDArray[np.float32]:
    return np.full((1, 1), value, np.float32)


def test_crossings_of_a_ramp_have_their_own_times() -> None:
    sensor = _sensor(_flat(0.0))
    sensor.see(_flat(1.125), 1.0)
    sensor.see(_flat(0.0), 2.0)
    events = sensor.take()
    # Up: 0.25, 0.5, 0.75, 1.0 at level / 1.125 s. Down from level 1.0: 0.75, 0.5, 0.25, 0.
    up = np.array([0.25, 0.5, 0.75, 1.0]) / 1.125
    down = 1 + (1.125 - np.array([0.75, 0.5, 0.25, 0.0])) / 1.125
    np.testing.assert_array_equal(events.ps, [1] * 4 + [-1] * 4)
    np.testing.assert_allclose(events.ts, [*up, *down], atol=1.01 * TIME_STEP)


def test_steps_of_rendering_do_not_change_a_ramp() -> None:
    coarse, fine = _sensor(_flat(0.0)), _sensor(_flat(0.0))
    coarse.see(_flat(2.0), 1.0)
    for number in range(1, 65):
        fine.see(_flat(number / 32), number / 64)
    np.testing.assert_allclose(coarse.take().ts, fine.take().ts, atol=1.01 * TIME_STEP)


def test_events_add_up_to_the_change_of_log_intensity() -> None:
    rng = np.random.default_rng(4)
    first = rng.normal(0, 1, (10, 12)).astype(np.float32)
    sensor = _sensor(first, threshold_on=0.2, threshold_off=0.31, threshold_spread=0.1)
    on, off = sensor.thresholds
    now, counts = first, np.zeros((2, 10, 12))
    for step in range(1, 41):
        now = now + rng.normal(0, 0.3, now.shape).astype(np.float32)
        sensor.see(now, step / 100)
        if step % 10 == 0:
            counts += event_counts(sensor.take(), (10, 12))
    signed = on * counts[0] - off * counts[1]
    np.testing.assert_allclose(first + signed, sensor.levels, atol=1e-6)
    left = now - sensor.levels
    assert ((left < on) & (left > -off)).all()
    assert counts.sum() > 1000


def test_thresholds_spread_around_their_mean() -> None:
    first = np.zeros((100, 100), np.float32)
    on, off = _sensor(first, threshold_off=0.5, threshold_spread=0.04).thresholds
    assert on.mean() == pytest.approx(0.25, rel=0.01)
    assert off.mean() == pytest.approx(0.5, rel=0.01)
    assert on.std() == pytest.approx(0.01, rel=0.05)


def test_refractory_time_holds_over_calls() -> None:
    period, rng = 0.01, np.random.default_rng(7)
    images = np.cumsum(rng.normal(0, 0.5, (20, 10, 12)), axis=0).astype(np.float32)

    def events(refractory: float) -> Events:
        sensor = _sensor(np.zeros((10, 12), np.float32), refractory_s=refractory)
        parts = []
        for number, image in enumerate(images):
            sensor.see(image, (number + 1) * 0.004)
            parts.append(sensor.take())
        columns = ("xs", "ys", "ts", "ps")
        return Events(*(np.concatenate([getattr(p, c) for p in parts]) for c in columns))

    every, kept = events(0.0), events(period)
    expected, last = [], {}
    for number in range(len(every)):
        pixel = int(every.ys[number]), int(every.xs[number])
        if every.ts[number] - last.get(pixel, -1.0) >= period:
            last[pixel] = every.ts[number]
            expected.append(number)
    assert 0 < len(kept) < len(every)
    np.testing.assert_array_equal(kept.ts, every.ts[expected])
    np.testing.assert_array_equal(kept.ps, every.ps[expected])


def test_noise_and_hot_pixels_have_their_rates() -> None:
    first = np.zeros((50, 60), np.float32)
    sensor = _sensor(first, noise_rate_hz=2.0, hot_pixels=3, hot_pixel_rate_hz=200.0)
    parts = []
    for second in (1.0, 2.0, 3.0):
        sensor.see(first, second)
        parts.append(sensor.take())
        assert (parts[-1].ts <= second).all()
        assert (parts[-1].ts >= second - 1 - TIME_STEP).all()
    totals = sum(event_counts(part, (50, 60)).sum(0) for part in parts)
    hottest = np.sort(totals.ravel())[::-1]
    np.testing.assert_allclose(hottest[:3], 606, atol=5 * 606**0.5)
    assert hottest[3:].sum() == pytest.approx(6 * 2997, abs=5 * (6 * 2997) ** 0.5)
    brighter = sum((part.ps > 0).sum() for part in parts) / totals.sum()
    assert brighter == pytest.approx(0.5, abs=0.02)


def test_still_picture_is_silent() -> None:
    sensor = _sensor(np.zeros((10, 12), np.float32))
    sensor.see(np.zeros((10, 12), np.float32), 1.0)
    assert len(sensor.take()) == 0

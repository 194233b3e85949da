"""A contrast-threshold event sensor: log intensity in, events out.

The model of ESIM (Rebecq et al., CoRL 2018): each pixel remembers the log intensity of its last
event and fires each time the present one has moved from it by a threshold; between two renderings
the log intensity is taken as linear, which gives the crossing its own time. Thresholds vary from
pixel to pixel and differ per polarity; noise events, hot pixels and a refractory time are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib_data.events import Events

TIME_STEP = 1e-6
"""Resolution of event timestamps in seconds, as of real sensors; times are rounded down to it."""

_SMALLEST_THRESHOLD = 0.01


@dataclass(frozen=True)
class SensorConfig:
    """What a sensor is like; see SceneConfig for the meaning and units of each value."""

    resolution: tuple[int, int]
    threshold_on: float
    threshold_off: float
    threshold_spread: float
    noise_rate_hz: float
    refractory_s: float
    hot_pixels: int
    hot_pixel_rate_hz: float


@dataclass
class _Raw:
    """Events not yet in order: pixel numbers, seconds, and whether brighter."""

    pixels: NDArray[np.int64]
    times: NDArray[np.float64]
    brighter: NDArray[np.bool_]


class Sensor:
    """A sensor that has seen ``first`` (log intensity, float32 [H, W]) at second 0."""

    def __init__(
        self, config: SensorConfig, rng: np.random.Generator, first: NDArray[np.float32]
    ) -> None:
        self._config = config
        self._rng = rng
        size = first.size
        self._level = first.ravel().astype(np.float64)
        self._previous = self._level.copy()
        self._on = self._thresholds(config.threshold_on, size)
        self._off = self._thresholds(config.threshold_off, size)
        self._hot = rng.choice(size, size=min(config.hot_pixels, size), replace=False)
        self._pending: list[_Raw] = []
        self._seconds = self._taken = 0.0
        self._last_event = np.full(size, -np.inf)

    @property
    def levels(self) -> NDArray[np.float64]:
        """Log intensity at which each pixel last fired (its first one before that): [H, W]."""
        return self._level.reshape(self._config.resolution).copy()

    @property
    def thresholds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Thresholds of the pixels for brighter and for darker events, both positive: [H, W]."""
        shape = self._config.resolution
        return self._on.reshape(shape).copy(), self._off.reshape(shape).copy()

    def see(self, image: NDArray[np.float32], seconds: float) -> None:
        """Take in the log intensity [H, W] at a later time, and fire."""
        now = image.ravel().astype(np.float64)
        change = now - self._level
        for threshold, sign in ((self._on, 1.0), (self._off, -1.0)):
            pixels = np.flatnonzero(sign * change >= threshold)
            if len(pixels):
                self._fire(pixels, threshold[pixels], sign, now, seconds)
        self._previous = now
        self._seconds = seconds

    def take(self) -> Events:
        """The events since the last call, noise included, in time order.

        The refractory time holds over calls: an event that comes sooner after the pixel's previous
        one is lost.
        """
        self._add_noise()
        raw = _Raw(
            np.concatenate([part.pixels for part in self._pending]),
            np.concatenate([part.times for part in self._pending]),
            np.concatenate([part.brighter for part in self._pending]),
        )
        self._pending = []
        self._taken = self._seconds
        order = np.argsort(raw.times, kind="stable")
        times = np.floor(raw.times[order] / TIME_STEP) * TIME_STEP
        pixels, brighter = raw.pixels[order], raw.brighter[order]
        kept = self._not_refractory(pixels, times)
        pixels, times, brighter = pixels[kept], times[kept], brighter[kept]
        width = self._config.resolution[1]
        return Events(
            (pixels % width).astype(np.int16),
            (pixels // width).astype(np.int16),
            times,
            np.where(brighter, 1, -1).astype(np.int8),
        )

    def _thresholds(self, mean: float, size: int) -> NDArray[np.float64]:
        spread = self._config.threshold_spread
        return np.maximum(mean * self._rng.normal(1.0, spread, size), _SMALLEST_THRESHOLD)

    def _fire(
        self,
        pixels: NDArray[np.int64],
        threshold: NDArray[np.float64],
        sign: float,
        now: NDArray[np.float64],
        seconds: float,
    ) -> None:
        """All crossings of one polarity since the previous image."""
        level, previous, end = self._level[pixels], self._previous[pixels], now[pixels]
        count = np.floor(sign * (end - level) / threshold).astype(np.int64)
        which = np.repeat(np.arange(len(pixels)), count)
        order = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + 1
        crossed = level[which] + sign * order * threshold[which]
        share = (crossed - previous[which]) / (end - previous)[which]
        times = self._seconds + np.clip(share, 0, 1) * (seconds - self._seconds)
        self._level[pixels] = level + sign * count * threshold
        self._pending.append(_Raw(pixels[which], times, np.full(len(which), sign > 0)))

    def _add_noise(self) -> None:
        """Background noise on all pixels and bursts of the hot ones since the last call."""
        span = self._seconds - self._taken
        size = self._level.size
        noise = self._rng.integers(
            0, size, self._rng.poisson(self._config.noise_rate_hz * size * span)
        )
        bursts = self._rng.poisson(self._config.hot_pixel_rate_hz * span, len(self._hot))
        pixels = np.concatenate([noise, np.repeat(self._hot, bursts)])
        # 1 - random is in (0, 1], as the crossings are: an interval holds its end, not its start.
        times = self._taken + (1 - self._rng.random(len(pixels))) * span
        self._pending.append(_Raw(pixels, times, self._rng.random(len(pixels)) < 0.5))

    def _not_refractory(
        self, pixels: NDArray[np.int64], times: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which events, in time order, come at least the refractory time after the last kept."""
        kept = np.ones(len(pixels), np.bool_)
        by_pixel = np.argsort(pixels, kind="stable")
        rank = _rank(pixels[by_pixel])
        # Each round takes the next event of every pixel that still has one.
        by_round = by_pixel[np.argsort(rank, kind="stable")]
        for now in np.split(by_round, np.cumsum(np.bincount(rank))[:-1]):
            fine = times[now] - self._last_event[pixels[now]] >= self._config.refractory_s
            kept[now] = fine
            self._last_event[pixels[now[fine]]] = times[now[fine]]
        return kept


def _rank(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """For sorted values, how many equal ones come before each."""
    number = np.arange(len(ordered))
    starts = np.ones(len(ordered), np.bool_)
    starts[1:] = ordered[1:] != ordered[:-1]
    return number - np.maximum.accumulate(np.where(starts, number, 0))

"""Procedural textures: periodic maps of log intensity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError

Map = NDArray[np.float64]
Maker = Callable[[np.random.Generator, int], Map]


def make_texture(
    rng: np.random.Generator, kind: str, size: int, contrast: float, brightness: float
) -> NDArray[np.float32]:
    """A periodic texture of log intensity: float32 [size, size], one texel per pixel at zoom 1.

    kind: one of TEXTURES. size: a power of two. contrast: spread of the log intensity between its
    2 % and 98 % quantiles. brightness: its mean. Raises DataError for an unknown kind.
    """
    if kind not in TEXTURES:
        raise DataError(f"unknown texture '{kind}'; choose from {', '.join(TEXTURES)}")
    pattern = TEXTURES[kind](rng, size)
    low, high = np.quantile(pattern, (0.02, 0.98))
    # Two-valued patterns may have most of their area on one value and thus no spread in between.
    spread = high - low if high > low else np.ptp(pattern)
    scaled = (pattern - pattern.mean()) / spread
    texture: Map = brightness + contrast * np.clip(scaled, -1.0, 1.0)
    return texture.astype(np.float32)


def _noise(rng: np.random.Generator, size: int) -> Map:
    """Multi-scale noise: amplitude falls as 1 / frequency^beta, beta drawn from 0.8 to 1.6."""
    frequency = _frequencies(size)
    # The second factor ends it before the finest texels, which rendering would alias.
    gain = frequency ** -rng.uniform(0.8, 1.6) * np.exp(-((frequency / 0.35) ** 4))
    return _shaped(rng, gain, size)


def _blobs(rng: np.random.Generator, size: int) -> Map:
    """Smooth-edged spots of one scale."""
    field = _band(rng, size, rng.uniform(size / 48, size / 10))
    return _square(field - rng.uniform(-0.5, 0.8), rng.uniform(2.0, 6.0))


def _stripes(rng: np.random.Generator, size: int) -> Map:
    """Stripes of one direction and width, soft to hard edges."""
    return _square(_wave(rng, size), rng.uniform(0.5, 3.0))


def _checkers(rng: np.random.Generator, size: int) -> Map:
    """Two sets of stripes at right angles, multiplied."""
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    a, b = _wave_vector(rng, size)
    hardness = rng.uniform(1.0, 3.0)
    first = np.sin(2 * np.pi * (a * x + b * y) / size)
    second = np.sin(2 * np.pi * (-b * x + a * y) / size)
    return _square(first, hardness) * _square(second, hardness)


def _mixed(rng: np.random.Generator, size: int) -> Map:
    """A pattern over multi-scale noise."""
    makers = (_blobs, _stripes, _checkers)
    pattern = makers[rng.integers(len(makers))](rng, size)
    mixed: Map = pattern / pattern.std() + rng.uniform(0.3, 1.5) * _noise(rng, size)
    return mixed


def _band(rng: np.random.Generator, size: int, cycles: float) -> Map:
    """Noise of about ``cycles`` cycles across the texture."""
    frequency = _frequencies(size) * size
    return _shaped(rng, np.exp(-(((frequency - cycles) / (0.4 * cycles)) ** 2)), size)


def _shaped(rng: np.random.Generator, gain: Map, size: int) -> Map:
    """White noise with its spectrum multiplied by ``gain``; mean 0, unit variance."""
    gain = gain.copy()
    gain[0, 0] = 0.0
    field: Map = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((size, size))) * gain, s=(size, size)
    )
    return field / float(field.std())


def _frequencies(size: int) -> Map:
    """Cycles per texel of each entry of a real 2-D spectrum; the mean's entry is set to 1."""
    frequencies: Map = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequencies[0, 0] = 1.0
    return frequencies


def _wave_vector(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Whole cycles across the texture in x and y (whole, so that it stays periodic)."""
    cycles = size / rng.uniform(8.0, 40.0)
    angle = rng.uniform(0, 2 * np.pi)
    vector = round(cycles * np.cos(angle)), round(cycles * np.sin(angle))
    return vector if vector != (0, 0) else (1, 0)


def _wave(rng: np.random.Generator, size: int) -> Map:
    a, b = _wave_vector(rng, size)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    wave: Map = np.sin(2 * np.pi * (a * x + b * y) / size)
    return wave


def _square(wave: Map, hardness: float) -> Map:
    """A sine wave pressed toward a square wave."""
    pressed: Map = np.tanh(hardness * wave)
    return pressed


TEXTURES: dict[str, Maker] = {
    "noise": _noise,
    "blobs": _blobs,
    "stripes": _stripes,
    "checkers": _checkers,
    "mixed": _mixed,
}

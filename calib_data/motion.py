"""Motions in closed form: smooth paths in the plane, and the similarity transforms built on them.

A point of the plane is one complex number, x + iy (x right, y down, in pixels), so a similarity
transform (rotation, zoom, translation) is z = a*u + b with complex a and b, and composition,
inversion and displacement are one line each.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class SmoothPath:
    """A smooth path: offset + drift*t + sum of amplitude*sin(2*pi*frequency*t + phase).

    offset, amplitudes: pixels (or radians, or log zoom) as complex numbers. drift: the same per
    second. frequencies: Hz. phases: radians.
    """

    offset: complex = 0j
    drift: complex = 0j
    amplitudes: tuple[complex, ...] = ()
    frequencies: tuple[float, ...] = ()
    phases: tuple[float, ...] = ()

    def at(self, seconds: float) -> complex:
        """The path's value at a time."""
        waves = zip(self.amplitudes, self.frequencies, self.phases, strict=True)
        return (
            self.offset
            + self.drift * seconds
            + sum(a * math.sin(2 * math.pi * f * seconds + p) for a, f, p in waves)
        )


@dataclass(frozen=True)
class Similarity:
    """The map z = scale*u + shift of the plane; ``scale`` holds zoom and rotation."""

    scale: complex
    shift: complex

    def of(self, point: complex) -> complex:
        """Where a point goes."""
        return self.scale * point + self.shift

    def inverse(self) -> Similarity:
        """The map back."""
        return Similarity(1 / self.scale, -self.shift / self.scale)

    def after(self, first: Similarity) -> Similarity:
        """This map applied after another."""
        return Similarity(self.scale * first.scale, self.scale * first.shift + self.shift)


class Motion(Protocol):
    """Where a surface is over time: surface coordinates to image coordinates."""

    def at(self, seconds: float) -> Similarity: ...


@dataclass(frozen=True)
class CameraMotion:
    """Pan, rotation and zoom about a centre.

    pan: path in pixels that the image content takes. turn: real part is the log of the zoom,
    imaginary part the rotation in radians (positive is clockwise, y being down).
    """

    centre: complex
    pan: SmoothPath = SmoothPath()
    turn: SmoothPath = SmoothPath()

    def at(self, seconds: float) -> Similarity:
        """World to image, the world being centred at 0."""
        return Similarity(cmath.exp(self.turn.at(seconds)), self.centre + self.pan.at(seconds))


@dataclass(frozen=True)
class ObjectMotion:
    """A body that moves by itself under the camera.

    position: path of the body's centre in the world, pixels. turn: its own zoom and rotation, as
    in CameraMotion. camera: what moves everything (an object nearer than the background has one
    with a larger pan: parallax).
    """

    camera: CameraMotion
    position: SmoothPath
    turn: SmoothPath = SmoothPath()

    def at(self, seconds: float) -> Similarity:
        """Body coordinates (centre 0) to image."""
        own = Similarity(cmath.exp(self.turn.at(seconds)), self.position.at(seconds))
        return self.camera.at(seconds).after(own)


def displacement(motion: Motion, start: float, end: float) -> Similarity:
    """The map from where a surface point is at ``end`` to how far it came since ``start``.

    In closed form: u = (z - b1)/a1 is the surface point seen at z at the end, a0*u + b0 is where it
    was at the start, so the flow is z - a0*u - b0, again a similarity of z.
    """
    back = motion.at(start).after(motion.at(end).inverse())
    return Similarity(1 - back.scale, -back.shift)


def wander(
    rng: np.random.Generator, peak_speed: float, *, largest: float, complex_path: bool
) -> SmoothPath:
    """A random path of two slow waves whose speed never exceeds ``peak_speed`` per second.

    largest: bound of the excursion from the middle; slower speeds than asked for keep it.
    complex_path: waves in two dimensions, else real ones only.
    """
    frequencies = rng.uniform(0.15, 0.9, 2)
    shares = rng.dirichlet((2.0, 1.0))
    angles = rng.uniform(0, 2 * np.pi, 2) if complex_path else np.zeros(2)
    amplitudes = np.minimum(peak_speed * shares / (2 * np.pi * frequencies), largest / 2)
    return SmoothPath(
        amplitudes=tuple(complex(a) for a in amplitudes * np.exp(1j * angles)),
        frequencies=tuple(float(f) for f in frequencies),
        phases=tuple(float(p) for p in rng.uniform(0, 2 * np.pi, 2)),
    )

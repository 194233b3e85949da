"""Scenes of textured planes: rendering at any time, and exact flow between two times.

A scene is a stack of layers, the first covering the whole image, later ones covering part of it
and hiding what is below. Every layer moves by a similarity transform known in closed form, so flow
needs no estimation: it is the layer's own displacement, at the pixels where the layer is on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from calib_data.motion import Motion, Similarity, displacement

ZERO_FLOW_NUDGE = np.float32(1e-6)
"""Pixels of x displacement written where the flow is exactly (0, 0), which readers of the format
take for "no ground truth". Far below what a float32 flow or any metric resolves."""

_SPEED_SAMPLES = 4


@dataclass(frozen=True)
class Shape:
    """A filled shape in body coordinates (pixels, centre 0).

    A disc of ``radius``, or, where ``normals`` (complex, of length 1, pointing out) and ``offsets``
    (pixels) are given, the convex polygon of the points with normal . u <= offset for every side;
    ``radius`` then bounds it.
    """

    radius: float
    normals: tuple[complex, ...] = ()
    offsets: tuple[float, ...] = ()

    def distance(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
        """Signed distance to the edge, negative inside (for polygons, of the nearest side)."""
        if not self.normals:
            return np.sqrt(x * x + y * y) - np.float32(self.radius)
        sides = zip(self.normals, self.offsets, strict=True)
        best = np.full(np.broadcast_shapes(x.shape, y.shape), -np.inf, np.float32)
        for normal, offset in sides:
            side = np.float32(normal.real) * x + np.float32(normal.imag) * y - np.float32(offset)
            np.maximum(best, side, out=best)
        return best


@dataclass(frozen=True)
class Layer:
    """A textured surface: its motion, its log intensity (periodic), and its outline, if any."""

    motion: Motion
    texture: NDArray[np.float32]
    shape: Shape | None = None


@dataclass(frozen=True)
class _Box:
    """Rows top..bottom-1 and columns left..right-1 of the image."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def empty(self) -> bool:
        return self.top >= self.bottom or self.left >= self.right


class Scene:
    """Layers from back to front, seen by a sensor of ``resolution`` (H, W)."""

    def __init__(self, layers: list[Layer], resolution: tuple[int, int]) -> None:
        self.layers = layers
        self.resolution = resolution

    def render(self, seconds: float) -> NDArray[np.float32]:
        """Log intensity at a time: float32 [H, W]. Edges are one pixel soft (area coverage)."""
        image = np.empty(self.resolution, np.float32)
        for layer in self.layers:
            pose = layer.motion.at(seconds)
            box = self._box(layer, pose)
            if box.empty:
                continue
            if layer.shape is None:
                x, y = _surface(pose, box, period=layer.texture.shape[0])
                image[box.area] = _sample(layer.texture, x, y)
            else:
                x, y = _surface(pose, box)
                value = _sample(layer.texture, x, y)
                cover = _coverage(layer.shape, pose, x, y)
                below = image[box.area]
                below += cover * (value - below)
        return image

    def visible(self, seconds: float) -> NDArray[np.intp]:
        """Number of the layer on top at each pixel: [H, W] (the one that covers at least half)."""
        top = np.zeros(self.resolution, np.intp)
        for number, layer in enumerate(self.layers):
            pose = layer.motion.at(seconds)
            box = self._box(layer, pose)
            if layer.shape is None or box.empty:
                continue
            cover = _coverage(layer.shape, pose, *_surface(pose, box))
            top[box.area][cover >= 0.5] = number
        return top

    def flow(self, start: float, end: float) -> NDArray[np.float32]:
        """How far the surface point seen at each pixel at ``end`` has come since ``start``.

        float32 [2, H, W], pixels, x right and y down. Every pixel is valid: an exact (0, 0), which
        would mean "no ground truth", becomes (ZERO_FLOW_NUDGE, 0).
        """
        top = self.visible(end)
        maps = [displacement(layer.motion, start, end) for layer in self.layers]
        scale = np.array([m.scale for m in maps])[top]
        shift = np.array([m.shift for m in maps])[top]
        height, width = self.resolution
        z = np.arange(width)[None, :] + 1j * np.arange(height)[:, None]
        moved = scale * z + shift
        flow = np.stack([moved.real, moved.imag]).astype(np.float32)
        flow[0][(flow == 0).all(axis=0)] = ZERO_FLOW_NUDGE
        return flow

    def path_length(self, start: float, end: float) -> float:
        """About how far, in pixels, the fastest visible point moves between two times."""
        times = np.linspace(start, end, _SPEED_SAMPLES + 1)
        steps = [
            max(self._farthest(layer, float(t0), float(t1)) for layer in self.layers)
            for t0, t1 in pairwise(times)
        ]
        # The largest step counts throughout, so that no part of the interval is taken too coarsely.
        return _SPEED_SAMPLES * max(steps)

    def _farthest(self, layer: Layer, start: float, end: float) -> float:
        """Largest displacement of a visible point of a layer.

        Displacement is a similarity of the image point, so its length is convex and largest at a
        corner of the box that holds the visible part.
        """
        box = self._box(layer, layer.motion.at(end))
        if box.empty:
            return 0.0
        move = displacement(layer.motion, start, end)
        corners = (
            complex(x, y) for x in (box.left, box.right - 1) for y in (box.top, box.bottom - 1)
        )
        return max(abs(move.of(corner)) for corner in corners)

    def _box(self, layer: Layer, pose: Similarity) -> _Box:
        """The part of the image that a layer can touch."""
        height, width = self.resolution
        if layer.shape is None:
            return _Box(0, height, 0, width)
        reach = layer.shape.radius * abs(pose.scale) + 1
        x, y = pose.shift.real, pose.shift.imag
        return _Box(
            max(math.floor(y - reach), 0),
            min(math.ceil(y + reach) + 1, height),
            max(math.floor(x - reach), 0),
            min(math.ceil(x + reach) + 1, width),
        )


def _surface(
    pose: Similarity, box: _Box, period: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Surface coordinates of the pixels in a box: x and y, float32, full 2-D arrays.

    period: where the surface repeats; a long pan then costs no float32 precision.
    """
    back = pose.inverse()
    corner = back.of(complex(box.left, box.top))
    if period is not None:
        corner = complex(corner.real % period, corner.imag % period)
    right = back.scale * np.arange(box.right - box.left)
    down = back.scale * 1j * np.arange(box.bottom - box.top) + corner
    x = down.real.astype(np.float32)[:, None] + right.real.astype(np.float32)[None, :]
    y = down.imag.astype(np.float32)[:, None] + right.imag.astype(np.float32)[None, :]
    return x, y


def _coverage(
    shape: Shape, pose: Similarity, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Share of each pixel that a shape covers, from the distance of its edge: 0..1."""
    zoom = np.float32(abs(pose.scale))
    cover: NDArray[np.float32] = np.float32(0.5) - zoom * shape.distance(x, y)
    return cover.clip(0, 1)


def _sample(
    texture: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Bilinear values of a periodic texture whose side is a power of two."""
    size = texture.shape[0]
    left, top = np.floor(x), np.floor(y)
    right_share, down_share = x - left, y - top
    column, row = left.astype(np.int32) & (size - 1), top.astype(np.int32) & (size - 1)
    next_column, next_row = (column + 1) & (size - 1), (row + 1) & (size - 1)
    flat = texture.ravel()
    row *= size
    next_row *= size
    upper: NDArray[np.float32] = flat.take(row + column)
    upper += right_share * (flat.take(row + next_column) - upper)
    lower: NDArray[np.float32] = flat.take(next_row + column)
    lower += right_share * (flat.take(next_row + next_column) - lower)
    upper += down_share * (lower - upper)
    return upper

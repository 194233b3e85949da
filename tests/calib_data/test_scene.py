"""Exactness of the scenes: closed-form flow against known motions and against the pictures."""

from __future__ import annotations

import cmath
import dataclasses
import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.motion import CameraMotion, ObjectMotion, Similarity, SmoothPath, displacement
from calib_data.scene import ZERO_FLOW_NUDGE, Layer, Scene, Shape
from calib_data.synthetic import SceneConfig, build_scene
from calib_data.textures import TEXTURES, make_texture

RESOLUTION = (48, 64)
CENTRE = complex(31.5, 23.5)


def _smooth_texture(size: int = 64) -> NDArray[np.float32]:
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    turn = 2 * np.pi / size
    return (np.sin(2 * turn * x) + np.cos(turn * (x + 2 * y))).astype(np.float32)


def _scene(motion: CameraMotion) -> Scene:
    return Scene([Layer(motion, _smooth_texture())], RESOLUTION)


def _grid() -> NDArray[np.complex128]:
    x, y = np.meshgrid(np.arange(RESOLUTION[1]), np.arange(RESOLUTION[0]))
    return x + 1j * y


def _assert_flow(scene: Scene, start: float, end: float, expected: NDArray[np.complex128]) -> None:
    flow = scene.flow(start, end)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow[0], expected.real, atol=2e-5)
    np.testing.assert_allclose(flow[1], expected.imag, atol=2e-5)


def test_flow_of_a_pan() -> None:
    scene = _scene(CameraMotion(CENTRE, SmoothPath(drift=30 - 12j)))
    _assert_flow(scene, 0.5, 0.6, np.full(RESOLUTION, 3 - 1.2j))


def test_flow_of_a_rotation() -> None:
    # A positive angle turns x (right) toward y (down): clockwise on the screen.
    scene = _scene(CameraMotion(CENTRE, turn=SmoothPath(drift=0.8j)))
    around = _grid() - CENTRE
    _assert_flow(scene, 1.0, 1.1, around - around * cmath.exp(-0.08j))
    right_of_centre = scene.flow(1.0, 1.1)[:, 23, 60]
    assert right_of_centre[1] > 2.0 > abs(right_of_centre[0])


def test_flow_of_a_zoom() -> None:
    scene = _scene(CameraMotion(CENTRE, turn=SmoothPath(drift=1.0)))
    _assert_flow(scene, 0.0, 0.1, (_grid() - CENTRE) * (1 - math.exp(-0.1)))


def test_flow_of_a_swing() -> None:
    pan = SmoothPath(amplitudes=(5j, 2 + 0j), frequencies=(0.5, 1.0), phases=(0.0, 1.0))
    scene = _scene(CameraMotion(CENTRE, pan))
    moved = 5j * math.sin(math.pi * 0.3) + 2 * (math.sin(2 * math.pi * 0.3 + 1) - math.sin(1.0))
    _assert_flow(scene, 0.0, 0.3, np.full(RESOLUTION, moved))


def test_still_pixels_are_not_taken_for_missing_ground_truth() -> None:
    flow = _scene(CameraMotion(CENTRE)).flow(0.0, 1.0)
    assert (flow[0] == ZERO_FLOW_NUDGE).all()
    assert not flow[1].any()
    assert 0 < ZERO_FLOW_NUDGE < 1e-4


def test_displacement_follows_a_point() -> None:
    motion = ObjectMotion(
        CameraMotion(CENTRE, SmoothPath(drift=20j), SmoothPath(drift=0.3 + 0.5j)),
        SmoothPath(offset=3 + 4j, drift=-15),
        SmoothPath(drift=-1j),
    )
    point = 2.5 - 1.5j
    start, end = motion.at(0.2).of(point), motion.at(0.7).of(point)
    assert displacement(motion, 0.2, 0.7).of(end) == pytest.approx(end - start)
    pose = Similarity(2j, 3 + 0j)
    assert pose.inverse().of(pose.of(point)) == pytest.approx(point)


def test_render_of_a_pan_is_the_moved_texture() -> None:
    texture = _smooth_texture()
    scene = Scene([Layer(CameraMotion(0j, SmoothPath(drift=3 + 5j)), texture)], RESOLUTION)
    expected = np.roll(texture, (500, 300), (0, 1))[: RESOLUTION[0], : RESOLUTION[1]]
    np.testing.assert_allclose(scene.render(100.0), expected, atol=1e-5)


def _warp(image: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float64]:
    """The start image seen at the end: bilinear values at pixel - flow, NaN outside."""
    height, width = image.shape
    y, x = np.mgrid[:height, :width].astype(float)
    x, y = x - flow[0], y - flow[1]
    outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
    x, y = np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001)
    left, top = x.astype(int), y.astype(int)
    a, b = x - left, y - top
    upper = image[top, left] * (1 - a) + image[top, left + 1] * a
    lower = image[top + 1, left] * (1 - a) + image[top + 1, left + 1] * a
    return np.where(outside, np.nan, upper * (1 - b) + lower * b)


@pytest.mark.parametrize(
    "turn", [0j, 0.6j, 0.5 + 0j, -0.4 + 0.9j], ids=["pan", "rotation", "zoom", "all"]
)
def test_start_image_warped_is_the_end_image(turn: complex) -> None:
    scene = _scene(CameraMotion(CENTRE, SmoothPath(drift=21 - 13j), SmoothPath(drift=turn)))
    start, end = scene.render(0.3), scene.render(0.45)
    error = np.abs(_warp(start, scene.flow(0.3, 0.45)) - end)
    assert np.nanmax(error) < 0.02
    assert np.nanmax(np.abs(start - end)) > 0.5


def _inside(labels: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Pixels whose neighbours within two pixels, diagonal ones too, show the same layer."""
    same = np.ones(labels.shape, bool)
    for shift in itertools.product(range(-2, 3), repeat=2):
        same &= np.roll(labels, shift, (0, 1)) == labels
    return same


@pytest.mark.parametrize("seed", range(6))
def test_warping_whole_scenes(seed: int) -> None:
    # Bodies hide each other; away from their edges, the flow explains all of the change. The
    # textures are smooth so that interpolation in the comparison costs next to nothing.
    drawn = build_scene(SceneConfig(seed=seed, resolution=(96, 96), num_objects=6))
    texture = _smooth_texture()
    layers = [
        dataclasses.replace(layer, texture=np.roll(texture, 9 * number, 1))
        for number, layer in enumerate(drawn.layers)
    ]
    scene = Scene(layers, (96, 96))
    start, end = scene.render(0.5), scene.render(0.6)
    flow = scene.flow(0.5, 0.6)
    before, after = scene.visible(0.5), scene.visible(0.6)
    stays = _warp(np.where(_inside(before), before, -100).astype(np.float32), flow)
    fair = _inside(after) & (np.abs(stays - after) < 1e-3)
    assert fair.mean() > 0.4
    assert len(np.unique(after[fair])) > 3
    assert np.abs(_warp(start, flow) - end)[fair].max() < 0.025
    assert np.abs(start - end)[fair].max() > 0.3


def test_nearer_layers_hide_farther_ones() -> None:
    camera = CameraMotion(CENTRE)
    flat = np.zeros((64, 64), np.float32)
    left = ObjectMotion(camera, SmoothPath(offset=-4, drift=10))
    right = ObjectMotion(camera, SmoothPath(offset=4, drift=-20j))
    layers = [
        Layer(camera, flat),
        Layer(left, flat + 1, Shape(8.0)),
        Layer(right, flat + 2, Shape(8.0)),
    ]
    scene = Scene(layers, RESOLUTION)
    image, top, flow = scene.render(0.0), scene.visible(0.0), scene.flow(-0.1, 0.0)
    for pixel, number, moved in (
        ((23, 31), 2, (0, -2)),
        ((23, 22), 1, (1, 0)),
        ((2, 2), 0, (0, 0)),
    ):
        assert image[pixel] == number
        assert top[pixel] == number
        np.testing.assert_allclose(flow[:, pixel[0], pixel[1]], moved, atol=1e-5)


def test_a_body_owns_the_pixels_it_covers_by_half() -> None:
    camera = CameraMotion(CENTRE)
    flat = np.zeros((64, 64), np.float32)
    body = Layer(ObjectMotion(camera, SmoothPath(offset=0.3 + 0.2j)), flat + 1, Shape(9.4))
    scene = Scene([Layer(camera, flat), body], RESOLUTION)
    inside = np.abs(_grid() - CENTRE - (0.3 + 0.2j)) <= 9.4
    np.testing.assert_array_equal(scene.visible(0.0) == 1, inside)
    np.testing.assert_array_equal(scene.render(0.0) >= 0.5, inside)


def test_shapes() -> None:
    x, y = np.meshgrid(np.arange(-10, 11, dtype=np.float32), np.arange(-10, 11, dtype=np.float32))
    disc = Shape(5.0).distance(x, y)
    np.testing.assert_allclose(disc, np.hypot(x, y) - 5, atol=1e-6)
    box = Shape(6.0, (1, 1j, -1, -1j), (4.0, 3.0, 4.0, 3.0)).distance(x, y)
    np.testing.assert_array_equal(box <= 0, (abs(x) <= 4) & (abs(y) <= 3))
    assert box[10, 10] == -3


def test_bodies_lie_within_their_radius() -> None:
    for seed in range(30):
        for layer in build_scene(SceneConfig(seed=seed, num_objects=5)).layers[1:]:
            assert layer.shape is not None
            angles = np.linspace(0, 2 * np.pi, 200)
            around = 1.001 * layer.shape.radius * np.exp(1j * angles)
            x, y = around.real.astype(np.float32), around.imag.astype(np.float32)
            assert (layer.shape.distance(x[None], y[None]) > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_path_length_bounds_what_moves(seed: int) -> None:
    scene = build_scene(SceneConfig.random(seed, (64, 64)))
    farthest = np.hypot(*scene.flow(0.4, 0.4 + 1 / 30)).max()
    length = scene.path_length(0.4, 0.4 + 1 / 30)
    assert 0.9 * farthest <= length


@pytest.mark.parametrize("kind", sorted(TEXTURES))
def test_textures(kind: str) -> None:
    texture = make_texture(np.random.default_rng(3), kind, 128, 1.5, -1.0)
    assert texture.shape == (128, 128)
    assert texture.dtype == np.float32
    assert 0.7 < np.ptp(np.quantile(texture, (0.02, 0.98))) <= 1.51
    assert abs(texture.mean() + 1) < 0.2
    # Periodic: the step over the border is no larger than steps inside.
    for axis in (0, 1):
        inside = np.abs(np.diff(texture, axis=axis)).max()
        over = np.abs(texture.take(0, axis) - texture.take(-1, axis)).max()
        assert over <= 1.2 * inside
    again = make_texture(np.random.default_rng(3), kind, 128, 1.5, -1.0)
    np.testing.assert_array_equal(texture, again)


def test_unknown_texture() -> None:
    with pytest.raises(DataError, match="unknown texture 'marble'"):
        make_texture(np.random.default_rng(0), "marble", 64, 1.0, 0.0)

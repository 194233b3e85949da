"""Synthetic recordings with exact flow: ``python -m calib_data.synthetic --help``.

Textured planes under a moving camera, with objects that move by themselves and hide each other,
seen by a contrast-threshold event sensor; written in the layout of ``calib_data.hdf5``. The flow is
the closed form of the motion, not an estimate. One seed gives one recording, the same on every run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.console import progress as progress_bar
from calib_data.console import run
from calib_data.errors import DataError
from calib_data.hdf5 import EventFile, EventFileWriter
from calib_data.motion import CameraMotion, ObjectMotion, SmoothPath, wander
from calib_data.scene import Layer, Scene, Shape
from calib_data.sensor import Sensor, SensorConfig
from calib_data.textures import TEXTURES, make_texture

MAPS_PER_DT4 = 4
_SMALLEST_TEXTURE, _LARGEST_TEXTURE = 128, 1024
_LARGEST_LOG_ZOOM = 0.4
_EVENTS_PER_PIXEL_OF_MOTION = 0.014
"""Measured over random scenes: events per pixel for each pixel that the fastest points move, at a
contrast equal to the threshold."""


@dataclass(frozen=True)
class SceneConfig:
    """Everything a synthetic recording is made from.

    seed: of every random choice. resolution: (H, W). duration: seconds. rate: dt1 flow maps and
    images per second. num_objects: bodies in front of the background. max_speed_px_s: about the
    speed of the fastest points, pixels per second; ``pan``, ``rotation``, ``zoom`` and
    ``object_motion`` are the shares of it that the camera's pan, its rotation and zoom (at the
    image's corner) and the bodies' own motion may take. contrast: spread of log intensity within a
    texture. textures: kinds to draw from. contrast_threshold: change of log intensity per event;
    off_ratio: that of darker events relative to it; threshold_spread: its relative deviation from
    pixel to pixel. noise_rate_hz: noise events per pixel and second. refractory_s: dead time of a
    pixel. hot_pixels, hot_pixel_rate_hz: how many pixels fire by themselves, and how often.
    max_step_px: farthest any point moves between two renderings. start_time: the absolute clock at
    the start, seconds (t0 of the file).
    """

    seed: int = 0
    resolution: tuple[int, int] = (128, 128)
    duration: float = 2.0
    rate: float = 30.0
    num_objects: int = 4
    max_speed_px_s: float = 90.0
    pan: float = 0.6
    rotation: float = 0.2
    zoom: float = 0.2
    object_motion: float = 0.6
    contrast: float = 1.2
    textures: tuple[str, ...] = tuple(TEXTURES)
    contrast_threshold: float = 0.25
    off_ratio: float = 1.0
    threshold_spread: float = 0.03
    noise_rate_hz: float = 0.1
    refractory_s: float = 1e-3
    hot_pixels: int = 4
    hot_pixel_rate_hz: float = 100.0
    max_step_px: float = 0.7
    start_time: float = 100.0

    def __post_init__(self) -> None:
        """Raise DataError for a value that makes no scene."""
        at_least_zero = (
            "seed", "num_objects", "max_speed_px_s", "pan", "rotation", "zoom", "object_motion",
            "contrast", "threshold_spread", "noise_rate_hz", "refractory_s", "hot_pixels",
            "hot_pixel_rate_hz",
        )  # fmt: skip
        above_zero = ("duration", "rate", "contrast_threshold", "off_ratio", "max_step_px")
        for name in (*at_least_zero, *above_zero, "start_time"):
            if not math.isfinite(getattr(self, name)):
                raise DataError(f"{name} must be a finite number, got {getattr(self, name)}")
        for name in at_least_zero:
            if getattr(self, name) < 0:
                raise DataError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in above_zero:
            if getattr(self, name) <= 0:
                raise DataError(f"{name} must be above 0, got {getattr(self, name)}")
        if min(self.resolution) < 8 or max(self.resolution) > np.iinfo(np.int16).max:
            raise DataError(f"resolution must be at least 8 x 8 pixels, got {self.resolution}")
        if self.duration * self.rate < 1:
            raise DataError(
                f"duration {self.duration} s holds no flow interval of {1 / self.rate:.4g} s; "
                "make it longer or raise the rate"
            )
        unknown = [kind for kind in self.textures if kind not in TEXTURES]
        if unknown or not self.textures:
            raise DataError(f"textures must be some of {', '.join(TEXTURES)}, got {self.textures}")

    @staticmethod
    def random(
        seed: int, resolution: tuple[int, int] = (128, 128), duration: float = 2.0
    ) -> SceneConfig:
        """A configuration drawn for training sets: motion, bodies, textures, sensor and noise vary.

        The fastest points move 0.5 to 9 pixels per dt1 interval (log-uniformly over scenes; most
        pixels a third of that). Contrast is chosen against speed and threshold so that, over
        scenes, about 0.03 to 0.4 events fall on a pixel per interval.
        """
        if seed < 0:
            raise DataError(f"seed must not be negative, got {seed}")
        rng = np.random.default_rng([seed, 0x5EED])
        step = _log_uniform(rng, 0.5, 9.0)
        density = _log_uniform(rng, 0.04, 0.4)
        threshold = _log_uniform(rng, 0.15, 0.4)
        shares = rng.dirichlet((1.5, 0.7, 0.7))
        kinds = rng.permutation(list(TEXTURES))[: rng.integers(2, len(TEXTURES) + 1)]
        return SceneConfig(
            seed=seed,
            resolution=resolution,
            duration=duration,
            num_objects=int(rng.integers(0, 8)),
            max_speed_px_s=SceneConfig.rate * step,
            pan=float(shares[0]),
            rotation=float(shares[1]),
            zoom=float(shares[2]),
            object_motion=float(rng.uniform(0.2, 1.0)),
            contrast=float(
                np.clip(density * threshold / (_EVENTS_PER_PIXEL_OF_MOTION * step), 0.5, 2.4)
            ),
            textures=tuple(str(kind) for kind in kinds),
            contrast_threshold=threshold,
            off_ratio=float(rng.uniform(0.8, 1.25)),
            threshold_spread=float(rng.uniform(0.0, 0.08)),
            noise_rate_hz=_log_uniform(rng, 0.02, 1.0),
            refractory_s=_log_uniform(rng, 1e-4, 3e-3),
            hot_pixels=int(rng.integers(0, 9)),
            hot_pixel_rate_hz=float(rng.uniform(30.0, 300.0)),
        )

    def sensor(self) -> SensorConfig:
        """The sensor's part of the configuration."""
        return SensorConfig(
            resolution=self.resolution,
            threshold_on=self.contrast_threshold,
            threshold_off=self.contrast_threshold * self.off_ratio,
            threshold_spread=self.threshold_spread,
            noise_rate_hz=self.noise_rate_hz,
            refractory_s=self.refractory_s,
            hot_pixels=self.hot_pixels,
            hot_pixel_rate_hz=self.hot_pixel_rate_hz,
        )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def build_scene(config: SceneConfig) -> Scene:
    """The scene of a configuration: background and bodies with their textures and motions."""
    rng = np.random.default_rng([config.seed, 1])
    camera = _camera(config, rng)
    # Stripes alone do not show motion along them; as a background they would leave most of the
    # picture without an answer.
    kinds = tuple(kind for kind in config.textures if kind != "stripes") or config.textures
    layers = [Layer(camera, _texture(config, rng, kinds))]
    layers += [_body(config, rng, camera) for _ in range(config.num_objects)]
    return Scene(layers, config.resolution)


def write_scene(
    config: SceneConfig, path: str | os.PathLike[str], *, progress: bool = False
) -> Path:
    """Render, simulate and write a recording; returns its path.

    Flow maps stand at every interval's end and at second 0 (there with the displacement of the
    interval that ends at 0), so the first window of a gtflow mode starts at 0. Images stand at the
    dt1 stamps. The datasets are the same bytes for the same configuration.
    """
    scene = build_scene(config)
    sensor = Sensor(config.sensor(), np.random.default_rng([config.seed, 2]), scene.render(0.0))
    attributes = {"generator": "calib_data.synthetic", "config": _json(_plain(config))}
    stamps = [number / config.rate for number in range(_num_intervals(config) + 1)]
    with EventFileWriter(
        path, config.resolution, t0=config.start_time, attributes=attributes
    ) as writer:
        _write_maps(writer, scene, config, 0)
        intervals = range(1, len(stamps))
        for number in progress_bar(intervals, "simulating", len(intervals), quiet=not progress):
            _simulate(sensor, scene, config, stamps[number - 1], stamps[number])
            writer.append(sensor.take())
            _write_maps(writer, scene, config, number)
        # What is left after the last whole interval has events but no map.
        if config.duration > stamps[-1]:
            _simulate(sensor, scene, config, stamps[-1], config.duration)
            writer.append(sensor.take())
        writer.close(config.duration)
    return Path(path)


def _num_intervals(config: SceneConfig) -> int:
    """Whole dt1 intervals in the recording (with slack for products such as 0.1 * 30)."""
    return math.floor(config.duration * config.rate + 1e-9)


def _simulate(sensor: Sensor, scene: Scene, config: SceneConfig, start: float, end: float) -> None:
    """Show the sensor an interval in steps so short that nothing moves beyond max_step_px."""
    steps = max(math.ceil(scene.path_length(start, end) / config.max_step_px), 1)
    for seconds in np.linspace(start, end, steps + 1)[1:]:
        sensor.see(scene.render(float(seconds)), float(seconds))


def _write_maps(writer: EventFileWriter, scene: Scene, config: SceneConfig, number: int) -> None:
    """Flow maps and image at the end of interval ``number``."""
    end = number / config.rate
    writer.add_flow("dt1", end, scene.flow((number - 1) / config.rate, end))
    if number % MAPS_PER_DT4 == 0:
        writer.add_flow("dt4", end, scene.flow((number - MAPS_PER_DT4) / config.rate, end))
    writer.add_image(end, grey_image(scene.render(end)))


def grey_image(log_intensity: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The grey image uint8 [H, W] of a log intensity; 0 is the brightest that is not clipped."""
    grey = 255 * np.exp(log_intensity.astype(np.float64))
    rounded: NDArray[np.uint8] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return rounded


def _camera(config: SceneConfig, rng: np.random.Generator) -> CameraMotion:
    """Hand-held sway on a steady pan; rotation and zoom come and go."""
    speed = config.max_speed_px_s
    corner = math.hypot(*config.resolution) / 2
    steady, sway = rng.dirichlet((1.0, 1.0)) * config.pan * speed
    pan = wander(rng, sway, largest=corner, complex_path=True)
    heading = np.exp(1j * rng.uniform(0, 2 * np.pi))
    turns, swing = rng.dirichlet((1.0, 1.0)) * config.rotation * speed / corner
    rotation = wander(rng, swing, largest=math.pi, complex_path=False)
    zoom = wander(rng, config.zoom * speed / corner, largest=_LARGEST_LOG_ZOOM, complex_path=False)
    return CameraMotion(
        centre=_centre(config),
        pan=dataclasses.replace(pan, drift=complex(steady * heading)),
        turn=_turn(zoom, rotation, float(turns * rng.choice((-1, 1)))),
    )


def _body(config: SceneConfig, rng: np.random.Generator, camera: CameraMotion) -> Layer:
    """A body with its own path and spin; it sways with the camera, but not with its steady pan.

    (The camera follows the bodies, so to speak: they would otherwise leave the picture for good.)
    """
    height, width = config.resolution
    small = min(height, width)
    shape = _shape(rng, rng.uniform(0.06, 0.28) * small)
    speed = config.object_motion * config.max_speed_px_s * rng.uniform(0.1, 1.0)
    parallax = rng.uniform(0.5, 1.2)
    sway = dataclasses.replace(
        camera.pan, drift=0j, amplitudes=tuple(parallax * a for a in camera.pan.amplitudes)
    )
    place = complex(rng.uniform(-0.45, 0.45) * width, rng.uniform(-0.45, 0.45) * height)
    path = wander(rng, speed, largest=0.5 * small, complex_path=True)
    spin = wander(rng, 0.3 * speed / shape.radius, largest=math.pi, complex_path=False)
    approach = wander(rng, 0.15 * speed / shape.radius, largest=0.3, complex_path=False)
    motion = ObjectMotion(
        camera=dataclasses.replace(camera, pan=sway),
        position=dataclasses.replace(path, offset=place),
        turn=_turn(approach, spin, 0.0),
    )
    return Layer(motion, _texture(config, rng, config.textures), shape)


def _turn(zoom: SmoothPath, rotation: SmoothPath, steady_rotation: float) -> SmoothPath:
    """Log zoom and rotation (radians) as the real and the imaginary part of one path."""
    return SmoothPath(
        drift=1j * steady_rotation,
        amplitudes=zoom.amplitudes + tuple(1j * a for a in rotation.amplitudes),
        frequencies=zoom.frequencies + rotation.frequencies,
        phases=zoom.phases + rotation.phases,
    )


def _shape(rng: np.random.Generator, radius: float) -> Shape:
    """A disc, a box or a convex polygon within a radius."""
    kind = rng.choice(("disc", "box", "polygon"))
    if kind == "disc":
        return Shape(radius)
    if kind == "box":
        half_angle = rng.uniform(0.3, np.pi / 2 - 0.3)
        half = radius * np.cos(half_angle), radius * np.sin(half_angle)
        return Shape(radius, (1, 1j, -1, -1j), (half[0], half[1], half[0], half[1]))
    # Corners on the circle; a side's normal points to the middle of its arc.
    gaps = rng.uniform(0.6, 1.4, int(rng.integers(3, 8)))
    corners = np.concatenate([[0.0], np.cumsum(gaps)]) * (2 * np.pi / gaps.sum())
    middles = (corners[:-1] + corners[1:]) / 2
    return Shape(
        radius,
        tuple(complex(normal) for normal in np.exp(1j * middles)),
        tuple(float(offset) for offset in radius * np.cos(np.diff(corners) / 2)),
    )


def _texture(
    config: SceneConfig, rng: np.random.Generator, kinds: tuple[str, ...]
) -> NDArray[np.float32]:
    side = 2 ** math.ceil(math.log2(max(config.resolution)))
    kind = str(rng.choice(kinds))
    contrast = config.contrast * rng.uniform(0.5, 1.3)
    brightness = rng.uniform(-1.8, -0.7)
    size = min(max(side, _SMALLEST_TEXTURE), _LARGEST_TEXTURE)
    return make_texture(rng, kind, size, contrast, brightness)


def _centre(config: SceneConfig) -> complex:
    """The middle of the image in pixel coordinates."""
    return complex((config.resolution[1] - 1) / 2, (config.resolution[0] - 1) / 2)


def _plain(config: SceneConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def _json(value: Any) -> str:
    """JSON text; NumPy numbers, which callers may well put into a configuration, become plain."""
    return json.dumps(value, default=lambda number: number.item())


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    if Path(arguments.out).suffix.lower() not in (".h5", ".hdf5"):
        raise DataError(f"{arguments.out}: name the file .h5 or .hdf5, or it cannot be opened")
    config = _config(arguments)
    path = write_scene(config, arguments.out, progress=not arguments.json)
    summary = _summary(config, path)
    if arguments.json:
        print(_json(summary))
    else:
        print(
            f"{path}: {summary['events']} events in {config.duration:g} s at "
            f"{config.resolution[1]} x {config.resolution[0]} pixels, "
            f"{summary['events_per_pixel_and_interval']:.3f} per pixel and flow interval; "
            f"{summary['flow_maps_dt1']} flow maps (dt1), {summary['flow_maps_dt4']} (dt4)"
        )
    return 0


def _summary(config: SceneConfig, path: Path) -> dict[str, Any]:
    with EventFile(path) as file:
        pixels = config.resolution[0] * config.resolution[1]
        return {
            "path": str(path),
            "events": file.num_events,
            "events_per_pixel_and_interval": file.num_events
            / (pixels * config.duration * config.rate),
            "flow_maps_dt1": len(file.flow_times("dt1")),
            "flow_maps_dt4": len(file.flow_times("dt4")),
            "bytes": path.stat().st_size,
            "config": _plain(config),
        }


def _config(arguments: argparse.Namespace) -> SceneConfig:
    """The configuration that the options ask for; options override what --random draws."""
    resolution = (arguments.resolution[0], arguments.resolution[1])
    base = SceneConfig(seed=arguments.seed)
    if arguments.random:
        base = SceneConfig.random(arguments.seed, resolution)
    names = {
        "rate": arguments.rate,
        "num_objects": arguments.objects,
        "max_speed_px_s": arguments.max_speed,
        "contrast_threshold": arguments.threshold,
        "noise_rate_hz": arguments.noise,
        "hot_pixels": arguments.hot_pixels,
    }
    given = {name: value for name, value in names.items() if value is not None}
    return dataclasses.replace(base, resolution=resolution, duration=arguments.duration, **given)


def _parser() -> argparse.ArgumentParser:
    default = SceneConfig()
    parser = argparse.ArgumentParser(
        prog="python -m calib_data.synthetic",
        description="Write a synthetic event recording with exact optical flow (HDF5).",
        epilog="example: python -m calib_data.synthetic --out scene.h5 --seed 7 --duration 2 "
        "--resolution 128 128 --random",
    )
    add = parser.add_argument
    add("--out", required=True, metavar="FILE.h5", help="the file to write")
    add(
        "--seed",
        type=int,
        metavar="N",
        default=default.seed,
        help="one seed, one recording (%(default)s)",
    )
    add(
        "--random",
        action="store_true",
        help="draw motion, textures, sensor and noise too, except what other options set",
    )
    add(
        "--duration",
        type=float,
        metavar="S",
        default=default.duration,
        help="seconds (%(default)s)",
    )
    add(
        "--resolution",
        type=int,
        nargs=2,
        default=default.resolution,
        metavar=("H", "W"),
        help=f"pixels ({default.resolution[0]} {default.resolution[1]})",
    )
    add("--rate", type=float, metavar="HZ", help=f"flow maps and images per s ({default.rate:g})")
    add("--objects", type=int, metavar="N", help=f"moving bodies ({default.num_objects})")
    add(
        "--max-speed",
        type=float,
        metavar="V",
        help=f"pixels per second ({default.max_speed_px_s:g})",
    )
    add(
        "--threshold",
        type=float,
        metavar="C",
        help=f"log intensity per event ({default.contrast_threshold:g})",
    )
    add(
        "--noise",
        type=float,
        metavar="HZ",
        help=f"noise events per pixel and s ({default.noise_rate_hz:g})",
    )
    add(
        "--hot-pixels",
        type=int,
        metavar="N",
        help=f"pixels that fire by themselves ({default.hot_pixels})",
    )
    add("--json", action="store_true", help="print the summary as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))

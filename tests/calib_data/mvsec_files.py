"""Files with the structure of MVSEC's own, from scenes whose flow is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from calib_data import Events
from calib_data.motion import CameraMotion, Motion, Similarity, SmoothPath
from tests.calib_data.recording_files import write_bag

SENSOR = (60, 80)
START = 1504645177.25
FRAME_S = 0.03
MAP_S = 0.05
FRAMES = 14


@dataclass(frozen=True)
class Files:
    """Where the files are and what they were made from."""

    root: Path
    motion: Motion
    events: NDArray[np.float64]
    frames: NDArray[np.float64]
    images: NDArray[np.uint8]


def camera(*, speed: complex = 40 - 25j, turn: complex = 0.1 + 0.3j, sway: float = 4.0) -> Motion:
    """A pan with sway, rotation and zoom about the sensor's middle."""
    return CameraMotion(
        complex(SENSOR[1] / 2, SENSOR[0] / 2),
        SmoothPath(drift=speed, amplitudes=(sway + 0j,), frequencies=(0.7,), phases=(0.3,)),
        SmoothPath(drift=turn),
    )


def forward_flow(motion: Motion, start: float, end: float) -> NDArray[np.float64]:
    """Where the point at each pixel at ``start`` has gone until ``end``: [2, H, W], exact."""
    change: Similarity = motion.at(end).after(motion.at(start).inverse())
    z = np.arange(SENSOR[1])[None, :] + 1j * np.arange(SENSOR[0])[:, None]
    moved = change.scale * z + change.shift - z
    return np.stack([moved.real, moved.imag])


def write(root: Path, name: str, motion: Motion, *, form: str = "hdf5", seed: int = 0) -> Files:
    """``NAME_data.hdf5`` and the ground truth as "hdf5" or "npz"; returns what is in them."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    frames = START + 0.013 + FRAME_S * np.arange(FRAMES)
    images = rng.integers(0, 255, (FRAMES, *SENSOR)).astype(np.uint8)
    seconds = np.sort(rng.uniform(0, FRAME_S * FRAMES + 0.05, 6000))
    seconds[0] = 0
    events = np.stack(
        [
            rng.integers(0, SENSOR[1], len(seconds)),
            rng.integers(0, SENSOR[0], len(seconds)),
            START + seconds,
            rng.choice((-1, 1), len(seconds)),
        ],
        axis=1,
    ).astype(np.float64)
    with h5py.File(root / f"{name}_data.hdf5", "w") as file:
        file["davis/left/events"] = events
        file["davis/left/image_raw"] = images
        file["davis/left/image_raw_ts"] = frames
        # The event before each image, as the data set's own converter writes it.
        file["davis/left/image_raw_event_inds"] = np.searchsorted(events[:, 2], frames) - 1
    count = math.ceil((frames[-1] - START) / MAP_S) + 1
    stamps = START + MAP_S * np.arange(count)
    maps = [forward_flow(motion, MAP_S * k, MAP_S * (k + 1)) for k in range(count)]
    _write_flow(root, name, form, np.stack(maps), stamps)
    return Files(root, motion, events, frames, images)


def _write_flow(
    root: Path, name: str, form: str, maps: NDArray[np.float64], stamps: NDArray[np.float64]
) -> None:
    if form == "hdf5":
        with h5py.File(root / f"{name}_gt.hdf5", "w") as file:
            file["davis/left/flow_dist"] = maps
            file["davis/left/flow_dist_ts"] = stamps
    else:
        np.savez(
            root / f"{name}_gt_flow_dist.npz",
            x_flow_dist=maps[:, 0],
            y_flow_dist=maps[:, 1],
            timestamps=stamps,
        )


def write_bags(files: Files, name: str, ros2: str | None = None) -> None:
    """``NAME_data.bag`` with the same events and images, and ``NAME_gt.bag``, beside the HDF5.

    The latter has the topics of the official ones: depth and poses. ros2: see ``write_bag``.
    """
    x, y, t, p = files.events.T
    made = Events(x.astype(np.int16), y.astype(np.int16), t, p.astype(np.int8))
    suffix = "" if ros2 else ".bag"
    write_bag(
        files.root / f"{name}_data{suffix}",
        {"/davis/left/events": made, "/davis/right/events": made.slice(10, 500)},
        {"/davis/left/image_raw": (files.frames, files.images)},
        SENSOR,
        ros2=ros2,
    )
    depth = np.full((3, *SENSOR), 2.5, np.float32)
    write_bag(
        files.root / f"{name}_gt{suffix}",
        {},
        {f"/davis/left/depth_image_{kind}": (files.frames[:3], depth) for kind in ("raw", "rect")},
        SENSOR,
        poses={"/davis/left/odometry": files.frames, "/davis/left/pose": files.frames},
        ros2=ros2,
    )

"""Synthetic recordings as a whole: layout, determinism, and events that move as the flow says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from calib_data.console import run
from calib_data.errors import DataError
from calib_data.hdf5 import EventFile
from calib_data.scene import ZERO_FLOW_NUDGE
from calib_data.synthetic import SceneConfig, build_scene, main, write_scene
from calib_data.windows import Window, iterate_windows

SMALL = SceneConfig(seed=3, resolution=(40, 56), duration=0.5, max_speed_px_s=60)


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(SMALL, tmp_path_factory.mktemp("scene") / "scene.h5")


def _contents(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(name: str, node: h5py.HLObject) -> None:
        attributes = {key: np.asarray(value).tobytes() for key, value in node.attrs.items()}
        values = node[()].tobytes() if isinstance(node, h5py.Dataset) else b""
        found[name] = values, attributes

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_layout(scene_file: Path) -> None:
    with EventFile(scene_file) as file:
        assert file.resolution == (40, 56)
        assert file.duration == 0.5
        assert file.t0 == SMALL.start_time
        np.testing.assert_allclose(file.flow_times("dt1"), np.arange(16) / 30, atol=1e-9)
        np.testing.assert_allclose(file.flow_times("dt4"), np.arange(0, 16, 4) / 30, atol=1e-9)
        np.testing.assert_allclose(file.image_times(), np.arange(16) / 30, atol=1e-9)
        events = file.read(0, file.num_events)
        assert events.ts[0] >= 0
        assert events.ts[-1] <= 0.5
        assert 0.01 < file.num_events / (40 * 56 * 15) < 1
        for dt, count in (("dt1", 16), ("dt4", 4)):
            for index in range(count):
                assert (file.read_flow(dt, index) != 0).any(axis=0).all()
        assert json.loads(h5py.File(scene_file).attrs["config"])["seed"] == 3


def test_maps_are_the_scenes_flow(scene_file: Path) -> None:
    scene = build_scene(SMALL)
    with EventFile(scene_file) as file:
        np.testing.assert_array_equal(file.read_flow("dt1", 7), scene.flow(6 / 30, 7 / 30))
        np.testing.assert_array_equal(file.read_flow("dt4", 2), scene.flow(4 / 30, 8 / 30))
        expected = np.rint(255 * np.exp(scene.render(7 / 30).astype(float))).clip(0, 255)
        np.testing.assert_array_equal(file.read_image(7), expected)


def test_one_seed_one_recording(scene_file: Path, tmp_path: Path) -> None:
    again = write_scene(SMALL, tmp_path / "again.h5")
    assert _contents(again) == _contents(scene_file)
    assert again.read_bytes() == scene_file.read_bytes()
    other = write_scene(SceneConfig(seed=4, resolution=(40, 56), duration=0.5), tmp_path / "o.h5")
    assert _contents(other)["events/ts"] != _contents(scene_file)["events/ts"]


def _sharpness(window: Window, sign: float) -> float:
    """Variance of the picture of events moved along the flow to the window's end."""
    assert window.flow is not None
    flow, events = window.flow, window.events
    left = (window.t_stop - events.ts) / window.dt_gt
    moved = flow[:, events.ys, events.xs] * left * sign
    x = np.rint(events.xs + moved[0]).astype(int)
    y = np.rint(events.ys + moved[1]).astype(int)
    height, width = flow.shape[1:]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    picture = np.zeros(height * width)
    np.add.at(picture, (y * width + x)[inside], events.ps[inside])
    return float(picture.var())


@pytest.mark.parametrize("seed", range(3))
def test_events_move_along_the_flow(tmp_path: Path, seed: int) -> None:
    config = SceneConfig(seed=seed, resolution=(64, 64), duration=0.6, max_speed_px_s=200)
    with EventFile(write_scene(config, tmp_path / "scene.h5")) as file:
        windows = list(iterate_windows(file, "gtflow_dt4", 1))
    along, still, against = (sum(_sharpness(w, sign) for w in windows) for sign in (1.0, 0.0, -1.0))
    assert along > 1.2 * still
    assert along > 1.2 * against


def test_time_after_the_last_whole_interval_has_events(tmp_path: Path) -> None:
    config = SceneConfig(resolution=(32, 32), duration=0.15, rate=10, max_speed_px_s=100)
    with EventFile(write_scene(config, tmp_path / "scene.h5")) as file:
        assert len(file.flow_times("dt1")) == 2
        assert 0.1 < file.read(file.num_events - 1, file.num_events).ts[0] <= 0.15


def test_scene_without_motion_or_noise_is_silent(tmp_path: Path) -> None:
    config = SceneConfig(
        resolution=(32, 32), duration=0.2, max_speed_px_s=0, noise_rate_hz=0, hot_pixels=0
    )
    with EventFile(write_scene(config, tmp_path / "scene.h5")) as file:
        assert file.num_events == 0
        assert (file.read_flow("dt1", 3)[0] == ZERO_FLOW_NUDGE).all()


def test_random_scenes_span_speeds_and_settings() -> None:
    configs = [SceneConfig.random(seed, (64, 64)) for seed in range(40)]
    assert configs[5] == SceneConfig.random(5, (64, 64))
    fastest = []
    for config in configs:
        flow = build_scene(config).flow(1.0, 1.0 + 1 / config.rate)
        fastest.append(np.hypot(*flow).max())
    assert min(fastest) < 0.7
    assert 3 < max(fastest) < 12
    assert len({config.num_objects for config in configs}) > 4
    assert len({config.textures for config in configs}) > 10
    assert {config.resolution for config in configs} == {(64, 64)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed must not be negative"),
        ({"duration": 0.0}, "duration must be above 0"),
        ({"duration": 0.01}, "holds no flow interval"),
        ({"rate": float("nan")}, "rate must be a finite number"),
        ({"resolution": (4, 128)}, "at least 8 x 8"),
        ({"textures": ("marble",)}, "textures must be some of"),
        ({"textures": ()}, "textures must be some of"),
        ({"contrast_threshold": 0.0}, "contrast_threshold must be above 0"),
        ({"noise_rate_hz": -1.0}, "noise_rate_hz must not be negative"),
    ],
)
def test_unusable_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SceneConfig(**changes)


def test_random_refuses_a_negative_seed() -> None:
    with pytest.raises(DataError, match="seed must not be negative"):
        SceneConfig.random(-1)


# --- the command ------------------------------------------------------------------------------


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scene.h5"
    options = ["--out", str(out), "--duration", "0.2", "--resolution", "24", "32", "--seed", "5"]
    assert main([*options, "--rate", "20", "--objects", "2"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{out}: ")
    assert "0.2 s at 32 x 24 pixels" in text
    assert "5 flow maps (dt1), 2 (dt4)" in text
    assert main([*options, "--random", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["config"]["resolution"] == [24, 32]
    expected = SceneConfig.random(5, (24, 32), 0.2)
    assert summary["config"]["max_speed_px_s"] == expected.max_speed_px_s
    with EventFile(out) as file:
        assert summary["events"] == file.num_events
        assert summary["flow_maps_dt1"] == 7


def test_command_line_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "example: python -m calib_data.synthetic --out scene.h5" in text
    for option in ("--random", "--resolution H W", "--rate", "--json", "--hot-pixels"):
        assert option in text


def test_command_line_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scene.h5"
    assert run(main, ["--out", str(out), "--duration", "-1"]) == 2
    assert capsys.readouterr().err == "error: duration must be above 0, got -1.0\n"
    assert run(main, ["--out", str(tmp_path / "scene.txt"), "--duration", "0.1"]) == 2
    assert "name the file .h5 or .hdf5" in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.touch()
    assert run(main, ["--out", str(blocked / "scene.h5"), "--duration", "0.1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [blocked]

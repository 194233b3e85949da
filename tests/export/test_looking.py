"""Commands that look at neurons see the same in fused and separate files, and what NumPy sees."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calib_data.npz import open_events
from calib_data.windows import iterate_windows
from runtime import StatefulSession, analyze, trace

KINDS = ("int8", "separate", "float", "qdq")


@pytest.fixture(scope="module")
def files(sources: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network in every form, free in size: fused spikes are packed, membranes NHWC."""
    folder = tmp_path_factory.mktemp("looking")
    paths = {kind: folder / f"{kind}.onnx" for kind in KINDS}
    for kind, path in paths.items():
        onnx.save(sources.graph(kind, free=True), path)
    return paths


def rows_of(command: Any, path: Path, scene: Path, folder: Path, *more: str) -> list[Any]:
    sheet = folder / f"{path.stem}.csv"
    assert command([str(path), "--data", str(scene), "--csv", str(sheet), *more]) == 0
    with sheet.open() as file:
        return list(csv.DictReader(file))


def test_fused_and_separate_files_show_the_same(
    files: dict[str, Path], scene: Path, tmp_path: Path
) -> None:
    fused, separate = (rows_of(analyze.main, files[k], scene, tmp_path) for k in KINDS[:2])
    assert fused == separate and sum(int(row["spikes"]) for row in fused) > 1000
    choice = ("--layer", "G1", "--layer", "R2b", "--channel", "5", "--channel", "6")
    fused, separate = (rows_of(trace.main, files[k], scene, tmp_path, *choice) for k in KINDS[:2])
    assert fused == separate and len({row["membrane"] for row in fused}) > 5


@pytest.mark.parametrize("kind", ["int8", "float", "qdq"])
def test_equals_numpy_on_the_layout_of_the_file(
    kind: str, files: dict[str, Path], scene: Path, tmp_path: Path
) -> None:
    rows = {
        (row["layer"], int(row["channel"])): row
        for row in rows_of(analyze.main, files[kind], scene, tmp_path)
    }
    membranes, words = [], []
    with open_events(scene) as file:
        session = StatefulSession(files[kind], resolution=file.resolution)
        for window in iterate_windows(file, "gtflow_dt1", 1):
            session.step(session.encode(window.events))
            membranes.append(session.states()["mem.G1"][0])
            words.append(session.states()["spike.G1"][0])
    for channel in range(8):
        row = rows["G1", channel]
        if kind == "int8":
            values = np.stack(membranes)[..., channel].astype(np.float64)
            fired = np.stack(words)[..., 0] >> np.uint32(channel) & np.uint32(1)
        else:
            values = np.stack(membranes)[:, channel].astype(np.float64)
            fired = np.stack(words)[:, channel] != 0
        assert int(row["spikes"]) == int(fired.sum())
        assert int(row["dead_neurons"]) == int((fired.sum(axis=0) == 0).sum())
        assert float(row["membrane_min"]) == values.min()
        assert float(row["membrane_max"]) == values.max()
        assert float(row["membrane_mean"]) == pytest.approx(values.mean(), rel=1e-9, abs=1e-12)
        assert float(row["membrane_std"]) == pytest.approx(values.std(), rel=1e-9)


def test_real_units_agree_between_float_and_integer_files(
    files: dict[str, Path], scene: Path, tmp_path: Path
) -> None:
    whole, real = (rows_of(analyze.main, files[k], scene, tmp_path) for k in ("int8", "float"))
    for a, b in zip(whole, real, strict=True):
        unit = float(a["membrane_unit"])
        # Thresholds are rounded down to the grid (u > theta), decays to the nearest 256th.
        below = float(b["threshold_real"]) - float(a["threshold_real"])
        assert -1e-6 <= below <= unit + 1e-6
        assert abs(float(a["decay_real"]) - float(b["decay_real"])) <= 0.5001 / 256

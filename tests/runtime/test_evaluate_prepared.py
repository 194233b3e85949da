"""MVSEC's own files through prepare and evaluate: what is scored is the motion's closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from calib_data.console import run
from calib_data.motion import CameraMotion, SmoothPath
from calib_data.prepare import main as prepare
from runtime.evaluate import main as evaluate
from tests.calib_data import mvsec_files

DRIFT = 30 - 20j


@pytest.mark.parametrize(
    ("mode", "window", "frames"), [("gtflow_dt1", "1", 1), ("gtflow_dt4", "0.25", 4)]
)
def test_zero_flow_is_off_by_the_exact_displacement(
    mode: str, window: str, frames: int, make_file: Any, tmp_path: Path
) -> None:
    motion = CameraMotion(0j, SmoothPath(drift=DRIFT))
    files = mvsec_files.write(tmp_path / "in", "pan", motion)
    made = tmp_path / "out"
    assert run(prepare, ["mvsec", str(files.root), str(made), "--crop", "32", "48"]) == 0
    result = tmp_path / "result.json"
    model = make_file(resolution=(32, 48))
    arguments = [str(model), "--data", str(made / "pan.h5"), "--json", str(result)]
    assert run(evaluate, [*arguments, "--mode", mode, "--window", window]) == 0
    evaluation = json.loads(result.read_text())
    scored = [
        network["zero_aee"]
        for entry in evaluation["per_window"]
        for network in entry["networks"].values()
        if network["pixels"]
    ]
    assert len(scored) == (mvsec_files.FRAMES - 1) // frames
    for error in scored:
        assert error == pytest.approx(abs(DRIFT) * frames * mvsec_files.FRAME_S, abs=1e-4)
    assert math.isclose(evaluation["yardsticks"]["zero_aee"], scored[0], abs_tol=1e-4)

"""``python -m export.qdq``: calibrate, quantize, export, check, drive, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import EventFileWriter, Events, console
from export import qdq
from models import save_checkpoint
from runtime.artifact import load_model

ARTIFACTS = ("model.float.onnx", "model.qdq.onnx", "model.int8.onnx")
REPORTS = ("report.json", "report.html", "flow.png", "stages.json")


def run(*arguments: object) -> int:
    return console.run(qdq.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def driven(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, scene: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One whole run in a process of its own, from another folder."""
    out = tmp_path_factory.mktemp("driven")
    command = [sys.executable, "-m", "export.qdq", "--run", "--checkpoint", str(checkpoint)]
    command += ["--data", str(scene), "--calibration", str(scene), "--out", str(out)]
    result = subprocess.run(
        [*command, "--parity-steps", "8"],
        cwd=out,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return out, result


def test_a_run_writes_everything(driven: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, result = driven
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in out.iterdir()} == {*ARTIFACTS, *REPORTS}
    assert (out / "flow.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "<html" in (out / "report.html").read_text()[:500].lower()
    for name in (*ARTIFACTS, "equal", "zero flow", "AEE"):
        assert name in result.stdout, name


def test_the_report_tells_what_happened(
    driven: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, _ = driven
    report = json.loads((out / "report.json").read_text())
    rows = {row["kind"]: row for row in report["artifacts"]}
    assert [row["file"] for row in report["artifacts"]] == list(ARTIFACTS)
    for kind, row in rows.items():
        assert row["bytes"] == (out / row["file"]).stat().st_size
        assert row["aee"] > 0 and 0 <= row["outliers"] <= 1 and 0 < row["spike_rate"] < 1
        assert row["latency_ms"] > 0 and row["times_faster"] > 0
        assert (row["parity"] is not None) is (kind == "int8")
    assert "DIFFERENT" not in rows["int8"]["parity"] and "PyTorch equal" in rows["int8"]["parity"]
    assert rows["float"]["times_faster"] == 1
    assert set(report["layers"]) == {"head", "G1", "R1a", "R1b", "G2", "R2a", "R2b"}
    assert all(layer["spike_rate"] > 0 for layer in report["layers"].values())


@pytest.mark.parametrize("kind", ["float", "qdq", "int8"])
def test_the_artifacts_load(
    kind: str, driven: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    artifact = load_model(driven[0] / f"model.{kind}.onnx").artifact
    assert artifact.kind == kind and artifact.spatial_free


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, scene: Path) -> list[Path]:
    """Two exports without ``--run``, of a fixed size and 8-bit membranes."""
    folders = [tmp_path_factory.mktemp("exported") for _ in range(2)]
    arguments = ["--checkpoint", checkpoint, "--calibration", scene, "--resolution", 32, 48]
    for folder in folders:
        assert run(*arguments, "--mem-bits", 8, "--weight-bits", 8, "--out", folder) == 0
    return folders


def test_without_run_only_the_artifacts_are_written(exported: list[Path]) -> None:
    assert {path.name for path in exported[0].iterdir()} == {*ARTIFACTS, "stages.json"}
    artifact = load_model(exported[0] / "model.int8.onnx").artifact
    assert artifact.resolution == (32, 48) and not artifact.spatial_free
    assert {(layer.mem_bits, layer.weight_bits) for layer in artifact.layers} == {(8, 8)}
    assert all(layer.frac_bits is not None and layer.frac_bits <= 0 for layer in artifact.layers)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_exports_repeat_to_the_byte(name: str, exported: list[Path]) -> None:
    first, second = ((folder / name).read_bytes() for folder in exported)
    assert first == second


def test_json_is_all_that_is_printed(
    checkpoint: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", checkpoint, "--calibration", scene, "--out", tmp_path, "--json"]
    assert run(*arguments) == 0
    results = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in results["artifacts"]] == ["float", "qdq", "int8"]


# --- mistakes -----------------------------------------------------------------------------------


def recording_without_flow(path: Path) -> Path:
    rng = np.random.default_rng(0)
    with EventFileWriter(path, (32, 48)) as writer:
        writer.append(
            Events(
                rng.integers(0, 48, 400).astype(np.int16),
                rng.integers(0, 32, 400).astype(np.int16),
                np.sort(rng.uniform(0, 0.2, 400)),
                rng.choice([-1, 1], 400).astype(np.int8),
            )
        )
    return path


MISTAKES: dict[str, tuple[list[str], str]] = {
    "weight bits": (["--weight-bits", "9"], "weight bits must be 2 to 8, got 9"),
    "fractional bits": (["--frac-bits", "15"], "fractional bits must be -15 to 14, got 15"),
    "absent calibration": (["--calibration", "{tmp}/absent.h5"], "absent.h5"),
    "calibration is no HDF5": (["--calibration", "{tmp}/text.h5"], "text.h5"),
    "calibration without flow": (["--calibration", "{tmp}/noflow.h5"], "noflow.h5"),
    "resolution": (["--resolution", "0", "4"], "--resolution needs two numbers"),
    "channels": (["--channels", "8"], "--channels goes with --untrained"),
    "output is a file": (["--out", "{tmp}/text.h5"], "text.h5"),
    "absent sequence": (["--run", "--data", "{tmp}/absent.h5"], "absent.h5"),
    "sequence without flow": (["--run", "--data", "{tmp}/noflow.h5"], "noflow.h5"),
    "window length": (["--run", "--window", "-5"], "window"),
    "mode without ground truth": (["--run", "--mode", "events"], "no ground truth"),
    "threads": (["--run", "--threads", "0"], "threads"),
    "parity steps": (["--run", "--parity-steps", "0"], "steps"),
    "limit": (["--run", "--limit", "0"], "limit"),
    "limit below the warm-up": (["--run", "--limit", "2"], "window"),
    "another size": (["--run", "--resolution", "16", "16"], "32 x 48"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(
    case: str, checkpoint: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.h5").write_text("not HDF5")
    recording_without_flow(tmp_path / "noflow.h5")
    arguments, message = MISTAKES[case]
    given = ["--checkpoint", str(checkpoint)]
    defaults = {"--calibration": scene, "--data": scene, "--out": tmp_path / "out"}
    for name, value in defaults.items():
        if name not in arguments:
            given += [name, str(value)]
    given += [argument.format(tmp=tmp_path) for argument in arguments]
    try:
        status = run(*given)
    except SystemExit as caught:  # argparse
        status = int(caught.code or 0)
        error = capsys.readouterr().err
        assert "Traceback" not in error and message in error
    else:
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert message in lines[0]
    assert status == 2


def test_silent_networks_are_named(
    scene: Path, tmp_path: Path, active_network: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    network = active_network("LIFFireNet_short")
    network.layers["G2"].threshold.data.fill_(1e6)
    weights = save_checkpoint(network, tmp_path / "silent.safetensors")
    arguments = ["--checkpoint", weights, "--calibration", scene, "--out", tmp_path / "out"]
    assert run(*arguments) == 2
    assert "layer 'G2' never fires on the calibration windows" in capsys.readouterr().err


def test_voxel_networks_have_no_integer_form(
    scene: Path, tmp_path: Path, active_network: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    network = active_network("LIFFireNet_short", encoding="voxel", num_bins=5)
    weights = save_checkpoint(network, tmp_path / "voxel.safetensors")
    arguments = ["--checkpoint", weights, "--calibration", scene, "--out", tmp_path / "out"]
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "voxel" in lines[0]

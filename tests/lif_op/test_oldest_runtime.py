"""The op library in the oldest ONNX Runtime it promises to work with."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import lif_op

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("oldest_runtime.py")
OLDEST = ["onnxruntime==1.18.1", "numpy<2", "onnx<1.17"]


def run_in(python: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(python), str(SCRIPT), str(lif_op.library_path()), str(REPOSITORY)]
    # From the root folder, so that nothing of this repository shadows what that Python has.
    return subprocess.run(
        command, cwd="/", capture_output=True, text=True, timeout=300, check=False
    )


def test_the_script_works_with_this_runtime() -> None:
    result = run_in(sys.executable)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip().endswith("equal")


@pytest.mark.long
def test_the_oldest_runtime(tmp_path: Path) -> None:
    given = os.environ.get("SPIKEDEPLOY_OLDEST_PYTHON")
    python = Path(given) if given else tmp_path / "venv" / "bin" / "python"
    if not given:
        venv.create(tmp_path / "venv", with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *OLDEST], check=True)
    result = run_in(python)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "onnxruntime 1.18." in result.stdout

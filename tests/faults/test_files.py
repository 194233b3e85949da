"""Exports that are stopped: a full disk, a killed process, two at once. No file is half there."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.artifact import load_model

EXPORT = [sys.executable, "-m", "export.float", "--untrained", "--model", "LIFFireNet_short"]
FILE_LIMIT = 4096
"""Bytes a file may have where the disk is full; an artifact has more."""


def start(
    out: Path, *arguments: str, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*EXPORT, "--channels", "8", "--out", str(out), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=before,
    )


def full_disk() -> None:
    """Writes beyond the limit fail, as on a full disk, and do not end the process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))


def test_full_disk(tmp_path: Path) -> None:
    process = start(tmp_path / "m.onnx", before=full_disk)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_killed_at_any_time(tmp_path: Path) -> None:
    """SIGKILL leaves the file that was there, or the whole new one."""
    out = tmp_path / "m.onnx"
    begun = time.monotonic()
    assert start(out, "--seed", "1").wait(timeout=120) == 0
    whole = time.monotonic() - begun
    old, killed = out.read_bytes(), 0
    for share in range(1, 21):
        process = start(out, "--seed", "2")
        # Most of the time goes by before the file is written: look at the end more closely.
        time.sleep(whole * (0.5 + 0.5 * share / 20))
        process.kill()
        killed += process.wait(timeout=60) == -signal.SIGKILL
        process.communicate()
        load_model(out)
        if share < 3:
            assert out.read_bytes() == old
    assert killed > 2


def test_two_at_once(tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    both = [start(out, "--seed", seed) for seed in ("1", "2")]
    for process in both:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    load_model(out)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]

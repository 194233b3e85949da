"""Exports to a full disk: one clear line, and no file is half there."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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

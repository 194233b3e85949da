"""Ctrl-C in the middle of ``quant.ptq``, and two of them that write one file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib_data.synthetic import SceneConfig, write_scene
from models import save_checkpoint
from quant import load_spec

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def inputs(active_network: Make, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that name a float network and a recording."""
    folder = tmp_path_factory.mktemp("inputs")
    network = save_checkpoint(active_network(channels=24), folder / "float.safetensors")
    scene = write_scene(SceneConfig.random(5, (96, 128), 1.0), folder / "scene.h5")
    return ["--checkpoint", str(network), "--data", str(scene)]


def start(arguments: list[str], stderr: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "quant.ptq", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=stderr, text=True, env=environment)


def read_until(terminal: int, text: str = "") -> str:
    """What a terminal shows up to a text, or to its end."""
    shown = b""
    while not text or text.encode() not in shown:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how Linux ends a terminal that nobody writes to any more
            break
        if not part:
            break
        shown += part
    return shown.decode()


@pytest.mark.parametrize(
    ("arguments", "bar"),
    [([], "calibrating"), (["--tune"], "tuning on AEE"), (["--sensitivity"], "sensitivity")],
)
def test_ctrl_c(arguments: list[str], bar: str, inputs: list[str], tmp_path: Path) -> None:
    """One line, status 130, and no file but what an interrupted search goes on from."""
    out = tmp_path / "q.safetensors"
    mine, theirs = os.openpty()
    process = start(
        [*inputs, "--out", str(out), "--report", str(tmp_path / "r"), *arguments], theirs
    )
    os.close(theirs)
    try:
        assert bar in read_until(mine, bar)
        process.send_signal(signal.SIGINT)
        shown = read_until(mine)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(mine)
    assert process.returncode == 130
    assert output == "" and shown.count("interrupted") == 1 and "Traceback" not in shown
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= ({"q.tuning.json"} if "--tune" in arguments else set())
    if left:
        assert set(json.loads((tmp_path / "q.tuning.json").read_text())) == {"identity", "errors"}


def test_two_at_once_leave_one_whole_file(inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "q.safetensors"
    common = [*inputs, "--limit", "5", "--scale-search", "none", "--json", "--out", str(out)]
    both = [start([*common, "--weight-bits", bits], subprocess.PIPE) for bits in ("4", "8")]
    for process in both:
        output, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert json.loads(output)["out"] == str(out)
    assert load_spec(out).weight_bits in (4, 8)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]

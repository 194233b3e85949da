"""The export commands: their files, their one-line errors, and writes that fail."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import export.float
from calib_data import console
from export.files import write_arrays, write_model
from models import save_checkpoint
from runtime.artifact import load_model
from runtime.session import StatefulSession

SMALL = ["--untrained", "--model", "LIFFireNet_short", "--channels", "4"]


def run(*arguments: object) -> int:
    return console.run(export.float.main, [str(argument) for argument in arguments])


def test_float_export_of_a_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "model.onnx"
    assert run("--checkpoint", checkpoint, "--out", out, "--resolution", 20, 28) == 0
    assert "LIFFireNet" in capsys.readouterr().out
    artifact = load_model(out).artifact
    assert artifact.checkpoint_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert artifact.resolution == (20, 28) and not artifact.spatial_free
    flow = StatefulSession(out).step(np.ones((1, 2, 20, 28), np.float32))
    assert flow.shape == (1, 2, 20, 28) and np.abs(flow).max() < 1


def test_voxel_networks_export_as_float(
    tmp_path: Path, active_network: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    network = active_network("LIFFireNet_short", encoding="voxel", num_bins=5)
    weights = save_checkpoint(network, tmp_path / "voxel.safetensors")
    assert run("--checkpoint", weights, "--out", tmp_path / "v.onnx") == 0
    artifact = load_model(tmp_path / "v.onnx").artifact
    assert (artifact.encoding, artifact.num_bins) == ("voxel", 5)
    capsys.readouterr()


def test_the_process_leaves_no_trace_in_the_bytes(tmp_path: Path) -> None:
    """``python -m export.float`` in a process of its own, with another hash seed."""
    here, there = tmp_path / "here.onnx", tmp_path / "elsewhere" / "there.onnx"
    assert run(*SMALL, "--seed", 5, "--out", here) == 0
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-m", "export.float", *SMALL, "--seed", "5", "--json"]
    result = subprocess.run(
        [*command, "--out", str(there)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["bytes"] == there.stat().st_size
    assert here.read_bytes() == there.read_bytes()


MISTAKES: dict[str, tuple[list[str], str]] = {
    "absent checkpoint": (["--checkpoint", "{tmp}/absent.pth"], "absent.pth: No such file"),
    "damaged checkpoint": (
        ["--checkpoint", "{tmp}/damaged.pth"],
        "damaged.pth: no checkpoint, or not a plain state",
    ),
    "foreign checkpoint": (["--checkpoint", "{tmp}/foreign.pth"], "'encoder.weight'"),
    "folder as checkpoint": (["--checkpoint", "{tmp}/folder"], "folder: Is a directory"),
    "both sources": (["--untrained", "--checkpoint", "{checkpoint}"], "exclude each other"),
    "another model": (
        ["--checkpoint", "{checkpoint}", "--model", "LIFFireFlowNet"],
        "holds LIFFireNet, not --model LIFFireFlowNet",
    ),
    "channels of a checkpoint": (
        ["--checkpoint", "{checkpoint}", "--channels", "8"],
        "--channels goes with --untrained",
    ),
    "no channels": (["--untrained", "--channels", "0"], "--channels must be 1 to 1024, got 0"),
    "vast channels": (["--untrained", "--channels", "300000"], "--channels must be 1 to 1024"),
    "vast seed": ([*SMALL, "--seed", "9" * 25], "--seed must be 0 to"),
    "no height": ([*SMALL, "--resolution", "0", "16"], "from 1 to 4096, got 0 16"),
    "negative width": ([*SMALL, "--resolution", "16", "-1"], "from 1 to 4096, got 16 -1"),
    "vast": ([*SMALL, "--resolution", "16", "1000000"], "from 1 to 4096, got 16 1000000"),
    "folder below a file": ([*SMALL, "--out", "{tmp}/damaged.pth/m.onnx"], "damaged.pth"),
    "folder as output": ([*SMALL, "--out", "{tmp}/folder"], "folder: is a folder"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(
    case: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.pth").write_bytes(b"nothing")
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    (tmp_path / "folder").mkdir()
    arguments, message = MISTAKES[case]
    given = [argument.format(tmp=tmp_path, checkpoint=checkpoint) for argument in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "out.onnx")]
    assert run(*given) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    "arguments", [["--model", "FireNet"], ["--resolution", "12"], ["--channels", "x"]]
)
def test_mistakes_argparse_sees(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        export.float.main(arguments)
    assert caught.value.code == 2 and "Traceback" not in capsys.readouterr().err


# --- writes that fail ---------------------------------------------------------------------------


def empty_model() -> onnx.ModelProto:
    return onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", half)
        with pytest.raises(OSError, match="No space left"):
            write_model(empty_model(), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_failed_arrays_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="No space left"):
        write_arrays({"a": np.zeros(3)}, tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import onnx
from export.files import write_model

def dies(self, data):
    with self.open("wb") as file:
        file.write(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = dies
write_model(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), Path(sys.argv[1]))
"""


def test_a_killed_write_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    result = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert not path.exists()
    # The half that was written has another name, and does not disturb the next export.
    assert len(list(tmp_path.iterdir())) == 1
    assert write_model(empty_model(), path).stat().st_size > 0

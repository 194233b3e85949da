"""Hostile artifacts: one error each in Python and C++, and no crash of ONNX Runtime's session."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import lif_op
from runtime.artifact import MAX_FILE_BYTES, ArtifactError, load_model
from runtime.known_ops import STANDARD_OPS
from runtime.session import StatefulSession

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "attacks"
FILES = sorted((FOLDER / "artifacts").glob("*.onnx"))
SOUND = sorted((FOLDER / "sound").glob("*.onnx"))
ERRORS = json.loads((FOLDER / "errors.json").read_text())
VECTORS = REPOSITORY / "tests" / "runtime" / "vectors"
HEADERS = REPOSITORY / "runtime" / "include"


def test_the_files_are_what_the_script_writes(tmp_path: Path) -> None:
    script = [sys.executable, str(FOLDER / "make.py"), str(tmp_path)]
    subprocess.run(script, cwd=REPOSITORY, env=_environment(), check=True, timeout=120)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in FILES}
    assert {path.stem for path in FILES} == set(ERRORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_python_refuses(path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        load_model(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: {ERRORS[path.stem]['python']}")
    assert "\n" not in said


@pytest.mark.parametrize("path", SOUND, ids=lambda path: path.stem)
def test_what_the_tricks_start_from_runs(path: Path) -> None:
    session = StatefulSession(path, resolution=(12, 18), library="require")
    events = np.ones((1, 2, 12, 18), session.artifact.event_dtype)
    for _ in range(3):
        assert np.isfinite(session.step(events)).all()


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ program that drives an artifact."""
    program = tmp_path_factory.mktemp("program") / "replay"
    source = REPOSITORY / "tests" / "runtime" / "cpp" / "replay.cc"
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-std=c++17", "-O1", f"-I{HEADERS}", source, "-o", program]
    subprocess.run([*command, "-pthread", "-ldl"], check=True, timeout=300)
    return program


def _environment() -> dict[str, str]:
    (runtime,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "SPIKEDEPLOY_ONNXRUNTIME": str(runtime),
        "SPIKEDEPLOY_OP_LIBRARY": str(lif_op.library_path()),
    }


@pytest.mark.parametrize("path", [*SOUND, *FILES], ids=lambda path: path.stem)
def test_the_headers_refuse_or_run(replay: Path, path: Path) -> None:
    expected = None if path in SOUND else ERRORS[path.stem]["headers"]
    done = subprocess.run(
        [replay, path, VECTORS / "events.bin"],
        env=_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if expected is None:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr


BARE = """
import sys
import numpy as np, onnx, onnxruntime, lif_op
from onnx import helper
onnxruntime.set_default_logger_severity(4)
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        options = onnxruntime.SessionOptions()
        lif_op.register(options)
        session = onnxruntime.InferenceSession(open(path, "rb").read(), options)
        feeds = {}
        for value in session.get_inputs():
            kind = helper.tensor_dtype_to_np_dtype(
                getattr(onnx.TensorProto, value.type[7:-1].upper()))
            shape = [{"N": 1, "H": 12, "W": 18}.get(d, d) for d in value.shape]
            feeds[value.name] = np.ones([d if isinstance(d, int) else 1 for d in shape], kind)
        session.run(None, feeds)
    except Exception as error:
        print("  ", str(error).splitlines()[0][:150], flush=True)
print("done")
"""


def test_the_kernels_defend_themselves() -> None:
    """In a bare session nothing is checked before ONNX Runtime and the op library."""
    # Without the one that never ends, and those whose sizes only a limit on memory would stop.
    left_out = ("endless_loop", "allocates_at_load", "dimension_huge")
    files = [str(path) for path in [*SOUND, *FILES] if path.stem not in left_out]
    done = subprocess.run(
        [sys.executable, "-c", BARE, *files],
        env=_environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "done"
    assert "snn::QConvLIF: input 'decay' must hold values from 0 to 256, got 257" in done.stdout


def test_both_readers_know_the_same_operators() -> None:
    text = (HEADERS / "spikedeploy" / "known_ops.h").read_text()
    listed = text.partition("kStandardOps = {")[2].partition("}")[0]
    assert re.findall(r'"(\w+)"', listed) == sorted(STANDARD_OPS)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ArtifactError, match=r"1\.0 GiB is more than an artifact can have"):
        load_model(path)


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    link = tmp_path / "link.onnx"
    link.symlink_to("/dev/zero")
    for path in (pipe, link):
        with pytest.raises(ArtifactError, match="not a plain file"):
            load_model(path)

"""A wheel, installed where there is nothing else, used from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).parents[2]
ROOMS = ("lif_op", "calib_data", "models", "quant", "export", "runtime", "bench", "training")
NOT_SHIPPED = (".cc", ".h", ".map", ".sh", ".txt", ".pyc", ".onnx", ".h5")
# A deployment machine: no compiler, no torch, none of this environment's variables.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PYTHON", "VIRTUAL_ENV", "LIF_OP"))
}


def call(*command: str | Path, cwd: Path, status: int = 0) -> str:
    """Run a command in a folder; returns its stdout and stderr."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-qq", "wheel", "--no-build-isolation", "--no-deps"]
    call(*pip, "--wheel-dir", folder, REPOSITORY, cwd=folder)
    (built,) = folder.glob("spikedeploy-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    call(python, "-m", "pip", "-qq", "install", wheel, cwd=folder)
    return python


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file made where torch is, to be run where it is not."""
    path = tmp_path_factory.mktemp("artifact") / "model.float.onnx"
    options = ["--untrained", "--channels", "8", "--model", "LIFFireNet_short"]
    command = [sys.executable, "-m", "export.float", *options, "--out", path]
    call(*command, cwd=REPOSITORY)
    return path


def shipped(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_that_is_used(wheel: Path) -> None:
    files = shipped(wheel)
    expected = {
        str(path.relative_to(REPOSITORY))
        for room in ROOMS
        for pattern in ("*.py", "*.safetensors", "*.in")
        for path in (REPOSITORY / room).rglob(pattern)
    }
    assert expected <= files, sorted(expected - files)
    assert "lif_op/liblif_ops.so" in files
    assert sum(name.startswith("lif_op/_core.") for name in files) == 1


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    files = shipped(wheel)
    assert {name.partition("/")[0] for name in files} == set(ROOMS)
    assert not [name for name in files if name.endswith(NOT_SHIPPED)]


def test_the_licence_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_no_torch_was_installed(python: Path, tmp_path: Path) -> None:
    listed = call(python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).splitlines()
    names = {line.partition("==")[0].lower() for line in listed}
    assert {"spikedeploy", "onnxruntime"} <= names
    assert not names & {"torch", "brevitas", "matplotlib", "onnxscript"}


@pytest.mark.parametrize("command", ["runtime.evaluate", "runtime.parity", "bench.latency"])
def test_commands_run_from_another_folder(python: Path, tmp_path: Path, command: str) -> None:
    script = python.with_name("spikedeploy")
    assert f"python -m {command}" in call(python, "-m", command, "--help", cwd=tmp_path)
    assert f"python -m {command}" in call(script, command, "--help", cwd=tmp_path)


def test_an_artifact_runs_on_a_deployment_machine(
    python: Path, artifact: Path, tmp_path: Path
) -> None:
    scene = ["--out", "scene.h5", "--seed", "1", "--duration", "0.4", "--resolution", "32", "40"]
    call(python, "-m", "calib_data.synthetic", *scene, cwd=tmp_path)
    run = [python, "-m", "runtime.evaluate", artifact, "--data", "scene.h5"]
    said = call(*run, "--json", "result.json", cwd=tmp_path)
    assert "without the op library" not in said
    assert (tmp_path / "result.json").is_file()
    parity = ["runtime.parity", artifact, artifact, "--data", "scene.h5", "--steps", "3"]
    call(python.with_name("spikedeploy"), *parity, cwd=tmp_path)


def test_a_command_whose_extra_is_missing_is_one_line(python: Path, tmp_path: Path) -> None:
    said = call(python.with_name("spikedeploy"), "export.qdq", cwd=tmp_path, status=2)
    assert said.startswith("error: ") and said.count("\n") == 1
    assert "spikedeploy[export]" in said


def test_a_strangers_folder_is_named(python: Path, tmp_path: Path) -> None:
    """Theirs, in the folder the command is called from, shadows ours."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    run = [python, "-m", "runtime.evaluate", "model.onnx", "--data", "scene.h5"]
    said = call(*run, cwd=tmp_path, status=2)
    assert said.startswith("error: package 'models' is found in") and said.count("\n") == 1
    assert str(tmp_path) in said

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
NOT_SHIPPED = (".cc", ".map", ".sh", ".txt", ".pyc", ".onnx", ".h5")
HEADERS = "runtime/include/spikedeploy/"
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
        if path.parent != REPOSITORY / "runtime" / "cmake"  # the template of what is installed
    }
    assert expected <= files, sorted(expected - files)
    assert "lif_op/liblif_ops.so" in files
    assert sum(name.startswith("lif_op/_core.") for name in files) == 1


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    files = shipped(wheel)
    assert {name.partition("/")[0] for name in files} == set(ROOMS)
    assert not [name for name in files if name.endswith(NOT_SHIPPED)]
    headers = {name for name in files if name.endswith(".h")}
    ours = (REPOSITORY / HEADERS).iterdir()
    assert headers == {HEADERS + path.name for path in ours}
    config = {name for name in files if name.endswith(".cmake")}
    version = "runtime/cmake/spikedeployConfigVersion.cmake"
    assert config == {"runtime/cmake/spikedeployConfig.cmake", version}


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


STRANGERS_PROJECT = """\
cmake_minimum_required(VERSION 3.16)
project(stranger LANGUAGES CXX)
find_package(spikedeploy REQUIRED)
add_executable(drive drive.cc)
target_link_libraries(drive PRIVATE spikedeploy::runtime)
"""


def test_a_strangers_cmake_project(python: Path, artifact: Path, tmp_path: Path) -> None:
    """Five lines of CMake against the installed wheel build the example, which runs as it is."""
    for name in ("drive.cc", "common.h"):
        (tmp_path / name).write_bytes((REPOSITORY / "examples" / "cpp" / name).read_bytes())
    (tmp_path / "CMakeLists.txt").write_text(STRANGERS_PROJECT)
    folder = call(python, "-m", "runtime", "--cmake-dir", cwd=tmp_path).strip()
    cmake = Path(sys.executable).with_name("cmake")
    call(cmake, "-S", ".", "-B", "build", f"-Dspikedeploy_DIR={folder}", cwd=tmp_path)
    call(cmake, "--build", "build", cwd=tmp_path)
    (tmp_path / "events.txt").write_text("".join(f"{i / 1000} 3 {i % 20} 1\n" for i in range(200)))
    said = call(tmp_path / "build" / "drive", artifact, "events.txt", cwd=tmp_path)
    assert "6 steps of" in said and "native kernels: yes" in said


def test_cmake_installs_for_those_without_python(artifact: Path, tmp_path: Path) -> None:
    """`cmake --install` into a prefix, found by CMAKE_PREFIX_PATH; no ONNX Runtime is known."""
    cmake = Path(sys.executable).with_name("cmake")
    call(cmake, "-S", REPOSITORY, "-B", "library", cwd=tmp_path)
    call(cmake, "--build", "library", "--parallel", "2", cwd=tmp_path)
    call(cmake, "--install", "library", "--prefix", tmp_path / "prefix", cwd=tmp_path)
    for name in ("drive.cc", "common.h"):
        (tmp_path / name).write_bytes((REPOSITORY / "examples" / "cpp" / name).read_bytes())
    (tmp_path / "CMakeLists.txt").write_text(STRANGERS_PROJECT)
    call(cmake, "-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={tmp_path}/prefix", cwd=tmp_path)
    call(cmake, "--build", "build", cwd=tmp_path)
    said = call(tmp_path / "build" / "drive", artifact, "events.txt", cwd=tmp_path, status=2)
    assert said.startswith("error: no ONNX Runtime") and said.count("\n") == 1

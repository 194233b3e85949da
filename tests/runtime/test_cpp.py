"""The C++ headers against Python's runtime: equal bits, and one clear error per mistake.

The programs are in ``tests/runtime/cpp``; ctest runs others of them on the stored vectors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_vectors
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import lif_op
from calib_data.encodings import event_counts
from calib_data.events import Events
from calib_data.hot_pixels import HotPixelFilter
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.floating import float_model
from runtime import __main__ as runtime_main
from runtime.artifact import load_model
from runtime.metadata import METADATA_KEY
from runtime.session import StatefulSession

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
VECTORS = HERE / "vectors"
MODEL = VECTORS / "model.int8.onnx"


def library() -> Path:
    (found,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return found


def run(*command: object, given: bytes = b"", **changed: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {
        "SPIKEDEPLOY_ONNXRUNTIME": str(library()),
        "SPIKEDEPLOY_OP_LIBRARY": str(lif_op.library_path()),
    }
    return subprocess.run(
        [str(part) for part in command],
        input=given,
        env=environment | changed,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """program(source) -> the compiled program, its path relative to the repository."""
    folder = tmp_path_factory.mktemp("programs")

    def build(source: str) -> Path:
        path = folder / Path(source).stem
        if not path.exists():
            include = f"-I{REPOSITORY / 'runtime' / 'include'}"
            options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror", include]
            compiler = os.environ.get("CXX", "c++")
            done = run(compiler, *options, REPOSITORY / source, "-o", path, "-pthread", "-ldl")
            assert done.returncode == 0, done.stderr.decode()
        return path

    return build


def test_the_vectors_are_what_the_script_writes(tmp_path: Path) -> None:
    make_vectors.main(tmp_path)
    for file in sorted(VECTORS.iterdir()):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("options", [[], ["pingpong", "threads=2"], ["never"]])
def test_float_networks_are_equal(
    program: Callable[[str], Path], tmp_path: Path, options: list[str]
) -> None:
    model = make_vectors.network("LIFFireNet", 4)
    path = write_model(float_model(model, Dims(make_vectors.RESOLUTION, True)), tmp_path / "m.onnx")
    session = StatefulSession(
        path,
        resolution=make_vectors.RESOLUTION,
        library="never" if "never" in options else "require",
        threads=2 if "threads=2" in options else 1,
    )
    done = run(program("tests/runtime/cpp/replay.cc"), path, VECTORS / "events.bin", *options)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == make_vectors.lines(session, make_vectors.counts())


def test_in_place_is_what_python_finds(program: Callable[[str], Path]) -> None:
    session = StatefulSession(MODEL, library="require")
    done = run(program("tests/runtime/cpp/replay.cc"), MODEL, VECTORS / "events.bin")
    assert f"native 1, in place {len(session.inplace)} of" in done.stderr.decode()


@pytest.mark.parametrize("options", [(100, 5, 0.8), (3, 2, 0.5), (0, 0, 0.0)])
def test_counts_equal_pythons(
    program: Callable[[str], Path], options: tuple[int, int, float]
) -> None:
    height, width = size = (9, 14)
    random = np.random.default_rng(7)
    hot = HotPixelFilter(size, *options)
    given, expected = b"", b""
    for window in range(12):
        number = 0 if window == 3 else int(random.integers(1, 4000))
        # Few pixels, so that some are hot, some counts saturate, and rates tie.
        xs = random.integers(0, width, number) // 3
        ys = random.integers(0, height, number)
        ps = random.choice([-1, 1], number)
        table = np.stack([xs, ys, ps], 1).astype("<i4")
        given += np.int32(number).tobytes() + table.tobytes()
        events = Events(xs=xs, ys=ys, ts=np.zeros(number), ps=ps)
        expected += hot.apply(event_counts(events, size, np.uint8, 127)).tobytes()
    done = run(program("tests/runtime/cpp/accumulate.cc"), *size, *options, given=given)
    assert done.returncode == 0
    assert done.stdout == expected


def changed_metadata(change: Callable[[dict[str, Any]], None]) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        (entry,) = [e for e in model.metadata_props if e.key == METADATA_KEY]
        values = json.loads(entry.value)
        change(values)
        entry.value = json.dumps(values)

    return apply


def doubled(model: onnx.ModelProto) -> None:
    model.metadata_props.append(model.metadata_props[0])


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def float_events(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if value.name == "events":
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1]))


def unknown_op(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "QNothing"


BAD: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "no metadata": (lambda m: m.ClearField("metadata_props"), "no 'snn.artifact' metadata"),
    "metadata twice": (doubled, "appears twice"),
    "another schema": (changed_metadata(lambda v: v.update(schema=2)), "schema other than 1"),
    "no schema": (changed_metadata(lambda v: v.pop("schema")), "lacks 'schema'"),
    "unknown kind": (changed_metadata(lambda v: v.update(kind="int4")), "kind = 'int4'"),
    "three bins": (changed_metadata(lambda v: v.update(num_bins=3)), "counts have 2 bins"),
    "huge size": (changed_metadata(lambda v: v.update(resolution=[1 << 40, 1])), "resolution"),
    "no states": (changed_metadata(lambda v: v.update(states=[])), "no states"),
    "a state less": (changed_metadata(lambda v: v["states"].pop()), "neither events nor a state"),
    "a state twice": (
        changed_metadata(lambda v: v["states"].append(v["states"][0])),
        "'mem.head' twice",
    ),
    "state of another type": (
        changed_metadata(lambda v: v["states"][0].update(dtype="int8")),
        "'mem.head' is not int8",
    ),
    "state of another shape": (
        changed_metadata(lambda v: v["states"][0].update(shape=["N", "H", "W", 9])),
        "'mem.head' has another shape",
    ),
    "negative dimension": (
        changed_metadata(lambda v: v["states"][0].update(shape=["N", "H", "W", -9])),
        "neither N, H, W nor a size",
    ),
    "init out of range": (
        changed_metadata(lambda v: v["states"][0].update(init=40000)),
        "init that its dtype cannot hold",
    ),
    "float events": (float_events, "'events' is not uint8"),
    "another input": (another_input, "'x' is neither events nor a state"),
    "values elsewhere": (external, "keeps values in other files"),
    "unknown op": (unknown_op, "ONNX Runtime refuses it"),
}


@pytest.mark.parametrize("trick", BAD)
def test_a_bad_artifact_is_refused(
    program: Callable[[str], Path], tmp_path: Path, trick: str
) -> None:
    change, expected = BAD[trick]
    model = onnx.load_model(MODEL)
    change(model)
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    done = run(program("tests/runtime/cpp/replay.cc"), path, VECTORS / "events.bin")
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert said.startswith("error ") and str(path) in said and expected in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"\x00", b"{}", MODEL.read_bytes()[:9000]])
def test_a_damaged_file_is_refused(
    program: Callable[[str], Path], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    done = run(program("tests/runtime/cpp/replay.cc"), path, VECTORS / "events.bin")
    assert done.returncode == 2
    assert "not an ONNX file, or cut off" in done.stderr.decode()


def test_a_missing_runtime_is_named(program: Callable[[str], Path]) -> None:
    replay = program("tests/runtime/cpp/replay.cc")
    done = run(replay, MODEL, VECTORS / "events.bin", SPIKEDEPLOY_ONNXRUNTIME="/nowhere.so")
    assert done.returncode == 2
    assert "/nowhere.so" in done.stderr.decode()


def test_the_example_drives_a_recording(program: Callable[[str], Path], tmp_path: Path) -> None:
    recording = tmp_path / "events.txt"
    height, width = load_model(MODEL).artifact.resolution
    times = [0.001 * i + (0.0003 if i else 0) for i in range(300)]  # none on a window's edge
    rows = [f"{t:.6f} {i % width} {i % height} {i % 2}\n" for i, t in enumerate(times)]
    recording.write_text("".join(rows))
    done = run(program("examples/cpp/drive.cc"), MODEL, recording, "50")
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    assert f"6 steps of {height} x {width}, native kernels: yes" in said
    assert said.count("50 events") == 6
    recording.write_text("0.1 3 4 1\n0.2 x\n")
    done = run(program("examples/cpp/drive.cc"), MODEL, recording)
    assert done.returncode == 2
    assert f"{recording}: line 2 is not" in done.stderr.decode()


def test_the_ring_example_counts_its_windows(program: Callable[[str], Path]) -> None:
    done = run(program("examples/cpp/ring.cc"), MODEL, 5, 10, 200)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().startswith("5 windows of 10.0 ms")
    assert "deadlines missed: " in done.stdout.decode()


def test_folders_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime_main.main(["--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (Path(told["cmake"]) / "spikedeployConfig.cmake").is_file()
    headers = {path.name for path in (Path(told["include"]) / "spikedeploy").iterdir()}
    ours = (REPOSITORY / "runtime" / "include" / "spikedeploy").iterdir()
    assert headers == {path.name for path in ours}
    for option, key in (("--cmake-dir", "cmake"), ("--include-dir", "include")):
        assert runtime_main.main([option]) == 0
        assert capsys.readouterr().out == told[key] + "\n"
    done = run(sys.executable, "-m", "runtime")
    assert done.returncode == 2 and b"--cmake-dir" in done.stderr

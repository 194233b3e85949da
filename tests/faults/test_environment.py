"""A folder closed to writing, an evaluation that is killed, op libraries that are none of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import lif_op
from calib_data import EventFileWriter, Events

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "attacks" / "sound" / "int8.onnx"


def command(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Ten seconds of a hundred windows."""
    rng = np.random.default_rng(0)
    count, size = 20_000, (12, 18)
    path = tmp_path / "recording.h5"
    with EventFileWriter(path, size) as writer:
        writer.append(
            Events(
                rng.integers(0, size[1], count).astype(np.int16),
                rng.integers(0, size[0], count).astype(np.int16),
                np.sort(rng.uniform(0, 10, count)),
                rng.choice([-1, 1], count).astype(np.int8),
            )
        )
        for number in range(101):
            writer.add_flow("dt1", 0.1 * number, np.ones((2, *size), np.float32))
    return path


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    # Root may write wherever the file system lets anybody.
    folder = Path("/sys/kernel") if os.geteuid() == 0 else tmp_path
    if folder == tmp_path:
        folder.chmod(0o555)
    before = set(folder.iterdir())
    process = command("export.float", "--untrained", "--channels", 4, "--out", folder / "m.onnx")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2, error
    assert error.startswith("error: ") and error.count("\n") == 1 and str(folder) in error
    assert set(folder.iterdir()) == before


def test_a_killed_evaluation_leaves_whole_files_or_none(tmp_path: Path, recording: Path) -> None:
    out = tmp_path / "out"
    files = {"--json": out / "r.json", "--csv": out / "r.csv", "--report": out / "r.html"}
    given = [part for pair in files.items() for part in pair]
    arguments = ["runtime.evaluate", MODEL, "--data", recording, *given]
    begun = time.monotonic()
    whole = command(*arguments)
    _, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    seconds = time.monotonic() - begun
    sizes = {path: path.stat().st_size for path in files.values()}
    killed = 0
    for share in (0.5, 0.7, 0.8, 0.9, 0.95):
        for path in files.values():
            path.unlink(missing_ok=True)
        process = command(*arguments)
        time.sleep(share * seconds)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if files["--json"].exists():
            assert json.loads(files["--json"].read_text())
        if files["--csv"].exists():
            assert files["--csv"].read_text().count("\n") >= 100
        if files["--report"].exists():
            assert files["--report"].stat().st_size == pytest.approx(
                sizes[files["--report"]], rel=0.1
            )
    assert killed


# --- op libraries ---------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path: Path) -> Callable[[str], Path]:
    """built(source) -> a shared library from C."""

    def build(source: str) -> Path:
        path = tmp_path / "libother.so"
        compiler = os.environ.get("CC", "cc")
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)],
            input=source, text=True, check=True, timeout=60,
        )  # fmt: skip
        return path

    return build


def registered(path: Path, monkeypatch: pytest.MonkeyPatch) -> onnxruntime.SessionOptions:
    monkeypatch.setattr(lif_op, "library_path", lambda: path)
    options = onnxruntime.SessionOptions()
    lif_op.register(options)
    return options


@pytest.mark.parametrize(
    "content",
    [b"", b"no library", b"\x7fELF" + bytes(60), None],
    ids=["empty", "text", "damaged", "cut off"],
)
def test_a_library_that_is_none(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "liblif_ops.so"
    own = lif_op.library_path().read_bytes()
    path.write_bytes(own[: len(own) // 2] if content is None else content)
    with pytest.raises(lif_op.LibraryError, match="cannot register the op library") as caught:
        registered(path, monkeypatch)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_library_without_the_entry_point(
    built: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lif_op.LibraryError, match="RegisterCustomOps"):
        registered(built("int something_else(void) { return 0; }"), monkeypatch)


ASKS_FOR_ANOTHER_RUNTIME = """
#include <stddef.h>
/* The first two members of OrtApiBase, and the fourth of OrtApi, which has not moved since 1.0. */
typedef void* (*GetApi)(unsigned version);
typedef struct { GetApi get; const char* (*version)(void); } Base;
typedef void* (*CreateStatus)(int code, const char* message);
void* RegisterCustomOps(void* options, const Base* base) {
  (void)options;
  if (base->get(9999) != NULL) return NULL;
  void** api = base->get(1);
  return ((CreateStatus)api[0])(1, "needs ONNX Runtime 1.9999");
}
"""


def test_a_library_for_another_runtime(
    built: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lif_op.LibraryError, match=r"needs ONNX Runtime 1\.9999"):
        registered(built(ASKS_FOR_ANOTHER_RUNTIME), monkeypatch)


def test_an_older_library_lacks_an_op(
    built: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file then needs its function bodies; without them it is one clear error."""
    nothing = "void* RegisterCustomOps(void* a, void* b) { (void)a; (void)b; return 0; }"
    options = registered(built(nothing), monkeypatch)
    with pytest.raises(Exception, match=r"QConvLIF.* is not a registered function/op"):
        onnxruntime.InferenceSession(MODEL.read_bytes(), options)

"""Allocations that fail, one after the other: every one is an error, none a crash or a difference.

What is asked for by the op library and by its Python module is meant; ONNX Runtime and NumPy have
allocations of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
MODEL = HERE.parent / "runtime" / "vectors" / "model.int8.onnx"


@pytest.fixture(scope="module")
def allocator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded allocator, compiled."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("allocator") / "failing_new.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC"]
    source = HERE / "failing_new.cc"
    subprocess.run([compiler, *flags, "-o", library, source, "-ldl"], check=True)
    return library


def fail_all(allocator: Path, library: str) -> dict[str, Any]:
    environment = os.environ | {
        "LD_PRELOAD": str(allocator),
        "FAILING_NEW_LIBRARY": library,
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(HERE / "failing_allocations.py"), library, str(MODEL)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_python_module(allocator: Path) -> None:
    found = fail_all(allocator, "_core")
    assert set(found) == {"lif", "qlif", "qconv", "qconv_lif", "targets"}
    for operation in found.values():
        assert operation["failures"] > 5
        assert operation["errors"] == ["MemoryError: std::bad_alloc"]


@pytest.mark.long
def test_op_library(allocator: Path) -> None:
    found = fail_all(allocator, "lif_ops")
    assert found["register"]["failures"] > 0
    assert found["load"]["failures"] > 100 and found["step"]["failures"] > 100
    for operation in found.values():
        assert all("out of memory" in error for error in operation["errors"])

"""The hand-written API tables, of op library and C++ runtime, against ONNX Runtime's headers.

The headers are taken from the folder named by the environment variable ONNXRUNTIME_INCLUDE_DIR,
else fetched. Where they cannot be had the proof is skipped; SPIKEDEPLOY_REQUIRE_ABI_CHECK=1 makes
that a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "lif_op"
ORT = SOURCES / "ort"


def official_headers() -> Path:
    given = os.environ.get("ONNXRUNTIME_INCLUDE_DIR")
    if given:
        return Path(given)
    destination = REPOSITORY / "build" / "onnxruntime-headers"
    command = ["sh", str(ORT / "fetch_headers.sh"), str(destination)]
    try:
        fetched = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        give_up(str(error))
    if fetched.returncode != 0:
        give_up(fetched.stderr.strip())
    return destination


def give_up(reason: str) -> None:
    message = f"API TABLE OF THE OP LIBRARY NOT PROVED, no headers of ONNX Runtime: {reason}"
    if os.environ.get("SPIKEDEPLOY_REQUIRE_ABI_CHECK") == "1":
        pytest.fail(message)
    warnings.warn(message, stacklevel=2)
    pytest.skip(message)


@pytest.fixture(scope="module")
def headers() -> Path:
    folder = official_headers()
    assert (folder / "onnxruntime_c_api.h").is_file(), folder
    return folder


def prove(headers: Path, sources: Path) -> subprocess.CompletedProcess[str]:
    """Compile the proof of `sources`/ort against `headers`."""
    command = [os.environ.get("CXX", "c++"), "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra"]
    command += [f"-I{sources}", f"-isystem{headers}", str(sources / "ort" / "abi_check.cc")]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_table_agrees_with_the_official_headers(headers: Path) -> None:
    proof = prove(headers, SOURCES)
    assert proof.returncode == 0, proof.stderr


def test_the_table_of_the_cpp_runtime_agrees_too(headers: Path) -> None:
    source = REPOSITORY / "tests" / "runtime" / "cpp" / "abi_check.cc"
    command = [os.environ.get("CXX", "c++"), "-std=c++17", "-fsyntax-only", f"-isystem{headers}"]
    command += [f"-I{SOURCES}", f"-I{REPOSITORY / 'runtime' / 'include'}", str(source)]
    proof = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert proof.returncode == 0, proof.stderr


@pytest.mark.parametrize(
    ("pattern", "replacement", "complaint"),
    [
        (r"X\(93, ReleaseStatus", "X(92, ReleaseStatus", "slot of ReleaseStatus"),
        (r"\(const char\*, CustomOpDomain\*\*\)", "(const char*)", "signature of CreateCustomOp"),
        (r"\(Allocator\*, std::size_t, void\*\*\)", "(Allocator*, int, void**)", "AllocatorAlloc"),
        (r"\(Allocator\*, void\*\)", "(Allocator*, std::size_t)", "signature of AllocatorFree"),
        (r"int \(\*GetStartVersion\)\(const CustomOp\*\);", "", "place of GetEndVersion|GetStart"),
        (r"kInt16 = 5", "kInt16 = 4", "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16"),
        (r"kApiVersion = 18", "kApiVersion = 99", "older than the API asked for"),
    ],
)
def test_the_proof_notices(
    headers: Path, tmp_path: Path, pattern: str, replacement: str, complaint: str
) -> None:
    shutil.copytree(ORT, tmp_path / "ort")
    api = tmp_path / "ort" / "api.h"
    text, count = re.subn(pattern, replacement, api.read_text(encoding="utf-8"), count=1)
    assert count == 1
    api.write_text(text, encoding="utf-8")
    proof = prove(headers, tmp_path)
    assert proof.returncode != 0
    assert re.search(complaint, proof.stderr), proof.stderr

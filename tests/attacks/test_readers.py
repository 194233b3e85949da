"""Some executions of every target of ``fuzz/readers.py``, and proof that it finds what is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FUZZER = REPOSITORY / "fuzz" / "readers.py"
FOUND = REPOSITORY / "fuzz" / "found"

sys.path.insert(0, str(FUZZER.parent))

import readers  # noqa: E402


def test_damaged_files_end_in_success_or_one_clear_error() -> None:
    command = [sys.executable, str(FUZZER), "--executions", "120", "--seconds", "60", "--json"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)
    assert {outcome["target"] for outcome in outcomes} == set(readers.TARGETS)
    # Some damage is harmless and some is not; else nothing was tried.
    assert all(outcome["executions"] > 0 for outcome in outcomes)
    assert sum(outcome["taken"] for outcome in outcomes) > 20


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_what_was_found_once_is_a_clear_error(path: Path) -> None:
    """Named TARGET-WHAT.SUFFIX."""
    with pytest.raises(Exception) as caught:
        readers.TARGETS[path.name.partition("-")[0]]().read(path)
    assert readers.clear(caught.value)


BROKEN = """
import sys
sys.path[:0] = [{fuzz!r}, {repository!r}]
import os, signal, time
import readers

def read(path):
    content = path.read_bytes()
    if content != b"sound" * 9 and content[:1] != b"s":
        {what}

readers.TARGETS["broken"] = lambda: readers.Target((b"sound" * 9,), ".txt", read)
readers.KEPT = readers.Path({kept!r})
sys.exit(readers.main(["--target", "broken", "--executions", "200", "--json"]))
"""


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("raise KeyError('lost')", "KeyError: 'lost'"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal SIGSEGV"),
        ("bytearray(1 << 33)", "MemoryError"),
    ],
)
def test_findings_are_told_and_kept(what: str, told: str, tmp_path: Path) -> None:
    code = BROKEN.format(
        fuzz=str(FUZZER.parent), repository=str(REPOSITORY), what=what, kept=str(tmp_path)
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    (outcome,) = json.loads(done.stdout)
    assert outcome["executions"] == 200 and outcome["findings"]
    for finding in outcome["findings"]:
        assert told in finding["what"]
        assert Path(finding["kept"]).read_bytes()[:1] != b"s"

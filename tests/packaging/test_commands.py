"""Every command explains itself and shows how it is called."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cli import COMMANDS


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as finished:
        importlib.import_module(command).main(["--help"])
    assert finished.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_of(command, capsys).split())
    assert text.startswith(f"usage: python -m {command} ")
    _, found, example = text.partition("example: ")
    assert found, f"{command} --help has no 'example: ...' at its end"
    assert shlex.split(example)[:3] == ["python", "-m", command]


def test_the_console_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("spikedeploy")
    for arguments in (["--help"], ["evaluate", "--help"]):
        done = subprocess.run(
            [script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "runtime.evaluate" in done.stdout


def test_a_missing_compiled_module_is_one_line(tmp_path: Path) -> None:
    """The source folders alone, as after a plain `git clone`: no traceback, and what to do."""
    repository = Path(__file__).parents[2]
    for room in ("lif_op", "calib_data", "runtime"):
        (tmp_path / room).symlink_to(repository / room)
    code = "import lif_op; from calib_data import console; "
    code += "raise SystemExit(console.run(lambda _: print(lif_op.library_path())))"
    # Without `site`, an editable install does not take part; its packages are on the path.
    places = [str(tmp_path), *(p for p in sys.path if p.endswith("-packages"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: the op library of spikedeploy is not available")
    assert done.stderr.count("\n") == 1

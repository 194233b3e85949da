"""The console script, and the check that our packages are not shadowed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import pytest

from calib_data import console
from runtime import cli, evaluate, house
from runtime.session import LibraryWarning

HOME = Path(__file__).resolve().parents[2]


def test_help_lists_every_command(capsys: Any) -> None:
    assert cli.main(["--help"]) == 0 and cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)


def test_short_names_are_unambiguous() -> None:
    assert len(cli.SHORT) == len(cli.COMMANDS)


@pytest.mark.parametrize("name", ["runtime.evaluate", "evaluate"])
def test_both_spellings_find_the_command(name: str) -> None:
    assert cli.command_main(name) is evaluate.main


def test_arguments_reach_the_command(make_file: Any, recording: Path, capsys: Any) -> None:
    assert cli.main(["evaluate", str(make_file()), "--data", str(recording), "--limit", "1"]) == 0
    assert "1 windows" in capsys.readouterr().out


def test_unknown_command_is_one_line(capsys: Any) -> None:
    assert console.run(cli.main, ["fly"]) == 2
    assert capsys.readouterr().err.startswith("error: no command 'fly'")


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without_torch(name: str, *rest: Any) -> Any:
        if name == "export.qdq":
            raise ModuleNotFoundError("no torch", name="torch.nn")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_torch)
    with pytest.raises(cli.CommandError, match=r"needs the package 'torch'.*spikedeploy\[export\]"):
        cli.command_main("qdq")


def test_own_missing_module_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, *rest: Any) -> Any:
        raise ModuleNotFoundError("no runtime.x", name="runtime.x")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match=r"runtime\.x"):
        cli.command_main("evaluate")


def test_house_is_in_order() -> None:
    house.check_house()


def test_our_warnings_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    house.start_command()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = warnings.showwarning
        shown(LibraryWarning("no library"), LibraryWarning, "some.py", 7)
        shown(UserWarning("from elsewhere"), UserWarning, "some.py", 7)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "note: no library"
    assert "some.py:7" in lines[1] and "from elsewhere" in lines[1]


def test_missing_room() -> None:
    with pytest.raises(house.HouseError, match="package 'cellar' is missing"):
        house.check_house(("runtime", "cellar"))


def test_a_strangers_folder_is_named(tmp_path: Path) -> None:
    """A ``models`` package in the working folder shadows ours; the command says so in one line.

    Without ``site`` an editable install, which would find ours first, does not take part.
    """
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    places = [str(HOME), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "runtime.cli", "evaluate", "x.onnx", "--data", "x.h5"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: package 'models' is found in")
    assert str(tmp_path) in done.stderr and done.stderr.count("\n") == 1


def test_entry_point_from_another_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HOME)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "runtime.parity" in done.stdout

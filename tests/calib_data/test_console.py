"""The errors and exit codes of every command, and files that appear only when whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from calib_data import console
from calib_data.console import progress, run
from calib_data.errors import DataError
from calib_data.files import atomic_path


def _raise(error: BaseException) -> Callable[[list[str] | None], int]:
    def main(argv: list[str] | None) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("file.h5: cut off\n  somewhere"), 2, "error: file.h5: cut off somewhere\n"),
        (FileNotFoundError(2, "no such file", "x.h5"), 2, "error: x.h5: no such file\n"),
        (OSError("disk on fire"), 2, "error: disk on fire\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError("no room for 3 TiB"), 2, "error: out of memory (no room for 3 TiB)\n"),
    ],
)
def test_user_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    assert run(_raise(error)) == status
    assert capsys.readouterr().err == line


def test_faults_of_the_program_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(_raise(ZeroDivisionError()))


def test_status_and_arguments_pass_through() -> None:
    seen: list[list[str] | None] = []

    def main(argv: list[str] | None) -> int:
        seen.append(argv)
        return 7

    assert run(main, ("a", "b")) == 7
    assert run(main) == 7
    assert seen == [["a", "b"], None]


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(5), "counting", 5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_file_appears_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.json"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert temporary.parent == target.parent
        assert temporary.suffix == ".json"
        assert not target.exists()
    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]
    plain = tmp_path / "plain"
    plain.touch()
    assert target.stat().st_mode == plain.stat().st_mode


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("new")
        raise KeyError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="name a file"), atomic_path(tmp_path):
        pass


def test_a_missing_extra_is_named():
    with pytest.raises(console.MissingExtra, match=r"'no_such_module'.*spikedeploy\[export\]"):
        console.demand("export", ["sys", "no_such_module"])


def test_a_command_without_its_extra_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["-m"])
    with pytest.raises(SystemExit) as ended:
        console.demand("export", ["no_such_module"])
    assert ended.value.code == console.EXIT_USER_ERROR
    assert capsys.readouterr().err.startswith("error: needs the package 'no_such_module'")

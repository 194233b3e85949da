"""Writing files whole or not at all."""

import os
import stat

import pytest

from calib_data.files import atomic_path, check_writable


def test_success_replaces_and_failure_keeps(tmp_path):
    target = tmp_path / "out.txt"
    with atomic_path(target) as path:
        path.write_text("first")
    with pytest.raises(RuntimeError), atomic_path(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a plain file"), atomic_path(pipe):
        pass
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_can_be_written_is_known_before(tmp_path):
    """And nothing is left, not even the folders that writing would make."""
    check_writable(tmp_path / "new" / "folder" / "out.txt")
    (tmp_path / "file").write_text("x")
    check_writable(tmp_path / "file")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file"):
        check_writable(tmp_path)
    with pytest.raises(NotADirectoryError, match="is no folder; name another"):
        check_writable(tmp_path / "file" / "below" / "out.txt")
    with pytest.raises(OSError, match="nothing can be written here") as caught:
        check_writable("/proc/self/out.txt")
    assert caught.value.filename == "/proc/self"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

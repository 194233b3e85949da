"""Writing files whole or not at all."""

import os
import stat

import pytest

from calib_data.files import atomic_path


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

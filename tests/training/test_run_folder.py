"""A run's files: whole or as they were, one clear error, nothing logged twice."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from training.run_folder import RunFolder, TrainingError, find_run

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_state_comes_back(folder: RunFolder) -> None:
    assert not folder.begun
    state = {"config": {"a": 1}, "weights": torch.arange(3.0), "best": math.inf}
    folder.save_state(state)
    loaded = folder.load_state(CPU)
    assert folder.begun and torch.equal(loaded["weights"], state["weights"])
    assert loaded["config"] == {"a": 1} and loaded["best"] == math.inf


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04 cut short"])
def test_a_damaged_state_is_named(content: bytes, folder: RunFolder) -> None:
    folder.write("state.pt", lambda path: path.write_bytes(content))
    with pytest.raises(TrainingError, match=r"state\.pt: not a saved run"):
        folder.load_state(CPU)


def test_a_file_of_another_kind_is_no_state(folder: RunFolder) -> None:
    folder.write("state.pt", lambda path: torch.save({"weights": torch.zeros(1)}, path))
    with pytest.raises(TrainingError, match="not a saved run"):
        folder.load_state(CPU)


def test_a_full_disk_keeps_the_state_before(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save_state({"config": {}, "update": 1})

    def full(path: Path, data: Any) -> int:
        with path.open("wb") as file:
            file.write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TrainingError) as caught:
        folder.save_state({"config": {}, "update": 2})
    message = str(caught.value)
    assert "state.pt: cannot be written (No space left on device)" in message
    assert "make room, then" in message and f"--resume {folder.path}" in message
    assert folder.load_state(CPU)["update"] == 1
    assert [path.name for path in folder.path.iterdir()] == ["state.pt"]


def test_a_log_that_cannot_grow_is_named(folder: RunFolder) -> None:
    (folder.path / "log.jsonl").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"log\.jsonl: cannot be written"):
        folder.log({"update": 1})


def test_numbers_without_a_value_are_null(folder: RunFolder) -> None:
    folder.log({"update": 1, "loss": math.nan, "gradients": {"w": math.inf, "b": 1.5}})
    line = json.loads((folder.path / "log.jsonl").read_text())
    assert line == {"update": 1, "loss": None, "gradients": {"w": None, "b": 1.5}}


def test_what_came_after_the_state_is_forgotten(folder: RunFolder) -> None:
    for update in range(1, 6):
        folder.log({"update": update})
        folder.log_gradients(update, [("w", 1.0, 2.0, 0.5), ("b", 0.0, 0.0, 1.0)])
    with (folder.path / "log.jsonl").open("a") as file:
        file.write('{"update": 6, "lo')
    folder.forget_after(3)
    lines = (folder.path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [1, 2, 3]
    rows = (folder.path / "gradients.csv").read_text().splitlines()
    assert rows[0] == "update,parameter,norm,max,zeros"
    assert rows[1:] == [
        f"{u},{row}" for u in (1, 2, 3) for row in ("w,1.0,2.0,0.5", "b,0.0,0.0,1.0")
    ]
    folder.forget_after(3)
    assert (folder.path / "gradients.csv").read_text().splitlines() == rows


def test_runs_are_found(tmp_path: Path) -> None:
    out = tmp_path / "last"
    run = RunFolder(tmp_path / "first")
    run.write_json("run.json", {"run_id": "0123abcd"})
    RunFolder(tmp_path / "unrecorded").write_json("run.json", {"run_id": None})
    RunFolder(tmp_path / "broken").write("run.json", lambda path: path.write_text("{"))
    for reference in (str(run.path), "first", "0123abcd", "runs:0123abcd", "runs:0123"):
        assert find_run(reference, out) == run.path
    for reference in ("second", "None", "123", "runs:"):
        with pytest.raises(TrainingError, match=f"--resume {reference}: no such folder"):
            find_run(reference, out)
    RunFolder(tmp_path / "twin").write_json("run.json", {"run_id": "0123ef"})
    with pytest.raises(TrainingError, match=r"several runs' ids: .*first.*twin; give more"):
        find_run("0123", out)

"""Runs that cannot have what they ask for: memory, or a folder of their own."""

from pathlib import Path

import pytest

from training.fit import main
from training.run_folder import RunFolder, TrainingError

TINY = """
data: {train_scenes: 1, validation_scenes: 1, duration: 0.2, resolution: [32, 32], crop: 16}
batch_size: 1
updates: 1
tracking: {kind: none}
"""


def _arguments(folder: Path, *further: str) -> list[str]:
    config = folder / "tiny.yml"
    config.write_text(TINY)
    run = ["--config", str(config), "--out", str(folder / "run"), "--threads", "1"]
    run += ["--set", f"data.cache={folder / 'scenes'}"]
    return [*run, *further]


def test_more_channels_than_memory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not enough memory.*base_num_channels"):
        main(_arguments(tmp_path, "--set", "model.base_num_channels=10000000"))


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path / "run").held(),
        pytest.raises(TrainingError, match="another run is training there"),
    ):
        main(_arguments(tmp_path))


def test_a_folder_is_free_after_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        pass
    with folder.held():
        assert not folder.begun

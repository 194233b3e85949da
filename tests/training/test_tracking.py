"""Runs in a local store: what it holds, going on with a run, and stores that fail."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import load_checkpoint, save_checkpoint, untrained
from models.runs import open_store
from quant import is_quantized_checkpoint
from training import tracking
from training.tracking import Tracker, open_tracker

PARAMETERS = {"model.name": "LIFFireNet", "optimizer.lr": 0.001, "data.path": None}
PICTURE = np.zeros((4, 6, 3), np.uint8)


def begin(folder: Path, **changes: Any) -> Tracker:
    given: dict[str, Any] = {
        "kind": "mlflow",
        "uri": f"sqlite:///{folder / 'runs.db'}",
        "experiment": "flow",
        "folder": folder / "first",
        "run_name": "first",
        "parameters": PARAMETERS,
    }
    return open_tracker(**(given | changes))


def test_a_run_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    weights = save_checkpoint(
        untrained("LIFFireNet_short", channels=2), tmp_path / "best.safetensors"
    )
    with pytest.raises(KeyboardInterrupt), begin(tmp_path, uri=None) as first:
        first.metrics({"loss": 3.5, "gradients.head.weight": 0.25}, 10)
        first.image("scene", PICTURE, 10)
        raise KeyboardInterrupt
    client = open_store(uri)
    assert first.run_id is not None
    run = client.get_run(first.run_id)
    assert (run.info.status, run.info.run_name) == ("KILLED", "first")
    assert run.data.params == {key: str(value) for key, value in PARAMETERS.items()}
    assert run.data.metrics == {"loss": 3.5, "gradients.head.weight": 0.25}
    assert [entry.path for entry in client.list_artifacts(first.run_id)] == ["images"]

    # Going on: the same run, a parameter that changed stays, one that is new is added.
    changed = PARAMETERS | {"optimizer.lr": 0.5, "device": "cpu"}
    with begin(tmp_path, run_id=first.run_id, parameters=changed) as second:
        assert client.get_run(first.run_id).info.status == "RUNNING"
        second.metrics({"loss": 3.0}, 20)
        second.artifact(weights)
        second.artifact(weights, "copies")
    assert second.run_id == first.run_id
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.params["device"] == "cpu"
    history = [(row.step, row.value) for row in client.get_metric_history(first.run_id, "loss")]
    assert history == [(10, 3.5), (20, 3.0)]

    # The run's network, by the run's id.
    reference = f"runs:{first.run_id}"
    assert (
        load_checkpoint(reference).checkpoint_sha256 == load_checkpoint(weights).checkpoint_sha256
    )
    assert not is_quantized_checkpoint(reference)
    assert str(tmp_path / "mlruns" / first.run_id) in client.get_run(first.run_id).info.artifact_uri

    # A run that the store no longer has.
    client.delete_run(first.run_id)
    with pytest.raises(RuntimeError), begin(tmp_path, run_id=first.run_id) as third:
        raise RuntimeError
    assert third.run_id not in (None, first.run_id)
    assert client.get_run(third.run_id).info.status == "FAILED"


class Store:
    """A client whose calls fail while it is ``gone``."""

    def __init__(self) -> None:
        self.gone, self.tries = False, 0
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> None:
            self.tries += 1
            if self.gone:
                raise OSError("database is locked")
            rows = named.get("metrics")
            self.calls.append(f"{name} {rows[0].step}" if rows else name)

        return call


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(tracking.time, "monotonic", lambda: clock[0])
    clock[0] = 1000.0
    return store


clock = [0.0]


def tell(store: Store, folder: Path) -> Tracker:
    return Tracker(folder, [tracking._Mlflow(store, "0123")], "0123")


def test_a_store_that_fails_is_tried_again_later(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tell(store, tmp_path) as tracker:
        tracker.metrics({"loss": 1.0}, 1)
        store.gone = True
        for step in (2, 3, 4):
            tracker.metrics({"loss": 1.0}, step)
        # Not at every call: a server that is gone takes its time to say nothing.
        assert store.tries == 2
        store.gone = False
        clock[0] += tracking.PAUSE
        tracker.metrics({"loss": 1.0}, 5)
        store.gone = True
        tracker.artifact(tmp_path / "absent")
        store.gone = False
    steps = [f"log_batch {step}" for step in (1, 2, 3, 4, 5)]
    assert store.calls == [*steps, "log_artifact", "set_terminated"]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert "database is locked" in warnings[0]


def test_a_store_that_is_gone_ends_nothing(store: Store, tmp_path: Path) -> None:
    store.gone = True
    with tell(store, tmp_path) as tracker:
        for step in range(50):
            tracker.metrics({"loss": 1.0}, step)
    # One while training, a few for what waits at the end, and the end of the run.
    assert store.tries == 1 + tracking._LAST_FAILURES + 1
    assert store.calls == []


def test_a_store_that_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with begin(tmp_path, uri=f"sqlite:///{tmp_path}") as tracker:
        tracker.metrics({"loss": 1.0}, 1)
    assert tracker.run_id is None
    assert "not recorded in MLflow: the store" in capsys.readouterr().err


def test_a_store_that_another_program_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file: connect(file, timeout=0))
    with contextlib.closing(connect(tmp_path / "runs.db", isolation_level=None)) as holder:
        holder.execute("CREATE TABLE held (value)")
        holder.execute("BEGIN EXCLUSIVE")
        with begin(tmp_path) as tracker:
            tracker.metrics({"loss": 1.0}, 1)
    assert tracker.run_id is None
    assert "database is locked" in capsys.readouterr().err


def test_without_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with begin(tmp_path, tensorboard=True) as tracker:
        tracker.metrics({"loss": 1.0}, 1)
        tracker.image("scene", PICTURE, 1)
    assert tracker.run_id is None
    mlflow, board = capsys.readouterr().err.splitlines()
    assert "spikedeploy[training]" in mlflow
    assert "spikedeploy[tensorboard]" in board
    assert (tmp_path / "first" / "images" / "scene-000001.png").exists()


def test_pictures_that_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "first").write_text("a file where the folder should be")
    with begin(tmp_path, kind="none") as tracker:
        tracker.image("scene", PICTURE, 1)
        tracker.image("scene", PICTURE, 2)
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_tensorboard_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with begin(tmp_path, kind="none", tensorboard=True) as tracker:
        tracker.metrics({"loss": 2.5}, 3)
        tracker.image("scene", PICTURE, 3)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "first" / "tensorboard"))
    events.Reload()
    assert [(entry.step, entry.value) for entry in events.Scalars("loss")] == [(3, 2.5)]
    assert [entry.step for entry in events.Images("scene")] == [3]


def test_nothing_is_imported_that_is_not_used() -> None:
    code = (
        "import sys, training.tracking\n"
        "print(sorted({'mlflow', 'tensorboard', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

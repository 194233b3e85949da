"""References to runs: which checkpoint they mean, and which mean none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models import CheckpointError
from models import runs as runs_module
from models.runs import SHADOWS, resolve_checkpoint, store_uri

FLOAT, GRID, EMPTY = "aa01" + 28 * "0", "aa02" + 28 * "0", "bb03" + 28 * "0"


class Page(list[Any]):
    token: str | None = None


class Client:
    """A store with three runs on two pages, its files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = {
            FLOAT: ["best.safetensors", "last.safetensors", "log.jsonl"],
            GRID: ["best.qat.safetensors", "best.quantized.safetensors"],
            EMPTY: ["log.jsonl"],
        }
        self.files = names

    def search_experiments(self) -> list[Any]:
        return [SimpleNamespace(experiment_id="1")]

    def search_runs(self, ids: list[str], max_results: int, page_token: str | None) -> Page:
        assert ids == ["1"]
        chosen = [FLOAT, GRID] if page_token is None else [EMPTY]
        page = Page(
            SimpleNamespace(info=SimpleNamespace(run_id=i, run_name=f"n{i[:4]}", status="FINISHED"))
            for i in chosen
        )
        page.token = "next" if page_token is None else None
        return page

    def list_artifacts(self, run_id: str) -> list[Any]:
        entries = [SimpleNamespace(path=name, is_dir=False) for name in self.files[run_id]]
        return [*entries, SimpleNamespace(path="images", is_dir=True)]

    def download_artifacts(self, run_id: str, name: str) -> str:
        return str(self.folder / run_id / name)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    client = Client(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    monkeypatch.setattr(runs_module, "open_store", lambda uri: client)
    yield client


@pytest.mark.parametrize("path", ["a/b.safetensors", Path("runs/first/best.safetensors")])
def test_a_path_stays_a_path(path: str | Path) -> None:
    assert resolve_checkpoint(path) == Path(path)


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        (f"runs:{FLOAT}", f"{FLOAT}/best.safetensors"),
        (f"runs:/{FLOAT}", f"{FLOAT}/best.safetensors"),
        (Path("runs:aa01"), f"{FLOAT}/best.safetensors"),
        ("runs:aa01/last.safetensors", f"{FLOAT}/last.safetensors"),
        ("runs:aa01/kept/10.safetensors", f"{FLOAT}/kept/10.safetensors"),
        ("runs:aa02", f"{GRID}/best.quantized.safetensors"),
    ],
)
def test_references(store: Client, reference: str | Path, file: str) -> None:
    assert resolve_checkpoint(reference) == store.folder / file


def test_training_on_the_grid_goes_on_from_shadows(store: Client) -> None:
    assert resolve_checkpoint("runs:aa02", SHADOWS).name == "best.qat.safetensors"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("runs:", "give the id of a run"),
        ("runs:aa", f"beginning of {FLOAT} (naa01), {GRID} (naa02); give more"),
        ("runs:aa03", "no such run in http://localhost:1; nearest: aa0"),
        (
            "runs:bb03",
            "has no best.safetensors or best.quantized.safetensors; it has no checkpoint",
        ),
        ("runs:aa01/x.safetensors", "it has best.safetensors, last.safetensors"),
    ],
)
def test_references_that_name_nothing(store: Client, reference: str, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(reference)
    assert str(caught.value).startswith(reference)
    assert words in str(caught.value)


def test_a_store_that_does_not_answer(store: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Client) -> list[Any]:
        raise ConnectionError("refused\nby the server")

    monkeypatch.setattr(Client, "search_experiments", fail)
    with pytest.raises(CheckpointError, match="refused by the server"):
        resolve_checkpoint("runs:aa01")


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert store_uri("http://here") == "http://here"
    assert store_uri() == "http://there"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert store_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(CheckpointError, match="there is no store"):
        resolve_checkpoint("runs:aa01")
    assert list(tmp_path.iterdir()) == []


def test_without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(CheckpointError, match="needs the package 'mlflow'"):
        resolve_checkpoint("runs:aa01")

"""Checkpoints by the MLflow run that made them: ``runs:ID``.

MLflow is imported only when such a reference is resolved.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.errors import CheckpointError

PREFIX = "runs:"
BEST = ("best.safetensors", "best.quantized.safetensors")
"""Artifacts that ``runs:ID`` stands for, the first that the run has."""

SHADOWS = ("best.qat.safetensors",)
"""Where training on the integer grid can go on from."""

_STORE = "mlflow.db"
_SHOWN = 3
_PAGE = 1000


def resolve_checkpoint(reference: str | Path, names: Sequence[str] = BEST) -> Path:
    """The file of a checkpoint.

    Args:
        reference: a path, which stays what it is; or ``runs:ID`` with an MLflow run id, or an
            unambiguous beginning of one, for the run's best network; or ``runs:ID/NAME`` for
            another artifact of the run. The store is that of :func:`store_uri`.
        names: artifacts that ``runs:ID`` may stand for, the preferred first.

    Raises:
        CheckpointError: no store, no or several such runs, or the run has no such artifact.
    """
    text = str(reference)
    if not text.startswith(PREFIX):
        return Path(reference)
    run_id, _, name = text.removeprefix(PREFIX).strip("/").partition("/")
    if not run_id:
        raise CheckpointError(f"{text}: give the id of a run, as in runs:0123abcd")
    uri = store_uri()
    _check_exists(text, uri)
    try:
        client = open_store(uri)
        return _artifact(client, text, _find(client, text, run_id, uri), [name] if name else names)
    except ImportError:
        raise CheckpointError(
            f"{text}: needs the package 'mlflow'; pip install 'spikedeploy[training]'"
        ) from None
    except CheckpointError:
        raise
    except Exception as error:
        # MLflow passes on whatever its databases, servers and storages raise.
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{text}: the store {uri} cannot be read ({reason})") from None


def store_uri(uri: str | None = None) -> str:
    """Where runs are recorded: ``uri``, else the environment's ``MLFLOW_TRACKING_URI``, else
    ``mlflow.db`` in the current folder, which is also where ``mlflow ui`` looks."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / _STORE}"


def open_store(uri: str) -> Any:
    """An ``MlflowClient`` of the store that sends no usage statistics and reports no routine.

    Raises:
        ImportError: MLflow is not installed.
        sqlite3.Error, OSError: an SQLite store that is none, is locked or cannot be made.
    """
    file = sqlite_file(uri)
    if file is not None:
        _probe(file)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A server that is gone would otherwise hold its callers up for many minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    tracking = importlib.import_module("mlflow.tracking")
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return tracking.MlflowClient(uri, registry_uri=uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for other stores."""
    scheme = "sqlite:///"
    return Path(uri.removeprefix(scheme)) if uri.startswith(scheme) else None


def _probe(file: Path) -> None:
    """Find out at once what MLflow finds out after two minutes of trying."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA schema_version")


def _check_exists(text: str, uri: str) -> None:
    """MLflow would make a missing store, which is no help to who looks for a run."""
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise CheckpointError(
            f"{text}: there is no store {file}; go to the folder where the training was started, "
            "or set MLFLOW_TRACKING_URI"
        )


def _find(client: Any, text: str, run_id: str, uri: str) -> Any:
    runs = {run.info.run_id: run for run in _runs(client)}
    found = [run_id] if run_id in runs else [one for one in runs if one.startswith(run_id)]
    if len(found) == 1:
        return runs[found[0]]
    if found:
        raise CheckpointError(f"{text}: is the beginning of {_shown(found, runs)}; give more of it")
    if not runs:
        raise CheckpointError(f"{text}: the store {uri} holds no runs")
    near = difflib.get_close_matches(run_id, runs, _SHOWN, cutoff=0) or list(runs)
    raise CheckpointError(f"{text}: no such run in {uri}; nearest: {_shown(near, runs)}")


def _runs(client: Any) -> Iterator[Any]:
    """All runs of the store that were not deleted, the newest of each page first."""
    experiments = [one.experiment_id for one in client.search_experiments()]
    token = None
    while experiments:
        page = client.search_runs(experiments, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _shown(ids: Sequence[str], runs: dict[str, Any]) -> str:
    names = [f"{one} ({runs[one].info.run_name})" for one in ids[:_SHOWN]]
    more = [f"{len(ids) - _SHOWN} more"] if len(ids) > _SHOWN else []
    return ", ".join(names + more)


def _artifact(client: Any, text: str, run: Any, names: Sequence[str]) -> Path:
    run_id = run.info.run_id
    # Only files at the top are listed; a name further down is taken at its word.
    listed = [entry.path for entry in client.list_artifacts(run_id) if not entry.is_dir]
    for name in names:
        if name in listed or "/" in name:
            return Path(client.download_artifacts(run_id, name))
    networks = sorted(name for name in listed if name.endswith(".safetensors"))
    there = f"it has {', '.join(networks)}" if networks else "it has no checkpoint"
    raise CheckpointError(
        f"{text}: run {run_id} ({run.info.run_name}, {run.info.status}) has no "
        f"{' or '.join(names)}; {there}"
    )

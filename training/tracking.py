"""Recording a run beside its folder: in MLflow, and for TensorBoard.

MLflow's store is local unless another is named (:func:`models.runs.store_uri`); nothing is sent
anywhere else. Neither package is needed, and neither is imported unless it is used. What goes
wrong here is said once and never ends a training: the run's folder holds everything by itself.
"""

from __future__ import annotations

import abc
import importlib
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from models.runs import open_store, sqlite_file, store_uri
from training.images import save_png

Status = Literal["FINISHED", "FAILED", "KILLED"]
Rgb = npt.NDArray[np.uint8]

PAUSE = 60.0
"""Seconds before a store that failed is tried again."""

_WAITING = 20_000
_BATCH = 100
_LAST_FAILURES = 3


class Tracker:
    """Tells MLflow and TensorBoard about one run; see :func:`open_tracker`.

    A context manager: leaving it ends the run, as FAILED after an error, as KILLED after an
    interruption, else as FINISHED, unless :meth:`finish` said so before.

    Args:
        folder: the run's; pictures are kept in its ``images``.
        sinks: who is told.
        run_id: in MLflow, or None.
    """

    def __init__(self, folder: Path, sinks: list[_Sink], run_id: str | None = None) -> None:
        self.run_id = run_id
        self._folder, self._sinks = folder, sinks
        self._finished = self._warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers of one update, by name."""
        now = time.time()
        for sink in self._sinks:
            sink.metrics(dict(values), step, now)

    def image(self, name: str, rgb: Rgb, step: int) -> None:
        """Record a picture, uint8 [H, W, 3]; it is also kept as ``images/NAME-STEP.png``."""
        path = self._folder / "images" / f"{name}-{step:06d}.png"
        try:
            save_png(rgb, path)
        except OSError as error:
            if not self._warned:
                _warn(f"{path}: cannot be written ({error.strerror or error}); training goes on")
            self._warned = True
        for sink in self._sinks:
            sink.image(name, rgb, step)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file into MLflow's store, there into ``folder``; TensorBoard keeps no files."""
        for sink in self._sinks:
            sink.artifact(path, folder)

    def finish(self, status: Status) -> None:
        """End the run; only the first call counts."""
        if not self._finished:
            self._finished = True
            for sink in self._sinks:
                sink.finish(status)


class _Sink(abc.ABC):
    """Carries out calls in their order; those that fail wait and are tried again later."""

    title = ""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque(maxlen=_WAITING)
        self._next_try = 0.0
        self._warned = False

    @abc.abstractmethod
    def metrics(self, values: dict[str, float], step: int, seconds: float) -> None: ...

    @abc.abstractmethod
    def image(self, name: str, rgb: Rgb, step: int) -> None: ...

    @abc.abstractmethod
    def artifact(self, path: Path, folder: str | None) -> None: ...

    @abc.abstractmethod
    def finish(self, status: Status) -> None: ...

    def do(self, call: Callable[[], object]) -> None:
        """Carry out the call, and before it what waits, or let it wait if that fails."""
        self._waiting.append(call)
        if time.monotonic() >= self._next_try:
            while self._waiting and self._succeeds(self._waiting[0]):
                self._waiting.popleft()

    def do_last(self, call: Callable[[], object]) -> None:
        """Carry out what waits, then the call; what fails now is given up."""
        failures = 0
        while self._waiting and failures < _LAST_FAILURES:
            failures += not self._succeeds(self._waiting.popleft())
        self._waiting.clear()
        self._succeeds(call)

    def _succeeds(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except Exception as error:
            # Databases, servers and storages raise whatever they like.
            self._next_try = time.monotonic() + PAUSE
            if not self._warned:
                _warn(f"{self.title} fails ({_one_line(error)}); training goes on without it")
            self._warned = True
            return False
        return True


class _Mlflow(_Sink):
    title = "MLflow"

    def __init__(self, client: Any, run_id: str) -> None:
        super().__init__()
        self._client, self.run_id = client, run_id
        self._entities = importlib.import_module("mlflow.entities")

    def metrics(self, values: dict[str, float], step: int, seconds: float) -> None:
        moment = int(1000 * seconds)
        rows = [self._entities.Metric(key, value, moment, step) for key, value in values.items()]
        self.do(lambda: self._log("metrics", rows))

    def parameters(self, values: Mapping[str, object], known: Mapping[str, str]) -> None:
        """Record what is not known yet: MLflow refuses to change a parameter."""
        new = [(key, str(value)) for key, value in values.items() if key not in known]
        rows = [self._entities.Param(key, value) for key, value in new]
        self.do(lambda: self._log("params", rows))

    def _log(self, kind: str, rows: list[Any]) -> None:
        for start in range(0, len(rows), _BATCH):
            self._client.log_batch(self.run_id, **{kind: rows[start : start + _BATCH]})

    def image(self, name: str, rgb: Rgb, step: int) -> None:
        self.do(lambda: self._client.log_image(self.run_id, rgb, key=name, step=step))

    def artifact(self, path: Path, folder: str | None) -> None:
        self.do(lambda: self._client.log_artifact(self.run_id, str(path), folder))

    def finish(self, status: Status) -> None:
        self.do_last(lambda: self._client.set_terminated(self.run_id, status))


class _TensorBoard(_Sink):
    title = "TensorBoard"

    def __init__(self, writer: Any) -> None:
        super().__init__()
        self._writer = writer

    def metrics(self, values: dict[str, float], step: int, seconds: float) -> None:
        def write() -> None:
            for key, value in values.items():
                self._writer.add_scalar(key, value, step, seconds)

        self.do(write)

    def image(self, name: str, rgb: Rgb, step: int) -> None:
        self.do(lambda: self._writer.add_image(name, rgb, step, dataformats="HWC"))

    def artifact(self, path: Path, folder: str | None) -> None:
        """TensorBoard keeps no files."""

    def finish(self, status: Status) -> None:
        self.do_last(self._writer.close)


def open_tracker(
    *,
    kind: Literal["mlflow", "none"],
    uri: str | None,
    experiment: str,
    folder: Path,
    run_name: str,
    parameters: Mapping[str, object],
    run_id: str | None = None,
    tensorboard: bool = False,
) -> Tracker:
    """Begin to record a run, or go on with one.

    Where MLflow or TensorBoard is missing or does not answer, one line on stderr says so, and the
    tracker goes without it.

    Args:
        kind: "none" for no MLflow.
        uri: of MLflow's store; None for :func:`models.runs.store_uri`.
        experiment: made if it is missing. In an SQLite store its files go to ``mlruns`` beside the
            database.
        folder: of the run; TensorBoard's files go to its ``tensorboard``.
        run_name: shown by MLflow.
        parameters: by dotted name. Going on with a run, those it has stay as they were.
        run_id: the run to go on with; one that the store no longer has is replaced by a new one.
        tensorboard: also write TensorBoard's files.
    """
    sinks: list[_Sink] = []
    mlflow = None
    if kind == "mlflow":
        mlflow = _open_mlflow(store_uri(uri), experiment, run_name, parameters, run_id)
    if mlflow is not None:
        sinks.append(mlflow)
    if tensorboard:
        sinks += _open_tensorboard(folder / "tensorboard")
    return Tracker(folder, sinks, None if mlflow is None else mlflow.run_id)


def _open_mlflow(
    uri: str,
    experiment: str,
    run_name: str,
    parameters: Mapping[str, object],
    run_id: str | None,
) -> _Mlflow | None:
    try:
        client = open_store(uri)
        run = _known_run(client, uri, run_id) if run_id else None
        if run is None:
            run = client.create_run(_experiment_id(client, experiment, uri), run_name=run_name)
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        sink = _Mlflow(client, run.info.run_id)
    except ImportError:
        _warn(
            "the run is not recorded in MLflow, which is not installed; "
            "pip install 'spikedeploy[training]', or set tracking.kind to none"
        )
        return None
    except Exception as error:
        # Databases, servers and storages raise whatever they like.
        _warn(f"the run is not recorded in MLflow: the store {uri} fails ({_one_line(error)})")
        return None
    sink.parameters(parameters, run.data.params)
    return sink


def _known_run(client: Any, uri: str, run_id: str) -> Any:
    exceptions = importlib.import_module("mlflow.exceptions")
    try:
        run = client.get_run(run_id)
    except exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        _warn(f"MLflow run {run_id} is not in {uri}; a new one goes on from here")
        return None
    return run


def _experiment_id(client: Any, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    database = sqlite_file(uri)
    files = None if database is None else str(database.absolute().parent / "mlruns")
    return str(client.create_experiment(name, artifact_location=files))


def _open_tensorboard(folder: Path) -> list[_Sink]:
    try:
        board = importlib.import_module("torch.utils.tensorboard")
        return [_TensorBoard(board.SummaryWriter(str(folder)))]
    except ImportError:
        _warn(
            "nothing is written for TensorBoard, which is not installed; "
            "pip install 'spikedeploy[tensorboard]'"
        )
    except OSError as error:
        _warn(f"nothing is written for TensorBoard ({error})")
    return []


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

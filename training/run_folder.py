"""The folder of a run: what is in it and how it gets there.

``state.pt`` (from which a run goes on), ``log.jsonl`` (one line per update), ``gradients.csv``,
``summary.json``, ``run.json`` (its MLflow run), and the networks that were kept.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from calib_data.files import atomic_path

STATE = "state.pt"
LOG = "log.jsonl"
GRADIENTS = "gradients.csv"
SUMMARY = "summary.json"
RUN = "run.json"


class TrainingError(RuntimeError):
    """A run that cannot go on, or whose files cannot be used."""

    user_error = True


class RunFolder:
    """Reads and writes one run's files; every write is whole or leaves the file as it was.

    Args:
        path: the folder; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def begun(self) -> bool:
        """Whether there is a state to go on from."""
        return (self.path / STATE).exists()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within, no other process can train in the folder; the hold ends with the process.

        Raises:
            TrainingError: another process trains there, or the folder cannot be made.
        """
        with self.writing(STATE):
            descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TrainingError(
                    f"{self.path}: another run is training there; wait, or pass another --out"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def run_id(self) -> str | None:
        """The run's id in MLflow, if it was recorded there."""
        try:
            found = json.loads((self.path / RUN).read_text())["run_id"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, str) else None

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state.

        Raises:
            TrainingError: it cannot be written; the state before it is intact.
        """
        # In memory first: torch reports a full disk as a fault of its own.
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self.write(STATE, lambda path: path.write_bytes(buffer.getbuffer()))

    def load_state(self, device: torch.device) -> dict[str, Any]:
        """What :meth:`save_state` wrote, on the device.

        Raises:
            TrainingError: the file is damaged or of another kind.
            OSError: it cannot be opened.
        """
        path = self.path / STATE
        with path.open("rb") as file:
            try:
                state = torch.load(file, map_location=device, weights_only=True)
            except Exception as error:
                # torch raises several types here; each means that the file is no state.
                reason = " ".join(str(error).split())[:200]
                raise TrainingError(f"{path}: not a saved run ({reason})") from None
        if not isinstance(state, dict) or "config" not in state:
            raise TrainingError(f"{path}: not a saved run")
        return state

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Replace a file by what ``write`` puts at the path it is given.

        Raises:
            TrainingError: no space, no permission, ...; the file is as it was.
        """
        with self.writing(name), atomic_path(self.path / name) as path:
            write(path)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Within, failures to write become a :class:`TrainingError` that says what to do."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise self._unwritable(name, error.strerror or type(error).__name__) from None
        except SafetensorError as error:
            # What safetensors makes of a full disk.
            raise self._unwritable(name, str(error)) from None

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON file; raises as :meth:`write`."""
        text = json.dumps(_plain(content), indent=2) + "\n"
        self.write(name, lambda path: path.write_text(text))

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one JSON line to the log; values without a number become null."""
        plain = {key: _plain(value) for key, value in record.items()}
        self._append(LOG, json.dumps(plain) + "\n")

    def log_gradients(self, update: int, rows: Iterable[tuple[str, float, float, float]]) -> None:
        """Append (parameter, norm, largest absolute value, share of zeros) to the CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not (self.path / GRADIENTS).exists():
            writer.writerow(["update", "parameter", "norm", "max", "zeros"])
        writer.writerows([update, *row] for row in rows)
        self._append(GRADIENTS, text.getvalue())

    def forget_after(self, update: int) -> None:
        """Drop what was logged later than the update that a run goes on from."""
        self._keep(LOG, lambda line: int(json.loads(line)["update"]) <= update, header=0)
        self._keep(GRADIENTS, lambda line: int(line.split(",")[0]) <= update, header=1)

    def _keep(self, name: str, early: Callable[[str], bool], header: int) -> None:
        path = self.path / name
        if not path.exists():
            return
        lines = path.read_text().splitlines(keepends=True)
        kept = lines[:header]
        for line in lines[header:]:
            try:
                if not early(line):
                    break
            except (ValueError, KeyError, TypeError):
                # A line cut short when the process died.
                break
            kept.append(line)
        if kept != lines:
            self.write(name, lambda target: target.write_text("".join(kept)))

    def _append(self, name: str, text: str) -> None:
        with self.writing(name), (self.path / name).open("a") as file:
            file.write(text)

    def _unwritable(self, name: str, reason: str) -> TrainingError:
        hint = "nothing was lost but what came after the last saved state; " if self.begun else ""
        return TrainingError(
            f"{self.path / name}: cannot be written ({reason}); {hint}"
            f"make room, then python -m training.fit --resume {self.path}"
        )


def find_run(reference: str, out: Path) -> Path:
    """The folder of a run.

    Args:
        reference: its folder, its name beside ``out``, or its MLflow run id or an unambiguous
            beginning of it (with or without "runs:").
        out: a run's folder; others are looked for beside it.

    Raises:
        TrainingError: there is no such run, or there are several.
    """
    for candidate in (Path(reference), out.parent / reference):
        if candidate.is_dir():
            return candidate
    beginning = reference.removeprefix("runs:").strip("/")
    folders = [description.parent for description in sorted(out.parent.glob(f"*/{RUN}"))]
    ids = {folder: RunFolder(folder).run_id() or "" for folder in folders}
    found = [folder for folder, run_id in ids.items() if beginning and run_id.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if found:
        raise TrainingError(
            f"--resume {reference}: is the beginning of several runs' ids: "
            f"{', '.join(map(str, found))}; give more of it"
        )
    raise TrainingError(
        f"--resume {reference}: no such folder, nor a run of this name or MLflow run id in "
        f"{out.parent}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value

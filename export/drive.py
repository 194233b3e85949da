"""Drive the exported artifacts over a sequence: accuracy, spikes, latency, parity, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lif_op
from calib_data.console import progress
from calib_data.events import EventSource
from calib_data.synthetic import SceneConfig, write_scene
from calib_data.windows import iterate_windows
from export.pipeline import Exported
from export.torch_runner import TorchRunner
from runtime.artifact import LoadedModel, load_model
from runtime.evaluate import Evaluation, evaluate
from runtime.parity import compare
from runtime.pictures import Frame, frame_of
from runtime.runner import Array, Runner, encode
from runtime.sequence import Drive, StepRecord
from runtime.session import StatefulSession
from runtime.timing import Timing, time_interleaved, times_faster

SEQUENCE_SEED = 300_003
SEQUENCE_SECONDS = 1.5
SHOWN_FRAMES = 4
TIMED_STEPS = 30
TORCH_PARITY_STEPS = 10


@dataclass(frozen=True)
class DriveOptions:
    """plan: windows and scoring. threads: of every session. parity_steps: windows compared
    between the native kernels and the function bodies."""

    plan: Drive
    threads: int
    parity_steps: int


@dataclass(frozen=True)
class Driven:
    """Results by kind of artifact (float, qdq, int8). native: whether the op library ran. parity:
    one line about the integer artifact."""

    evaluation: Evaluation
    timings: dict[str, Timing]
    frames: list[Frame]
    parity: str
    native: bool

    def rows(self, exported: Exported) -> list[dict[str, Any]]:
        """One row per artifact, as ``runtime.report`` takes them."""
        rows = []
        for kind, path in exported.paths.items():
            result = self.evaluation.networks[kind]
            pixels = result.score.by_pixels()
            rows.append(
                {
                    "name": kind,
                    "file": path.name,
                    "kind": kind,
                    "bytes": path.stat().st_size,
                    "aee": pixels["aee"],
                    "aee_frames": result.score.by_frames()["aee"],
                    "outliers": pixels["outliers"],
                    "aae": pixels["aae"],
                    "spike_rate": result.spike_rate(),
                    "latency_ms": self.timings[kind].median_ms,
                    "times_faster": times_faster(self.timings[kind], self.timings["float"]),
                    "parity": self.parity if kind == "int8" else None,
                }
            )
        return rows


class _Frames:
    """Keeps a few scored windows, evenly spread over the sequence, for the picture."""

    def __init__(self, total: int) -> None:
        self._wanted = {(2 * k + 1) * total // (2 * SHOWN_FRAMES) for k in range(SHOWN_FRAMES)}
        self.frames: list[Frame] = []

    def __call__(self, record: StepRecord) -> None:
        if record.window.index not in self._wanted:
            return
        frame = frame_of(record)
        if frame is not None:
            shown = {kind: frame.predictions[kind] for kind in ("float", "int8")}
            self.frames.append(Frame(frame.counts, frame.ground_truth, shown, frame.seconds))


def drive_artifacts(
    exported: Exported, file: EventSource, options: DriveOptions, *, quiet: bool = False
) -> Driven:
    """Drive the three artifacts side by side over a recording.

    Args:
        exported: what was written.
        file: the recording.
        options: windows, threads, parity.
        quiet: no progress bars.

    Raises:
        EvaluationError, DataError: as ``runtime.sequence.drive``.
        ParityError: no neuron fires on the recording.
    """
    loaded = {kind: load_model(path) for kind, path in exported.paths.items()}
    sessions = {
        kind: StatefulSession(
            model,
            resolution=file.resolution if model.artifact.spatial_free else None,
            threads=options.threads,
        )
        for kind, model in loaded.items()
    }
    frames = _Frames(options.plan.count(file))
    runners = {kind: session.diagnostic() for kind, session in sessions.items()}
    evaluation = evaluate(file, runners, options.plan, observe=frames, quiet=quiet)
    streams = {kind: session.stream() for kind, session in sessions.items()}
    inputs = {
        kind: list(_encoded(model, file, options.plan, TIMED_STEPS))
        for kind, model in loaded.items()
    }
    timings = time_interleaved(streams, inputs, steps=TIMED_STEPS)
    native = sessions["int8"].native
    parity = _parity(exported, loaded["int8"], file, options, native, quiet)
    return Driven(evaluation, timings, frames.frames, parity, native)


def _encoded(model: LoadedModel, file: EventSource, plan: Drive, limit: int) -> Iterator[Array]:
    for window in iterate_windows(file, plan.mode, plan.window, limit=limit):
        yield encode(model.artifact, window.events, file.resolution)


def _parity(
    exported: Exported,
    model: LoadedModel,
    file: EventSource,
    options: DriveOptions,
    native: bool,
    quiet: bool,
) -> str:
    """Compare PyTorch, the function bodies in ONNX Runtime, and the native kernels."""

    def session(library: str) -> StatefulSession:
        size = file.resolution if model.artifact.spatial_free else None
        return StatefulSession(model, resolution=size, threads=options.threads, library=library)

    bodies = session("never")
    torch_runner = TorchRunner(exported.spec, model.artifact, file.resolution)
    plans: list[tuple[str, Runner, int]] = [("PyTorch", torch_runner, TORCH_PARITY_STEPS)]
    if native:
        plans.append((lif_op.active_target(), session("require"), options.parity_steps))
    texts = []
    for name, runner, limit in plans:
        bodies.reset()
        encoded = _encoded(model, file, options.plan, limit)
        pairs = ((events, events) for events in progress(encoded, f"parity, {name}", quiet=quiet))
        result = compare(bodies, runner, pairs)
        verdict = "equal" if result.equal else f"DIFFERENT at {result.difference}"
        texts.append(f"{name} {verdict} ({result.steps} steps)")
    return ", ".join(texts)


def default_sequence(folder: Path, resolution: tuple[int, int]) -> Path:
    """Write the recording that is driven when none is given: two seconds with exact flow."""
    return write_scene(
        SceneConfig.random(SEQUENCE_SEED, resolution, SEQUENCE_SECONDS), folder / "sequence.h5"
    )

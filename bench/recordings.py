"""Artifacts on real recordings: flow warp loss, spike rate, and error against known rotation.

    python -m bench.recordings model.float.onnx model.int8.onnx [--folder DIR] [--markdown F]

The folder holds ``events/*.npz`` clips (xs, ys, ts, ps, sensor_size) and, for some, the flow that
the camera's rotation gives, as ``flow/<clip>_rotflow_px_per_s.npy`` or, over the whole clip,
``flow/<clip>_gt_flow_px_total.npy``. It is looked for in $SNN_DATA, then ../shared/data; such
recordings are not part of this project. Windows hold a fixed number of events per pixel, which is
what networks trained on windows of 1000 events at 128 x 128 expect.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from calib_data import console
from calib_data.encodings import event_mask
from calib_data.events import EventSource
from calib_data.files import atomic_path
from calib_data.npz import open_events
from runtime.artifact import LoadedModel, load_model
from runtime.evaluate import evaluate
from runtime.metrics import Flow, end_point_error
from runtime.sequence import Drive, StepRecord
from runtime.session import StatefulSession
from runtime.warping import EVENTS_PER_VALUE

EVENTS_PER_PIXEL = 1000 / 128**2
WARMUP = 3


@dataclass(frozen=True)
class ClipResult:
    """One artifact on one clip.

    spike_rate: share of all neurons that fire per step. fwl: mean flow warp loss, None where the
    clip is too short for a value. error, zero_error: mean endpoint error against the rotational
    flow, and that of zero flow, pixels per window on pixels with events; None without such flow.
    """

    clip: str
    kind: str
    windows: int
    spike_rate: float
    fwl: float | None
    error: float | None
    zero_error: float | None


def data_folder(given: Path | None = None) -> Path | None:
    """The folder of recordings, or None where there is none."""
    places = [given, os.environ.get("SNN_DATA"), Path("../shared/data")]
    for place in places:
        if place is not None and (Path(place) / "events").is_dir():
            return Path(place)
    return None


def rotational_flow(folder: Path, clip: str, duration: float) -> Flow | None:
    """Known flow of a clip, float32 [2, H, W] in pixels per second, x right and y down."""
    rate = folder / "flow" / f"{clip}_rotflow_px_per_s.npy"
    total = folder / "flow" / f"{clip}_gt_flow_px_total.npy"
    if rate.exists():
        return np.asarray(np.load(rate), np.float32)
    if total.exists():
        return np.asarray(np.load(total) / duration, np.float32)
    return None


class _RotationErrors:
    """Gathers endpoint errors against a flow that is constant over the clip."""

    def __init__(self, flow: Flow | None, scaling: float, resolution: tuple[int, int]) -> None:
        self._flow, self._scaling, self._resolution = flow, scaling, resolution
        self._sums: dict[str, np.ndarray] = {}

    def __call__(self, record: StepRecord) -> None:
        window = record.window
        if self._flow is None or window.index < WARMUP:
            return
        truth = self._flow * np.float32(window.dt_input)
        mask = event_mask(window.events, self._resolution)
        zero = end_point_error(np.zeros_like(truth), truth)[mask]
        for name, step in record.networks.items():
            error = end_point_error(step.flow * np.float32(self._scaling), truth)[mask]
            row = np.array([error.sum(), zero.sum(), error.size])
            self._sums[name] = self._sums.get(name, np.zeros(3)) + row

    def means(self, name: str) -> tuple[float | None, float | None]:
        """(error, error of zero flow), pixels per window."""
        if name not in self._sums:
            return None, None
        error, zero, count = self._sums[name]
        return float(error / count), float(zero / count)


def measure_clip(
    models: Sequence[LoadedModel], file: EventSource, folder: Path, threads: int, *, quiet: bool
) -> list[ClipResult]:
    """Drive every artifact over one clip."""
    height, width = file.resolution
    runners = {}
    for model in models:
        size = file.resolution if model.artifact.spatial_free else None
        session = StatefulSession(model, resolution=size, threads=threads)
        runners[model.artifact.kind] = session.diagnostic()
    clip = Path(file.path).stem
    flow = rotational_flow(folder, clip, file.duration)
    errors = _RotationErrors(flow, models[0].artifact.flow_scaling, file.resolution)
    window = round(EVENTS_PER_PIXEL * height * width)
    plan = Drive("events", window, warmup=WARMUP, fwl_events=EVENTS_PER_VALUE)
    result = evaluate(file, runners, plan, observe=errors, quiet=quiet)
    return [
        ClipResult(
            clip,
            kind,
            result.windows,
            network.spike_rate() or 0.0,
            network.mean_fwl(),
            *errors.means(kind),
        )
        for kind, network in result.networks.items()
    ]


def measure(
    models: Sequence[LoadedModel], folder: Path, threads: int = 1, *, quiet: bool = False
) -> list[ClipResult]:
    """Drive every artifact over every clip that is long enough.

    Raises:
        BenchError: two artifacts of one kind, or no clip.
    """
    kinds = [model.artifact.kind for model in models]
    if len(set(kinds)) < len(kinds):
        raise BenchError("give at most one artifact of each kind (float, qdq, int8)")
    results = []
    for path in sorted((folder / "events").glob("*.npz")):
        with open_events(path) as file:
            height, width = file.resolution
            if file.num_events >= (WARMUP + 1) * EVENTS_PER_PIXEL * height * width:
                results += measure_clip(models, file, folder, threads, quiet=quiet)
    if not results:
        raise BenchError(f"{folder}/events: no .npz clip with more than {WARMUP} windows")
    return results


def _cells(result: ClipResult) -> list[str]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rate = f"{100 * result.spike_rate:.2f} %"
    columns = [number(result.fwl), number(result.error), number(result.zero_error)]
    return [result.clip, result.kind, str(result.windows), rate, *columns]


HEADINGS = ("clip", "artifact", "windows", "spikes", "FWL", "error px", "zero flow px")


def markdown(results: Sequence[ClipResult]) -> str:
    """The results as a Markdown table."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(_cells(result) for result in results)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    folder = data_folder(arguments.folder)
    if folder is None:
        raise BenchError("no recordings: set SNN_DATA or pass --folder (it needs events/*.npz)")
    models = [load_model(path) for path in arguments.models]
    results = measure(models, folder, arguments.threads, quiet=arguments.json)
    if arguments.markdown is not None:
        with atomic_path(arguments.markdown) as path:
            path.write_text(markdown(results))
    if arguments.json:
        print(json.dumps([asdict(result) for result in results]))
        return 0
    table = Table(*HEADINGS, title=f"windows of {EVENTS_PER_PIXEL:.3f} events per pixel")
    for result in results:
        table.add_row(*_cells(result))
    Console(width=None if Console().is_terminal else 120).print(table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.recordings",
        description="Artifacts on real recordings: flow warp loss, spike rate, error.",
        epilog="example: python -m bench.recordings model.float.onnx model.int8.onnx",
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="model.onnx")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="recordings (see above)")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--markdown", type=Path, metavar="F", help="write the table there")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

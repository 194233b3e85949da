"""Fused artifacts over many steps: equal to the unfused ones, in several threads, in constant
memory."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import parity_replay
import pytest

import lif_op
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from models import load_checkpoint, shipped_checkpoint
from quant import QuantOptions, quantize
from runtime import ArtifactError, load_model, parity
from runtime.metadata import METADATA_KEY
from runtime.runner import Array
from runtime.session import StatefulSession, Stream

STEPS = 1000
RESOLUTION = (12, 32)
MEASURED = 2_000
MEASURED_LONG = 100_000
GROWTH = 1 << 20
"""Bytes that a process may grow by, for what others in it do."""

Make = Callable[..., Any]


def write_both(spec: Any, folder: Path) -> tuple[Path, Path]:
    dims = Dims(RESOLUTION, False)
    return (
        write_model(integer_model(spec, dims), folder / "fused.onnx"),
        write_model(integer_model(spec, dims, fused=False), folder / "separate.onnx"),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, active_network: Make) -> tuple[Path, Path]:
    """A network of 12 channels that fires: fused and separate."""
    spec = quantize(active_network(channels=12, rate=0.12))
    return write_both(spec, tmp_path_factory.mktemp("fused"))


@pytest.mark.parametrize(
    "settings",
    [
        {"threads": 1, "binding": "auto", "optimization": "all"},
        {"threads": 2, "binding": "auto", "optimization": "off"},
        {"threads": 2, "binding": "pingpong", "optimization": "basic"},
    ],
)
def test_fused_equals_separate(
    settings: dict[str, Any], files: tuple[Path, Path], moving_counts: Make
) -> None:
    """1000 steps: every state and the flow accumulator."""
    fused, separate = (StatefulSession(p, library="require", **settings) for p in files)
    steps = [(events, events) for events in moving_counts(STEPS, RESOLUTION)]
    result = parity.compare(fused, separate, steps)
    assert result.equal and result.steps == STEPS and not result.silent_layers
    assert "flow_acc" in result.compared and len(result.compared) == 10
    membranes = {state.input for state in fused.artifact.states if state.role == "mem"}
    assert fused.inplace == (membranes if settings["binding"] == "auto" else frozenset())


@pytest.mark.parametrize("options", [QuantOptions(), QuantOptions(8, 8, -3)])
@pytest.mark.parametrize("target", lif_op.targets())
def test_the_shipped_network(
    target: str,
    options: QuantOptions,
    moving_counts: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every kernel target against the separate kernels of the fastest."""
    spec = quantize(load_checkpoint(shipped_checkpoint()), options)
    paths = write_both(spec, tmp_path)
    separate = StatefulSession(paths[1], library="require")
    monkeypatch.setenv("LIF_OP_TARGET", target)
    fused = StatefulSession(paths[0], library="require")
    count = 40 if target == "scalar" else 150
    steps = [(events, events) for events in moving_counts(count, RESOLUTION)]
    result = parity.compare(fused, separate, steps)
    assert result.equal and result.steps == count and not result.silent_layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": 5}, r"layer '.*' has a kernel of \[3, 3\] in the graph and of 5"),
        ({"stride": 2}, r"layer '.*' has strides \[1, 1\] in the graph and 2"),
    ],
)
def test_metadata_of_another_geometry_is_refused(
    changes: dict[str, int], message: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    for number in range(2):
        model = onnx.load(files[0])
        entry = next(p for p in model.metadata_props if p.key == METADATA_KEY)
        metadata = json.loads(entry.value)
        metadata["layers"][number].update(changes)
        entry.value = json.dumps(metadata)
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(ArtifactError, match=message):
            load_model(tmp_path / "other.onnx")


def drive(stream: Stream, windows: list[Array]) -> list[dict[str, Array]]:
    """The flow accumulator and every state after each step."""
    seen = []
    for events in windows:
        stream.step(events)
        seen.append(parity_replay.observed(stream))
    return seen


def assert_equal(got: list[dict[str, Array]], want: list[dict[str, Array]]) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_array_equal(value, b[name])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_sequences_in_threads(
    shared: bool, threads: int, files: tuple[Path, Path], moving_counts: Make
) -> None:
    """Two sessions, or two streams of one, step at the same time as they would alone."""
    sequences = [moving_counts(120, RESOLUTION, seed) for seed in (1, 2)]
    alone = [drive(StatefulSession(files[1]), windows) for windows in sequences]
    assert any((a["flow_acc"] != b["flow_acc"]).any() for a, b in zip(*alone, strict=True))
    session = StatefulSession(files[0], threads=threads)
    other = session.stream() if shared else StatefulSession(files[0], threads=threads)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(drive, (session, other), sequences))
    for got, want in zip(results, alone, strict=True):
        assert_equal(got, want)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def stays_in_memory(path: Path, windows: Iterator[Array], steps: int, threads: int) -> None:
    session = StatefulSession(path, threads=threads)
    for events in itertools.islice(windows, 300):
        session.step(events, copy=False)
    before = resident_bytes()
    for events in itertools.islice(windows, steps):
        session.step(events, copy=False)
    assert resident_bytes() - before < GROWTH


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_does_not_grow(threads: int, files: tuple[Path, Path], moving_counts: Make) -> None:
    windows = itertools.cycle(moving_counts(50, RESOLUTION))
    stays_in_memory(files[0], windows, MEASURED, threads)


@pytest.mark.long
def test_memory_does_not_grow_in_the_long_run(
    files: tuple[Path, Path], moving_counts: Make
) -> None:
    windows = itertools.cycle(moving_counts(50, RESOLUTION))
    stays_in_memory(files[0], windows, MEASURED_LONG, 2)

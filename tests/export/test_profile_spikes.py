"""Profiles in the runtime: spikes are found, as many as the integer file's; batches are exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.files import write_model
from export.graphs.builder import Dims
from export.profile_export import build_profile
from export.profiles import PROFILES
from runtime.analyze import main as analyze
from runtime.batch import Batch
from runtime.session import StatefulSession
from runtime.spikes import spike_counts

SIZE = (32, 48)
STEPS = 20


@pytest.fixture(scope="module")
def files(make_sources: Any, tmp_path_factory: Any) -> dict[str, Path]:
    """The same network as integer file and in the two portable profiles."""
    sources, folder = make_sources("LIFFireNet"), tmp_path_factory.mktemp("profiles")
    made = {}
    for name in ("integer", "portable", "portable-int"):
        model, _ = build_profile(PROFILES[name], sources.spec, Dims(SIZE, free=True))
        made[name] = write_model(model, folder / f"model.{name}.onnx")
    return made


def rates(path: Path, windows: list[Any]) -> dict[str, float]:
    stream = StatefulSession(path, resolution=SIZE).diagnostic()
    fired: dict[str, int] = {}
    neurons: dict[str, int] = {}
    for events in windows:
        stream.step(events.astype(stream.artifact.event_dtype))
        for layer, count in spike_counts(stream).items():
            fired[layer] = fired.get(layer, 0) + int(count.fired[0])
            neurons[layer] = count.neurons
    return {layer: n / (STEPS * neurons[layer]) for layer, n in fired.items()}


def test_rates_are_those_of_the_integer_file(files: dict[str, Path], moving_counts: Any) -> None:
    windows = moving_counts(STEPS, SIZE)
    integer, portable, standard = (rates(path, windows) for path in files.values())
    assert len(integer) == 7 and all(rate > 0.005 for rate in integer.values())
    assert standard == integer
    # Its membranes are rounded: spikes near a threshold differ, and move the layers behind.
    assert list(portable) == list(integer)
    for layer, rate in integer.items():
        assert portable[layer] == pytest.approx(rate, rel=0.02 if layer == "head" else 0.15)


def test_recurrent_spikes_are_the_states(files: dict[str, Path], moving_counts: Any) -> None:
    for name in ("portable", "portable-int"):
        stream = StatefulSession(files[name], resolution=SIZE).diagnostic()
        recurrent = [s for s in stream.artifact.states if s.role == "spike"]
        for events in moving_counts(5, SIZE):
            stream.step(events.astype(stream.artifact.event_dtype))
        assert recurrent
        for state in recurrent:
            np.testing.assert_array_equal(
                stream.spikes()[state.layer], stream.states()[state.input]
            )


def test_the_command_shows_them(
    files: dict[str, Path], scene: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "a.json"
    for name in ("portable", "portable-int"):
        assert analyze([str(files[name]), "--data", str(scene), "--json", str(out)]) == 0
        assert "does not show its spikes" not in capsys.readouterr().out
        layers = json.loads(out.read_text())["layers"]
        assert layers and all(layer["spike_rate"] > 0 for layer in layers)


@pytest.mark.parametrize("name", ["integer", "portable", "portable-int"])
def test_slots_of_a_batch_are_streams(
    name: str, files: dict[str, Path], moving_counts: Any
) -> None:
    """Bit for bit in integers, whose states are packed words in the integer file."""
    shown = StatefulSession(files[name], resolution=SIZE).diagnostic()
    batch, alone = Batch(shown.resized, 3), [shown.resized(1) for _ in range(3)]
    sequences = [moving_counts(8, SIZE, seed) for seed in range(3)]
    for step in range(8):
        windows = [s[step].astype(shown.artifact.event_dtype) for s in sequences]
        if step == 4:
            batch.slots[1].reset()
            alone[1].reset()
        if step == 6:
            batch.remove(batch.slots[0])
            del alone[0], sequences[0], windows[0]
        flow = batch.step(windows)
        counts = batch.spike_counts()
        for at, stream in enumerate(alone):
            expected = stream.step(windows[at])
            if not shown.artifact.is_integer:
                np.testing.assert_allclose(flow[at : at + 1], expected, atol=0.01)
                continue
            np.testing.assert_array_equal(flow[at : at + 1], expected)
            for layer, count in stream.spike_counts().items():
                assert counts[layer].fired[at] == count.fired[0]

"""Statistics of neurons equal those computed by NumPy from everything at once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from calib_data import console
from calib_data.npz import open_events
from calib_data.windows import iterate_windows
from runtime import StatefulSession, analyze, load_model
from runtime.activity import Activity, IntegerMembraneStatistics
from runtime.neurons import LayerMoment, layer_neurons, unavailable

Array = np.ndarray[Any, Any]


def everything(path: Path, recording: Path) -> dict[str, tuple[Array, Array]]:
    """Membranes and spikes of every step by layer, each [steps, C, H, W]."""
    gathered: dict[str, tuple[list[Array], list[Array]]] = {"head": ([], []), "G1": ([], [])}
    with open_events(recording) as file:
        stream = StatefulSession(path, resolution=file.resolution).diagnostic()
        for window in iterate_windows(file, "gtflow_dt1", 1):
            stream.step(stream.encode(window.events))
            for layer, (membranes, spikes) in gathered.items():
                membranes.append(stream.states()[f"mem.{layer}"][0])
                spikes.append(stream.spikes()[layer][0])
    return {name: (np.stack(m), np.stack(s)) for name, (m, s) in gathered.items()}


@pytest.mark.parametrize("kind", ["int8", "float"])
def test_equals_numpy_over_all_steps(
    kind: str, make_file: Any, recording: Path, tmp_path: Path
) -> None:
    path = make_file(kind=kind)
    sheet, values = tmp_path / "channels.csv", tmp_path / "values.json"
    arguments = [str(path), "--data", str(recording), "--csv", str(sheet), "--json", str(values)]
    assert analyze.main([*arguments, "--saturated", "0.5", "--skip", "1"]) == 0
    with sheet.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["layer"], r["channel"]) for r in rows] == [
        (name, str(number)) for name in ("head", "G1") for number in range(4)
    ]
    result = json.loads(values.read_text())
    assert result["steps"] == 5 and result["notes"] == []
    fired_somewhere = 0
    for layer, (membranes, spikes) in everything(path, recording).items():
        membranes, spikes = membranes[1:].astype(np.float64), spikes[1:]
        fired = (spikes != 0).sum(axis=0)
        for number in range(4):
            row = next(r for r in rows if r["layer"] == layer and r["channel"] == str(number))
            channel, count = membranes[:, number], fired[number]
            assert int(row["spikes"]) == count.sum()
            assert int(row["neurons"]) == 12 * 16 and int(row["steps"]) == 5
            assert float(row["spike_rate"]) == pytest.approx(count.sum() / (12 * 16 * 5))
            assert int(row["dead_neurons"]) == (count == 0).sum()
            assert int(row["saturated_neurons"]) == (count >= 3).sum()
            assert int(row["dead"]) == (count.sum() == 0)
            assert int(row["saturated"]) == (count.mean() >= 2.5)
            assert float(row["membrane_min"]) == channel.min()
            assert float(row["membrane_max"]) == channel.max()
            assert float(row["membrane_mean"]) == pytest.approx(channel.mean(), rel=1e-9)
            assert float(row["membrane_std"]) == pytest.approx(channel.std(), rel=1e-9)
            fired_somewhere += int(count.sum())
        histogram = next(v for v in result["layers"] if v["name"] == layer)["membrane_histogram"]
        edges = np.array(histogram["lower_edge"])
        expected = [
            ((membranes >= low) & (membranes < low + histogram["width"])).sum() for low in edges
        ]
        assert histogram["count"] == expected and sum(expected) == membranes.size
        if kind == "int8":
            seen, counts = np.unique(membranes, return_counts=True)
            assert (edges + 0.5).tolist() == seen.tolist()
            assert histogram["count"] == counts.tolist()
    assert fired_somewhere > 100


@pytest.mark.parametrize("kind", ["int8", "float"])
def test_thresholds_and_decays_in_both_units(kind: str, make_file: Any) -> None:
    loaded = load_model(make_file(kind=kind))
    constants = {t.name: numpy_helper.to_array(t) for t in loaded.model.graph.initializer}
    for name, neurons in layer_neurons(loaded).items():
        unit, step = (0.01, 256) if kind == "int8" else (1.0, 1)
        threshold, decay = constants[f"{name}.threshold"], constants[f"{name}.decay"]
        assert neurons.threshold is not None and neurons.decay is not None
        assert neurons.threshold_real is not None and neurons.decay_real is not None
        assert np.array_equal(neurons.threshold, threshold)
        assert np.array_equal(neurons.decay, decay)
        assert neurons.threshold_real == pytest.approx(threshold * unit)
        assert neurons.decay_real == pytest.approx(decay / step)


def test_dead_and_saturated_neurons_are_told_apart(make_file: Any) -> None:
    loaded = load_model(make_file(kind="float"))
    activity = Activity(layer_neurons(loaded))
    spikes = np.zeros((1, 4, 2, 2), np.float32)
    spikes[0, 1] = 1
    spikes[0, 2, 0, 0] = 1
    for step in range(10):
        now = spikes.copy()
        now[0, 3, 1, 1] = step % 2
        activity.add({name: LayerMoment(None, now) for name in ("head", "G1")})
    rows = activity.layers["head"].rows()
    assert [row["dead"] for row in rows] == [True, False, False, False]
    assert [row["saturated"] for row in rows] == [False, True, False, False]
    assert [row["dead_neurons"] for row in rows] == [4, 0, 3, 3]
    assert [row["saturated_neurons"] for row in rows] == [0, 4, 1, 0]
    assert rows[0]["membrane_mean"] is None
    totals = activity.layers["head"].to_dict()
    assert totals["dead_channels"] == [0] and totals["saturated_channels"] == [1]


def test_integer_sums_never_round() -> None:
    statistics = IntegerMembraneStatistics(1, "int16")
    values = np.full((1, 1, 64, 64), -32768, np.int16)
    values[0, 0, 0, 0] = 32767
    for _ in range(3):
        statistics.add(values)
    expected = values.astype(object).ravel()
    mean = expected.sum() / expected.size
    assert statistics.channel(0)["membrane_mean"] == mean
    edges, counts = statistics.histogram()
    assert edges[0] == -32768.5 and edges[-1] == 32767.5
    assert counts[0] == 3 * 4095 and counts[-1] == 3 and counts.sum() == 3 * 4096


def test_plots_show_every_layer(make_file: Any, recording: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "plots"
    arguments = [str(make_file()), "--data", str(recording), "--plots", str(folder)]
    assert analyze.main(arguments) == 0
    for layer in ("head", "G1"):
        pixels = np.asarray(Image.open(folder / f"{layer}.png").convert("L"))
        assert pixels.shape == (700, 1100)
        assert 0.01 < (pixels < 200).mean() < 0.6


def test_user_mistakes_are_one_line(make_file: Any, recording: Path, capsys: Any) -> None:
    path = str(make_file())
    assert console.run(analyze.main, [path, "--data", str(recording), "--skip", "9"]) == 2
    assert "--skip 9 leaves no window" in capsys.readouterr().err
    assert console.run(analyze.main, [path, "--data", "none.h5"]) == 2
    assert "none.h5" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        analyze.main([path, "--data", str(recording), "--saturated", "2"])


def test_what_a_file_does_not_show_is_named(make_file: Any) -> None:
    neurons = layer_neurons(load_model(make_file(kind="float")))
    shown = LayerMoment(np.zeros((1, 4, 2, 2), np.float32), np.zeros((1, 4, 2, 2), np.float32))
    assert unavailable(neurons, {"head": shown, "G1": shown}) == []
    (note,) = unavailable(neurons, {"head": shown, "G1": LayerMoment(shown.membranes, None)})
    assert note.startswith("layer G1: this file does not show its spikes;")

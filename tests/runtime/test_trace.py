"""Traces of neurons equal the states of a session stepped by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import console
from calib_data.npz import open_events
from calib_data.windows import iterate_windows
from runtime import StatefulSession, load_model, trace
from runtime.neurons import layer_neurons


@pytest.mark.parametrize("kind", ["int8", "float"])
def test_equals_the_states_of_a_session(
    kind: str, make_file: Any, recording: Path, tmp_path: Path
) -> None:
    path, sheet, picture = make_file(kind=kind), tmp_path / "t.csv", tmp_path / "t.png"
    arguments = [str(path), "--data", str(recording), "--layer", "G1", "--layer", "head"]
    arguments += ["--pixel", "3,5", "--pixel", "15,11", "--channel", "1", "--channel", "2"]
    values = tmp_path / "t.json"
    arguments += ["--csv", str(sheet), "--png", str(picture), "--json", str(values)]
    assert trace.main(arguments) == 0
    with sheet.open() as file:
        rows = iter(list(csv.DictReader(file)))
    neurons = layer_neurons(load_model(path))
    unit = 0.01 if kind == "int8" else 1.0
    membranes: dict[str, list[Any]] = {"head": [], "G1": []}
    spikes: dict[str, list[Any]] = {"head": [], "G1": []}
    ends = []
    with open_events(recording) as source:
        stream = StatefulSession(path).diagnostic()
        for window in iterate_windows(source, "gtflow_dt1", 1):
            stream.step(stream.encode(window.events))
            ends.append(window.t_stop)
            for layer in membranes:
                membranes[layer].append(stream.states()[f"mem.{layer}"])
                spikes[layer].append(stream.spikes()[layer])
    fired = 0
    for layer in ("G1", "head"):
        for x, y in ((3, 5), (15, 11)):
            for channel in (1, 2):
                threshold = neurons[layer].threshold
                assert threshold is not None
                for step, end in enumerate(ends):
                    row = next(rows)
                    place = (0, channel, y, x)
                    assert (row["layer"], row["step"]) == (layer, str(step))
                    assert (row["channel"], row["x"], row["y"]) == (str(channel), str(x), str(y))
                    assert float(row["seconds"]) == end
                    membrane = float(membranes[layer][step][place])
                    assert float(row["membrane"]) == membrane
                    assert float(row["membrane_real"]) == pytest.approx(membrane * unit)
                    assert float(row["threshold"]) == threshold[channel]
                    assert int(row["spike"]) == spikes[layer][step][place]
                    fired += int(row["spike"])
    assert next(rows, None) is None and fired > 5
    assert len(json.loads(values.read_text())["rows"]) == 8 * len(ends)
    _check_picture(picture, 8)


def _check_picture(path: Path, neurons: int) -> None:
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("L"))
    assert pixels.shape == (100 + 160 * neurons, 1100)
    assert 0.005 < (pixels < 200).mean() < 0.3


def test_defaults_are_the_middle_of_channel_0(
    make_file: Any, recording: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "t.csv"
    arguments = [str(make_file()), "--data", str(recording), "--layer", "head", "--skip", "2"]
    assert trace.main([*arguments, "--csv", str(sheet)]) == 0
    with sheet.open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["channel"], r["x"], r["y"]) for r in rows} == {("0", "8", "6")}
    assert [r["step"] for r in rows] == ["2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (["--layer", "G9"], "no layer 'G9'; the file has head, G1"),
        (["--layer", "G1", "--channel", "4"], "no channel 4; layer G1 has 0 to 3"),
        (["--layer", "G1", "--pixel", "16,0"], "pixel 16,0 lies outside layer G1"),
        (["--layer", "G1", "--skip", "6"], "--skip 6 leaves no window"),
    ],
)
def test_user_mistakes_are_one_line(
    choice: list[str], message: str, make_file: Any, recording: Path, capsys: Any, tmp_path: Path
) -> None:
    arguments = [str(make_file()), "--data", str(recording), "--csv", str(tmp_path / "t.csv")]
    assert console.run(trace.main, [*arguments, *choice]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "t.csv").exists()

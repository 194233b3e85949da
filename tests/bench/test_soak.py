"""Very long runs: what holds, and that what does not is found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import soak
from calib_data import console
from runtime.artifact import load_model
from runtime.graph_checks import FLOW_ACC
from runtime.session import StatefulSession

MODEL = Path(__file__).parents[1] / "runtime" / "vectors" / "model.int8.onnx"


def run(*arguments: object) -> int:
    return console.run(soak.main, [str(MODEL), *map(str, arguments)])


def check(found: dict[str, Any], steps: int, checkpoints: int) -> None:
    assert found["differences"] == [] and found["steps"] == steps
    assert found["checkpoints"] == checkpoints
    assert found["beside"] == {"bodies": 16 * checkpoints, "evaluator": checkpoints}
    assert found["saturated_steps"] > 0
    # Saturating inputs took at least one membrane to the end of its type.
    assert min(low for low, _ in found["membranes"].values()) == np.iinfo(np.int16).min
    assert found["growth_bytes"] < 8 << 20


def test_a_short_soak(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--steps", 2000, "--checkpoint", 400, "--json") == 0
    check(json.loads(capsys.readouterr().out), 2000, 5)


@pytest.mark.long
def test_a_soak(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--steps", 200_000, "--checkpoint", 10_000, "--json") == 0
    check(json.loads(capsys.readouterr().out), 200_000, 20)


class Spoiled:
    """A session with a fault in one place."""

    def __init__(self, fault: str, at: int) -> None:
        self._session = StatefulSession(MODEL)
        self._fault, self._at, self._steps = fault, at, 0

    def step(self, events: Any) -> Any:
        self._steps += 1
        return self._session.step(events)

    def reset(self) -> None:
        if self._fault != "reset":
            self._session.reset()

    def states(self) -> dict[str, Any]:
        states = self._session.states()
        if self._fault == "state" and self._steps >= self._at:
            states["mem.R2b"] = states["mem.R2b"] + 1
        if self._fault == "bound":
            states["mem.G1"] = np.full_like(states["mem.G1"], 32767)
        return states

    def set_states(self, states: Mapping[str, Any]) -> None:
        self._session.set_states(states)

    def outputs(self) -> dict[str, Any]:
        outputs = self._session.outputs()
        if self._fault == "output" and self._steps >= self._at:
            outputs[FLOW_ACC] = outputs[FLOW_ACC] ^ 1
        return outputs


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("output", "step 34: flow accumulators differ"),
        ("state", "step 100: state mem.R2b differs"),
        ("bound", "step 100: a membrane of G1 is above its bound"),
        ("reset", "after reset(): step 1 is not what it was at first"),
    ],
)
def test_faults_are_found(fault: str, message: str) -> None:
    loaded = load_model(MODEL)
    # The first steps are made twice, so the fault comes 50 steps after the start: 34 of the soak.
    tested, witness = Spoiled(fault, 50), StatefulSession(loaded)
    if fault == "reset":
        for counts, _ in soak.inputs((1, 2, *loaded.artifact.resolution), soak.REPEATED):
            witness.step(counts)  # its states follow those of a session that did not reset
    found = soak.soak(loaded.artifact, tested, witness, {}, loaded.artifact.resolution, 200, 100)
    assert any(line.startswith(message) for line in found.differences)


def test_only_integer_artifacts(tmp_path: Path, make_file: Any, capsys: Any) -> None:
    float_file = make_file(kind="float")
    assert console.run(soak.main, [str(float_file)]) == 2
    assert "is no integer artifact" in capsys.readouterr().err

"""Test vectors: what lies in the folder replays in ONNX Runtime, with the library and without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import lif_op
from calib_data import console
from export import layer
from export.layer import vectors, write_vectors

CASES = ("lif", "conv_lif", "conv_lif_rec", "conv_lif_int8", "conv_lif_rec_int8")
FLOAT_BOUND = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, active_network: Callable[..., Any]) -> Path:
    path = tmp_path_factory.mktemp("vectors")
    write_vectors(active_network(rate=0.2), path, (9, 14), seed=3)
    return path


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_every_case_is_there(folder: Path) -> None:
    assert tuple(vectors()) == CASES
    for case in CASES:
        files = {path.name for path in (folder / case).iterdir()}
        assert files == {"network.onnx", "inputs.npz", "outputs.npz"}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_replay(case: str, native: bool, folder: Path) -> None:
    model = onnx.load(folder / case / "network.onnx")
    onnx.checker.check_model(model, full_check=True)
    inputs, outputs = arrays(folder / case / "inputs.npz"), arrays(folder / case / "outputs.npz")
    assert {value.name for value in model.graph.input} == set(inputs)
    assert {value.name for value in model.graph.output} == set(outputs)
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if native:
        lif_op.register(settings)
    session = ort.InferenceSession(str(folder / case / "network.onnx"), settings)
    got = dict(zip(outputs, session.run(list(outputs), inputs), strict=True))
    (spike,), (mem,) = (
        [name for name in outputs if name.startswith(role)] for role in ("spike", "mem")
    )
    assert 0.01 < outputs[spike].mean() < 0.9
    assert all(got[name].dtype == value.dtype for name, value in outputs.items())
    if "int8" in case:
        np.testing.assert_array_equal(got[spike], outputs[spike])
        np.testing.assert_array_equal(got[mem], outputs[mem])
        return
    same = got[spike] == outputs[spike]
    # Sums in another order may move a membrane across its threshold, but not far.
    assert same.mean() > 0.999
    np.testing.assert_allclose(got[mem][same], outputs[mem][same], atol=FLOAT_BOUND)
    threshold = next(t for t in model.graph.initializer if t.name.endswith(".threshold"))
    values = onnx.numpy_helper.to_array(threshold).reshape(1, -1, 1, 1)
    before_reset = np.where(got[spike] > 0, outputs[mem], got[mem])
    assert (np.abs(before_reset - values)[~same] < FLOAT_BOUND).all()


def test_seed_decides_everything(active_network: Callable[..., Any]) -> None:
    model = active_network()
    for case, build in vectors().items():
        one, again, other = (build(model, (5, 6), seed) for seed in (1, 1, 2))
        assert one[0].SerializeToString() == again[0].SerializeToString()
        for first, second in zip(one[1:], again[1:], strict=True):
            assert all(np.array_equal(first[name], second[name]) for name in first), case
        assert any(not np.array_equal(one[1][name], other[1][name]) for name in one[1])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--untrained", "--channels", "4", "--resolution", "5", "7", "--json"]
    out = tmp_path / "vectors"
    assert console.run(layer.main, [*arguments, "--out", str(out)]) == 0
    written = json.loads(capsys.readouterr().out)
    assert [Path(path).name for path in written] == list(CASES)
    assert arrays(out / "lif" / "inputs.npz")["current"].shape == (1, 4, 5, 7)


def test_network_without_recurrence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--untrained", "--model", "LIFFireFlowNet", "--channels", "4"]
    assert console.run(layer.main, [*arguments, "--out", str(tmp_path / "v")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error == ["error: LIFFireFlowNet has no recurrent layer"]

"""The table over recordings, on a clip made here."""

import numpy as np
import pytest

from bench.recordings import data_folder, main, markdown, measure, rotational_flow
from calib_data import console
from runtime.artifact import load_model


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "events").mkdir()
    (tmp_path / "flow").mkdir()
    count, size = 1200, (24, 32)
    np.savez(
        tmp_path / "events" / "clip.npz",
        xs=rng.integers(0, size[1], count).astype(np.uint16),
        ys=rng.integers(0, size[0], count).astype(np.uint16),
        ts=np.sort(rng.random(count)),
        ps=rng.random(count) < 0.5,
        sensor_size=np.array(size),
        t0=np.array(0.0),
    )
    np.save(tmp_path / "flow" / "clip_rotflow_px_per_s.npy", np.full((2, *size), 3.0, np.float32))
    return tmp_path


@pytest.fixture
def float_path(make_file):
    return make_file("net.float.onnx", kind="float", resolution=None)


def test_zero_flow_has_the_known_error(folder, float_path):
    (result,) = measure([load_model(float_path)], folder, quiet=True)
    window = round(1000 / 128**2 * 24 * 32)
    assert result.windows == 1200 // window
    # A window lasts about its share of the second; its flow is 3 px/s in x and in y.
    assert result.zero_error == pytest.approx(3 * 2**0.5 * window / 1200, rel=0.1)
    assert "| clip | float |" in markdown([result])


def test_total_flow_is_per_second(tmp_path):
    (tmp_path / "flow").mkdir()
    np.save(tmp_path / "flow" / "c_gt_flow_px_total.npy", np.full((2, 2, 2), 6.0))
    assert (rotational_flow(tmp_path, "c", 2.0) == 3.0).all()
    assert rotational_flow(tmp_path, "other", 2.0) is None


def test_missing_recordings_are_one_line(folder, float_path, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("SNN_DATA", raising=False)
    monkeypatch.chdir(tmp_path / "flow")
    assert data_folder() is None
    assert console.run(main, [str(float_path)]) == 2
    assert "set SNN_DATA" in capsys.readouterr().err

"""Public weights on real recordings give the numbers they are known for; see docs/recordings.md.

The recordings are not part of this project: without $SNN_DATA (or ../shared/data) this is skipped.
"""

import pytest

from bench.recordings import data_folder, measure_clip
from calib_data import open_events
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.floating import float_model
from models import load_checkpoint
from runtime.artifact import load_model

FOLDER = data_folder()
KNOWN_FWL = {
    "ecd_slider_depth_50k": 1.43,
    "ecd_shapes_rotation_first1p43s": 1.61,
    "ecd_dynamic_rotation_gt": 1.42,
}

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="NO REAL RECORDINGS: set SNN_DATA to measure on them"
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    network = load_checkpoint(FOLDER / "weights" / "LIFFireNet_SNN_a372ed0a.npz")
    path = tmp_path_factory.mktemp("public") / "model.float.onnx"
    return load_model(write_model(float_model(network, Dims((180, 240), free=True)), path))


@pytest.mark.parametrize("clip", KNOWN_FWL)
def test_known_numbers(artifact, clip):
    with open_events(FOLDER / "events" / f"{clip}.npz") as file:
        (result,) = measure_clip([artifact], file, FOLDER, 1, quiet=True)
    assert result.fwl == pytest.approx(KNOWN_FWL[clip], rel=0.03)
    assert 0.012 <= result.spike_rate <= 0.03

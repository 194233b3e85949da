"""A really trained network on a real recording keeps its accuracy; see docs/quantization.md.

The recordings are not part of this project: without $SNN_DATA (or ../shared/data) this is skipped.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.recordings import data_folder, rotational_flow
from calib_data import event_counts, event_mask, iterate_windows, open_events
from calib_data.windows import default_window
from models import load_checkpoint
from quant import QuantOptions, calibrate, measure_moments, quantize
from quant.recordings import Recording, Truth
from quant.scoring import Scorer

FOLDER = data_folder()
CLIP = "evbench_seq_0002"

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="NO REAL RECORDINGS: set SNN_DATA to measure on them"
)


def test_four_bits_keep_the_accuracy() -> None:
    assert FOLDER is not None
    model = load_checkpoint(FOLDER / "weights" / "LIFFireNet_SNN_a372ed0a.npz")
    counts, truths = [], []
    with open_events(FOLDER / "events" / f"{CLIP}.npz") as file:
        flow = rotational_flow(FOLDER, CLIP, 1.0)
        length = default_window("events", file.resolution)
        for window in iterate_windows(file, "events", length, limit=10):
            image = event_counts(window.events, file.resolution, np.uint8, saturate=127)
            counts.append(torch.from_numpy(image)[None])
            mask = event_mask(window.events, file.resolution)
            truths.append(Truth(flow * np.float32(window.dt_input), mask, 1.0))
    recording = Recording(CLIP, counts, truths)
    scorer = Scorer(model, [recording])
    windows = recording.floats()
    calibration, moments = calibrate(model, windows), measure_moments(model, windows)
    spec = quantize(model, QuantOptions(4, scale_search=True), calibration, moments)
    assert scorer.error(spec) < 1.1 * scorer.float_error < scorer.zero_error * 1.1

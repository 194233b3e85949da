"""A float network made ready: calibrated on recordings, and scored on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from calib_data.console import progress
from models import SpikingFireNet
from quant.calibration import LayerCalibration, calibrate
from quant.conversion import quantize
from quant.options import QuantOptions
from quant.recordings import Recording
from quant.scales import measure_moments
from quant.scoring import Scorer
from quant.spec import Float64, NetworkSpec


@dataclass(frozen=True)
class Calibrated:
    """A float network, its recordings, and everything measured on them once."""

    model: SpikingFireNet
    recordings: list[Recording]
    calibration: dict[str, LayerCalibration]
    moments: dict[str, Float64] | None
    scorer: Scorer

    def derive(self, options: QuantOptions) -> NetworkSpec:
        """Options to integers."""
        return quantize(self.model, options, self.calibration, self.moments)


def prepare(
    model: SpikingFireNet, recordings: list[Recording], *, weigh_inputs: bool, quiet: bool = False
) -> Calibrated:
    """Calibrate on recordings and make ready to score on them.

    Args:
        model: float network in canonical form.
        recordings: states start at zero with each and are carried along it.
        weigh_inputs: record the convolutions' inputs for the scale search.
        quiet: no progress bars.

    Raises:
        QuantError: voxel input, a layer that never fires, or nothing to score.
    """
    total = sum(len(recording.counts) for recording in recordings)
    with _shown(total, "calibrating", quiet) as windows:
        calibration = calibrate(model, *(windows(r.floats()) for r in recordings))
    moments = None
    if weigh_inputs:
        with _shown(total, "recording inputs", quiet) as windows:
            moments = measure_moments(model, *(windows(r.floats()) for r in recordings))
    return Calibrated(model, recordings, calibration, moments, Scorer(model, recordings))


@contextmanager
def _shown(total: int, label: str, quiet: bool) -> Iterator[Any]:
    """A function that passes windows on and moves one bar for all recordings."""
    bar = progress(range(total), label, total, quiet=quiet)

    def windows(items: list[Any]) -> Iterator[Any]:
        for item in items:
            next(bar, None)
            yield item

    try:
        yield windows
    finally:
        for _ in bar:
            pass

"""How well a quantized network does on recordings: its flow's error in pixels.

Where any recording has ground truth the error is the average end-point error (AEE) against it, over
all scored pixels of these recordings. Otherwise it is the distance to the flow of the float network
on pixels with events, which tells agreement and not quality: see docs/quantization.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import SpikingFireNet
from quant.calibration import float_steps
from quant.errors import QuantError
from quant.hybrid import network_of
from quant.recordings import WARMUP_WINDOWS, Recording, Truth
from quant.spec import NetworkSpec

GROUND_TRUTH = "AEE against ground truth"
FLOAT_FLOW = "distance to the float network's flow"

Inputs = list[list[Tensor]]
"""By recording and window: what a layer receives, uint8 [1, Cin, H, W]."""


class Scorer:
    """Scores quantized networks that stem from one float network.

    Args:
        model: float network in canonical form.
        recordings: to score on; states start at zero with each.

    Attributes:
        measure: ``GROUND_TRUTH`` or ``FLOAT_FLOW``.
        float_error: of the float network itself, pixels; 0 where it is the measure.
        zero_error: of predicting no motion, pixels.

    Raises:
        QuantError: nothing to score: recordings too short, or without events after the warm-up.
    """

    def __init__(self, model: SpikingFireNet, recordings: Sequence[Recording]) -> None:
        scored = [_has_truth(recording) for recording in recordings]
        self.measure = GROUND_TRUTH if any(scored) else FLOAT_FLOW
        self.recordings = [
            recording
            for recording, usable in zip(recordings, scored, strict=True)
            if usable or self.measure == FLOAT_FLOW
        ]
        self._scaling = model.config.flow_scaling
        flows = [
            [flow[0].numpy() for _, flow in float_steps(model, recording.floats())]
            for recording in self.recordings
        ]
        self._truths = [recording.truths for recording in self.recordings]
        if self.measure == FLOAT_FLOW:
            self._truths = [
                [
                    _agreement(c, f * np.float32(self._scaling))
                    for c, f in zip(r.counts, fs, strict=True)
                ]
                for r, fs in zip(self.recordings, flows, strict=True)
            ]
        self.float_error = self._error(lambda r, i: flows[r][i])
        zero = np.zeros((2, 1, 1), np.float32)
        self.zero_error = self._error(lambda r, i: zero)

    def _error(self, flow: Callable[[int, int], np.ndarray]) -> float:
        total, pixels = 0.0, 0
        for number, truths in enumerate(self._truths):
            for index, truth in enumerate(truths):
                if truth is None or index < WARMUP_WINDOWS:
                    continue
                factor = np.float32(self._scaling * truth.stretch)
                difference = (flow(number, index) * factor - truth.flow)[:, truth.mask]
                total += float(np.linalg.norm(difference.astype(np.float64), axis=0).sum())
                pixels += difference.shape[1]
        if pixels == 0:
            raise QuantError(
                f"nothing to score: no window after the first {WARMUP_WINDOWS} has events"
                + (" and ground truth" if self.measure == GROUND_TRUTH else "")
            )
        return total / pixels

    def inputs(self) -> Inputs:
        """What the first layer receives."""
        return [recording.counts for recording in self.recordings]

    @torch.no_grad()
    def advance(self, spec: NetworkSpec, inputs: Inputs, first: int, last: int) -> Inputs:
        """Outputs of layer ``last - 1`` given the inputs of layer ``first``: spikes.

        Whoever varies one layer computes those before it once.
        """
        network = network_of(spec)
        outputs = []
        for windows in inputs:
            states: dict[str, Any] = {}
            spikes = []
            for x in windows:
                spike, states = network.advance(spec.layers[first:last], x, states)
                spikes.append(spike)
            outputs.append(spikes)
        return outputs

    def error(self, spec: NetworkSpec, inputs: Inputs | None = None, first: int = 0) -> float:
        """Error of a quantized network, pixels.

        Args:
            spec: the integers.
            inputs: of layer ``first``, where those before it are known.
            first: number of that layer; the number of layers for the flow head.
        """
        inputs = self.inputs() if inputs is None else inputs
        network = network_of(spec)
        spikes = self.advance(spec, inputs, first, len(spec.layers))
        return self._error(lambda r, i: network.head(spikes[r][i])[1][0].numpy())


def _has_truth(recording: Recording) -> bool:
    return any(truth is not None for truth in recording.truths[WARMUP_WINDOWS:])


def _agreement(counts: Tensor, flow: np.ndarray) -> Truth | None:
    """The float network's flow in the place of ground truth."""
    mask = (counts[0] > 0).any(0).numpy()
    return Truth(flow, mask, 1.0) if mask.any() else None

"""What a report shows of one sequence, gathered window by window in constant memory.

Lines over time are averaged, histograms are counts, and only a few windows, evenly spread, are kept
for pictures. Nothing is read from a network but its outputs, its spikes and, now and then, its
states.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from runtime.graph import spiking_op
from runtime.metadata import Artifact
from runtime.metrics import end_point_error
from runtime.runner import Array, Runner
from runtime.sequence import StepRecord
from runtime.snapshots import Snapshot, snapshot
from runtime.streaming import Histogram, MeanMap, Spread, Timeline

if TYPE_CHECKING:
    from runtime.evaluation import Evaluation

Thresholds = Mapping[str, npt.NDArray[np.float64]]
"""Firing thresholds by layer: [C], in the membrane's unit."""

SHOWN_WINDOWS = 4
ZERO = "zero flow"
_STATE_STRIDE = 4
_STATE_VALUES = 1 << 16


def layer_thresholds(model: ModelProto, artifact: Artifact) -> dict[str, npt.NDArray[np.float64]]:
    """Firing thresholds of a graph's layers, where they are constants of the graph: [C] each."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = {state.input: state.layer for state in artifact.states if state.role == "mem"}
    found = {}
    for node in model.graph.node:
        op = spiking_op(node)
        if op is None or len(node.input) <= op.first_parameter + 1:
            continue
        layer, name = layers.get(node.input[op.mem]), node.input[op.first_parameter + 1]
        if layer is not None and name in constants:
            found[layer] = numpy_helper.to_array(constants[name]).astype(np.float64).ravel()
    return found


def relative_membranes(
    artifact: Artifact, states: Mapping[str, Array], thresholds: Thresholds
) -> dict[str, npt.NDArray[np.float64]]:
    """Membranes by layer over their channel's threshold, float64 of the state's rank.

    Of large images every k-th row and column is taken, so that reading stays cheap. Layers without
    a known threshold, or with one that is not positive, are left out.
    """
    found = {}
    for state in artifact.states:
        limits = thresholds.get(state.layer)
        if state.role != "mem" or limits is None or not (limits > 0).all():
            continue
        membranes = states[state.input]
        step = math.ceil(math.sqrt(max(1.0, membranes.size / _STATE_VALUES)))
        if state.layout == "NCHW":
            limits, membranes = limits.reshape(-1, 1, 1), membranes[..., ::step, ::step]
        else:
            membranes = membranes[..., ::step, ::step, :]
        found[state.layer] = membranes.astype(np.float64) / limits
    return found


@dataclass
class NetworkTraces:
    """What is gathered about one network. seconds: of its steps. rates: of each layer, one value a
    window. membranes: over the threshold, every
    ``_STATE_STRIDE``-th window. errors: mean end-point error per pixel."""

    errors: MeanMap
    seconds: Histogram = field(default_factory=Histogram)
    rates: dict[str, Histogram] = field(default_factory=dict)
    membranes: dict[str, Histogram] = field(default_factory=dict)


class SequenceReport:
    """Observer of one sequence: call it with every record, then ``finish`` it."""

    def __init__(
        self,
        name: str,
        resolution: tuple[int, int],
        runners: Mapping[str, Runner],
        thresholds: Mapping[str, Thresholds],
        wanted: Collection[int] = (),
    ) -> None:
        """``wanted``: numbers of the windows to picture; empty spreads a few evenly."""
        self.name = name
        self.resolution = resolution
        self.evaluation: Evaluation | None = None
        self.timeline = Timeline()
        self.traces = {network: NetworkTraces(MeanMap(resolution)) for network in runners}
        self._runners = runners
        self._thresholds = thresholds
        self._wanted = frozenset(wanted)
        self._chosen: list[Snapshot] = []
        self._scored = Spread[Snapshot](SHOWN_WINDOWS)
        self._unscored = Spread[Snapshot](SHOWN_WINDOWS)

    def __call__(self, record: StepRecord) -> None:
        """Take the record of one window in."""
        self._add_errors(record)
        for name, step in record.networks.items():
            traces = self.traces[name]
            traces.seconds.add(step.seconds)
            for layer, fired in step.fired.items():
                if step.neurons[layer]:
                    histogram = traces.rates.setdefault(layer, Histogram())
                    histogram.add(fired / step.neurons[layer])
        if record.window.index % _STATE_STRIDE == 0:
            self._add_membranes()
        self._add_snapshot(record)

    def finish(self, evaluation: Evaluation) -> None:
        """Take the scores; call it once after the last record."""
        self.evaluation = evaluation

    def snapshots(self) -> list[Snapshot]:
        """The windows to show: those asked for, else some of the scored, else some of all."""
        return self._chosen or self._scored.chosen() or self._unscored.chosen()

    def _add_errors(self, record: StepRecord) -> None:
        values = {}
        for name, step in record.networks.items():
            truth, mask = record.window.flow, record.mask
            if step.score is None or step.pixels is None or truth is None or mask is None:
                return
            if not step.score.pixels:
                return
            self.traces[name].errors.add(end_point_error(step.pixels, truth), mask)
            values[name] = step.score.aee
            values[ZERO] = step.score.zero_aee
        if values:
            self.timeline.add(record.window.t_stop, values)

    def _add_membranes(self) -> None:
        for name, runner in self._runners.items():
            limits = self._thresholds.get(name) or {}
            if limits:
                for layer, values in relative_membranes(
                    runner.artifact, runner.states(), limits
                ).items():
                    histogram = self.traces[name].membranes.setdefault(
                        layer, Histogram(signed=True)
                    )
                    histogram.add(values)

    def _add_snapshot(self, record: StepRecord) -> None:
        scored = all(step.pixels is not None for step in record.networks.values())
        if scored:
            self._unscored.items.clear()
        spread = self._scored if scored else self._unscored
        asked = record.window.index in self._wanted
        needless = self._wanted or (not scored and self._scored.items)
        if not asked and (needless or not spread.due()):
            spread.skip()
            return
        shot = snapshot(record, self._runners, self.resolution)
        if shot is None:
            return
        if asked:
            self._chosen.append(shot)
        else:
            spread.add(shot)

"""Scores of float and integer networks on synthetic scenes that nothing was ever trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calib_data.console import progress
from models import AnalogFireNet, LIFState, ModelConfig, SpikingFireNet
from quant import IntegerNetwork, NetworkSpec
from runtime.metrics import SequenceScore, score_frame, scoring_mask
from training.data import Sequence as Recording
from training.data import WindowFormat, load_sequence, scene_path

TEST_SEED = 400_000
TEST_SCENES = 24
QUICK_SCENES = 6
TEST_SECONDS = 2.0
TEST_RESOLUTION = (128, 128)
WARMUP_WINDOWS = 3
BATCH_PIXELS = 8 * 128 * 128
RESAMPLES = 10_000


class Prediction(NamedTuple):
    """flow: float32 [N, 2, H, W], pixels per window. rates: [N], share of neurons that fired, NaN
    for networks without spikes. states: for the next window."""

    flow: npt.NDArray[np.float32]
    rates: list[float]
    states: Any


Predictor = Callable[[Tensor, Any], Prediction]
"""Input [N, bins, H, W] (counts uint8 or voxel grids) and states, None at first."""


def float_predictor(model: SpikingFireNet | AnalogFireNet) -> Predictor:
    """Predictions of a float network."""

    @torch.no_grad()
    def predict(inputs: Tensor, states: Any) -> Prediction:
        flow, after = model.step(inputs.float(), states)
        spikes = [state.spike for state in after.values() if isinstance(state, LIFState)]
        scaled = flow * model.config.flow_scaling
        return Prediction(scaled.numpy(), _rates(spikes, len(inputs)), after)

    return predict


def integer_predictor(spec: NetworkSpec) -> Predictor:
    """Predictions of an integer network, bit-exact with the artifacts that are exported from it.

    Raises:
        QuantError: a network whose neurons are float.
    """
    network = IntegerNetwork(spec)

    def predict(inputs: Tensor, states: Any) -> Prediction:
        step = network.step(inputs, states)
        spikes = [state.spike for state in step.states.values()]
        scaled = step.flow * spec.flow_scaling
        return Prediction(scaled.numpy(), _rates(spikes, len(inputs)), step.states)

    return predict


def _rates(spikes: list[Tensor], batch: int) -> list[float]:
    """Share of all neurons that fired, per item."""
    if not spikes:
        return [float("nan")] * batch
    fired = sum(layer.sum((1, 2, 3), dtype=torch.int64) for layer in map(Tensor.bool, spikes))
    assert isinstance(fired, Tensor)
    rates: list[float] = (fired / sum(layer[0].numel() for layer in spikes)).tolist()
    return rates


@dataclass(frozen=True)
class SceneScore:
    """One network on one scene: means over scored windows, as of ``runtime.scores``.

    aee, zero_aee in pixels per window; outliers and spike_rate 0..1; aae in degrees.
    """

    aee: float
    zero_aee: float
    outliers: float
    aae: float
    spike_rate: float


def load_scenes(
    cache: Path,
    seeds: Sequence[int],
    config: ModelConfig,
    resolution: tuple[int, int] = TEST_RESOLUTION,
    seconds: float = TEST_SECONDS,
    *,
    quiet: bool = False,
) -> list[Recording]:
    """The test scenes as a network of this configuration sees them; rendered where absent."""
    voxels = config.encoding == "voxel"
    form = WindowFormat(
        encoding="voxel" if voxels else "cnt", num_bins=config.num_bins, quiet_events=0
    )
    return [
        load_sequence(scene_path(cache, seed, resolution, seconds), form)
        for seed in progress(seeds, "test scenes", total=len(seeds), quiet=quiet)
    ]


def score_scenes(
    predict: Predictor, scenes: Sequence[Recording], label: str, *, quiet: bool = False
) -> list[SceneScore]:
    """Score a network on every scene, from the zero state; the first three windows do not count.

    Scenes run side by side; what each gives does not depend on its neighbours. All have one size.
    """
    height, width = scenes[0].counts.shape[2:]
    size = max(1, BATCH_PIXELS // (height * width))
    batches = [scenes[start : start + size] for start in range(0, len(scenes), size)]
    scores: list[SceneScore] = []
    for batch in progress(batches, label, total=len(batches), quiet=quiet):
        scores += _score_batch(predict, batch)
    return scores


def _score_batch(predict: Predictor, batch: Sequence[Recording]) -> Iterator[SceneScore]:
    errors = [SequenceScore() for _ in batch]
    rates: list[list[float]] = [[] for _ in batch]
    states = None
    for index in range(max(map(len, batch))):
        # A scene that has ended repeats its last window, which is not scored again.
        stack = np.stack([scene.inputs[min(index, len(scene) - 1)] for scene in batch])
        flow, fired, states = predict(torch.from_numpy(stack), states)
        for number, scene in enumerate(batch):
            if WARMUP_WINDOWS <= index < len(scene):
                truth = scene.flow[index]
                mask = scoring_mask(truth, scene.counts[index].any(0))
                errors[number].add(score_frame(flow[number], truth, mask))
                rates[number].append(fired[number])
    for error, rate in zip(errors, rates, strict=True):
        means = error.by_frames()
        yield SceneScore(
            means["aee"],
            means["zero_aee"],
            means["outliers"],
            means["aae"],
            float(np.mean(rate)) if rate else float("nan"),
        )


def mean_score(scores: Sequence[SceneScore]) -> SceneScore:
    """Mean over scenes, each weighing the same."""
    names = ("aee", "zero_aee", "outliers", "aae", "spike_rate")
    return SceneScore(*(float(np.mean([getattr(s, name) for s in scores])) for name in names))


class Interval(NamedTuple):
    """A ratio of mean errors and its 95 % confidence interval, NaN of a single scene."""

    ratio: float
    low: float
    high: float


def paired_ratio(
    scores: Sequence[SceneScore], parent: Sequence[SceneScore], resamples: int = RESAMPLES
) -> Interval:
    """Mean AEE over the parent's on the same scenes, with its noise.

    Percentile bootstrap over scenes (Efron and Tibshirani 1993, chapter 13): scenes are drawn
    with replacement, the same for both networks, so that a scene's difficulty cancels. The seed is
    fixed.
    """
    own = np.array([score.aee for score in scores])
    others = np.array([score.aee for score in parent])
    drawn = np.random.default_rng(0).integers(0, len(own), (resamples, len(own)))
    low, high = np.percentile(own[drawn].mean(1) / others[drawn].mean(1), [2.5, 97.5])
    if len(own) < 2:
        low = high = float("nan")
    return Interval(float(own.mean() / others.mean()), float(low), float(high))

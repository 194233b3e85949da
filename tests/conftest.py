"""Networks that fire and events that move, for every room's tests.

Torch is imported inside the fixtures, so that rooms which run without it are tested without it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

Counts = npt.NDArray[np.uint8]

_CALIBRATION_STEPS = 8

# A shell's background jobs ignore Ctrl-C, and so would every test of it and the commands it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _threshold_layer(layer: Any, xs: list[Any], rate: float) -> list[Any]:
    """Choose each channel's threshold so that about ``rate`` of its neurons fire on xs."""
    import torch

    layer.threshold.fill_(1e9)
    state, membranes = None, []
    for x in xs:
        _, state = layer(x, state)
        membranes.append(state.mem)
    seen = torch.stack(membranes[3:]).transpose(0, 2).flatten(1)
    layer.threshold.copy_(torch.quantile(seen, 1 - rate, dim=1).clamp_min(0.02))
    state, spikes = None, []
    for x in xs:
        spike, state = layer(x, state)
        spikes.append(spike)
    return spikes


@pytest.fixture(scope="session")
def active_network() -> Callable[..., Any]:
    """active_network(name, seed=, rate=, **config) -> float network in which every layer fires.

    Weights are random, decays lie between 0.05 and 0.95, biases have both signs, and every
    threshold is set so that roughly ``rate`` of the neurons fire on random events.
    """
    import torch

    from models import untrained

    def make(name: str = "LIFFireNet", seed: int = 0, rate: float = 0.08, **config: Any) -> Any:
        torch.manual_seed(seed)
        model = untrained(name, **{"channels": 8, **config})
        bins = model.config.num_bins
        xs = [torch.poisson(torch.full((1, bins, 16, 24), 0.3)) for _ in range(_CALIBRATION_STEPS)]
        with torch.no_grad():
            for _, layer in model.named_layers():
                layer.beta.uniform_(0.05, 0.95)
                layer.bias.uniform_(-0.05, 0.05)
                if layer.weight_rec is not None:
                    layer.weight_rec.mul_(0.3)
                xs = _threshold_layer(layer, xs, rate)
        return model

    return make


@pytest.fixture(scope="session")
def moving_counts() -> Callable[..., list[Counts]]:
    """moving_counts(steps, resolution, seed=0) -> event counts uint8 [1, 2, H, W] per step.

    An edge crosses a noisy background; now and then nothing happens at all, a burst fills the
    image, or single pixels reach the limit of 127 events.
    """

    def make(steps: int, resolution: tuple[int, int], seed: int = 0) -> list[Counts]:
        rng = np.random.default_rng(seed)
        shape = (1, 2, *resolution)
        windows = []
        for step in range(steps):
            counts = rng.poisson(0.05, shape)
            column = step % resolution[1]
            counts[:, step // 50 % 2, :, max(0, column - 2) : column + 1] += rng.poisson(
                1.5, (1, resolution[0], min(3, column + 1))
            )
            if step % 41 == 40:
                counts[:] = 0
            elif step % 37 == 36:
                counts += rng.poisson(4.0, shape)
            elif step % 17 == 16:
                counts[0, :, rng.integers(resolution[0]), rng.integers(resolution[1])] = 127
            windows.append(np.minimum(counts, 127).astype(np.uint8))
        return windows

    return make

"""The search for weight scales: never worse by its own measure, better where it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from quant import QuantError, QuantOptions, measure_moments, quantize
from quant.quantizers import largest_scale
from quant.scales import search_scale

Make = Callable[..., Any]


def weights(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(6, 3, 3, 3, generator=generator) ** 3,
        torch.randn(6, 6, 3, 3, generator=generator),
    )


def error_by_hand(both: Any, scale: Any, bits: int, moment: Any) -> Any:
    """E of every channel, weight by weight."""
    limit = 2 ** (bits - 1) - 1
    flat = both.flatten(1).numpy()
    unit = scale.astype(np.float32)[:, None]
    rounded = np.clip(np.rint(flat / unit), -limit, limit).astype(np.float64)
    difference = flat.astype(np.float64) - rounded * scale[:, None]
    return np.einsum("ci,ij,cj->c", difference, moment, difference)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("weighted", [False, True])
def test_no_channel_gets_worse(bits: int, weighted: bool) -> None:
    weight, weight_rec = weights()
    both = torch.cat([weight, weight_rec], 1)
    factor = np.random.default_rng(1).normal(size=(200, both[0].numel()))
    moment = factor.T @ factor / 200 if weighted else np.eye(both[0].numel())
    found = search_scale(weight, weight_rec, bits, moment if weighted else None)
    largest = largest_scale(both, bits)
    np.testing.assert_allclose(
        found.error_before, error_by_hand(both, largest, bits, moment), rtol=1e-6
    )
    np.testing.assert_allclose(
        found.error, error_by_hand(both, found.scale, bits, moment), rtol=1e-6
    )
    assert (found.error <= found.error_before).all() and (found.scale <= largest).all()
    assert found.gain == pytest.approx(1 - found.error.sum() / found.error_before.sum())
    # Few steps leave the most to gain.
    assert found.gain > (0.05 if bits <= 4 else -1e-9)
    np.testing.assert_array_equal(found.scale, found.scale.astype(np.float32))


def test_what_never_happens_costs_nothing() -> None:
    """The largest weight no longer decides the scale where its input is always 0."""
    weight = torch.tensor([0.1, 0.2]).view(1, 2, 1, 1)
    silent = search_scale(weight, None, 3, np.diag([1.0, 0.0]))
    heard = search_scale(weight, None, 3, np.diag([1.0, 1.0]))
    # Steps of 0.1 / 2 or 0.1 / 3 meet 0.1; neither is the 0.2 / 3 that reaches 0.2.
    assert silent.error[0] < 1e-7 < silent.error_before[0]
    assert heard.error[0] > 1e-5


def test_channels_of_zeros() -> None:
    weight = torch.zeros(2, 1, 1, 1)
    weight[1] = 1.0
    found = search_scale(weight, None, 4)
    assert found.scale[0] == 1 and found.error[0] == 0


def test_moments_of_another_convolution() -> None:
    weight, weight_rec = weights()
    with pytest.raises(QuantError, match="moments of 5 inputs for a convolution of 81"):
        search_scale(weight, weight_rec, 4, np.eye(5))


def test_moments_by_hand(active_network: Make, moving_counts: Make) -> None:
    """Of every layer's inputs over all pixels with any, against unfolded inputs."""
    model = active_network("LIFFireNet_short", channels=4)
    windows = [torch.from_numpy(window).float() for window in moving_counts(4, (9, 11))]
    got = measure_moments(model, windows)
    assert list(got) == ["head", "G1", "R1a", "G2", "R2a", "pred"]
    rows: dict[str, list[torch.Tensor]] = {"head": [], "G1": [], "pred": []}
    states = None
    for events in windows:
        before = states
        with torch.no_grad():
            _, states = model.step(events, states)
        zero = torch.zeros_like(states["G1"].spike)
        inputs = {
            "head": events,
            "G1": torch.cat([states["head"].spike, before["G1"].spike if before else zero], 1),
            "pred": states["R2a"].spike,
        }
        for name, x in inputs.items():
            kernel = 1 if name == "pred" else 3
            patches = torch.nn.functional.unfold(x, kernel, padding=kernel // 2)[0].T.double()
            rows[name].append(patches[patches.abs().sum(1) > 0])
    for name, patches in rows.items():
        seen = torch.cat(patches)
        np.testing.assert_allclose(got[name], (seen.T @ seen / len(seen)).numpy(), rtol=1e-5)
    with pytest.raises(QuantError, match="at least one window"):
        measure_moments(model, [])


def test_searched_scales_are_those_of_the_spec(active_network: Make, moving_counts: Make) -> None:
    model = active_network("LIFFireNet_short", channels=4)
    windows = [torch.from_numpy(window).float() for window in moving_counts(6, (9, 11))]
    moments = measure_moments(model, windows)
    spec = quantize(model, QuantOptions(3, scale_search=True), None, moments)
    layer = model.layers["G1"]
    want = search_scale(layer.weight, layer.weight_rec, 3, moments["G1"]).scale
    np.testing.assert_array_equal(spec.layers[1].conv.weight_scale, want)
    head = search_scale(model.pred.weight, None, 3, moments["pred"]).scale
    np.testing.assert_array_equal(spec.head.weight_scale, head)
    assert (want != quantize(model, QuantOptions(3)).layers[1].conv.weight_scale).any()

"""Hybrid networks: exact convolutions, float neurons within a stated bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import lif_op.spec
from models import LIFState
from quant import (
    HybridNetwork,
    LayerOptions,
    QuantError,
    QuantOptions,
    calibrate,
    observe,
    quantize,
)
from quant.spec import derive_threshold, threshold_frac_bits

Make = Callable[..., Any]
EPS = float(np.finfo(np.float32).eps)


def neuron(layer: Any, current: Any, mem: Any) -> tuple[Any, Any, Any]:
    """u, threshold and membrane after reset in float64, from float32 inputs."""
    beta = (layer.decay / 256.0).reshape(1, -1, 1, 1)
    threshold = layer.real_threshold.astype(np.float64).reshape(1, -1, 1, 1)
    u = beta * mem + current
    after = {"zero": np.where(u > threshold, 0, u), "none": u}
    after["subtract"] = np.where(u > threshold, u - threshold, u)
    return u, threshold, after[layer.reset]


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_each_step_is_within_the_bound(
    reset: str, active_network: Make, moving_counts: Make
) -> None:
    """From the network's own states, in float64: 4 eps (|beta m| + |I|)."""
    spec = quantize(active_network("LIFFireNet_short", reset=reset), QuantOptions(8))
    network = HybridNetwork(spec)
    states: dict[str, LIFState] = {}
    fired = dict.fromkeys((layer.name for layer in spec.layers), 0.0)
    for events in moving_counts(30, (9, 11)):
        before = states
        _, states = network.step(torch.from_numpy(events), before)
        x = events
        for layer in spec.layers:
            pads = (layer.conv.padding,) * 4
            acc = lif_op.spec.qconv(x, layer.conv.weight, layer.conv.bias, (1, 1), pads)
            mem = np.zeros(acc.shape)
            if layer.name in before:
                mem = before[layer.name].mem.numpy().astype(np.float64)
            if layer.weight_rec is not None and layer.name in before:
                spike = before[layer.name].spike.numpy().astype(np.uint8)
                none = np.zeros(layer.channels, np.int32)
                acc = acc + lif_op.spec.qconv(spike, layer.weight_rec, none, (1, 1), pads)
            current = acc * layer.conv.weight_scale.reshape(1, -1, 1, 1)
            u, threshold, after = neuron(layer, current, mem)
            bound = 4 * EPS * (np.abs(u - current) + np.abs(current))
            spike = states[layer.name].spike.numpy()
            clear = np.abs(u - threshold) > bound
            assert (spike == (u > threshold))[clear].all()
            error = np.abs(states[layer.name].mem.numpy() - after)
            assert (error <= bound + EPS * np.abs(threshold))[clear].all()
            fired[layer.name] += float(spike.mean())
            x = spike.astype(np.uint8)
    assert min(fired.values()) > 0


def test_flow_is_that_of_the_head(active_network: Make, moving_counts: Make) -> None:
    spec = quantize(active_network("LIFFireNet_short"))
    flow, states = HybridNetwork(spec).step(torch.from_numpy(moving_counts(1, (9, 11))[0]))
    spike = states["R2a"].spike.numpy().astype(np.uint8)
    acc = lif_op.spec.qconv(spike, spec.head.weight, spec.head.bias)
    want = np.tanh(acc * spec.head.weight_scale.reshape(1, -1, 1, 1))
    np.testing.assert_allclose(flow.numpy(), want, atol=1e-6)


def test_a_fine_grid_is_the_float_network(active_network: Make, moving_counts: Make) -> None:
    """With 8-bit weights a hybrid's error is that of weights and decay; spike rates agree."""
    model = active_network("LIFFireNet_short")
    network = HybridNetwork(quantize(model, QuantOptions(8, 16, 6)))
    states = floats = None
    rates = np.zeros((2, 5))
    for events in moving_counts(20, (16, 20)):
        _, states = network.step(torch.from_numpy(events), states)
        with torch.no_grad():
            _, floats = model.step(torch.from_numpy(events).float(), floats)
        for row, found in enumerate((states, floats)):
            rates[row] += [float(state.spike.mean()) for state in found.values()]
    np.testing.assert_allclose(rates[0], rates[1], rtol=0.1)


def test_real_thresholds_give_the_integers_back(active_network: Make) -> None:
    spec = quantize(active_network(), QuantOptions(2, 8, -4))
    assert any((layer.threshold == 0).any() for layer in spec.layers)
    for layer in spec.layers:
        real = layer.real_threshold.astype(np.float64)
        again = derive_threshold(real, layer.current_unit, layer.frac_bits, layer.mem_bits)
        np.testing.assert_array_equal(again, layer.threshold)
        np.testing.assert_array_equal(layer.real_beta * 256, layer.decay)


def test_thresholds_of_float_neurons_are_fine(active_network: Make) -> None:
    """On the finest grid of 16 bits that holds the largest, and at least one unit of the sum."""
    model = active_network()
    spec = quantize(model, QuantOptions(8, neuron="float"))
    for (_, layer), own in zip(model.named_layers(), spec.layers, strict=True):
        assert 2**13 <= own.threshold.max() < 2**15 and own.frac_bits > 0
        real = layer.effective_threshold().detach().double().numpy()
        below = real * (1 + 2.0**-22) - own.real_threshold
        assert (below >= 0).all() and (below <= own.membrane_unit * (1 + 1e-6)).all()
    unit = np.array([1e-9, 0.1])
    assert threshold_frac_bits(np.ones(2), unit) == 0
    assert threshold_frac_bits(np.ones(2), np.ones(2)) == 14


def test_options_of_float_neurons(active_network: Make) -> None:
    model = active_network("LIFFireNet_short")
    for options in (
        QuantOptions(7, 8, neuron="float"),
        QuantOptions(7, 16, 3, neuron="float"),
        QuantOptions(neuron="float", layers={"G1": LayerOptions(mem_bits=8)}),
    ):
        with pytest.raises(QuantError, match="float neurons have float32 membranes; leave mem_bi"):
            quantize(model, options)
    with pytest.raises(QuantError, match="float neurons take the accumulator; uint8 currents need"):
        quantize(model, QuantOptions(current="uint8", neuron="float"))
    with pytest.raises(QuantError, match="neuron must be integer or float, got 'soft'"):
        quantize(model, QuantOptions(neuron="soft"))


def test_observation(active_network: Make, moving_counts: Make) -> None:
    """The neurons that the network says it has; float ones have no limits to reach."""
    spec = quantize(active_network("LIFFireNet_short"), QuantOptions(neuron="float"))
    windows = [torch.from_numpy(window) for window in moving_counts(12, (9, 11))]
    network, states = HybridNetwork(spec), None
    fired = dict.fromkeys((layer.name for layer in spec.layers), 0.0)
    for events in windows:
        _, states = network.step(events, states)
        for name, state in states.items():
            fired[name] += float(state.spike.mean()) / len(windows)
    for name, seen in observe(spec, windows).items():
        assert seen.spike_rate == pytest.approx(fired[name]) and seen.spike_rate > 0
        assert (seen.clipped_current, seen.saturated_mem) == (0, 0)


def test_refusals(active_network: Make, moving_counts: Make) -> None:
    model = active_network("LIFFireNet_short")
    windows = [torch.from_numpy(window).float() for window in moving_counts(6, (9, 11))]
    spec = quantize(model, QuantOptions(current="uint8"), calibrate(model, windows))
    with pytest.raises(QuantError, match="layer 'head' requantizes its current"):
        HybridNetwork(spec)
    with pytest.raises(QuantError, match=r"events must be uint8 counts, got torch\.float32"):
        HybridNetwork(quantize(model)).step(torch.zeros(1, 2, 8, 8))

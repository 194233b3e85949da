"""Currents requantized to 8 bits, against an oracle in NumPy that knows nothing of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import lif_op.spec
from quant import IntegerNetwork, NetworkSpec, QuantError, QuantOptions, calibrate, quantize
from quant.emulation import requantize
from quant.spec import derive_multiplier

Make = Callable[..., Any]
Arrays = dict[str, tuple[Any, Any]]


def oracle_current(acc: Any, weight_scale: Any, current_scale: float) -> Any:
    """The rule as it is written in quant/spec.py: float32, operation by operation."""
    factor = np.float32(1) * weight_scale.astype(np.float32) / np.float32(current_scale)
    real = acc.astype(np.float32) * factor.astype(np.float32).reshape(1, -1, 1, 1)
    return np.clip(np.rint(real) + np.float32(128), 0, 255).astype(np.uint8)


def oracle_step(spec: NetworkSpec, x: Any, states: Arrays) -> tuple[Any, Arrays]:
    """One step of the whole network."""
    after = {}
    for layer in spec.layers:
        pads = (layer.conv.padding,) * 4
        acc = lif_op.spec.qconv(x, layer.conv.weight, layer.conv.bias, (1, 1), pads)
        kind = np.int16 if layer.mem_bits == 16 else np.int8
        zeros = (np.zeros(acc.shape, kind), np.zeros(acc.shape, np.uint8))
        mem, spike = states.get(layer.name, zeros)
        if layer.weight_rec is not None:
            nothing = np.zeros(layer.channels, np.int32)
            acc = acc + lif_op.spec.qconv(spike, layer.weight_rec, nothing, (1, 1), pads)
        assert layer.current_scale is not None
        q = oracle_current(acc, layer.conv.weight_scale, layer.current_scale)
        x, mem = lif_op.spec.qlif(
            q.astype(np.int32) - 128,
            mem,
            layer.decay,
            layer.threshold,
            layer.frac_bits,
            layer.reset,
        )
        after[layer.name] = (mem, x)
    return lif_op.spec.qconv(x, spec.head.weight, spec.head.bias), after


@pytest.fixture(scope="module")
def requantized(active_network: Make, moving_counts: Make) -> Make:
    def make(options: QuantOptions, **config: Any) -> NetworkSpec:
        model = active_network("LIFFireNet_short", **config)
        windows = [torch.from_numpy(window).float() for window in moving_counts(12, (16, 20))]
        return quantize(model, options, calibrate(model, windows))

    return make


@pytest.mark.parametrize(
    ("options", "config", "steps"),
    [
        (QuantOptions(8, 16, current="uint8"), {"channels": 4}, 1000),
        (QuantOptions(7, 8, current="uint8"), {"reset": "subtract"}, 100),
        (QuantOptions(4, 16, 9, "uint8"), {"reset": "none"}, 100),
    ],
)
def test_a_network_equals_the_oracle(
    options: QuantOptions,
    config: dict[str, Any],
    steps: int,
    requantized: Make,
    moving_counts: Make,
) -> None:
    spec = requantized(options, **config)
    network, states = IntegerNetwork(spec), None
    expected: Arrays = {}
    fired = dict.fromkeys((layer.name for layer in spec.layers), 0)
    for events in moving_counts(steps, (9, 11)):
        result = network.step(torch.from_numpy(events), states)
        states = result.states
        flow_acc, expected = oracle_step(spec, events, expected)
        np.testing.assert_array_equal(result.flow_acc.numpy(), flow_acc)
        for name, (mem, spike) in expected.items():
            np.testing.assert_array_equal(states[name].mem.numpy(), mem)
            np.testing.assert_array_equal(states[name].spike.numpy(), spike)
            fired[name] += int(spike.sum())
    assert all(fired.values())


def test_requantization_rounds_half_to_even_and_saturates() -> None:
    acc = torch.tensor([-(2**31), -257, -256, -255, -3, -1, 0, 1, 3, 5, 253, 254, 255, 2**31 - 1])
    got = requantize(acc.to(torch.int32).view(1, 1, 1, -1), torch.tensor([0.5]))
    assert got.flatten().tolist() == [0, 0, 0, 0, 126, 128, 128, 128, 130, 130, 254, 255, 255, 255]
    assert got.dtype == torch.uint8


def test_requantization_equals_the_oracle_on_extreme_values() -> None:
    rng = np.random.default_rng(0)
    acc = (2.0 ** rng.uniform(0, 31, (2, 6, 8, 50)) * rng.choice([-1, 1], (2, 6, 8, 50))).astype(
        np.int32
    )
    scale = rng.uniform(1e-6, 10, 6).astype(np.float32).astype(np.float64)
    got = requantize(torch.from_numpy(acc), torch.from_numpy(derive_multiplier(scale, 0.7)))
    want = oracle_current(acc, scale, 0.7)
    np.testing.assert_array_equal(got.numpy(), want)
    assert len(np.unique(want)) > 10


@pytest.mark.parametrize("mem_bits", [8, 16])
def test_fractional_bits_are_as_many_as_fit(
    mem_bits: int, active_network: Make, moving_counts: Make
) -> None:
    """The calibrated membrane fits; at twice the resolution it would not."""
    model = active_network("LIFFireNet_short")
    windows = [torch.from_numpy(window).float() for window in moving_counts(12, (16, 20))]
    calibration = calibrate(model, windows)
    spec = quantize(model, QuantOptions(8, mem_bits, current="uint8"), calibration)
    hi = 2 ** (mem_bits - 1) - 1
    for layer in spec.layers:
        seen, scale = calibration[layer.name], layer.current_scale
        assert scale is not None and seen.membrane_range is not None
        assert scale == np.float32(seen.current_range / 127)
        threshold = float(model.layers[layer.name].threshold.detach().median())
        largest = max(seen.membrane_range, threshold) / scale * 2.0**layer.frac_bits
        assert largest <= hi < 2.02 * largest
        assert (layer.membrane_unit == scale / 2.0**layer.frac_bits).all()


def test_thresholds_are_in_units_of_the_current(requantized: Make, active_network: Make) -> None:
    spec = requantized(QuantOptions(8, 16, current="uint8"))
    for (_, source), layer in zip(
        active_network("LIFFireNet_short").named_layers(), spec.layers, strict=True
    ):
        want = source.threshold.detach().double().numpy()
        real = layer.threshold * layer.membrane_unit
        assert ((real <= want * 1.000001) & (want < real + layer.membrane_unit)).all()


def test_missing_calibration(active_network: Make) -> None:
    model = active_network("LIFFireNet_short")
    with pytest.raises(QuantError, match="layer 'head': uint8 currents need calibration"):
        quantize(model, QuantOptions(current="uint8"))
    with pytest.raises(QuantError, match="current must be one of accumulator, uint8, got 'int8'"):
        quantize(model, QuantOptions(current="int8"))

"""From a float network to integers: weights, calibration, observation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models import ModelConfig, SpikingFireNet, untrained
from quant import (
    ConvSpec,
    LayerCalibration,
    LayerSpec,
    NetworkSpec,
    QuantError,
    QuantOptions,
    calibrate,
    observe,
    quantize,
)
from quant.quantizers import quantize_weight

Make = Callable[..., Any]


def weights(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(5, 3, 3, 3, generator=generator),
        torch.randn(5, 5, 3, 3, generator=generator) * 2,
    )


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_use_their_range(bits: int) -> None:
    weight, _ = weights()
    integers, none, scale = quantize_weight(weight, None, bits)
    limit = 2 ** (bits - 1) - 1
    assert none is None and integers.dtype == np.int8 and scale.dtype == np.float64
    assert np.abs(integers).max(axis=(1, 2, 3)).tolist() == [limit] * 5
    largest = weight.abs().amax(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(scale, largest / limit, rtol=1e-6)
    error = np.abs(integers * scale.reshape(-1, 1, 1, 1) - weight.numpy())
    assert (error <= 0.5001 * scale.reshape(-1, 1, 1, 1)).all()


@pytest.mark.parametrize("bits", [1, 9])
def test_impossible_weight_bits(bits: int) -> None:
    with pytest.raises(QuantError, match="weight bits must be 2 to 8"):
        quantize_weight(weights()[0], None, bits)


def test_both_convolutions_of_a_layer_share_a_scale() -> None:
    """Their sum is one accumulator, so one unit must serve both; the larger weight decides it."""
    weight, weight_rec = weights()
    integers, integers_rec, scale = quantize_weight(weight, weight_rec, 7)
    assert integers_rec is not None
    assert integers.shape == weight.shape and integers_rec.shape == weight_rec.shape
    largest = torch.cat([weight, weight_rec], 1).abs().amax(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(scale, largest / 63, rtol=1e-6)
    for got, want in ((integers, weight), (integers_rec, weight_rec)):
        np.testing.assert_allclose(
            got * scale.reshape(-1, 1, 1, 1), want.numpy(), atol=0.5001 * scale.max()
        )
    _, _, alone = quantize_weight(weight, None, 7)
    assert (alone < scale).any()


def test_a_channel_of_zero_weights(active_network: Make) -> None:
    """Its scale is 1, its threshold in real units; nothing divides by zero."""
    model = active_network("LIFFireNet_short")
    with torch.no_grad():
        for name in ("head", "G1"):
            model.layers[name].weight[1] = 0
        model.layers["G1"].weight_rec[1] = 0
        model.layers["G1"].threshold[1], model.layers["G1"].bias[1] = 2.5, -3.4
        model.pred.weight[0] = 0
    spec = quantize(model)
    for layer in spec.layers[:2]:
        assert layer.conv.weight_scale[1] == 1 and not layer.conv.weight[1].any()
    assert (spec.layers[1].threshold[1], spec.layers[1].conv.bias[1]) == (2, -3)
    assert spec.head.weight_scale[0] == 1 and spec.head.weight_scale[1] != 1


@pytest.mark.parametrize(
    "options", [QuantOptions(), QuantOptions(8, 16, 3), QuantOptions(5, 8, -2)]
)
def test_the_spec_is_derived_from_the_network(options: QuantOptions, active_network: Make) -> None:
    model = active_network(reset="subtract", flow_scaling=64.0)
    model.checkpoint_sha256 = "abc"
    spec = quantize(model, options)
    assert (spec.model, spec.flow_scaling, spec.checkpoint_sha256) == ("LIFFireNet", 64.0, "abc")
    assert spec.weight_bits == options.weight_bits
    assert [layer.conv.x_max for layer in spec.layers] == [127, 1, 1, 1, 1, 1, 1]
    for (name, float_layer), layer in zip(model.named_layers(), spec.layers, strict=True):
        assert (layer.name, layer.reset) == (name, "subtract")
        assert (layer.mem_bits, layer.frac_bits) == (options.mem_bits, options.frac_bits or 0)
        scale = layer.conv.weight_scale
        beta = float_layer.beta.detach().double().numpy()
        assert layer.decay.tolist() == np.rint(256 * beta).tolist()
        unit = scale / 2.0**layer.frac_bits
        threshold = float_layer.threshold.detach().double().numpy()
        real = layer.threshold * unit
        saturated = layer.threshold == 2 ** (options.mem_bits - 1) - 1
        assert ((real <= threshold * 1.000001) & ((threshold < real + unit) | saturated)).all()
        bias = float_layer.bias.detach().double().numpy()
        assert (np.abs(layer.conv.bias * scale - bias) <= 0.5001 * scale).all()
        assert (layer.weight_rec is not None) == float_layer.recurrent


# --- refusals -----------------------------------------------------------------------------------


def test_voxel_input_is_refused() -> None:
    model = untrained("LIFFireNet", channels=4, encoding="voxel", num_bins=5)  # type: ignore[arg-type]
    with pytest.raises(QuantError, match="take event counts; voxel input"):
        quantize(model)
    with pytest.raises(QuantError, match="take event counts; voxel input"):
        calibrate(model, [torch.zeros(1, 5, 8, 8)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (QuantOptions(weight_bits=9), "weight bits must be 2 to 8"),
        (QuantOptions(mem_bits=12, frac_bits=0), "membrane bits must be 8 or 16"),
        (QuantOptions(mem_bits=12), "membrane bits must be 8 or 16"),
        (QuantOptions(frac_bits=15), "fractional bits must be -15 to 14"),
        (QuantOptions(mem_bits=8, frac_bits=7), "fractional bits must be -15 to 6"),
        (QuantOptions(mem_bits=8), "layer 'head': 8-bit membranes need calibration or frac_bits"),
    ],
)
def test_impossible_options(options: QuantOptions, message: str, active_network: Make) -> None:
    with pytest.raises(QuantError, match=message):
        quantize(active_network("LIFFireNet_short"), options)


def test_the_layer_of_an_impossible_bias_is_named(active_network: Make) -> None:
    model = active_network("LIFFireNet_short")
    with torch.no_grad():
        model.layers["R1a"].weight[2] *= 1e-9
        model.layers["R1a"].bias[2] = 5.0
    with pytest.raises(QuantError, match=r"layer 'R1a': a bias does not fit 32 bits"):
        quantize(model)


def test_a_network_with_batch_norm_is_refused() -> None:
    model = SpikingFireNet(ModelConfig("LIFFireNet_short", channels=4), norm="batch")
    with pytest.raises(QuantError, match=r"layer 'head' has a batch norm; .*folded"):
        quantize(model)


# --- calibration --------------------------------------------------------------------------------


def float_windows(counts: Make, steps: int = 12) -> list[torch.Tensor]:
    return [torch.from_numpy(window).float() for window in counts(steps, (16, 20))]


def test_calibration_sees_what_the_network_does(active_network: Make, moving_counts: Make) -> None:
    """Rates and ranges against a plain run that keeps everything."""
    model, windows = active_network("LIFFireNet_short"), float_windows(moving_counts)
    got = calibrate(model, windows)
    states, spikes, currents = None, [], []
    with torch.no_grad():
        for events in windows:
            before = states
            _, states = model.step(events, states)
            spikes.append(states["G1"].spike)
            previous = before["G1"].spike if before else torch.zeros_like(spikes[0])
            currents.append(model.layers["G1"].current(states["head"].spike, previous))
    assert list(got) == ["head", "G1", "R1a", "G2", "R2a"]
    assert got["G1"].spike_rate == pytest.approx(float(torch.stack(spikes).mean()), rel=1e-5)
    largest = [current.abs().flatten().quantile(0.9999) for current in currents]
    assert got["G1"].current_range == pytest.approx(float(max(largest)), rel=1e-5)


def test_calibration_errors(active_network: Make, moving_counts: Make) -> None:
    model = active_network("LIFFireNet_short")
    with pytest.raises(QuantError, match="at least one window"):
        calibrate(model, [])
    with torch.no_grad():
        model.layers["R1a"].threshold.fill_(1e6)
    with pytest.raises(QuantError, match="layer 'R1a' never fires on the calibration windows"):
        calibrate(model, float_windows(moving_counts))


@pytest.mark.parametrize("units", [1.0, 126.9, 127.1, 254.1, 1000.0, 2032.5])
def test_eight_bit_membranes_hold_the_largest_current(units: float, active_network: Make) -> None:
    """The coarsest unit is not coarser than it must be: half of it would not hold the range."""
    model = active_network("LIFFireNet_short")
    scales = {layer.name: layer.conv.weight_scale for layer in quantize(model).layers}
    calibration = {
        name: LayerCalibration(units * float(np.median(scale)), 0.1)
        for name, scale in scales.items()
    }
    spec = quantize(model, QuantOptions(mem_bits=8), calibration)
    for layer in spec.layers:
        assert layer.frac_bits <= 0 and layer.mem_bits == 8
        assert units <= 127 * 2**-layer.frac_bits * 1.0001
        assert layer.frac_bits == 0 or units > 127 * 2 ** (-layer.frac_bits - 1) * 0.9999
        assert (layer.threshold <= 127).all()


def test_sixteen_bit_membranes_ignore_the_range(active_network: Make) -> None:
    model = active_network("LIFFireNet_short")
    wide = {name: LayerCalibration(1e6, 0.1) for name, _ in model.named_layers()}
    assert all(layer.frac_bits == 0 for layer in quantize(model, QuantOptions(), wide).layers)


# --- observation --------------------------------------------------------------------------------


def one_neuron(mem_bits: int, frac_bits: int, decay: int, threshold: int) -> NetworkSpec:
    """Membrane += 2 * ON - 2 * OFF per pixel; the head copies the spike."""
    weight = np.array([[[[2]], [[-2]]]], np.int8)
    conv = ConvSpec(weight, np.zeros(1, np.int32), np.ones(1), 1, 127)
    head = ConvSpec(np.ones((2, 1, 1, 1), np.int8), np.zeros(2, np.int32), np.ones(2), 1, 1)
    layer = LayerSpec(
        "head",
        conv,
        None,
        np.array([decay], np.int32),
        np.array([threshold], np.int32),
        frac_bits,
        mem_bits,
        "none",
    )
    return NetworkSpec("X", "cnt", 2, 128.0, 7, (layer,), head)


def window(*on_minus_off: int) -> torch.Tensor:
    values = torch.tensor(on_minus_off)
    on, off = values.clamp_min(0), (-values).clamp_min(0)
    return torch.stack([on, off]).view(1, 2, 1, -1).to(torch.uint8)


def test_observation_by_hand() -> None:
    """8-bit membranes: accumulators of 126, 128, -128 and -130, then of 20, 2, 0 and 0."""
    spec = one_neuron(mem_bits=8, frac_bits=0, decay=256, threshold=100)
    got = observe(spec, [window(63, 64, -64, -65)])["head"]
    # Clipped: 128 and -130. At a limit: 127, -128, -128. Fired: 126 and 127.
    assert (got.spike_rate, got.clipped_current, got.saturated_mem) == (0.5, 0.5, 0.75)
    got = observe(spec, [window(63, 64, -64, -65), window(10, 1, 0, 0)])["head"]
    # Second step: u = 146 -> 127, 129 -> 127, -128, -128; nothing clipped by itself.
    assert (got.spike_rate, got.clipped_current, got.saturated_mem) == (0.5, 0.25, 0.875)


@pytest.mark.parametrize(
    ("frac_bits", "inside", "outside"),
    [
        (1, (62, -64), (64, -66)),  # currents are whole multiples of 2 from -128 to 126
        (2, (30, -32), (32, -34)),
        (-1, (254, -256), (256, -258)),  # 254 / 2 = 127 is the last
    ],
)
def test_clipping_starts_exactly_where_it_does(
    frac_bits: int, inside: tuple[int, ...], outside: tuple[int, ...]
) -> None:
    spec = one_neuron(mem_bits=8, frac_bits=frac_bits, decay=0, threshold=127)
    for accumulators, share in ((inside, 0.0), (outside, 1.0)):
        got = observe(spec, [window(*(a // 2 for a in accumulators))])["head"]
        assert got.clipped_current == share, accumulators


def test_observation_carries_the_state(active_network: Make, moving_counts: Make) -> None:
    spec = quantize(active_network("LIFFireNet_short"))
    windows = [torch.from_numpy(counts) for counts in moving_counts(10, (16, 20))]
    carried = observe(spec, windows)
    fresh = [observe(spec, [counts])["G2"].spike_rate for counts in windows]
    assert carried["G2"].spike_rate > 0
    assert carried["G2"].spike_rate != pytest.approx(float(np.mean(fresh)))
    with pytest.raises(QuantError, match="at least one window"):
        observe(spec, [])


def test_a_saturated_network_shows(active_network: Make, moving_counts: Make) -> None:
    spec = quantize(active_network("LIFFireNet_short"), QuantOptions(8, 8, 3))
    windows = [torch.from_numpy(counts) for counts in moving_counts(10, (16, 20))]
    assert observe(spec, windows)["head"].clipped_current > 0.01
    wide = replace(spec, layers=quantize(active_network("LIFFireNet_short")).layers)
    assert observe(wide, windows)["head"].clipped_current == 0

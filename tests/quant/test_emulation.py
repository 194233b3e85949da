"""The PyTorch emulation against the NumPy definition of the ops, extreme values included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lif_op.spec
from quant import (
    ConvSpec,
    IntegerNetwork,
    IntegerState,
    LayerSpec,
    NetworkSpec,
    QuantError,
    QuantOptions,
    quantize,
)
from quant.emulation import integer_lif
from quant.stepping import integer_conv

INT32 = (-(2**31), 2**31 - 1)
TYPES = {np.int16: torch.int16, np.int8: torch.int8}


def neuron_inputs(mem_type: type[np.generic], seed: int, frac_bits: int) -> dict[str, Any]:
    """Accumulators of every magnitude, and those at which a current starts to saturate."""
    rng = np.random.default_rng(seed)
    info = np.iinfo(mem_type)
    shape = (2, 6, 5, 40)
    magnitude = 2.0 ** rng.uniform(0, 31, shape)
    acc = (magnitude * rng.choice([-1, 1], shape)).clip(*INT32).astype(np.int64)
    edge = int(2.0 ** (info.bits - 1 - frac_bits))
    half = int(2.0 ** (-frac_bits - 1))
    special = [
        0,
        1,
        -1,
        *INT32,
        edge,
        -edge,
        edge - 1,
        -edge - 1,
        edge - half,
        half,
        -half,
        half - 1,
    ]
    acc.reshape(-1)[: 3 * len(special)] = np.clip(np.repeat(special, 3), *INT32)
    mem = rng.integers(info.min, info.max + 1, shape)
    mem[0, :, 0, :4] = [info.min, info.max, -1, 0]
    return {
        "acc": acc.astype(np.int32),
        "mem": mem.astype(mem_type),
        "decay": np.array([0, 1, 100, 128, 255, 256], np.int32),
        "threshold": np.array([0, 1, 5, info.max // 3, info.max - 1, info.max], np.int32),
        "frac_bits": frac_bits,
    }


@pytest.mark.parametrize("reset", lif_op.spec.RESETS)
@pytest.mark.parametrize(
    ("mem_type", "frac_bits"),
    [(np.int16, f) for f in range(-16, 15)] + [(np.int8, f) for f in range(-16, 7)],
)
def test_neuron(mem_type: type[np.generic], frac_bits: int, reset: str) -> None:
    inputs = neuron_inputs(mem_type, frac_bits + 40, frac_bits)
    expected = lif_op.spec.qlif(**inputs, reset=reset)
    arrays = {k: v if k == "frac_bits" else torch.from_numpy(v) for k, v in inputs.items()}
    spike, mem = integer_lif(**arrays, reset=reset)
    assert spike.dtype == torch.uint8 and mem.dtype == TYPES[mem_type]
    np.testing.assert_array_equal(spike.numpy(), expected[0])
    np.testing.assert_array_equal(mem.numpy(), expected[1])
    assert 0 < expected[0].mean() < 1


def by_hand(acc: int, mem: int, decay: int, threshold: int, f: int, bits: int) -> tuple[int, int]:
    """Design 3.3 in Python integers, reset "zero"."""
    lo, hi = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if f >= 0:
        span = 2 ** (bits - 1 - f)
        current = min(max(acc, -span), span - 1) * 2**f
    else:
        current = min(max((2 * acc + 2**-f) // 2 ** (1 - f), lo), hi)
    product = mem * decay
    decayed = abs(product) // 256 * (1 if product >= 0 else -1)
    u = min(max(decayed + current, lo), hi)
    return (1, 0) if u > threshold else (0, u)


@settings(max_examples=300, deadline=None)
@given(
    acc=st.integers(*INT32) | st.integers(-300, 300),
    mem=st.integers(-(2**15), 2**15 - 1),
    decay=st.integers(0, 256),
    threshold=st.integers(0, 2**15 - 1),
    f=st.integers(-16, 14),
    bits=st.sampled_from([8, 16]),
)
def test_neuron_by_hand(acc: int, mem: int, decay: int, threshold: int, f: int, bits: int) -> None:
    f = min(f, bits - 2)
    mem >>= 16 - bits
    kind = np.int8 if bits == 8 else np.int16
    inputs: tuple[Any, ...] = (
        np.full((1, 1, 1, 1), acc, np.int32),
        np.full((1, 1, 1, 1), mem, kind),
        np.array([decay], np.int32),
        np.array([threshold], np.int32),
    )
    expected = by_hand(acc, mem, decay, threshold, f, bits)
    spike, after = lif_op.spec.qlif(*inputs, f, "zero")
    assert (int(spike.item()), int(after.item())) == expected
    spike, after = integer_lif(*(torch.from_numpy(v) for v in inputs), f, "zero")
    assert (int(spike), int(after)) == expected


@pytest.mark.parametrize(
    ("kernel", "stride", "fan_in", "size"),
    [
        (3, 1, 2, (7, 9)),
        (1, 1, 16, (4, 5)),
        (5, 1, 3, (6, 6)),
        (3, 2, 4, (9, 12)),
        (3, 1, 40, (8, 8)),
    ],
)
@pytest.mark.parametrize("extreme", [False, True])
def test_convolution(
    kernel: int, stride: int, fan_in: int, size: tuple[int, int], extreme: bool
) -> None:
    rng = np.random.default_rng(kernel + fan_in)
    if extreme:
        x = rng.choice(np.array([0, 255], np.uint8), (2, fan_in, *size), p=[0.1, 0.9])
        weight = np.full((6, fan_in, kernel, kernel), -127, np.int8)
        weight[::2] = 127
    else:
        x = rng.integers(0, 128, (2, fan_in, *size)).astype(np.uint8)
        weight = rng.integers(-127, 128, (6, fan_in, kernel, kernel)).astype(np.int8)
    pads = (kernel // 2,) * 4
    zero = np.zeros(6, np.int32)
    expected = lif_op.spec.qconv(x, weight, zero, (stride, stride), pads)
    got = integer_conv(torch.from_numpy(x), torch.from_numpy(weight), stride, torch.float32)
    assert got.dtype == torch.int32
    np.testing.assert_array_equal(got.numpy(), expected)


# --- the network --------------------------------------------------------------------------------


def wide_spec(fan_in: int) -> NetworkSpec:
    """One 3x3 layer of full weights on full counts: sums of up to fan_in * 9 * 127 * 127, odd."""
    rng = np.random.default_rng(0)
    weight = np.full((3, fan_in, 3, 3), 127, np.int8)
    weight[:, 0] = rng.integers(1, 127, (3, 3, 3))
    conv = ConvSpec(weight, np.array([1, -1, 0], np.int32), np.ones(3), 1, 127)
    head = ConvSpec(np.ones((2, 3, 1, 1), np.int8), np.zeros(2, np.int32), np.ones(2), 1, 1)
    per_channel = np.full(3, 200, np.int32)
    layer = LayerSpec("head", conv, None, per_channel, per_channel, -10, 16, "none")
    return NetworkSpec("X", "cnt", fan_in, 128.0, 8, (layer,), head)


def test_sums_beyond_the_bound_stay_exact() -> None:
    spec = wide_spec(150)
    assert not spec.exact_in_float32()
    rng = np.random.default_rng(1)
    x = rng.integers(110, 128, (1, 150, 6, 6)).astype(np.uint8)
    layer = spec.layers[0]
    expected = lif_op.spec.qconv(x, layer.conv.weight, layer.conv.bias, (1, 1), (1, 1, 1, 1))
    assert expected.max() > 2**24
    network = IntegerNetwork(spec)
    got = network.accumulate(layer, torch.from_numpy(x), torch.zeros(1, dtype=torch.uint8))
    np.testing.assert_array_equal(got.numpy(), expected)
    # And the switch matters: float32 gets some of these sums wrong.
    inexact = integer_conv(
        torch.from_numpy(x), torch.from_numpy(layer.conv.weight), 1, torch.float32
    ) + torch.from_numpy(layer.conv.bias).view(1, -1, 1, 1)
    assert not np.array_equal(inexact.numpy(), expected)


def reference_step(
    spec: NetworkSpec, x: Any, states: dict[str, tuple[Any, Any]]
) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """One step of the whole network in NumPy."""
    after = {}
    for layer in spec.layers:
        pads = (layer.conv.padding,) * 4
        acc = lif_op.spec.qconv(x, layer.conv.weight, layer.conv.bias, (1, 1), pads)
        mem_type = np.int16 if layer.mem_bits == 16 else np.int8
        mem, spike = states.get(
            layer.name, (np.zeros(acc.shape, mem_type), np.zeros(acc.shape, np.uint8))
        )
        if layer.weight_rec is not None:
            zero = np.zeros(layer.channels, np.int32)
            acc = acc + lif_op.spec.qconv(spike, layer.weight_rec, zero, (1, 1), pads)
        x, mem = lif_op.spec.qlif(
            acc, mem, layer.decay, layer.threshold, layer.frac_bits, layer.reset
        )
        after[layer.name] = (mem, x)
    return lif_op.spec.qconv(x, spec.head.weight, spec.head.bias), after


@pytest.mark.parametrize(
    ("options", "config"),
    [
        (QuantOptions(), {}),
        (QuantOptions(8, 16, 2), {"reset": "subtract"}),
        (QuantOptions(4, 16, -2), {"reset": "none"}),
        (QuantOptions(7, 8, -3), {"name": "LIFFireFlowNet"}),
        (QuantOptions(8, 8, -4), {"reset": "subtract"}),
    ],
)
def test_network_equals_the_reference(
    options: QuantOptions,
    config: dict[str, Any],
    active_network: Callable[..., Any],
    moving_counts: Callable[..., Any],
) -> None:
    spec = quantize(active_network(**config), options)
    network = IntegerNetwork(spec)
    states: dict[str, IntegerState] | None = None
    expected_states: dict[str, tuple[Any, Any]] = {}
    fired = dict.fromkeys((layer.name for layer in spec.layers), 0)
    for events in moving_counts(20, (11, 13)):
        result = network.step(torch.from_numpy(events), states)
        states = result.states
        flow_acc, expected_states = reference_step(spec, events, expected_states)
        np.testing.assert_array_equal(result.flow_acc.numpy(), flow_acc)
        flow = np.tanh(flow_acc * spec.head.weight_scale.reshape(1, 2, 1, 1))
        np.testing.assert_allclose(result.flow.numpy(), flow, atol=1e-6)
        for name, (mem, spike) in expected_states.items():
            np.testing.assert_array_equal(states[name].mem.numpy(), mem)
            np.testing.assert_array_equal(states[name].spike.numpy(), spike)
            fired[name] += int(spike.sum())
    assert all(fired.values())


def test_batches_are_independent(
    active_network: Callable[..., Any], moving_counts: Callable[..., Any]
) -> None:
    network = IntegerNetwork(quantize(active_network("LIFFireNet_short")))
    inputs = [
        np.concatenate(pair)
        for pair in zip(moving_counts(5, (9, 10), 0), moving_counts(5, (9, 10), 1), strict=True)
    ]
    together = separate = None
    for events in inputs:
        together = network.step(torch.from_numpy(events), together and together.states)
        separate = network.step(torch.from_numpy(events[1:]), separate and separate.states)
    assert together is not None and separate is not None
    assert torch.equal(together.flow_acc[1:], separate.flow_acc)
    assert torch.equal(together.states["G2"].mem[1:], separate.states["G2"].mem)


def test_float_events_are_refused(active_network: Callable[..., Any]) -> None:
    network = IntegerNetwork(quantize(active_network("LIFFireNet_short")))
    with pytest.raises(QuantError, match=r"events must be uint8 counts, got torch\.float32"):
        network.step(torch.zeros(1, 2, 8, 8))

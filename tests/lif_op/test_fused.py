"""Fused and packing ops: ONNX Runtime, the reference evaluator and NumPy give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import op_models
import pytest
from onnx.reference import ReferenceEvaluator

import lif_op
from lif_op import spec

LEVELS = onnxruntime.GraphOptimizationLevel
CHANNELS = (1, 31, 32, 33, 64)

Arrays = dict[str, op_models.Array]


def everywhere(
    op_type: str, inputs: Arrays, outputs: dict[str, Any], expected: Any, **attributes: Any
) -> None:
    """Run one node by its body: in ONNX Runtime unoptimised and optimised, beside the native
    kernels of the other ops, and in the reference evaluator."""
    model = op_models.single_node(op_type, inputs, outputs, with_bodies=False, **attributes)
    bodies = (False, True) if op_type in spec.STRICT_OPS else (False,)
    for strict in bodies:
        del model.functions[:]
        model.functions.append(spec.function(op_type, strict_conv=strict))
        for level in (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_ALL):
            for register in (None, lif_op.register):
                session = op_models.session(model, register, level=level)
                op_models.assert_same(session.run(None, inputs), expected)
        op_models.assert_same(ReferenceEvaluator(model).run(None, inputs), expected)


def random_spikes(seed: int, shape: tuple[int, ...]) -> op_models.Array:
    return (np.random.default_rng(seed).random(shape) < 0.3).astype(np.uint8)


@pytest.mark.parametrize("channels", CHANNELS)
def test_packing(channels: int) -> None:
    spikes = random_spikes(channels, (2, channels, 5, 7))
    packed = spec.pack_spikes(spikes)
    assert packed.shape == (2, 5, 7, spec.words(channels))
    everywhere("PackSpikes", {"x": spikes}, {"y": np.uint32}, [packed], channels=channels)
    everywhere("UnpackSpikes", {"x": packed}, {"y": np.uint8}, [spikes], channels=channels)


def test_packed_words_hold_the_channels_as_documented() -> None:
    spikes = np.zeros((1, 40, 1, 2), np.uint8)
    spikes[0, [0, 5, 31, 33], 0, 1] = 1
    packed = spec.pack_spikes(spikes)
    assert packed.dtype == np.uint32 and not packed[0, 0, 0].any()
    assert packed[0, 0, 1].tolist() == [1 << 0 | 1 << 5 | 1 << 31, 1 << 1]
    np.testing.assert_array_equal(spec.unpack_spikes(packed, 40), spikes)


def fused_inputs(
    seed: int, x: op_models.Array, cin: int, cout: int, side: tuple[int, int], mem_dtype: Any
) -> Arrays:
    """Parameters with which some neurons fire, some saturate and most do neither."""
    rng = np.random.default_rng(seed)
    lo, hi = spec.membrane_limits(mem_dtype)
    return {
        "x": x,
        "weight": rng.integers(-63, 64, (cout, cin, 3, 3), dtype=np.int8),
        "bias": rng.integers(-200, 200, cout, dtype=np.int32),
        "mem": rng.integers(lo, hi + 1, (x.shape[0], *side, cout)).astype(mem_dtype),
        "decay": rng.integers(0, 257, cout, dtype=np.int32),
        "threshold": rng.integers(0, hi // 2, cout, dtype=np.int32),
    }


def recurrent(inputs: Arrays, seed: int) -> Arrays:
    """The same with previous spikes and their weights, in the order of the op's inputs."""
    rng = np.random.default_rng(seed)
    cout = inputs["weight"].shape[0]
    shape = (inputs["mem"].shape[0], cout, *inputs["mem"].shape[1:3])
    own = {
        "spike_prev": spec.pack_spikes(random_spikes(seed, shape)),
        "weight_rec": rng.integers(-63, 64, (cout, cout, 3, 3), dtype=np.int8),
    }
    order = ("x", "weight", "bias", "spike_prev", "weight_rec", "mem", "decay", "threshold")
    return {name: (inputs | own)[name] for name in order}


@pytest.mark.parametrize("reset", spec.RESETS)
@pytest.mark.parametrize(("mem_dtype", "frac_bits"), [(np.int16, 3), (np.int16, 0), (np.int8, -4)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_neurons(packed: bool, stride: int, mem_dtype: Any, frac_bits: int, reset: str) -> None:
    cin, cout = (33, 5) if packed else (2, 33)
    counts = np.random.default_rng(0).integers(0, 128, (2, cin, 7, 10), dtype=np.uint8)
    x = spec.pack_spikes(random_spikes(1, counts.shape)) if packed else counts
    inputs = fused_inputs(2, x, cin, cout, (-(-7 // stride), -(-10 // stride)), mem_dtype)
    attributes: dict[str, Any] = {
        "strides": (stride, stride),
        "pads": (1, 1, 1, 1),
        "frac_bits": frac_bits,
        "reset": reset,
    }
    expected = spec.qconv_lif(**inputs, **attributes)
    assert 0 < np.count_nonzero(spec.unpack_spikes(expected[0], cout)) < expected[1].size
    outputs = {"spike": np.uint32, "mem_out": mem_dtype}
    everywhere("QConvLIF", inputs, outputs, expected, **attributes)
    own = recurrent(inputs, 3)
    expected = spec.qconv_lif_rec(**own, **attributes)
    assert 0 < np.count_nonzero(spec.unpack_spikes(expected[0], cout)) < expected[1].size
    everywhere("QConvLIFRec", own, outputs, expected, **attributes)


@pytest.mark.parametrize("channels", CHANNELS)
def test_channel_counts(channels: int) -> None:
    """Packed in, packed out; equal to the separate ops."""
    spikes = random_spikes(4, (1, channels, 6, 5))
    inputs = fused_inputs(5, spec.pack_spikes(spikes), channels, channels, (6, 5), np.int16)
    inputs["threshold"] //= 64
    attributes: dict[str, Any] = {"strides": (1, 1), "pads": (1, 1, 1, 1)}
    neuron: dict[str, Any] = {"frac_bits": 0, "reset": "zero"}
    expected = spec.qconv_lif(**inputs, **attributes, **neuron)
    acc = spec.qconv(spikes, inputs["weight"], inputs["bias"], **attributes)
    mem = inputs["mem"].transpose(0, 3, 1, 2)
    fired, after = spec.qlif(acc, mem, inputs["decay"], inputs["threshold"], **neuron)
    np.testing.assert_array_equal(spec.unpack_spikes(expected[0], channels), fired)
    np.testing.assert_array_equal(expected[1], after.transpose(0, 2, 3, 1))
    outputs = {"spike": np.uint32, "mem_out": np.int16}
    everywhere("QConvLIF", inputs, outputs, expected, **attributes, **neuron)


def test_the_recurrent_op_is_one_sum_of_two_convolutions() -> None:
    counts = np.random.default_rng(6).integers(0, 128, (1, 2, 8, 9), dtype=np.uint8)
    inputs = recurrent(fused_inputs(7, counts, 2, 12, (8, 9), np.int16), 8)
    spike, mem = spec.qconv_lif_rec(**inputs, pads=(1, 1, 1, 1))
    both = np.concatenate([counts, spec.unpack_spikes(inputs["spike_prev"], 12)], axis=1)
    weight = np.concatenate([inputs["weight"], inputs["weight_rec"]], axis=1)
    rest = [inputs[name] for name in ("mem", "decay", "threshold")]
    whole = spec.qconv_lif(both, weight, inputs["bias"], *rest, pads=(1, 1, 1, 1))
    np.testing.assert_array_equal(spike, whole[0])
    np.testing.assert_array_equal(mem, whole[1])


@pytest.mark.parametrize("kernel", [1, 5])
def test_other_kernel_sizes_keep_the_size(kernel: int) -> None:
    counts = np.random.default_rng(9).integers(0, 128, (1, 2, 6, 8), dtype=np.uint8)
    inputs = recurrent(fused_inputs(10, counts, 2, 3, (6, 8), np.int16), 11)
    rng = np.random.default_rng(12)
    for name in ("weight", "weight_rec"):
        shape = (*inputs[name].shape[:2], kernel, kernel)
        inputs[name] = rng.integers(-63, 64, shape, dtype=np.int8)
    attributes: dict[str, Any] = {
        "strides": (1, 1),
        "pads": (kernel // 2,) * 4,
        "frac_bits": 0,
        "reset": "subtract",
    }
    expected = spec.qconv_lif_rec(**inputs, **attributes)
    outputs = {"spike": np.uint32, "mem_out": np.int16}
    everywhere("QConvLIFRec", inputs, outputs, expected, **attributes)

"""fold_into_lif: the same spikes without the gain, and refusals that name the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import neuron_graphs as graphs
import numpy as np
import onnx
import pytest

from export.passes import run_passes
from export.passes.base import PassError
from export.passes.fold_into_lif import FoldIntoLif

GAINS = np.array([0.25, 0.7, 1.9, 3.0], np.float32)
SIGNED = np.array([0.25, -0.7, 1.9, -3.0], np.float32)
SHIFTS = np.array([0.3, -0.1, 0.02, -0.4], np.float32)

Edit = Callable[[graphs.Layer], object]


def fold(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    folded, (report,) = run_passes(model, [FoldIntoLif()])
    return folded, report.changes


def batch_norm(layer: graphs.Layer) -> None:
    names = ("scale", "shift", "mean", "variance")
    values = (SIGNED, SHIFTS, SHIFTS[::-1], np.abs(GAINS))
    inputs = [layer.current, *(layer.const(n, v) for n, v in zip(names, values, strict=True))]
    layer.current = layer.op("BatchNormalization", inputs, "norm", epsilon=1e-3)


CASES: dict[str, Edit] = {
    "gain": lambda layer: layer.affine("Mul", GAINS),
    "scalar gain": lambda layer: layer.affine("Mul", 0.31),
    "gain first": lambda layer: layer.affine("Mul", GAINS, first=True),
    "division": lambda layer: layer.affine("Div", GAINS),
    "negative gain": lambda layer: layer.affine("Mul", SIGNED),
    "shift": lambda layer: layer.affine("Add", SHIFTS),
    "difference": lambda layer: layer.affine("Sub", SHIFTS, first=True),
    "chain": lambda layer: [
        layer.affine("Add", SHIFTS, "one"),
        layer.affine("Mul", SIGNED, "two"),
        layer.affine("Sub", 0.1, "three"),
    ],
    "batch norm": batch_norm,
}


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_float_layers_give_the_same_spikes(case: str, bias: bool, reset: str) -> None:
    layer = graphs.Layer(integer=False, bias=bias)
    CASES[case](layer)
    before = layer.model(reset)
    after, changes = fold(before)
    assert changes == 1 and graphs.types(after) == {"Conv": 1, "LIF": 1}
    expected, got = (graphs.drive(model, graphs.windows()) for model in (before, after))
    spikes = np.concatenate([step["spike"] for step in expected])
    assert 0.02 < spikes.mean() < 0.98
    for want, have in zip(expected, got, strict=True):
        # A membrane within rounding of its threshold may fire on one side only; none does here.
        np.testing.assert_array_equal(have["spike"], want["spike"])
    assert fold(after)[1] == 0


@pytest.mark.parametrize("case", ["gain", "negative gain", "scalar gain"])
def test_integer_membranes_keep_their_integers(case: str) -> None:
    """The scale absorbs the gain, so states are equal step by step, and on the weights' grid."""
    layer = graphs.Layer(integer=True)
    CASES[case](layer)
    gain = {"gain": GAINS, "negative gain": np.abs(SIGNED), "scalar gain": np.float32(0.31)}[case]
    layer.membrane_scale = (layer.scale * gain / 4).astype(np.float32)
    before = layer.model()
    after, changes = fold(before)
    assert changes == 1
    scale = graphs.constants(after)["mem_scale"]
    np.testing.assert_array_equal(scale, layer.scale / np.float32(4))
    expected, got = (graphs.drive(model, graphs.windows()) for model in (before, after))
    for want, have in zip(expected, got, strict=True):
        np.testing.assert_array_equal(have["spike"], want["spike"])
        # Rounding to the grid may differ by the last bit of the quotient.
        assert np.abs(have["mem_out.L"].astype(int) - want["mem_out.L"]).max() <= 1
    assert np.mean([step["spike"].mean() for step in expected]) > 0.02


def test_a_shift_is_rounded_to_the_unit_of_an_integer_bias() -> None:
    layer = graphs.Layer(integer=True)
    before = layer.constants["conv.bias"].copy()
    layer.affine("Mul", SIGNED, "gain")
    layer.affine("Add", SHIFTS, "shift")
    after, _ = fold(layer.model())
    sign = np.sign(SIGNED)
    shift = np.rint(SHIFTS.astype(np.float64) / np.abs(SIGNED) / layer.scale)
    bias = graphs.constants(after)["conv.bias"]
    assert bias.dtype == np.int32
    assert np.abs(bias - (before * sign + shift)).max() <= 1
    flipped = graphs.constants(after)["conv.weight"]
    weight = layer.constants["conv.weight"]
    np.testing.assert_array_equal(flipped, weight * sign.astype(np.int8).reshape(-1, 1, 1, 1))


def test_the_sum_of_two_convolutions() -> None:
    """A recurrent layer: both change their sign, one of them gets the shift."""
    layer = graphs.Layer(integer=False)
    layer.current = layer.op("Add", [layer.current, layer.conv("rec", "x", 3)], "sum")
    layer.affine("Mul", SIGNED, "gain")
    layer.affine("Add", SHIFTS, "shift")
    before = layer.model()
    after, _ = fold(before)
    assert graphs.types(after) == {"Conv": 2, "Add": 1, "LIF": 1}
    expected, got = (graphs.drive(model, graphs.windows()) for model in (before, after))
    for want, have in zip(expected, got, strict=True):
        np.testing.assert_array_equal(have["spike"], want["spike"])


def test_a_scaled_accumulator_becomes_a_dequantizer() -> None:
    layer = graphs.Layer(integer=True)
    x = layer.op("Cast", ["x"], "x_byte", to=onnx.TensorProto.UINT8)
    weight = layer.const("w", layer.rng.integers(-63, 64, (4, 3, 3, 3)).astype(np.int8))
    acc = layer.op("ConvInteger", [x, weight], "acc", pads=[1, 1, 1, 1])
    layer.current = layer.op("Cast", [acc], "real", to=onnx.TensorProto.FLOAT)
    layer.affine("Mul", layer.scale)
    layer.nodes = [node for node in layer.nodes if "conv" not in node.name]
    before = layer.model()
    after, changes = fold(before)
    assert changes == 1 and not graphs.types(after)["Mul"]
    expected, got = (graphs.drive(model, graphs.windows()) for model in (before, after))
    for want, have in zip(expected, got, strict=True):
        for name, value in want.items():
            np.testing.assert_array_equal(have[name], value)


def test_what_is_not_affine_stays() -> None:
    layer = graphs.Layer(integer=False)
    layer.current = layer.op("Relu", [layer.current], "relu")
    model = layer.model()
    same, changes = fold(model)
    assert changes == 0 and graphs.types(same) == graphs.types(model)


def zero_gain(layer: graphs.Layer) -> None:
    layer.affine("Mul", np.where(np.arange(4) == 2, 0, GAINS), "leak")


def shift_behind_relu(layer: graphs.Layer) -> None:
    layer.current = layer.op("Relu", [layer.current], "relu")
    layer.affine("Add", SHIFTS, "late")


def narrowest(layer: graphs.Layer) -> None:
    layer.constants["conv.weight"][1, 0, 0, 0] = -128
    layer.affine("Mul", SIGNED, "gain")


def shared(layer: graphs.Layer) -> None:
    conv = layer.current
    layer.affine("Add", SHIFTS, "shift")
    layer.current = layer.op("Add", [layer.current, conv], "both")
    layer.current = layer.affine("Add", SHIFTS, "again")


@pytest.mark.parametrize(
    ("edit", "integer", "message"),
    [
        (zero_gain, False, r"node 'leak' \(Mul\): its gain is 0 .* channel 2"),
        (shift_behind_relu, False, r"node 'late' \(Add\): a shift .* no convolution"),
        (narrowest, True, r"node 'conv' \(Conv\): a constant of -128 has no negative"),
        (shared, False, r"node 'again' \(Add\): a shift .* no convolution"),
    ],
)
def test_refusals(edit: Any, integer: bool, message: str) -> None:
    layer = graphs.Layer(integer=integer)
    edit(layer)
    with pytest.raises(PassError, match=message):
        fold(layer.model())

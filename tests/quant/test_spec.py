"""The derivation of the integers, against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quant import ConvSpec, LayerSpec, NetworkSpec, QuantError
from quant.spec import (
    check_frac_bits,
    derive_bias,
    derive_decay,
    derive_threshold,
    membrane_limits,
    weight_limit,
)

SLACK = Fraction(1, 2**22)


def one(value: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([value], np.float64)


@settings(max_examples=300, deadline=None)
@given(
    threshold=st.floats(1e-4, 1e4),
    scale=st.floats(1e-5, 1e2),
    frac_bits=st.integers(-8, 14),
    mem_bits=st.sampled_from([8, 16]),
)
def test_integer_and_real_threshold_decide_alike(
    threshold: float, scale: float, frac_bits: int, mem_bits: int
) -> None:
    """``u > theta_q`` for an integer membrane u equals ``u > theta * 2^f / s_w`` in rationals."""
    real = Fraction(threshold) * Fraction(2) ** frac_bits / Fraction(scale)
    next_integer = real.__floor__() + 1
    # A threshold this close below the grid counts as lying on it; that is what the slack is for.
    assume(next_integer - real > 2 * real * SLACK)
    (derived,) = derive_threshold(one(threshold), one(scale), frac_bits, mem_bits)
    lo, hi = membrane_limits(mem_bits)
    assert 0 <= derived <= hi
    near = range(next_integer - 3, next_integer + 4)
    for u in {lo, -1, 0, 1, hi, *(min(max(u, lo), hi) for u in near)}:
        assert (u > derived) == (u > real)


@settings(max_examples=300, deadline=None)
@given(
    grid=st.integers(1, 32767),
    scale=st.floats(1e-6, 1e3),
    frac_bits=st.integers(0, 8),
)
def test_thresholds_on_the_grid_survive_float32(grid: int, scale: float, frac_bits: int) -> None:
    """A threshold trained to lie on the grid is stored in float32 and must come back."""
    stored = float(np.float32(grid * scale / 2.0**frac_bits))
    assert derive_threshold(one(stored), one(scale), frac_bits, 16)[0] == grid


def test_threshold_edges() -> None:
    assert derive_threshold(one(0.01), one(1.0), 0, 16)[0] == 0
    assert derive_threshold(one(1e30), one(1e-30), 0, 16)[0] == 32767
    assert derive_threshold(one(200.0), one(1.0), 0, 8)[0] == 127
    assert derive_threshold(one(200.0), one(1.0), -4, 8)[0] == 12


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_thresholds(bad: float) -> None:
    with pytest.raises(QuantError, match="thresholds must be positive and finite"):
        derive_threshold(one(bad), one(1.0), 0, 16)


@given(beta=st.floats(0, 1))
def test_decay_is_the_nearest_256th(beta: float) -> None:
    (decay,) = derive_decay(one(beta))
    assert 0 <= decay <= 256
    assert abs(Fraction(int(decay), 256) - Fraction(beta)) <= Fraction(1, 512)


def test_decay_rounds_half_to_even_and_clips() -> None:
    beta = np.array([0.5 / 256, 1.5 / 256, 2.5 / 256, 255.5 / 256, -0.2, 1.7])
    assert derive_decay(beta).tolist() == [0, 2, 2, 256, 0, 256]


@given(bias=st.floats(-1e3, 1e3), scale=st.floats(1e-5, 1e2))
def test_bias_is_the_nearest_unit(bias: float, scale: float) -> None:
    (derived,) = derive_bias(one(bias), one(scale))
    exact = Fraction(bias) / Fraction(scale)
    assert abs(int(derived) - exact) <= Fraction(1, 2) + abs(exact) * Fraction(1, 2**52)


@pytest.mark.parametrize("bias", [1e10, -1e10, float("inf"), float("nan")])
def test_a_bias_beyond_32_bits_is_refused(bias: float) -> None:
    with pytest.raises(QuantError, match="bias does not fit 32 bits"):
        derive_bias(one(bias), one(1.0))


def test_limits() -> None:
    assert membrane_limits(16) == (-32768, 32767) and membrane_limits(8) == (-128, 127)
    assert [weight_limit(bits) for bits in range(2, 9)] == [1, 3, 7, 15, 31, 63, 127]
    for bits in (1, 9, 0):
        with pytest.raises(QuantError, match="weight bits must be 2 to 8"):
            weight_limit(bits)
    with pytest.raises(QuantError, match="membrane bits must be 8 or 16, got 12"):
        membrane_limits(12)
    for frac_bits, mem_bits in ((15, 16), (7, 8), (-16, 16)):
        with pytest.raises(QuantError, match="fractional bits"):
            check_frac_bits(frac_bits, mem_bits)
    check_frac_bits(14, 16)
    check_frac_bits(6, 8)
    check_frac_bits(-15, 8)


# --- the bound of float32 -----------------------------------------------------------------------


def conv(weight: int, bias: int, x_max: int, fan_in: int = 1, kernel: int = 1) -> ConvSpec:
    weights = np.full((2, fan_in, kernel, kernel), weight, np.int8)
    biases = np.array([0, bias], np.int32)
    return ConvSpec(weights, biases, np.ones(2), stride=1, x_max=x_max)


def layer(spec: ConvSpec, weight_rec: int | None = None) -> LayerSpec:
    recurrent = None if weight_rec is None else np.full((2, 2, 1, 1), weight_rec, np.int8)
    values = np.ones(2, np.int32)
    return LayerSpec("head", spec, recurrent, values, values, 0, 16, "zero")


def network(spec: LayerSpec, head: ConvSpec | None = None) -> NetworkSpec:
    return NetworkSpec("X", "cnt", 2, 128.0, 7, (spec,), head or conv(1, 0, 1, 2))


def test_largest_sum_by_hand() -> None:
    assert conv(-63, -5, 127, fan_in=2, kernel=3).largest_sum() == 127 * 63 * 18 + 5
    assert layer(conv(3, 4, 1), weight_rec=-7).largest_sum() == 3 + 4 + 2 * 7
    # The bound is one channel's: the largest of both parts may lie in different ones.
    apart = layer(conv(3, 4, 1), weight_rec=0)
    apart.weight_rec[0] = 5
    assert apart.largest_sum() == max(3 + 2 * 5, 3 + 4)
    # int8 -128 and int32 -2^31 have no positive counterpart in their own type.
    assert conv(-128, -(2**31), 1).largest_sum() == 128 + 2**31


@pytest.mark.parametrize(("over", "exact"), [(0, True), (1, False)])
def test_the_bound_is_two_to_the_24(over: int, exact: bool) -> None:
    top = 2**24
    assert network(layer(conv(1, top - 1 + over, 1))).exact_in_float32() is exact
    assert network(layer(conv(1, top - 7 + over, 1), weight_rec=3)).exact_in_float32() is exact
    head = conv(1, top - 2 + over, 1, fan_in=2)
    assert network(layer(conv(1, 0, 1)), head).exact_in_float32() is exact

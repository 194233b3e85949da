"""The compiled kernels, called directly, against the NumPy references."""

from __future__ import annotations

from typing import Any

import numpy as np
import op_models
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lif_op
from lif_op import _core, spec

TARGETS = lif_op.targets()
SHAPES = [(1, 1), (3, 7), (2, 3, 5), (1, 4, 6, 9), (2, 3, 4, 33), (1, 2, 3, 4, 5), (0, 2, 3, 3)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reset", spec.RESETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_lif(target: str, reset: str, shape: tuple[int, ...]) -> None:
    inputs = op_models.lif_inputs(1, shape)
    got = _core.lif(**inputs, reset=reset, target=target, parts=3)
    op_models.assert_same(got, spec.lif(**inputs, reset=reset))


@pytest.mark.parametrize("target", TARGETS)
def test_foreign_lif_fires_on_a_tie(target: str) -> None:
    inputs = op_models.lif_inputs(2, (2, 5, 3, 9))
    inputs["mem"][0] = 0
    inputs["current"][0] = inputs["threshold"][:, None, None]
    got = _core.foreign_lif(**inputs, target=target)
    op_models.assert_same(got, spec.foreign_lif(**inputs))
    assert got[0][0].all()
    assert not _core.lif(**inputs, target=target)[0][0].any()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mem_dtype", [np.int16, np.int8])
@pytest.mark.parametrize("reset", spec.RESETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_qlif(target: str, mem_dtype: Any, reset: str, shape: tuple[int, ...]) -> None:
    inputs = op_models.qlif_inputs(3, shape, mem_dtype)
    for frac_bits in (-30, -4, -3, 0, 2, 8 * np.dtype(mem_dtype).itemsize - 1):
        got = _core.qlif(**inputs, frac_bits=frac_bits, reset=reset, target=target, parts=2)
        op_models.assert_same(got, spec.qlif(**inputs, frac_bits=frac_bits, reset=reset))


int32 = st.integers(-(2**31), 2**31 - 1)


@settings(max_examples=200, deadline=None)
@given(
    acc=st.lists(int32, min_size=1, max_size=40),
    mem=st.integers(-(2**15), 2**15 - 1),
    decay=st.integers(0, 256),
    threshold=int32,
    frac_bits=st.integers(-30, 7),
    reset=st.sampled_from(spec.RESETS),
    narrow=st.booleans(),
)
def test_qlif_is_defined_for_everything(
    acc: list[int],
    mem: int,
    decay: int,
    threshold: int,
    frac_bits: int,
    reset: str,
    narrow: bool,
) -> None:
    accumulators = np.array(acc, np.int32)[None, None]
    mem_dtype = np.int8 if narrow else np.int16
    inputs: dict[str, Any] = {
        "acc": accumulators,
        "mem": np.full(accumulators.shape, mem >> (8 if narrow else 0)).astype(mem_dtype),
        "decay": np.array([decay], np.int32),
        "threshold": np.array([threshold], np.int32),
        "frac_bits": frac_bits,
        "reset": reset,
    }
    expected = spec.qlif(**inputs)
    for target in TARGETS:
        op_models.assert_same(_core.qlif(**inputs, target=target), expected)


@pytest.mark.parametrize("target", TARGETS)
def test_membranes_in_place(target: str) -> None:
    floats = op_models.lif_inputs(4, (2, 3, 5, 7))
    expected = spec.lif(**floats, reset="subtract")
    spike, mem_out = _core.lif(**floats, reset="subtract", target=target, in_place=True)
    op_models.assert_same([spike, mem_out], expected)
    assert np.shares_memory(mem_out, floats["mem"])

    integers = op_models.qlif_inputs(5, (2, 3, 5, 7))
    expected_q = spec.qlif(**integers, reset="subtract")
    spike, mem_out = _core.qlif(**integers, reset="subtract", target=target, in_place=True)
    op_models.assert_same([spike, mem_out], expected_q)
    assert np.shares_memory(mem_out, integers["mem"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(
    ("x_shape", "out_channels", "kernel", "strides", "pads"),
    [
        ((1, 2, 9, 17), 8, (3, 3), (1, 1), (1, 1, 1, 1)),
        ((2, 5, 8, 40), 7, (3, 3), (2, 2), (1, 1, 1, 1)),
        ((1, 32, 6, 20), 2, (1, 1), (1, 1), (0, 0, 0, 0)),
        ((1, 3, 12, 12), 4, (5, 2), (3, 1), (0, 2, 1, 0)),
        ((1, 7, 5, 70), 9, (2, 7), (1, 3), (1, 3, 0, 3)),
    ],
)
def test_qconv(
    target: str,
    parts: int,
    x_shape: tuple[int, ...],
    out_channels: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> None:
    inputs = op_models.qconv_inputs(6, x_shape, out_channels, kernel)
    got = _core.qconv(**inputs, strides=strides, pads=pads, target=target, parts=parts)
    op_models.assert_same([got], [spec.qconv(**inputs, strides=strides, pads=pads)])


def test_wrong_arguments_are_refused() -> None:
    floats = op_models.lif_inputs(7, (1, 2, 3, 3))
    with pytest.raises(ValueError, match="attribute 'reset' must be zero, subtract or none"):
        _core.lif(**floats, reset="soft")
    with pytest.raises(ValueError, match="there is no kernel target 'sse9'; this machine can run"):
        _core.lif(**floats, target="sse9")
    with pytest.raises(ValueError, match="parts must be at least 1"):
        _core.lif(**floats, parts=0)
    floats["beta"] = floats["beta"][:1]
    with pytest.raises(ValueError, match=r"input 'beta' must have shape \[2\]"):
        _core.lif(**floats)
    integers = op_models.qlif_inputs(8, (1, 2, 3, 3))
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _core.qlif(**{**integers, "acc": integers["acc"].astype(np.int64)})
    with pytest.raises(ValueError, match="attribute 'frac_bits' must be from -30 to 15"):
        _core.qlif(**integers, frac_bits=16)

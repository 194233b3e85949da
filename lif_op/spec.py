"""The ops of domain ``snn`` written down twice: as ONNX functions and as NumPy references.

The ONNX function bodies are embedded in every exported file. They *are* the meaning of an op: a
runtime without the op library executes them, a runtime with the library executes a native kernel
that returns the same integers. The NumPy functions state the same arithmetic for tests and for
stepping through a network by hand.

Two idioms of the bodies need a word:

* ``reset`` is a string, and only ``Equal`` compares strings. The ONNX reference evaluator refuses
  to compare NumPy strings of different widths, so the three names pass through one ``Concat``,
  which gives them a common width. ONNX Runtime folds all of it away, the ``If`` included.
* The limits of the membrane follow from its type. ``Cast`` between integers keeps the low bits,
  so 256 survives a cast to int16 and becomes 0 in int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser

DOMAIN = "snn"
DOMAIN_VERSION = 1
FOREIGN_DOMAIN = "SNN_implementation"
OPSET = 21
IR_VERSION = 10
RESETS = ("zero", "subtract", "none")

_PER_CHANNEL_SHAPE = """
  rank_shape = Shape(mem)
  rank = Shape(rank_shape)
  two = Constant<value_ints=[2]>()
  spatial_rank = Sub(rank, two)
  spatial_ones = ConstantOfShape<value: tensor = int64[1] {1}>(spatial_rank)
  leading = Constant<value_ints=[1, -1]>()
  per_channel = Concat<axis=0>(leading, spatial_ones)
"""

_RESET_FLAGS = """
  reset_name = Constant<value_strings: strings = ["zero", "subtract"]>()
  reset_given = Constant<value_string: string = @reset>()
  axis_0 = Constant<value_ints=[0]>()
  reset_given_1d = Unsqueeze(reset_given, axis_0)
  reset_same_width = Concat<axis=0>(reset_given_1d, reset_name)
  given, name_zero, name_subtract = Split<axis=0, num_outputs=3>(reset_same_width)
  resets_to_zero = Equal(given, name_zero)
  resets_by_subtraction = Equal(given, name_subtract)
"""

_LIF = f"""
<domain: "snn", opset_import: ["": {OPSET}]>
LIF <reset> (current, mem, beta, threshold) => (spike, mem_out)
{{
  {_PER_CHANNEL_SHAPE}
  beta_c = Reshape(beta, per_channel)
  threshold_c = Reshape(threshold, per_channel)
  decayed = Mul(beta_c, mem)
  u = Add(decayed, current)
  fires = Greater(u, threshold_c)
  spike = Cast<to=1>(fires)
  {_RESET_FLAGS}
  mem_out = If(resets_to_zero) <
    then_branch = reset_zero () => (after_zero) {{
      one = Constant<value_float=1.0>()
      silent = Sub(one, spike)
      after_zero = Mul(u, silent)
    }},
    else_branch = reset_other () => (after_other) {{
      after_other = If(resets_by_subtraction) <
        then_branch = reset_subtract () => (after_subtract) {{
          drop = Mul(spike, threshold_c)
          after_subtract = Sub(u, drop)
        }},
        else_branch = reset_none () => (after_none) {{ after_none = Identity(u) }}
      >
    }}
  >
}}
"""

_QCONV = f"""
<domain: "snn", opset_import: ["": {OPSET}]>
QConv <strides, pads> (x, weight, bias) => (acc)
{{
  x_float = Cast<to=1>(x)
  weight_float = Cast<to=1>(weight)
  sums_float = Conv<strides: ints = @strides, pads: ints = @pads>(x_float, weight_float)
  sums = Cast<to=6>(sums_float)
  per_channel = Constant<value_ints=[1, -1, 1, 1]>()
  bias_c = Reshape(bias, per_channel)
  acc = Add(sums, bias_c)
}}
"""

_QCONV_STRICT = f"""
<domain: "snn", opset_import: ["": {OPSET}]>
QConv <strides, pads> (x, weight, bias) => (acc)
{{
  sums = ConvInteger<strides: ints = @strides, pads: ints = @pads>(x, weight)
  per_channel = Constant<value_ints=[1, -1, 1, 1]>()
  bias_c = Reshape(bias, per_channel)
  acc = Add(sums, bias_c)
}}
"""

_QLIF = f"""
<domain: "snn", opset_import: ["": {OPSET}]>
QLIF <frac_bits, reset> (acc, mem, decay, threshold) => (spike, mem_out)
{{
  {_PER_CHANNEL_SHAPE}
  decay_c = Reshape(decay, per_channel)
  threshold_c = Reshape(threshold, per_channel)
  zero = Constant<value: tensor = int32 {{0}}>()
  one = Constant<value: tensor = int32 {{1}}>()
  two_i = Constant<value: tensor = int32 {{2}}>()
  low_byte_gone = Constant<value: tensor = int32 {{256}}>()
  probe_mem = CastLike(low_byte_gone, mem)
  probe = Cast<to=6>(probe_mem)
  is_int16 = Div(probe, low_byte_gone)
  int8_max = Constant<value: tensor = int32 {{127}}>()
  int16_extra = Constant<value: tensor = int32 {{32640}}>()
  extra = Mul(is_int16, int16_extra)
  hi = Add(int8_max, extra)
  span = Add(hi, one)
  lo = Neg(span)

  frac_bits_64 = Constant<value_int: int = @frac_bits>()
  f = Cast<to=6>(frac_bits_64)
  minus_f = Neg(f)
  bits_up = Max(f, zero)
  bits_down = Max(minus_f, zero)
  up = Pow(two_i, bits_up)
  down = Pow(two_i, bits_down)
  half = Div(down, two_i)
  rounds = Less(f, zero)
  rounded = If(rounds) <
    then_branch = round_down () => (quotient) {{
      rest = Mod(acc, down)
      whole = Sub(acc, rest)
      whole_quotient = Div(whole, down)
      rest_half = Add(rest, half)
      rest_quotient = Div(rest_half, down)
      quotient = Add(whole_quotient, rest_quotient)
    }},
    else_branch = keep () => (same) {{ same = Identity(acc) }}
  >
  current_span = Div(span, up)
  current_hi = Sub(current_span, one)
  current_lo = Neg(current_span)
  clamped = Clip(rounded, current_lo, current_hi)
  current = Mul(clamped, up)

  m = Cast<to=6>(mem)
  product = Mul(m, decay_c)
  decay_unit = Constant<value: tensor = int32 {{256}}>()
  decayed = Div(product, decay_unit)
  sum = Add(decayed, current)
  u = Clip(sum, lo, hi)
  fires = Greater(u, threshold_c)
  spike = Cast<to=2>(fires)
  spike_int = Cast<to=6>(fires)
  {_RESET_FLAGS}
  after = If(resets_to_zero) <
    then_branch = reset_zero () => (after_zero) {{
      silent = Sub(one, spike_int)
      after_zero = Mul(u, silent)
    }},
    else_branch = reset_other () => (after_other) {{
      after_other = If(resets_by_subtraction) <
        then_branch = reset_subtract () => (after_subtract) {{
          drop = Mul(spike_int, threshold_c)
          dropped = Sub(u, drop)
          after_subtract = Clip(dropped, lo, hi)
        }},
        else_branch = reset_none () => (after_none) {{ after_none = Identity(u) }}
      >
    }}
  >
  mem_out = CastLike(after, mem)
}}
"""

_FOREIGN_LIF = f"""
<domain: "SNN_implementation", opset_import: ["": {OPSET}]>
LIF (input, mem, beta, threshold) => (spike, mem_out)
{{
  {_PER_CHANNEL_SHAPE}
  beta_c = Reshape(beta, per_channel)
  threshold_c = Reshape(threshold, per_channel)
  decayed = Mul(beta_c, mem)
  u = Add(decayed, input)
  fires = GreaterOrEqual(u, threshold_c)
  spike = Cast<to=1>(fires)
  one = Constant<value_float=1.0>()
  silent = Sub(one, spike)
  mem_out = Mul(u, silent)
}}
"""

_BODIES = {
    (DOMAIN, "LIF"): _LIF,
    (DOMAIN, "QConv"): _QCONV,
    (DOMAIN, "QLIF"): _QLIF,
    (FOREIGN_DOMAIN, "LIF"): _FOREIGN_LIF,
}


def function(
    op_type: str, *, domain: str = DOMAIN, strict_conv: bool = False
) -> onnx.FunctionProto:
    """Return the ONNX function that defines an op.

    Args:
        op_type: "LIF", "QConv" or "QLIF"; "LIF" only for the foreign domain.
        domain: ``snn`` or ``SNN_implementation``.
        strict_conv: for QConv, the body built on ``ConvInteger`` instead of a float32 ``Conv``.
            The two agree while ``x_max * sum|w| + |b| <= 2**24`` per channel; only the strict one
            is exact beyond, and it is about ten times slower in ONNX Runtime.

    Raises:
        KeyError: no such op.
    """
    text = _BODIES[domain, op_type]
    if strict_conv and op_type == "QConv":
        text = _QCONV_STRICT
    return onnx.parser.parse_function(text)


def functions(*, strict_conv: bool = False) -> list[onnx.FunctionProto]:
    """Return the functions of every op of domain ``snn``, in a fixed order."""
    names = [name for domain, name in _BODIES if domain == DOMAIN]
    return [function(name, strict_conv=strict_conv) for name in names]


def membrane_limits(dtype: npt.DTypeLike) -> tuple[int, int]:
    """Return (lo, hi) of an integer membrane type, int16 or int8."""
    info = np.iinfo(np.dtype(dtype))
    return int(info.min), int(info.max)


def _per_channel(parameter: npt.NDArray[Any], rank: int) -> npt.NDArray[Any]:
    return parameter.reshape((1, -1) + (1,) * (rank - 2))


def _check_reset(reset: str) -> None:
    if reset not in RESETS:
        raise ValueError(f"reset must be one of {', '.join(RESETS)}, got {reset!r}")


def lif(
    current: npt.NDArray[np.float32],
    mem: npt.NDArray[np.float32],
    beta: npt.NDArray[np.float32],
    threshold: npt.NDArray[np.float32],
    reset: str = "zero",
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Canonical leaky integrate-and-fire neuron, one time step.

    ``u = beta * mem + current``; fires where ``u > threshold``; then the reset.

    Args:
        current: float32 [N, C, ...], input current of this step.
        mem: float32 [N, C, ...], membrane after the previous step.
        beta: float32 [C], decay per step.
        threshold: float32 [C].
        reset: "zero", "subtract" or "none".

    Returns:
        spike float32 (0 or 1) and mem_out float32, both [N, C, ...].

    Raises:
        ValueError: unknown reset.
    """
    _check_reset(reset)
    threshold_c = _per_channel(threshold, mem.ndim)
    u = _per_channel(beta, mem.ndim) * mem + current
    spike = (u > threshold_c).astype(np.float32)
    if reset == "zero":
        return spike, u * (np.float32(1) - spike)
    if reset == "subtract":
        return spike, u - spike * threshold_c
    return spike, u


def foreign_lif(
    current: npt.NDArray[np.float32],
    mem: npt.NDArray[np.float32],
    beta: npt.NDArray[np.float32],
    threshold: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """``SNN_implementation::LIF`` as its author defined it: fires on ``>=``, resets to zero."""
    u = _per_channel(beta, mem.ndim) * mem + current
    spike = (u >= _per_channel(threshold, mem.ndim)).astype(np.float32)
    return spike, u * (np.float32(1) - spike)


def qconv(
    x: npt.NDArray[np.uint8],
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> npt.NDArray[np.int32]:
    """Integer convolution with 32-bit sums.

    Args:
        x: uint8 [N, Cin, H, W].
        weight: int8 [Cout, Cin, kh, kw].
        bias: int32 [Cout].
        strides: (vertical, horizontal).
        pads: (top, left, bottom, right), filled with zeros.

    Returns:
        acc int32 [N, Cout, Ho, Wo].
    """
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.int32), ((0, 0), (0, 0), (top, bottom), (left, right)))
    kh, kw = weight.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    sums = np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.int32), optimize=True)
    return (sums + bias.reshape(1, -1, 1, 1)).astype(np.int32)


def qlif(
    acc: npt.NDArray[np.int32],
    mem: npt.NDArray[Any],
    decay: npt.NDArray[np.int32],
    threshold: npt.NDArray[np.int32],
    frac_bits: int = 0,
    reset: str = "zero",
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Integer leaky integrate-and-fire neuron, one time step.

    The membrane's unit is the accumulator's divided by ``2**frac_bits``; the decay is a fraction
    of 256; the decayed membrane is truncated toward zero; every intermediate saturates.

    Args:
        acc: int32 [N, C, ...], sum of the convolutions.
        mem: int16 or int8 [N, C, ...].
        decay: int32 [C], 0..256.
        threshold: int32 [C], in membrane units.
        frac_bits: fractional bits of the membrane, negative for coarse (8-bit) membranes.
        reset: "zero", "subtract" or "none".

    Returns:
        spike uint8 (0 or 1) and mem_out of mem's type, both [N, C, ...].

    Raises:
        ValueError: unknown reset.
    """
    _check_reset(reset)
    lo, hi = membrane_limits(mem.dtype)
    wide = acc.astype(np.int64)
    if frac_bits >= 0:
        span = (hi + 1) >> frac_bits
        current = np.clip(wide, -span, span - 1) << frac_bits
    else:
        current = np.clip((wide + (1 << (-frac_bits - 1))) >> -frac_bits, lo, hi)
    product = mem.astype(np.int64) * _per_channel(decay, mem.ndim)
    decayed = np.sign(product) * (np.abs(product) >> 8)
    u = np.clip(decayed + current, lo, hi)
    threshold_c = _per_channel(threshold, mem.ndim).astype(np.int64)
    fires = u > threshold_c
    if reset == "zero":
        after = np.where(fires, 0, u)
    elif reset == "subtract":
        after = np.where(fires, np.clip(u - threshold_c, lo, hi), u)
    else:
        after = u
    return fires.astype(np.uint8), after.astype(mem.dtype)

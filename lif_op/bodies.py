"""The ops as text: one ONNX function each, parsed by ``lif_op.spec.function``.

Four idioms need a word:

* ``reset`` is a string, and only ``Equal`` compares strings. The ONNX reference evaluator refuses
  to compare NumPy strings of different widths, so the three names pass through one ``Concat``,
  which gives them a common width. ONNX Runtime folds all of it away, the ``If`` included.
* The limits of the membrane follow from its type. ``Cast`` between integers keeps the low bits,
  so 256 survives a cast to int16 and becomes 0 in int8.
* An input that is either bytes or packed words has one body for both. The same cast of 256 tells
  the types apart (uint8 makes 0 of it, uint32 keeps it), both branches of the ``If`` are valid
  for either type, and ONNX Runtime folds the choice away.
* Packing adds up bits as int32, in which bit 31 counts -2^31: no sum of different bits overflows,
  and the cast to uint32 keeps them. ONNX Runtime has no sum of uint32.
"""

from __future__ import annotations

OPSET = 21

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

# From ``after`` to ``mem_out``. 1.1754943508222875e-38 is 2^-126, the least normal float32.
_WITHOUT_DENORMALS = """
  least = Constant<value: tensor = float {1.1754943508222875e-38}>()
  nothing = Constant<value: tensor = float {0.0}>()
  magnitude = Abs(after)
  is_denormal = Less(magnitude, least)
  mem_out = Where(is_denormal, nothing, after)
"""

LIF = f"""
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
  after = If(resets_to_zero) <
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
  {_WITHOUT_DENORMALS}
}}
"""

# From ``acc``, ``mem``, ``decay_c`` and ``threshold_c``, which fit together, to ``fires``.
_NEURON_FIRES = """
  zero = Constant<value: tensor = int32 {0}>()
  one = Constant<value: tensor = int32 {1}>()
  two_i = Constant<value: tensor = int32 {2}>()
  low_byte_gone = Constant<value: tensor = int32 {256}>()
  probe_mem = CastLike(low_byte_gone, mem)
  probe = Cast<to=6>(probe_mem)
  is_int16 = Div(probe, low_byte_gone)
  int8_max = Constant<value: tensor = int32 {127}>()
  int16_extra = Constant<value: tensor = int32 {32640}>()
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
    then_branch = round_down () => (quotient) {
      rest = Mod(acc, down)
      whole = Sub(acc, rest)
      whole_quotient = Div(whole, down)
      rest_half = Add(rest, half)
      rest_quotient = Div(rest_half, down)
      quotient = Add(whole_quotient, rest_quotient)
    },
    else_branch = keep () => (same) { same = Identity(acc) }
  >
  current_span = Div(span, up)
  current_hi = Sub(current_span, one)
  current_lo = Neg(current_span)
  clamped = Clip(rounded, current_lo, current_hi)
  current = Mul(clamped, up)

  m = Cast<to=6>(mem)
  product = Mul(m, decay_c)
  decay_unit = Constant<value: tensor = int32 {256}>()
  decayed = Div(product, decay_unit)
  sum = Add(decayed, current)
  u = Clip(sum, lo, hi)
  fires = Greater(u, threshold_c)
"""

# From ``fires`` to the membrane after the reset, in the type of ``mem``.
_NEURON_RESETS = f"""
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
"""

QLIF = f"""
<domain: "snn", opset_import: ["": {OPSET}]>
QLIF <frac_bits, reset> (acc, mem, decay, threshold) => (spike, mem_out)
{{
  {_PER_CHANNEL_SHAPE}
  decay_c = Reshape(decay, per_channel)
  threshold_c = Reshape(threshold, per_channel)
{_NEURON_FIRES}
  spike = Cast<to=2>(fires)
{_NEURON_RESETS}
}}
"""

FOREIGN_LIF = f"""
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
  after = Mul(u, silent)
  {_WITHOUT_DENORMALS}
}}
"""


def _unpack(words: str, count: str, result: str) -> str:
    """Words uint32 [N, H, W, K] to bytes [N, ``count``, H, W]; count is an int64 list of one."""
    bits = ", ".join(str(bit) for bit in range(32))
    return f"""
  {result}_numbers = Constant<value: tensor = uint32[32] {{{bits}}}>()
  {result}_one = Constant<value: tensor = uint32 {{1}}>()
  {result}_last = Constant<value_ints=[-1]>()
  {result}_apart = Unsqueeze({words}, {result}_last)
  {result}_shifted = BitShift<direction="RIGHT">({result}_apart, {result}_numbers)
  {result}_bits = BitwiseAnd({result}_shifted, {result}_one)
  {result}_bytes = Cast<to=2>({result}_bits)
  {result}_in_a_row = Constant<value_ints=[0, 0, 0, -1]>()
  {result}_whole = Reshape({result}_bytes, {result}_in_a_row)
  {result}_start = Constant<value_ints=[0]>()
  {result}_axis = Constant<value_ints=[3]>()
  {result}_used = Slice({result}_whole, {result}_start, {count}, {result}_axis)
  {result} = Transpose<perm=[0, 3, 1, 2]>({result}_used)
"""


def _pack(spikes: str, count: str, result: str) -> str:
    """Spikes int32 [N, H, W, ``count``] to words uint32 [N, H, W, K]."""
    values = ", ".join(str(1 << bit) for bit in range(31)) + ", -2147483648"
    return f"""
  {result}_word = Constant<value_ints=[32]>()
  {result}_minus = Neg({count})
  {result}_unused = Mod({result}_minus, {result}_word)
  {result}_before = Constant<value_ints=[0, 0, 0, 0, 0, 0, 0]>()
  {result}_pads = Concat<axis=0>({result}_before, {result}_unused)
  {result}_padded = Pad<mode="constant">({spikes}, {result}_pads)
  {result}_by_word = Constant<value_ints=[0, 0, 0, -1, 32]>()
  {result}_apart = Reshape({result}_padded, {result}_by_word)
  {result}_values = Constant<value: tensor = int32[32] {{{values}}}>()
  {result}_weighted = Mul({result}_apart, {result}_values)
  {result}_last = Constant<value_ints=[-1]>()
  {result}_sum = ReduceSum<keepdims=0>({result}_weighted, {result}_last)
  {result} = Cast<to=12>({result}_sum)
"""


_CHANNELS_ATTRIBUTE = """
  given = Constant<value_int: int = @channels>()
  as_list = Constant<value_ints=[1]>()
  count = Reshape(given, as_list)
"""

PACK_SPIKES = f"""
<domain: "snn", opset_import: ["": {OPSET}]>
PackSpikes <channels> (spikes) => (packed)
{{
  {_CHANNELS_ATTRIBUTE}
  spikes_int = Cast<to=6>(spikes)
  spikes_last = Transpose<perm=[0, 2, 3, 1]>(spikes_int)
  {_pack("spikes_last", "count", "packed")}
}}
"""

UNPACK_SPIKES = f"""
<domain: "snn", opset_import: ["": {OPSET}]>
UnpackSpikes <channels> (packed) => (spikes)
{{
  {_CHANNELS_ATTRIBUTE}
  {_unpack("packed", "count", "spikes")}
}}
"""

# The input of a convolution as bytes [N, Cin, H, W], whichever of its two forms it has. Greater and
# not a cast to bool: of this 0, ONNX Runtime 1.18 without optimisation made true.
_INPUT_BYTES = f"""
  low_byte_only = Constant<value: tensor = int32 {{256}}>()
  probe_x = CastLike(low_byte_only, x)
  probe_x_int = Cast<to=6>(probe_x)
  nothing = Constant<value: tensor = int32 {{0}}>()
  is_packed = Greater(probe_x_int, nothing)
  count_x = Shape<start=1, end=2>(weight)
  x_bytes = If(is_packed) <
    then_branch = words_to_bytes () => (unpacked_x) {{
      words_x = Cast<to=12>(x)
      {_unpack("words_x", "count_x", "unpacked_x")}
    }},
    else_branch = bytes_already () => (same_x) {{ same_x = Cast<to=2>(x) }}
  >
"""

_SUMS = """
  x_float = Cast<to=1>(x_bytes)
  weight_float = Cast<to=1>(weight)
  sums_float = Conv<strides: ints = @strides, pads: ints = @pads>(x_float, weight_float)
  sums = Cast<to=6>(sums_float)
"""

_SUMS_STRICT = """
  sums = ConvInteger<strides: ints = @strides, pads: ints = @pads>(x_bytes, weight)
"""

_BIAS_CHANNELS_FIRST = """
  per_channel = Constant<value_ints=[1, -1, 1, 1]>()
  bias_c = Reshape(bias, per_channel)
  acc = Add(sums, bias_c)
"""


def _conv(sums: str) -> str:
    return f"""
<domain: "snn", opset_import: ["": {OPSET}]>
QConv <strides, pads> (x, weight, bias) => (acc)
{{
  {_INPUT_BYTES}
  {sums}
  {_BIAS_CHANNELS_FIRST}
}}
"""


QCONV = _conv(_SUMS)
QCONV_STRICT = _conv(_SUMS_STRICT)

# A layer's own spikes: stride 1, and as much padding as keeps the size.
_PREVIOUS_BYTES = f"""
  count_previous = Shape<start=1, end=2>(weight_rec)
  {_unpack("spike_prev", "count_previous", "previous")}
"""

_SUMS_REC = """
  previous_float = Cast<to=1>(previous)
  weight_rec_float = Cast<to=1>(weight_rec)
  sums_rec_float = Conv<auto_pad="SAME_UPPER">(previous_float, weight_rec_float)
  sums_rec = Cast<to=6>(sums_rec_float)
"""

_SUMS_REC_STRICT = """
  sums_rec = ConvInteger<auto_pad="SAME_UPPER">(previous, weight_rec)
"""

# Sums [N, C, H, W] to packed spikes and membranes [N, H, W, C]: parameters fit the last axis.
_NEURON_CHANNELS_LAST = f"""
  sums_last = Transpose<perm=[0, 2, 3, 1]>(all_sums)
  acc = Add(sums_last, bias)
  decay_c = Identity(decay)
  threshold_c = Identity(threshold)
  {_NEURON_FIRES}
  {_NEURON_RESETS}
  count = Shape(threshold)
  {_pack("spike_int", "count", "spike")}
"""


def _conv_lif(sums: str) -> str:
    return f"""
<domain: "snn", opset_import: ["": {OPSET}]>
QConvLIF <strides, pads, frac_bits, reset> (x, weight, bias, mem, decay, threshold)
  => (spike, mem_out)
{{
  {_INPUT_BYTES}
  {sums}
  all_sums = Identity(sums)
  {_NEURON_CHANNELS_LAST}
}}
"""


def _conv_lif_rec(sums: str, sums_rec: str) -> str:
    return f"""
<domain: "snn", opset_import: ["": {OPSET}]>
QConvLIFRec <strides, pads, frac_bits, reset>
  (x, weight, bias, spike_prev, weight_rec, mem, decay, threshold) => (spike, mem_out)
{{
  {_INPUT_BYTES}
  {sums}
  {_PREVIOUS_BYTES}
  {sums_rec}
  all_sums = Add(sums, sums_rec)
  {_NEURON_CHANNELS_LAST}
}}
"""


QCONV_LIF = _conv_lif(_SUMS)
QCONV_LIF_STRICT = _conv_lif(_SUMS_STRICT)
QCONV_LIF_REC = _conv_lif_rec(_SUMS, _SUMS_REC)
QCONV_LIF_REC_STRICT = _conv_lif_rec(_SUMS_STRICT, _SUMS_REC_STRICT)

"""The ops of domain ``snn`` written down twice: as ONNX functions and as NumPy references.

The ONNX function bodies are embedded in every exported file. They *are* the meaning of an op: a
runtime without the op library executes them, a runtime with the library executes a native kernel
that returns the same integers. The NumPy functions state the same arithmetic for tests and for
stepping through a network by hand.

The bodies are in ``lif_op.bodies``. ``QConvLIF`` and ``QConvLIFRec`` fuse a convolution with its
neuron. Between them spikes travel packed, 32 channels to a word, and membranes have their channels
last. The input ``x`` of every convolution is either bytes, uint8 [N, Cin, H, W], or packed spikes,
uint32 [N, H, W, ceil(Cin / 32)]; the two forms have one body, which looks at the type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser

from lif_op import bodies

DOMAIN = "snn"
DOMAIN_VERSION = 1
FOREIGN_DOMAIN = "SNN_implementation"
OPSET = bodies.OPSET
IR_VERSION = 10
RESETS = ("zero", "subtract", "none")

WORD_BITS = 32

_BODIES = {
    (DOMAIN, "LIF"): bodies.LIF,
    (DOMAIN, "QConv"): bodies.QCONV,
    (DOMAIN, "QLIF"): bodies.QLIF,
    (DOMAIN, "QConvLIF"): bodies.QCONV_LIF,
    (DOMAIN, "QConvLIFRec"): bodies.QCONV_LIF_REC,
    (DOMAIN, "PackSpikes"): bodies.PACK_SPIKES,
    (DOMAIN, "UnpackSpikes"): bodies.UNPACK_SPIKES,
    (FOREIGN_DOMAIN, "LIF"): bodies.FOREIGN_LIF,
}
_STRICT_BODIES = {
    "QConv": bodies.QCONV_STRICT,
    "QConvLIF": bodies.QCONV_LIF_STRICT,
    "QConvLIFRec": bodies.QCONV_LIF_REC_STRICT,
}
STRICT_OPS = tuple(_STRICT_BODIES)
"""Ops whose convolutions have a strict body."""


def function(
    op_type: str, *, domain: str = DOMAIN, strict_conv: bool = False
) -> onnx.FunctionProto:
    """Return the ONNX function that defines an op.

    Args:
        op_type: an op of the domain, for example "QConv"; the foreign one has "LIF" only.
        domain: ``snn`` or ``SNN_implementation``.
        strict_conv: for ``STRICT_OPS``, the body built on ``ConvInteger`` instead of a float32
            ``Conv``. The two agree while ``x_max * sum|w| + |b| <= 2**24`` per channel; only the
            strict one is exact beyond, and it is about ten times slower in ONNX Runtime.

    Raises:
        KeyError: no such op.
    """
    text = _BODIES[domain, op_type]
    if strict_conv and domain == DOMAIN:
        text = _STRICT_BODIES.get(op_type, text)
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

    ``u = beta * mem + current``; fires where ``u > threshold``; then the reset; then a membrane
    less than 2^-126 in magnitude becomes 0, since processors are many times slower on denormals.

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
        return spike, _without_denormals(u * (np.float32(1) - spike))
    if reset == "subtract":
        return spike, _without_denormals(u - spike * threshold_c)
    return spike, _without_denormals(u)


def _without_denormals(mem: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.where(np.abs(mem) < np.finfo(np.float32).tiny, np.float32(0), mem)


def foreign_lif(
    current: npt.NDArray[np.float32],
    mem: npt.NDArray[np.float32],
    beta: npt.NDArray[np.float32],
    threshold: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """``SNN_implementation::LIF`` as its author defined it: fires on ``>=``, resets to zero."""
    u = _per_channel(beta, mem.ndim) * mem + current
    spike = (u >= _per_channel(threshold, mem.ndim)).astype(np.float32)
    return spike, _without_denormals(u * (np.float32(1) - spike))


def qconv(
    x: npt.NDArray[Any],
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> npt.NDArray[np.int32]:
    """Integer convolution with 32-bit sums.

    Args:
        x: uint8 [N, Cin, H, W], or packed spikes uint32 [N, H, W, ceil(Cin / 32)].
        weight: int8 [Cout, Cin, kh, kw].
        bias: int32 [Cout].
        strides: (vertical, horizontal).
        pads: (top, left, bottom, right), filled with zeros.

    Returns:
        acc int32 [N, Cout, Ho, Wo].
    """
    top, left, bottom, right = pads
    given = _as_bytes(x, weight).astype(np.int32)
    padded = np.pad(given, ((0, 0), (0, 0), (top, bottom), (left, right)))
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


def words(channels: int) -> int:
    """Number of words that hold the spikes of so many channels at one pixel."""
    return -(-channels // WORD_BITS)


def pack_spikes(spikes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Pack spikes, 32 channels to a word.

    Args:
        spikes: uint8 [N, C, H, W], 0 or 1.

    Returns:
        uint32 [N, H, W, ceil(C / 32)]; bit i of word k is channel 32k + i, unused bits are 0.
    """
    last = spikes.transpose(0, 2, 3, 1)
    unused = -last.shape[3] % WORD_BITS
    padded = np.pad(last, ((0, 0), (0, 0), (0, 0), (0, unused)))
    apart = padded.reshape(*last.shape[:3], words(spikes.shape[1]), WORD_BITS).astype(np.uint32)
    packed = np.bitwise_or.reduce(apart << np.arange(WORD_BITS, dtype=np.uint32), axis=-1)
    return np.ascontiguousarray(packed)


def unpack_spikes(packed: npt.NDArray[np.uint32], channels: int) -> npt.NDArray[np.uint8]:
    """Undo ``pack_spikes``: uint32 [N, H, W, ceil(C / 32)] to uint8 [N, C, H, W]."""
    apart = packed[..., np.newaxis] >> np.arange(WORD_BITS, dtype=np.uint32) & np.uint32(1)
    last = apart.reshape(*packed.shape[:3], words(channels) * WORD_BITS)[..., :channels].astype(
        np.uint8
    )
    return np.ascontiguousarray(last.transpose(0, 3, 1, 2))


def qconv_lif(
    x: npt.NDArray[Any],
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    mem: npt.NDArray[Any],
    decay: npt.NDArray[np.int32],
    threshold: npt.NDArray[np.int32],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    frac_bits: int = 0,
    reset: str = "zero",
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[Any]]:
    """``qconv`` and ``qlif`` in one, with packed spikes and channels-last membranes.

    Args:
        x: event counts uint8 [N, Cin, H, W], or packed spikes uint32 [N, H, W, ceil(Cin / 32)].
        weight: int8 [C, Cin, kh, kw].
        bias: int32 [C].
        mem: int16 or int8 [N, Ho, Wo, C].
        decay, threshold: int32 [C].
        strides, pads: of the convolution.
        frac_bits, reset: of the neuron.

    Returns:
        spike uint32 [N, Ho, Wo, ceil(C / 32)] and mem_out of mem's type and shape.

    Raises:
        ValueError: unknown reset.
    """
    acc = qconv(x, weight, bias, strides, pads)
    return _neuron_channels_last(acc, mem, decay, threshold, frac_bits, reset)


def qconv_lif_rec(
    x: npt.NDArray[Any],
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    spike_prev: npt.NDArray[np.uint32],
    weight_rec: npt.NDArray[np.int8],
    mem: npt.NDArray[Any],
    decay: npt.NDArray[np.int32],
    threshold: npt.NDArray[np.int32],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    frac_bits: int = 0,
    reset: str = "zero",
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[Any]]:
    """``qconv_lif`` with a second convolution, of the layer's own previous spikes.

    Args:
        spike_prev: packed spikes of the previous step, uint32 [N, Ho, Wo, ceil(C / 32)].
        weight_rec: int8 [C, C, kh, kw], kh and kw odd. Its convolution keeps the size: stride 1,
            padded by half the kernel, whatever ``strides`` and ``pads`` of the other are.

    Further arguments, results and errors as ``qconv_lif``.
    """
    top, left = (side // 2 for side in weight_rec.shape[2:])
    acc = qconv(x, weight, bias, strides, pads)
    zero = np.zeros_like(bias)
    acc = acc + qconv(spike_prev, weight_rec, zero, pads=(top, left, top, left))
    return _neuron_channels_last(acc, mem, decay, threshold, frac_bits, reset)


def _as_bytes(x: npt.NDArray[Any], weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    return unpack_spikes(x, weight.shape[1]) if x.dtype == np.uint32 else x


def _neuron_channels_last(
    acc: npt.NDArray[np.int32],
    mem: npt.NDArray[Any],
    decay: npt.NDArray[np.int32],
    threshold: npt.NDArray[np.int32],
    frac_bits: int,
    reset: str,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[Any]]:
    channels_first = mem.transpose(0, 3, 1, 2)
    spike, after = qlif(acc, channels_first, decay, threshold, frac_bits, reset)
    return pack_spikes(spike), np.ascontiguousarray(after.transpose(0, 2, 3, 1))

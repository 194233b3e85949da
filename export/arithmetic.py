"""The integer arithmetic of quantized operators, in NumPy, one function per rule.

Two rules need a word. Sums of products are computed by a float64 matrix product: every partial
sum is an integer below 2**53, so float64 holds each of them exactly whatever the order of
summation. Scales are applied in float32, one rounding per operation, in the order that ONNX
Runtime uses; ``rint`` rounds halves to even.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def along(parameter: Array, axis: int, rank: int) -> Array:
    """Shape a per-channel parameter [C] to broadcast along an axis; scalars stay."""
    if parameter.ndim == 0:
        return parameter
    shape = [1] * rank
    shape[axis] = parameter.size
    return parameter.reshape(shape)


def saturate(levels: Array, dtype: npt.DTypeLike) -> Array:
    """Clip integer-valued numbers to the range of an integer type and convert to it."""
    info = np.iinfo(np.dtype(dtype))
    return np.clip(levels, info.min, info.max).astype(dtype)


def quantize(x: Array, scale: Array, zero: Array, axis: int = 1) -> Array:
    """QuantizeLinear: ``saturate(rint(x / scale) + zero)``, the quotient in float32.

    Args:
        x: float32, any shape.
        scale: float32, scalar or [C].
        zero: scalar or [C]; its type is the type of the result.
        axis: of the channels.
    """
    quotient = x.astype(np.float32) / along(scale, axis, x.ndim)
    levels = np.rint(quotient).astype(np.float64)
    return saturate(levels + along(zero, axis, x.ndim).astype(np.float64), zero.dtype)


def dequantize(q: Array, scale: Array, zero: Array, axis: int = 1) -> Array:
    """DequantizeLinear: ``float32(q - zero) * scale`` in float32.

    Args:
        q: integers, any shape.
        scale: float32, scalar or [C].
        zero: scalar or [C], of the type of q.
        axis: of the channels.
    """
    steps = q.astype(np.int64) - along(zero, axis, q.ndim).astype(np.int64)
    return steps.astype(np.float32) * along(scale, axis, q.ndim)


def requantize(
    acc: Array, x_scale: Array, w_scale: Array, y_scale: Array, zero: Array, axis: int = 1
) -> Array:
    """QLinearConv's rule: ``saturate(rint(float32(acc) * m) + zero)``.

    ``m = float32(float32(x_scale * w_scale) / y_scale)``.

    Args:
        acc: int32, any shape.
        x_scale, y_scale: float32 scalars.
        w_scale: float32, scalar or [C].
        zero: scalar, of the type of the result.
        axis: of the channels.
    """
    factor = (np.float32(x_scale) * w_scale.astype(np.float32)) / np.float32(y_scale)
    levels = np.rint(acc.astype(np.float32) * along(np.asarray(factor), axis, acc.ndim))
    return saturate(levels.astype(np.float64) + float(zero), zero.dtype)


def _wrap_to_int32(exact: Array) -> Array:
    """Integers below 2**53 as int32, with the two's complement wrap of a 32-bit register."""
    return exact.astype(np.int64).astype(np.int32)


def matmul(a: Array, b: Array, a_zero: Array, b_zero: Array) -> Array:
    """MatMulInteger: int32 product of ``a - a_zero`` and ``b - b_zero``.

    Args:
        a: 8-bit integers [..., M, K].
        b: 8-bit integers [..., K, N].
        a_zero: scalar.
        b_zero: scalar or [N].
    """
    left = a.astype(np.float64) - a_zero.astype(np.float64)
    right = b.astype(np.float64) - b_zero.astype(np.float64)
    return _wrap_to_int32(np.matmul(left, right))


def windows(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Array:
    """Sliding windows of the spatial axes.

    Args:
        x: [N, C, *spatial], padded.
        kernel, strides, dilations: one number per spatial axis.

    Returns:
        a view [N, C, *output, *kernel].
    """
    spatial = tuple(range(2, x.ndim))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=spatial)
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
    return view[steps + tuple(slice(None, None, d) for d in dilations)]


def conv(
    x: Array,
    weight: Array,
    x_zero: Array,
    w_zero: Array,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Array:
    """Integer convolution with int32 sums; padding adds real zeros, that is ``x_zero``.

    Args:
        x: 8-bit integers [N, C, *spatial].
        weight: 8-bit integers [M, C / group, *kernel].
        x_zero: scalar.
        w_zero: scalar or [M].
        strides, dilations: one number per spatial axis.
        pads: begins, then ends, of the spatial axes.
        group: number of independent groups of channels.

    Returns:
        int32 [N, M, *output].
    """
    rank = x.ndim - 2
    steps = x.astype(np.float64) - float(x_zero)
    border = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    view = windows(np.pad(steps, border), weight.shape[2:], strides, dilations)
    batch, out_spatial = x.shape[0], view.shape[2 : 2 + rank]
    # [group, C / group * kernel, N * output]
    order = (1, *range(2 + rank, 2 + 2 * rank), 0, *range(2, 2 + rank))
    columns = view.transpose(order).reshape(group, -1, batch * int(np.prod(out_spatial)))
    centred = weight.astype(np.float64) - along(w_zero, 0, weight.ndim).astype(np.float64)
    sums = np.matmul(centred.reshape(group, weight.shape[0] // group, -1), columns)
    result = sums.reshape(weight.shape[0], batch, *out_spatial)
    return _wrap_to_int32(np.moveaxis(result, 0, 1))


def auto_pads(
    mode: str,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Pads (begins, then ends) of ``auto_pad``: VALID, SAME_UPPER or SAME_LOWER."""
    if mode == "VALID":
        return [0] * (2 * len(size))
    begins, ends = [], []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def max_pool(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: bool,
) -> Array:
    """Maximum over windows; padding never wins.

    Args:
        x: integers [N, C, *spatial].
        kernel, strides, dilations: one number per spatial axis.
        pads: begins, then ends.
        ceil_mode: whether a last window may hang over the end.
    """
    rank = x.ndim - 2
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    border = [(0, 0), (0, 0)]
    for axis in range(rank):
        begin, end = pads[axis], pads[rank + axis]
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        span = x.shape[2 + axis] + begin + end - reach
        if ceil_mode and span % strides[axis]:
            start = (span // strides[axis] + 1) * strides[axis]
            if start < x.shape[2 + axis] + begin:
                end += strides[axis] - span % strides[axis]
        border.append((begin, end))
    padded = np.pad(x, border, constant_values=lowest)
    view = windows(padded, kernel, strides, dilations)
    return view.max(axis=tuple(range(2 + rank, 2 + 2 * rank)))


def nearest(
    size_in: int, size_out: int, scale: np.float32, transform: str, rounding: str
) -> npt.NDArray[np.int64]:
    """Source index of every output position of a nearest-neighbour Resize along one axis.

    Args:
        size_in, size_out: lengths before and after.
        scale: float32, output over input.
        transform: ``coordinate_transformation_mode``.
        rounding: ``nearest_mode``.

    Raises:
        ValueError: an unknown transform or rounding.
    """
    out = np.arange(size_out, dtype=np.float32)
    half = np.float32(0.5)
    if scale == 1:
        return np.arange(size_out)
    if transform == "asymmetric":
        x = out / scale
    elif transform == "half_pixel" or (transform == "pytorch_half_pixel" and size_out > 1):
        x = (out + half) / scale - half
    elif transform == "pytorch_half_pixel":
        x = np.zeros_like(out)
    elif transform == "align_corners":
        x = out * np.float32(size_in - 1) / np.float32(max(size_out - 1, 1))
    else:
        raise ValueError(f"coordinate_transformation_mode {transform!r}")
    if rounding == "floor":
        index = np.floor(x)
    elif rounding == "ceil":
        index = np.ceil(x)
    elif rounding == "round_prefer_floor":
        index = np.ceil(x - half)
    elif rounding == "round_prefer_ceil":
        index = np.floor(x + half)
    else:
        raise ValueError(f"nearest_mode {rounding!r}")
    return np.clip(index, 0, size_in - 1).astype(np.int64)

"""Maxima and means over windows or whole axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from export.passes.dequantized import Quantized
from export.passes.moves.site import ZERO32, Illegal, Site


def max_pool(site: Site) -> Sequence[Quantized]:
    """MaxPool of 8-bit integers."""
    x = site.operand()
    if not x.eight_bit:
        raise Illegal(f"ONNX Runtime has no MaxPool of {x.dtype}")
    if len(site.node.outputs) > 1:
        raise Illegal("its second output (indices) is used")
    return [replace(x, value=site.with_integers(x)[0])]


def _mean(site: Site, x: Quantized, axes: Sequence[int], keepdims: bool) -> Sequence[Quantized]:
    shape = site.shape(site.input(0))
    sizes = [shape[axis] for axis in axes]
    if not all(isinstance(size, int) for size in sizes):
        raise Illegal("the number of averaged elements is not fixed")
    if x.axis in axes:
        raise Illegal("it averages over channels that have different scales")
    count = int(np.prod([int(str(size)) for size in sizes], dtype=np.int64))
    if not count:
        raise Illegal("it averages over no element")
    wide = site.emit.widen(x, len(shape), f"{site.name}.x")
    assert wide is not None
    over = site.emit.constant(f"{site.name}.axes", np.asarray(axes, np.int64))
    attributes = {"keepdims": int(keepdims), "noop_with_empty_axes": 0}
    total = site.emit.op("ReduceSum", [wide, over], f"{site.name}.sum", attributes)[0]
    axis = x.axis
    if axis is not None and not keepdims:
        axis -= sum(a < axis for a in axes)
    scale = np.asarray(x.scale / np.float32(count))
    acc = site.accumulator(total, site.bound(x) * count)
    return [Quantized(acc, scale, ZERO32, axis)]


def global_average_pool(site: Site) -> Sequence[Quantized]:
    """GlobalAveragePool to ReduceSum with scale s / n."""
    x = site.operand()
    return _mean(site, x, range(2, site.rank(site.input(0))), keepdims=True)


def reduce_mean(site: Site) -> Sequence[Quantized]:
    """ReduceMean to ReduceSum with scale s / n."""
    x, rank = site.operand(), site.rank(site.input(0))
    # An attribute before opset 18, an input since.
    given = site.attribute("axes")
    if site.input(1) is not None:
        given = site.array(1, "the list of axes")
    if given is None and site.attribute("noop_with_empty_axes", 0):
        raise Illegal("it averages over nothing")
    axes = list(range(rank)) if given is None else sorted(int(a) % rank for a in given)
    if not axes:
        raise Illegal("the list of axes is empty")
    return _mean(site, x, axes, bool(site.attribute("keepdims", 1)))


def average_pool(site: Site) -> Sequence[Quantized]:
    """AveragePool to a depthwise ConvInteger with ones."""
    x = site.narrow()
    kernel = list(site.attribute("kernel_shape"))
    pads = list(site.attribute("pads", [0] * (2 * len(kernel))))
    if site.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Illegal("auto_pad is not written out as pads")
    if site.attribute("ceil_mode", 0):
        raise Illegal("ceil_mode: windows at the end average fewer elements")
    if any(pads) and not site.attribute("count_include_pad", 0):
        raise Illegal("windows at the border average fewer elements")
    channels = site.shape(site.input(0))[1]
    if not isinstance(channels, int):
        raise Illegal("the number of channels is not fixed")
    ones = site.emit.constant(f"{site.name}.ones", np.ones([channels, 1, *kernel], np.int8))
    zero = site.emit.parameter(f"{site.name}.x_zero", x.zero)
    attributes = {
        "kernel_shape": kernel,
        "pads": pads,
        "group": channels,
        "strides": list(site.attribute("strides", [1] * len(kernel))),
        "dilations": list(site.attribute("dilations", [1] * len(kernel))),
    }
    total = site.emit.op("ConvInteger", [x.value, ones, zero], f"{site.name}.sum", attributes)[0]
    count = int(np.prod(kernel))
    scale = np.asarray(x.scale / np.float32(count))
    return [Quantized(site.accumulator(total, site.bound(x) * count), scale, ZERO32)]

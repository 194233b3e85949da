"""Operators that choose or repeat elements; what a Pad adds counts as real zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from export.passes.dequantized import Quantized
from export.passes.moves.site import Illegal, Site


def choose(site: Site) -> Sequence[Quantized]:
    """Expand, Tile, GatherElements, GatherND: any choice of elements with one scale."""
    x = site.operand()
    if x.axis is not None:
        raise Illegal("the scales lie on an axis whose elements it chooses")
    return [replace(x, value=site.with_integers(x)[0])]


def _chosen(x: Quantized, value: ir.Value, index: Any) -> Quantized:
    """The operand of chosen channels."""
    zero = x.zero[index] if x.zero.ndim else x.zero
    return replace(x, value=value, scale=x.scale[index], zero=zero)


def slice_(site: Site) -> Sequence[Quantized]:
    """Slice: scales of the channels that stay."""
    x = site.operand()
    if x.axis is None:
        return [replace(x, value=site.with_integers(x)[0])]
    rank = site.rank(site.input(0))
    starts, ends = site.array(1, "starts"), site.array(2, "ends")
    axes = np.arange(len(starts)) if site.input(3) is None else site.array(3, "axes")
    steps = np.ones(len(starts)) if site.input(4) is None else site.array(4, "steps")
    index = np.arange(x.scale.size)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if int(axis) % rank == x.axis:
            if step < 0:
                raise Illegal("it reverses channels")
            index = index[int(start) : int(end) : int(step)]
    return [_chosen(x, site.with_integers(x)[0], index)]


def split(site: Site) -> Sequence[Quantized]:
    """Split: each part with its own scales."""
    x = site.operand()
    if x.axis is None or x.axis != int(site.attribute("axis", 0)):
        if x.axis is not None and int(site.attribute("axis", 0)) < 0:
            raise Illegal("its axis is counted from the right")
        return [replace(x, value=value) for value in site.with_integers(x)]
    outputs = len(site.node.outputs)
    if site.input(1) is None:
        size = -(-x.scale.size // outputs)
        cuts = np.arange(1, outputs) * size
    else:
        cuts = np.cumsum(site.array(1, "the list of sizes"))[:-1]
    parts = np.split(np.arange(x.scale.size), cuts)
    results = site.with_integers(x)
    return [_chosen(x, value, part) for value, part in zip(results, parts, strict=True)]


def gather(site: Site) -> Sequence[Quantized]:
    """Gather: scales of the channels that are chosen."""
    x, axis = site.operand(), int(site.attribute("axis", 0))
    if x.axis is None:
        return [replace(x, value=site.with_integers(x)[0])]
    if axis < 0:
        axis += site.rank(site.input(0))
    if axis == x.axis:
        indices = site.array(1, "the list of chosen channels")
        if indices.ndim != 1:
            raise Illegal("the chosen channels do not keep an axis of their own")
        if ((indices < -x.scale.size) | (indices >= x.scale.size)).any():
            raise Illegal("it chooses a channel that does not exist")
        return [_chosen(x, site.with_integers(x)[0], indices)]
    shift = site.rank(site.input(1)) - 1 if axis < x.axis else 0
    return [replace(x, value=site.with_integers(x)[0], axis=x.axis + shift)]


def pad(site: Site) -> Sequence[Quantized]:
    """Pad with real zeros, which are zero points."""
    x = site.operand()
    if x.axis is not None:
        pads = site.array(1, "the list of pads")
        rank = site.rank(site.input(0))
        axes = np.arange(rank) if site.input(3) is None else site.array(3, "axes") % rank
        if any(pads[i] or pads[i + len(axes)] for i, a in enumerate(axes) if a == x.axis):
            raise Illegal("it adds channels, which have no scale")
    if site.attribute("mode", "constant") != "constant":
        return [replace(x, value=site.with_integers(x)[0])]
    if site.input(2) is not None and np.any(site.array(2, "the padded value")):
        raise Illegal("the padded value is not 0")
    if x.zero.ndim and np.any(x.zero != x.zero[0]):
        raise Illegal("zero points differ between channels")
    zero = site.emit.parameter(f"{site.name}.zero", np.asarray(x.zero.reshape(-1)[0]))
    result = site.clone([x.value, site.input(1), zero, *site.node.inputs[3:]])[0]
    if x.value in site.bounds:
        site.bounds[result] = site.bounds[x.value]
    return [replace(x, value=result)]


def resize(site: Site) -> Sequence[Quantized]:
    """Resize to the nearest neighbour."""
    x = site.operand()
    if site.attribute("mode", "nearest") != "nearest":
        raise Illegal(f"{site.attribute('mode')} interpolation computes new values and rounds them")
    if site.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Illegal("cropping extrapolates with a real value")
    if x.axis is not None:
        before, after = site.shape(site.input(0)), site.shape(site.node.outputs[0])
        if before[x.axis] != after[x.axis]:
            raise Illegal("it resizes the axis of the channels")
    return [replace(x, value=site.with_integers(x)[0])]

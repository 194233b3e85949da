"""Elements that change their place, or are chosen, repeated or padded."""

from __future__ import annotations

import numpy as np

from export import arithmetic
from export.oracle.arguments import Array, Attributes, Inputs, optional, text


def reshape(attributes: Attributes, inputs: Inputs) -> Array:
    x, wanted = inputs[0], [int(d) for d in inputs[1]]
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(attributes: Attributes, inputs: Inputs) -> Array:
    x, axis = inputs[0], attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def transpose(attributes: Attributes, inputs: Inputs) -> Array:
    return np.transpose(inputs[0], attributes.get("perm"))


def squeeze(attributes: Attributes, inputs: Inputs) -> Array:
    axes = optional(inputs, 1)
    return np.squeeze(inputs[0], None if axes is None else tuple(int(a) for a in axes))


def unsqueeze(attributes: Attributes, inputs: Inputs) -> Array:
    return np.expand_dims(inputs[0], tuple(int(a) for a in inputs[1]))


def concat(attributes: Attributes, inputs: Inputs) -> Array:
    return np.concatenate(inputs, axis=attributes["axis"])


def split(attributes: Attributes, inputs: Inputs) -> tuple[Array, ...]:
    x, axis, sizes = inputs[0], attributes.get("axis", 0), optional(inputs, 1)
    if sizes is None:
        size = -(-x.shape[axis] // attributes["outputs"])
        cuts = [size * i for i in range(1, attributes["outputs"])]
    else:
        cuts = [int(c) for c in np.cumsum(sizes)[:-1]]
    return tuple(np.split(x, cuts, axis=axis))


def slice_(attributes: Attributes, inputs: Inputs) -> Array:
    x, starts, ends = inputs[0], inputs[1], inputs[2]
    axes = optional(inputs, 3, np.arange(len(starts)))
    steps = optional(inputs, 4, np.ones(len(starts), np.int64))
    cut = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = x.shape[axis]
        # A negative step that runs off the front has no end a Python slice can spell.
        last = None if step < 0 and end < -size else int(end)
        cut[int(axis)] = slice(int(start), last, int(step))
    return x[tuple(cut)]


def gather(attributes: Attributes, inputs: Inputs) -> Array:
    return np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0))


def gather_elements(attributes: Attributes, inputs: Inputs) -> Array:
    axis = attributes.get("axis", 0)
    size = inputs[0].shape[axis]
    indices = np.where(inputs[1] < 0, inputs[1] + size, inputs[1])
    return np.take_along_axis(inputs[0], indices, axis=axis)


def pad(attributes: Attributes, inputs: Inputs) -> Array:
    x, pads = inputs[0], [int(p) for p in inputs[1]]
    axes = optional(inputs, 3, np.arange(x.ndim))
    border = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        border[int(axis)] = (pads[i], pads[i + len(axes)])
    mode = text(attributes, "mode", "constant")
    if mode == "constant":
        return np.pad(x, border, constant_values=optional(inputs, 2, x.dtype.type(0)))
    if mode == "reflect":
        return np.pad(x, border, mode="reflect")
    if mode == "edge":
        return np.pad(x, border, mode="edge")
    if mode == "wrap":
        return np.pad(x, border, mode="wrap")
    raise ValueError(f"pad mode {mode!r}")


def expand(attributes: Attributes, inputs: Inputs) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(d) for d in inputs[1]))
    return np.broadcast_to(inputs[0], shape).copy()


def tile(attributes: Attributes, inputs: Inputs) -> Array:
    return np.tile(inputs[0], [int(r) for r in inputs[1]])


def shape(attributes: Attributes, inputs: Inputs) -> Array:
    shape = np.asarray(inputs[0].shape, np.int64)
    return shape[attributes.get("start", 0) : attributes.get("end")]


def resize(attributes: Attributes, inputs: Inputs) -> Array:
    x, scales, sizes = inputs[0], optional(inputs, 2), optional(inputs, 3)
    if text(attributes, "mode", "nearest") != "nearest":
        raise ValueError("only nearest-neighbour Resize is integer arithmetic")
    if attributes.get("axes") is not None or attributes.get("antialias", 0):
        raise ValueError("Resize with axes or antialias has no rule")
    if text(attributes, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("Resize that keeps the aspect ratio has no rule")
    shape = np.asarray(x.shape)
    if sizes is None or len(sizes) == 0:
        factors = scales.astype(np.float32)
        sizes = np.floor(shape.astype(np.float32) * factors).astype(np.int64)
    else:
        factors = sizes.astype(np.float32) / shape.astype(np.float32)
    transform = text(attributes, "coordinate_transformation_mode", "half_pixel")
    rounding = text(attributes, "nearest_mode", "round_prefer_floor")
    for axis in range(x.ndim):
        index = arithmetic.nearest(
            int(shape[axis]), int(sizes[axis]), factors[axis], transform, rounding
        )
        x = np.take(x, index, axis=axis)
    return x

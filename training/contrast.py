"""Self-supervised contrast maximization: events, moved along the flow, fall onto their edges.

Zhu et al., "Unsupervised Event-based Learning of Optical Flow, Depth, and Egomotion", CVPR 2019,
section 3.2, with the scaling by the number of pixels of Hagenaars, Paredes-Valles and de Croon,
"Self-Supervised Learning of Event-Based Optical Flow with Spiking Neural Networks", NeurIPS 2021.
The equations are in docs/losses.md.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from training.chunk import EventBatch

Charbonnier = Literal["components", "sum"]
Reduction = Literal["mean", "sum"]

_NO_EVENTS = 1e-9
_CHARBONNIER = 1e-6
_ALL, _HEAD, _TAIL = slice(None), slice(None, -1), slice(1, None)


class _Moving(NamedTuple):
    """Events of all windows of a slot in one row, [B, K * N], with the flow of each (u, v)."""

    t: Tensor
    y: Tensor
    x: Tensor
    p: Tensor
    u: Tensor
    v: Tensor
    windows: int
    size: tuple[int, int]


def contrast_loss(
    flow: Tensor,
    events: EventBatch,
    mask: Tensor,
    *,
    flow_regul_weight: float = 0.001,
    overwrite_intermediate: bool = False,
    mask_output: bool = True,
    charbonnier: Charbonnier = "components",
    reduction: Reduction = "mean",
) -> Tensor:
    """Focus of K windows' events at both ends of their span, plus smoothness of the flow.

    A slot without events adds no focus loss, and its gradient is zero.

    Args:
        flow: float32 [K, B, 2, H, W], pixels per window, x right and y down.
        events: K windows of B slots; entries with p = 0 contribute nothing.
        mask: bool [K, B, 1, H, W], pixels with events.
        flow_regul_weight: weight of :func:`smoothness`.
        overwrite_intermediate: the last window's flow stands for all; see :func:`smoothness` too.
        mask_output: smoothness only between pixels that both have events.
        charbonnier: see :func:`smoothness`.
        reduction: over the batch. "mean", so that a learning rate means the same at every batch
            size; "sum" is what the research code does.

    Returns:
        scalar.

    Raises:
        ValueError: shapes that do not go together, or an event outside the image.
    """
    if mask.shape != flow[:, :, :1].shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, flow {tuple(flow.shape)}")
    if overwrite_intermediate:
        flow = flow[-1:].expand_as(flow)
        mask = mask.any(0, keepdim=True).expand_as(mask)
    moving = _moving(flow, events)
    focus = _focus(moving, moving.windows) + _focus(moving, 0)
    smooth = smoothness(
        flow,
        mask if mask_output else torch.ones_like(mask),
        charbonnier=charbonnier,
        over_time=not overwrite_intermediate,
    )
    loss = focus + flow_regul_weight * smooth
    return loss.mean() if reduction == "mean" else loss.sum()


def image_of_warped_events(
    flow: Tensor, events: EventBatch, reference: float | None = None
) -> Tensor:
    """Events per pixel and polarity after each moved along its own window's flow; differentiable.

    Args:
        flow: float32 [K, B, 2, H, W], pixels per window, x right and y down.
        events: K windows of B slots.
        reference: the moment, in windows since the span began; the end of the span if None.

    Returns:
        float32 [B, 2, H, W], brighter (ON) first.

    Raises:
        ValueError: shapes that do not go together, or an event outside the image.
    """
    moving = _moving(flow, events)
    moment = moving.windows if reference is None else reference
    return _splat(moving, moment, torch.ones_like(moving.t))[0]


def smoothness(
    flow: Tensor, mask: Tensor, *, charbonnier: Charbonnier = "components", over_time: bool = True
) -> Tensor:
    """Charbonnier penalty ``sqrt(d**2 + 1e-6)`` of differences along x, y, both diagonals and time.

    Summed over pixels, divided by the number of directions (5, or 4 without time) and of windows.

    Args:
        flow: float32 [K, B, 2, H, W].
        mask: bool [K, B, 1, H, W]; a difference counts if both its ends are in the mask.
        charbonnier: "components" adds the penalties of the two components. "sum" penalizes the sum
            of their differences, as the research code does, so that opposite ones cancel.
        over_time: with the differences between consecutive windows.

    Returns:
        float32 [B].
    """
    pairs: list[tuple[tuple[slice, ...], tuple[slice, ...]]] = [
        ((_ALL, _ALL, _HEAD), (_ALL, _ALL, _TAIL)),
        ((_ALL, _HEAD, _ALL), (_ALL, _TAIL, _ALL)),
        ((_ALL, _HEAD, _HEAD), (_ALL, _TAIL, _TAIL)),
        ((_ALL, _TAIL, _HEAD), (_ALL, _HEAD, _TAIL)),
    ]
    if over_time:
        pairs.append(((_HEAD, _ALL, _ALL), (_TAIL, _ALL, _ALL)))
    total = flow.new_zeros(flow.shape[1])
    for one, other in pairs:
        difference = _part(flow, one) - _part(flow, other)
        if charbonnier == "sum":
            difference = difference.sum(2, keepdim=True)
        both = _part(mask, one) & _part(mask, other)
        penalty = torch.sqrt(difference**2 + _CHARBONNIER) * both
        total = total + penalty.sum((0, 2, 3, 4))
    return total / (len(pairs) * len(flow))


def _part(values: Tensor, part: tuple[slice, ...]) -> Tensor:
    time, row, column = part
    return values[time, :, :, row, column]


def _moving(flow: Tensor, events: EventBatch) -> _Moving:
    windows, slots, _, height, width = flow.shape
    t, y, x, p = events
    if t.shape[:2] != flow.shape[:2]:
        raise ValueError(
            f"events of {tuple(t.shape[:2])} windows and slots, flow of {tuple(flow.shape)}"
        )
    real = p != 0
    outside = real & ((y < 0) | (y > height - 1) | (x < 0) | (x > width - 1))
    if bool(outside.any()):
        raise ValueError(f"events outside the flow's {height} x {width} pixels")
    pixel = torch.where(real, y * width + x, 0.0).long()
    index = pixel[:, :, None].expand(windows, slots, 2, -1)
    moved = flow.flatten(3).gather(3, index)
    since = t + torch.arange(windows, dtype=t.dtype, device=t.device)[:, None, None]
    return _Moving(
        t=_row(since),
        y=_row(y),
        x=_row(x),
        p=_row(p),
        u=_row(moved[:, :, 0]),
        v=_row(moved[:, :, 1]),
        windows=windows,
        size=(height, width),
    )


def _row(values: Tensor) -> Tensor:
    """[K, B, N] to [B, K * N]."""
    return values.transpose(0, 1).flatten(1)


def _focus(moving: _Moving, reference: int) -> Tensor:
    """Squared average timestamps of one direction per pixel with events, [B]."""
    # Time towards the reference: largest for events that happened there.
    stamp = moving.t if reference else moving.windows - moving.t
    count, stamps = _splat(moving, reference, torch.ones_like(stamp), stamp)
    average = stamps / (count + _NO_EVENTS) / moving.windows
    touched = (count.sum(1) > 0).sum((1, 2))
    return (average**2).sum((1, 2, 3)) / touched.clamp_min(1)


def _splat(moving: _Moving, reference: float, *values: Tensor) -> list[Tensor]:
    """Sum values of moved events, shared bilinearly by four pixels; one [B, 2, H, W] for each."""
    height, width = moving.size
    slots = len(moving.t)
    x = moving.x + (reference - moving.t) * moving.u
    y = moving.y + (reference - moving.t) * moving.v
    left, top = x.detach().floor(), y.detach().floor()
    # Slot and polarity of each event; ON first.
    plane = 2 * torch.arange(slots, device=x.device)[:, None] + (moving.p < 0)
    images = [x.new_zeros(slots * 2 * height * width) for _ in values]
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (moving.p != 0)
        weight = torch.where(inside, (1 - (y - row).abs()) * (1 - (x - column).abs()), 0.0)
        # Chosen before the conversion, which is undefined for far or undefined places.
        pixel = torch.where(inside, row * width + column, 0.0).long()
        place = (plane * height * width + pixel).flatten()
        images = [
            image.index_add(0, place, (weight * value).flatten())
            for image, value in zip(images, values, strict=True)
        ]
    return [image.view(slots, 2, height, width) for image in images]

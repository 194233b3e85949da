"""The loss of one chunk of windows: endpoint error, contrast, or both."""

from __future__ import annotations

import torch
from torch import Tensor

from training.chunk import Chunk, EventBatch
from training.config import LossSection
from training.contrast import contrast_loss
from training.losses import endpoint_error_loss


def chunk_loss(section: LossSection, flow: Tensor, chunk: Chunk) -> Tensor:
    """The configured loss, scalar, with a graph.

    The endpoint error is the mean over those windows that have ground truth anywhere.

    Args:
        section: kind and weights.
        flow: float32 [K, B, 2, H, W], predicted, pixels per window.
        chunk: what the network saw, of the same K, B, H, W.
    """
    if section.kind == "supervised":
        return _supervised(section, flow, chunk)
    if chunk.events is None:
        raise ValueError("a contrast loss needs chunks with events")
    blur = contrast(section, flow, chunk.events, chunk.mask)
    if section.kind == "contrast":
        return blur
    error = _supervised(section, flow, chunk)
    return section.supervised_weight * error + section.contrast_weight * blur


def nothing_to_learn(section: LossSection, chunk: Chunk) -> str | None:
    """Why the chunk teaches nothing, or None if it does.

    Contrast is made by events; the endpoint error needs ground truth where pixels have a weight.
    """
    if section.kind != "contrast" and bool(_scored(section, chunk.flow, chunk.mask).any()):
        return None
    if section.kind != "supervised" and bool(chunk.mask.any()):
        return None
    return {"supervised": "no ground truth", "contrast": "no events"}.get(
        section.kind, "neither events nor ground truth"
    )


def _scored(section: LossSection, target: Tensor, mask: Tensor) -> Tensor:
    """Pixels that the endpoint error weighs, bool [..., 1, H, W]."""
    known = torch.isfinite(target).all(-3, keepdim=True)
    return known if section.quiet_pixel_weight > 0 else known & mask


def _supervised(section: LossSection, flow: Tensor, chunk: Chunk) -> Tensor:
    total, windows = flow.sum() * 0, 0
    for predicted, target, mask in zip(flow, chunk.flow, chunk.mask, strict=True):
        total = total + endpoint_error_loss(
            predicted,
            target,
            mask,
            quiet_pixel_weight=section.quiet_pixel_weight,
            magnitude_exponent=section.magnitude_exponent,
        )
        windows += bool(_scored(section, target, mask).any())
    return total / max(windows, 1)


def contrast(section: LossSection, flow: Tensor, events: EventBatch, mask: Tensor) -> Tensor:
    """The contrast loss as configured; arguments as of :func:`training.contrast.contrast_loss`."""
    return contrast_loss(
        flow,
        events,
        mask,
        flow_regul_weight=section.flow_regul_weight,
        overwrite_intermediate=section.overwrite_intermediate,
        mask_output=section.mask_output,
        charbonnier=section.charbonnier,
        reduction=section.reduction,
    )

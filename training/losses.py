"""Losses on optical flow."""

from __future__ import annotations

import torch
from torch import Tensor


def endpoint_error_loss(
    flow: Tensor, target: Tensor, counts: Tensor, quiet_pixel_weight: float
) -> Tensor:
    """Mean relative endpoint error ``|F - G| / (|G| + 1)``, weighted by where events are.

    Relative, so that slow scenes count beside fast ones.

    Args:
        flow: float32 [N, 2, H, W], predicted, pixels per window.
        target: float32 [N, 2, H, W], ground truth, pixels per window.
        counts: float32 [N, 2, H, W], event counts of the window.
        quiet_pixel_weight: weight of a pixel without events; one with events has weight 1.

    Returns:
        scalar.
    """
    # The small constant keeps the root's gradient finite where prediction meets target.
    error = torch.sqrt(((flow - target) ** 2).sum(1) + 1e-6)
    error = error / (torch.linalg.vector_norm(target, dim=1) + 1)
    weight = torch.where(counts.sum(1) > 0, 1.0, quiet_pixel_weight)
    return (error * weight).sum() / weight.sum().clamp_min(1e-6)

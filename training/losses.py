"""The supervised loss on optical flow."""

from __future__ import annotations

import torch
from torch import Tensor


def endpoint_error_loss(
    flow: Tensor,
    target: Tensor,
    mask: Tensor,
    *,
    quiet_pixel_weight: float,
    magnitude_exponent: float = 1.0,
) -> Tensor:
    """Weighted mean of ``|F - G| / (|G| + 1) ** magnitude_exponent`` where ground truth is known.

    The division lets slow scenes count beside fast ones; exponent 0 gives the endpoint error
    itself. Zero, with a graph whose gradients are zero, where no pixel has both truth and weight.

    Args:
        flow: float32 [N, 2, H, W], predicted, pixels per window.
        target: float32 [N, 2, H, W], ground truth, pixels per window; not finite where unknown.
        mask: bool [N, 1, H, W], pixels with events, which have weight 1.
        quiet_pixel_weight: weight of a pixel without events.
        magnitude_exponent: see above.

    Returns:
        scalar.

    Raises:
        ValueError: shapes that do not go together.
    """
    if flow.shape != target.shape or mask.shape != flow[:, :1].shape:
        raise ValueError(
            f"flow {tuple(flow.shape)}, target {tuple(target.shape)} and mask {tuple(mask.shape)} "
            "must be [N, 2, H, W] twice and [N, 1, H, W]"
        )
    known = torch.isfinite(target).all(1)
    # Unknown truth is replaced before any arithmetic: NaN times weight 0 would still be NaN.
    truth = torch.where(known[:, None], target, 0.0)
    # The small constant keeps the root's gradient finite where prediction meets truth.
    error = torch.sqrt(((flow - truth) ** 2).sum(1) + 1e-6)
    error = error / (torch.linalg.vector_norm(truth, dim=1) + 1) ** magnitude_exponent
    weight = torch.where(mask[:, 0], 1.0, quiet_pixel_weight).to(error.dtype) * known
    return (error * weight).sum() / weight.sum().clamp_min(torch.finfo(error.dtype).tiny)

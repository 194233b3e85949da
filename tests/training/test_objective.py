"""What one chunk costs: the mean over windows with ground truth, contrast, and their sum."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from training.chunk import Chunk, EventBatch
from training.config import LossSection
from training.contrast import contrast_loss
from training.losses import endpoint_error_loss
from training.objective import chunk_loss, nothing_to_learn


@pytest.fixture
def chunk() -> Chunk:
    """Three windows of two slots, 4 x 4 pixels; the second window has no ground truth."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(3, 2, 2, 4, 4, generator=generator)
    target[1] = math.nan
    target[0, 1, :, 0] = math.nan
    inputs = torch.randint(0, 3, (3, 2, 2, 4, 4), generator=generator).float()
    places = torch.randint(0, 4, (2, 3, 2, 9), generator=generator).float()
    times, signs = (torch.rand(3, 2, 9, generator=generator) for _ in range(2))
    events = EventBatch(times, places[0], places[1], torch.where(signs > 0.5, 1.0, -1.0))
    return Chunk(inputs, inputs.sum(2, keepdim=True) > 0, target, events, torch.zeros(2) > 0)


@pytest.fixture
def flow() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(3, 2, 2, 4, 4, generator=generator).requires_grad_()


def section(**values: Any) -> LossSection:
    return LossSection.model_validate(values)


def test_windows_without_truth_do_not_count(chunk: Chunk, flow: torch.Tensor) -> None:
    options = {"quiet_pixel_weight": 0.3, "magnitude_exponent": 0.5}
    loss = chunk_loss(section(**options), flow, chunk)
    expected = [
        endpoint_error_loss(flow[k], chunk.flow[k], chunk.mask[k], **options) for k in (0, 2)
    ]
    assert loss.item() == pytest.approx(sum(expected).item() / 2, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, flow)
    assert bool(gradient[0].any()) and not gradient[1].any() and bool(gradient.isfinite().all())


def test_contrast_and_mixture(chunk: Chunk, flow: torch.Tensor) -> None:
    options = {
        "flow_regul_weight": 0.2,
        "mask_output": False,
        "overwrite_intermediate": True,
        "charbonnier": "sum",
        "reduction": "sum",
    }
    assert chunk.events is not None
    blur = contrast_loss(flow, chunk.events, chunk.mask, **options).item()
    assert blur != contrast_loss(flow, chunk.events, chunk.mask).item()
    assert chunk_loss(section(kind="contrast", **options), flow, chunk).item() == blur
    error = chunk_loss(section(), flow, chunk).item()
    weights = {"supervised_weight": 2.0, "contrast_weight": 0.25}
    mixed = chunk_loss(section(kind="mixed", **options, **weights), flow, chunk).item()
    assert mixed == pytest.approx(2 * error + 0.25 * blur, rel=1e-6)


def test_contrast_without_events_is_a_mistake_of_the_caller(
    chunk: Chunk, flow: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="needs chunks with events"):
        chunk_loss(section(kind="mixed"), flow, chunk._replace(events=None))


def test_truth_without_weight_teaches_nothing(chunk: Chunk, flow: torch.Tensor) -> None:
    silent = chunk._replace(mask=torch.zeros_like(chunk.mask))
    assert nothing_to_learn(section(), silent) is None
    nothing = section(quiet_pixel_weight=0)
    assert nothing_to_learn(nothing, chunk) is None
    assert nothing_to_learn(nothing, silent) == "no ground truth"
    assert chunk_loss(nothing, flow, silent).item() == 0

"""The endpoint error loss against its definition, written as loops over pixels in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training.losses import endpoint_error_loss

NAN = math.nan


def field(*vectors: tuple[float, float]) -> torch.Tensor:
    """One row of pixels, [1, 2, 1, W]."""
    return torch.tensor(vectors, dtype=torch.float64).T[None, :, None]


def reference(
    flow: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, quiet: float, exponent: float
) -> float:
    total = weights = 0.0
    predicted, truth = flow.detach().double().numpy(), target.double().numpy()
    for n, _, row, column in np.ndindex(*mask.shape):
        f, g = predicted[n, :, row, column], truth[n, :, row, column]
        if not np.isfinite(g).all():
            continue
        weight = 1.0 if mask[n, 0, row, column] else quiet
        error = math.sqrt((f[0] - g[0]) ** 2 + (f[1] - g[1]) ** 2 + 1e-6)
        total += weight * error / (math.hypot(*g) + 1) ** exponent
        weights += weight
    return total / weights


def random_case(
    dtype: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    flow, target = (3 * torch.randn(2, 2, 5, 6, generator=draw, dtype=dtype) for _ in range(2))
    target[0, :, 1:3] = NAN
    target[1, 0, 0, 0] = NAN  # one component alone is no truth either
    return flow, target, torch.rand(2, 1, 5, 6, generator=draw) < 0.4


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("quiet", [0.0, 0.25, 1.0])
def test_equals_its_definition(
    dtype: torch.dtype, bound: float, exponent: float, quiet: float
) -> None:
    flow, target, mask = random_case(dtype)
    loss = endpoint_error_loss(
        flow, target, mask, quiet_pixel_weight=quiet, magnitude_exponent=exponent
    )
    assert loss.item() == pytest.approx(reference(flow, target, mask, quiet, exponent), rel=bound)


def test_by_hand() -> None:
    """Errors 5 at truth 0 with events, 2 at truth of length 3 without; the root adds 1e-7."""
    flow, target = field((3, 4), (0, 5)), field((0, 0), (0, 3))
    mask = torch.tensor([[[[True, False]]]])
    loss = endpoint_error_loss(flow, target, mask, quiet_pixel_weight=0.5)
    assert loss.item() == pytest.approx((5 + 0.5 * 2 / 4) / 1.5, rel=1e-6)


def test_gradient_equals_finite_differences() -> None:
    flow, target, mask = random_case(torch.float64)
    assert torch.autograd.gradcheck(
        lambda f: endpoint_error_loss(f, target, mask, quiet_pixel_weight=0.25),
        flow.requires_grad_(),
    )


def test_gradient_is_finite_where_prediction_meets_truth() -> None:
    flow = field((1, 2)).requires_grad_()
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    endpoint_error_loss(flow, flow.detach(), mask, quiet_pixel_weight=1).backward()
    assert flow.grad is not None and torch.equal(flow.grad, torch.zeros_like(flow))


@pytest.mark.parametrize("missing", ["truth", "weight"])
def test_nothing_to_compare_is_zero_with_zero_gradient(missing: str) -> None:
    flow = torch.ones(1, 2, 3, 3, requires_grad=True)
    target = torch.full_like(flow, NAN if missing == "truth" else 0.0).detach()
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    loss = endpoint_error_loss(
        flow, target, mask, quiet_pixel_weight=1.0 if missing == "truth" else 0.0
    )
    loss.backward()
    assert loss.item() == 0
    assert flow.grad is not None and torch.equal(flow.grad, torch.zeros_like(flow))


def test_unknown_truth_gives_no_gradient_there() -> None:
    flow, target, mask = random_case(torch.float32)
    endpoint_error_loss(flow.requires_grad_(), target, mask, quiet_pixel_weight=1).backward()
    assert flow.grad is not None and flow.grad.isfinite().all()
    known = target.isfinite().all(1)
    assert torch.equal(flow.grad.abs().sum(1) > 0, known)


def test_a_prediction_that_is_not_a_number_is_not_hidden() -> None:
    flow, target, mask = random_case(torch.float32)
    flow[1, 0, 4, 4] = NAN
    assert endpoint_error_loss(flow, target, mask, quiet_pixel_weight=1).isnan()


def test_refuses_shapes_that_do_not_fit() -> None:
    flow = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match="mask"):
        endpoint_error_loss(flow, flow, torch.ones(1, 3, 3), quiet_pixel_weight=1)

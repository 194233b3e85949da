"""Contrast maximization against its equations, written as loops over events in NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch

from training.chunk import EventBatch
from training.contrast import contrast_loss, image_of_warped_events, smoothness

HEIGHT, WIDTH = 6, 9


def one_slot(*events: tuple[float, int, int, int]) -> EventBatch:
    """One window of one slot from (t, y, x, p)."""
    return EventBatch(*torch.tensor(events, dtype=torch.float64).T[:, None, None])


def constant_flow(u: float, v: float = 0.0, windows: int = 1, slots: int = 1) -> torch.Tensor:
    flow = torch.tensor([u, v], dtype=torch.float64)[None, None, :, None, None]
    return flow.repeat(windows, slots, 1, HEIGHT, WIDTH)


def everywhere(flow: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(flow[:, :, :1], dtype=torch.bool)


def focus(flow: torch.Tensor, events: EventBatch, **options: Any) -> torch.Tensor:
    return contrast_loss(flow, events, everywhere(flow), flow_regul_weight=0, **options)


def random_case(
    dtype: torch.dtype = torch.float64, windows: int = 3, slots: int = 2, number: int = 12
) -> tuple[torch.Tensor, EventBatch, torch.Tensor]:
    """Flow that moves some events out, events with padding, and their mask."""
    draw = torch.Generator().manual_seed(1)
    shape = windows, slots, number
    flow = 2 * torch.randn(windows, slots, 2, HEIGHT, WIDTH, generator=draw, dtype=dtype)
    t = torch.rand(shape, generator=draw, dtype=dtype)
    y = torch.randint(0, HEIGHT, shape, generator=draw).to(dtype)
    x = torch.randint(0, WIDTH, shape, generator=draw).to(dtype)
    p = torch.randint(-1, 2, shape, generator=draw).to(dtype)
    mask = torch.zeros(windows, slots, 1, HEIGHT, WIDTH, dtype=torch.bool)
    for k, b, n in np.ndindex(shape):
        mask[k, b, 0, int(y[k, b, n]), int(x[k, b, n])] |= bool(p[k, b, n])
    return flow, EventBatch(t, y, x, p), mask


def warped(
    flow: np.ndarray[Any, Any], events: EventBatch, slot: int, reference: float
) -> Iterator[tuple[int, int, int, float, float]]:
    """(polarity, row, column, weight, time in the span) of every pixel an event falls on."""
    for k in range(len(flow)):
        for t, y, x, p in zip(*(part[k, slot].double().numpy() for part in events), strict=True):
            if p == 0:
                continue
            u, v = flow[k, slot, :, int(y), int(x)]
            new_x, new_y = x + (reference - (t + k)) * u, y + (reference - (t + k)) * v
            for row, column in np.ndindex(HEIGHT, WIDTH):
                weight = max(0, 1 - abs(new_y - row)) * max(0, 1 - abs(new_x - column))
                if weight > 0:
                    yield int(p < 0), row, column, weight, t + k


def reference_focus(flow: np.ndarray[Any, Any], events: EventBatch, slot: int) -> float:
    windows, total = len(flow), 0.0
    for reference in (windows, 0):
        count, stamps = np.zeros((2, HEIGHT, WIDTH)), np.zeros((2, HEIGHT, WIDTH))
        for polarity, row, column, weight, time in warped(flow, events, slot, reference):
            count[polarity, row, column] += weight
            stamps[polarity, row, column] += weight * (time if reference else windows - time)
        average = stamps / (count + 1e-9) / windows
        pixels = np.count_nonzero(count.sum(0))
        total += (average**2).sum() / pixels if pixels else 0.0
    return total


def reference_smoothness(
    flow: np.ndarray[Any, Any],
    mask: np.ndarray[Any, Any],
    slot: int,
    charbonnier: str,
    over_time: bool,
) -> float:
    steps = [(0, 0, 1), (0, 1, 0), (0, 1, 1), (0, -1, 1)] + [(1, 0, 0)] * over_time
    total = 0.0
    for k, row, column in np.ndindex(len(flow), HEIGHT, WIDTH):
        for step in steps:
            k2, row2, column2 = k + step[0], row + step[1], column + step[2]
            if not (k2 < len(flow) and 0 <= row2 < HEIGHT and column2 < WIDTH):
                continue
            if not (mask[k, slot, 0, row, column] and mask[k2, slot, 0, row2, column2]):
                continue
            du, dv = flow[k, slot, :, row, column] - flow[k2, slot, :, row2, column2]
            differences = (du, dv) if charbonnier == "components" else (du + dv,)
            total += sum(math.sqrt(d * d + 1e-6) for d in differences)
    return total / len(steps) / len(flow)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("charbonnier", ["components", "sum"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("mask_output", [False, True])
def test_equals_its_equations(
    dtype: torch.dtype,
    bound: float,
    charbonnier: Literal["components", "sum"],
    overwrite: bool,
    mask_output: bool,
) -> None:
    flow, events, mask = random_case(dtype)
    values, seen = flow.double().numpy(), mask.numpy()
    if overwrite:
        values = np.broadcast_to(values[-1:], values.shape)
        seen = np.broadcast_to(seen.any(0, keepdims=True), seen.shape)
    if not mask_output:
        seen = np.ones_like(seen)
    expected = sum(
        reference_focus(values, events, slot)
        + 0.1 * reference_smoothness(values, seen, slot, charbonnier, not overwrite)
        for slot in range(2)
    )
    options: dict[str, Any] = {
        "flow_regul_weight": 0.1,
        "overwrite_intermediate": overwrite,
        "mask_output": mask_output,
        "charbonnier": charbonnier,
    }
    summed = contrast_loss(flow, events, mask, reduction="sum", **options)
    assert summed.dtype == dtype
    assert summed.item() == pytest.approx(expected, rel=bound)
    mean = contrast_loss(flow, events, mask, **options)
    assert mean.item() == pytest.approx(expected / 2, rel=bound)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("charbonnier", ["components", "sum"])
def test_gradient_equals_finite_differences(
    overwrite: bool, charbonnier: Literal["components", "sum"]
) -> None:
    flow, events, mask = random_case(windows=2, number=8)
    assert torch.autograd.gradcheck(
        lambda f: contrast_loss(
            f,
            events,
            mask,
            flow_regul_weight=0.1,
            overwrite_intermediate=overwrite,
            charbonnier=charbonnier,
        ),
        flow.requires_grad_(),
    )


def test_one_event_by_hand() -> None:
    """Average timestamps 1/4 forward and 3/4 backward, each on one pixel."""
    loss = focus(constant_flow(0), one_slot((0.25, 2, 3, 1)))
    assert loss.item() == pytest.approx(1 / 16 + 9 / 16, abs=1e-8)


def test_polarities_do_not_mix() -> None:
    """Two events on one pixel: apart 2 * (1/2)^2 either way, together half of that."""
    apart = focus(constant_flow(0), one_slot((0.5, 2, 3, 1), (0.5, 2, 3, -1)))
    together = focus(constant_flow(0), one_slot((0.5, 2, 3, 1), (0.5, 2, 3, 1)))
    assert apart.item() == pytest.approx(1, abs=1e-8)
    assert together.item() == pytest.approx(0.5, abs=1e-8)


def test_least_at_the_true_flow() -> None:
    """One edge seen at x = 3 and, half a window later, at x = 5: 4 pixels per window."""
    events = one_slot((0.25, 2, 3, 1), (0.75, 2, 5, 1))
    whole = {u: focus(constant_flow(u), events).item() for u in (-4.0, 0.0, 4.0)}
    assert min(whole, key=whole.__getitem__) == 4
    assert whole[4.0] == pytest.approx(0.5, abs=1e-8)
    assert whole[0.0] == pytest.approx(0.625, abs=1e-8)


def test_least_near_the_true_flow_between_pixels() -> None:
    """At 3.75 both events share two pixels with average timestamps 3/8 and 29/56, either way.

    More pixels to divide by: that is less than 1/4, which the true flow has.
    """
    events = one_slot((0.25, 2, 3, 1), (0.75, 2, 5, 1))
    grid = [n / 8 for n in range(-16, 49)]
    losses = {u: focus(constant_flow(u), events).item() for u in grid}
    assert abs(min(losses, key=losses.__getitem__) - 4) <= 0.25
    by_hand = ((3 / 8) ** 2 + (29 / 56) ** 2) / 2
    assert losses[3.75] == pytest.approx(2 * by_hand, abs=1e-7)


def test_time_runs_on_over_windows() -> None:
    """The same edge in two windows: both events meet at x = 7 at the end and x = 3 at the start."""
    t = torch.tensor([[[0.5]], [[0.5]]], dtype=torch.float64)
    x = torch.tensor([[[4.0]], [[6.0]]], dtype=torch.float64)
    events = EventBatch(t, torch.full_like(t, 2), x, torch.ones_like(t))
    flow = constant_flow(2, windows=2)
    for reference, column in ((None, 7), (0, 3)):
        image = image_of_warped_events(flow, events, reference)
        expected = torch.zeros(1, 2, HEIGHT, WIDTH, dtype=torch.float64)
        expected[0, 0, 2, column] = 2
        assert torch.equal(image, expected)
    assert focus(flow, events).item() == pytest.approx(0.5, abs=1e-8)


def test_each_event_moves_along_its_own_windows_map() -> None:
    flow, events, _ = random_case()
    other = flow.clone()
    other[1, 0] += 1
    images = [image_of_warped_events(f, events) for f in (flow, other)]
    assert not torch.equal(images[0][0], images[1][0])
    assert torch.equal(images[0][1], images[1][1])


def test_image_equals_its_definition_and_has_a_gradient() -> None:
    flow, events, _ = random_case()
    image = image_of_warped_events(flow.requires_grad_(), events)
    for slot in range(2):
        expected = np.zeros((2, HEIGHT, WIDTH))
        for polarity, row, column, weight, _ in warped(flow.detach().numpy(), events, slot, 3):
            expected[polarity, row, column] += weight
        assert np.allclose(image[slot].detach().numpy(), expected, rtol=0, atol=1e-12)
    image.square().sum().backward()
    assert flow.grad is not None and flow.grad.abs().sum() > 0


def test_padding_counts_for_nothing() -> None:
    flow, events, _ = random_case()
    padding = torch.full_like(events.t[..., :3], 0.5)
    far = padding + 1000
    pads = EventBatch(padding, far, far, torch.zeros_like(padding))
    padded = EventBatch(*(torch.cat(pair, 2) for pair in zip(events, pads, strict=True)))
    gradients = []
    for batch in (events, padded):
        leaf = flow.clone().requires_grad_()
        loss = focus(leaf, batch)
        loss.backward()
        gradients.append((loss.item(), leaf.grad))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-14)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-12, atol=1e-14)


def test_a_slot_without_events_adds_nothing() -> None:
    flow, events, _ = random_case()
    events.p[:, 1] = 0
    flow.requires_grad_()
    loss = focus(flow, events)
    loss.backward()
    alone = EventBatch(*(part[:, :1] for part in events))
    assert loss.item() == pytest.approx(focus(flow[:, :1], alone).item() / 2, rel=1e-14)
    assert flow.grad is not None and flow.grad.isfinite().all()
    assert torch.equal(flow.grad[:, 1], torch.zeros_like(flow[:, 1]))
    assert flow.grad[:, 0].abs().sum() > 0


@pytest.mark.parametrize("number", [0, 4])
def test_no_events_at_all_is_zero_with_zero_gradient(number: int) -> None:
    flow = constant_flow(1, windows=2).requires_grad_()
    events = EventBatch(*torch.zeros(4, 2, 1, number, dtype=torch.float64))
    loss = contrast_loss(flow, events, ~everywhere(flow))
    loss.backward()
    assert loss.item() == 0
    assert flow.grad is not None and torch.equal(flow.grad, torch.zeros_like(flow))


def test_events_that_all_leave_the_image_are_zero_not_nan() -> None:
    flow = constant_flow(1e6).requires_grad_()
    loss = focus(flow, one_slot((0.5, 2, 3, 1)))
    loss.backward()
    assert loss.item() == 0
    assert flow.grad is not None and flow.grad.isfinite().all()


def test_overwriting_teaches_the_last_map_alone() -> None:
    flow, events, mask = random_case()
    contrast_loss(flow.requires_grad_(), events, mask, overwrite_intermediate=True).backward()
    assert flow.grad is not None
    assert flow.grad[:-1].abs().sum() == 0 and flow.grad[-1].abs().sum() > 0


def test_opposite_differences_cancel_in_the_sum_only() -> None:
    flow = torch.zeros(1, 1, 2, 1, 2, dtype=torch.float64)
    flow[..., 1] = torch.tensor([1.0, -1.0])[:, None]
    apart = smoothness(flow, everywhere(flow))
    assert apart.item() == pytest.approx(2 * math.sqrt(1 + 1e-6) / 5)
    summed = smoothness(flow, everywhere(flow), charbonnier="sum")
    assert summed.item() == pytest.approx(1e-3 / 5)


def test_flow_that_is_not_a_number_is_not_hidden() -> None:
    flow, events, mask = random_case()
    flow[0, 0, 0, 0, 0] = math.nan
    assert contrast_loss(flow, events, mask).isnan()


def test_refuses_what_does_not_fit() -> None:
    flow, events, mask = random_case()
    with pytest.raises(ValueError, match="mask"):
        contrast_loss(flow, events, mask[:-1])
    with pytest.raises(ValueError, match="windows and slots"):
        contrast_loss(flow, EventBatch(*(part[:1] for part in events)), mask)
    outside = one_slot((0.5, HEIGHT, 0, 1))
    with pytest.raises(ValueError, match="outside"):
        focus(constant_flow(0), outside)

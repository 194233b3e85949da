"""Muon: orthogonal updates, Adam's for the rest, and a state that can be saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (8, 72), (72, 8)])
def test_singular_values_end_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.logspace(-1, 0, 8)
    found = orthogonalized(left @ torch.diag(values) @ right)
    made = torch.linalg.svd(found, full_matrices=False)
    assert made.S.min() > 0.6 and made.S.max() < 1.3
    # The singular vectors are those of the matrix: in their frame the result is diagonal.
    frame = left.T @ found @ right.T
    torch.testing.assert_close(frame, torch.diag(frame.diagonal()), atol=2e-3, rtol=0)


def test_updates_of_hidden_layers_have_the_size_of_adams() -> None:
    weight = nn.Parameter(torch.zeros(16, 16, 3, 3))
    optimizer = Muon([weight], lr=0.5)
    weight.grad = torch.randn(weight.shape, generator=torch.manual_seed(1)) * 1e-4
    optimizer.step()
    rms = weight.detach().square().mean().sqrt()
    assert 0.5 * 0.2 * 0.6 < rms < 0.5 * 0.2 * 1.3


@pytest.mark.parametrize("shape", [(32,), (16, 2, 3, 3), (2, 16, 1, 1)])
def test_the_rest_moves_as_with_adam(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    start = torch.randn(shape)
    both = [nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [Muon(both[:1], lr=1e-2), torch.optim.Adam(both[1:], lr=1e-2)]
    for step in range(5):
        for parameter, optimizer in zip(both, optimizers, strict=True):
            parameter.grad = torch.sin(parameter.detach() + step)
            optimizer.step()
    torch.testing.assert_close(both[0], both[1])


def test_weights_decay_apart_from_the_gradient() -> None:
    weight = nn.Parameter(torch.ones(4, 4, 1, 1))
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 0.95))


def test_a_saved_state_goes_on_alike() -> None:
    torch.manual_seed(3)
    weight = nn.Parameter(torch.randn(4, 4, 3, 3))
    optimizer = Muon([weight], lr=1e-2)

    def steps(parameter: nn.Parameter, by: Muon) -> None:
        for step in range(3):
            parameter.grad = torch.cos(parameter.detach() * (step + 1))
            by.step()

    steps(weight, optimizer)
    other = nn.Parameter(weight.detach().clone())
    resumed = Muon([other], lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(weight, optimizer)
    steps(other, resumed)
    assert torch.equal(weight, other)


def test_a_closure_is_called_and_its_loss_returned() -> None:
    weight = nn.Parameter(torch.ones(3))

    def closure() -> float:
        weight.grad = torch.ones(3)
        return 1.5

    assert Muon([weight], lr=0.1).step(closure) == 1.5
    assert (weight < 1).all()

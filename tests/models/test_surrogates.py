"""Surrogate gradients against their written formulas."""

from __future__ import annotations

import math

import pytest
import torch

from models import SURROGATES, Surrogate, surrogate_of
from models.surrogates import spike

X = (-3.0, -1.0, -0.3, -1e-9, 0.0, 1e-9, 0.2, 0.5, 1.0, 4.0)


def normal(x: float, mean: float, deviation: float) -> float:
    return math.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))


def formula(name: str, x: float, w: float) -> float:
    if name == "arctanspike":
        return 1 / (1 + w * x**2)
    if name == "superspike":
        return 1 / (1 + w * abs(x)) ** 2
    if name == "mgspike":
        sides = normal(x, w, 6 * w) + normal(x, -w, 6 * w)
        return 1.15 * normal(x, 0, w) - 0.15 * sides
    return max(0.0, 1 - w * abs(x))


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("width", [None, 0.7, 10.0])
def test_backward_is_the_formula_and_forward_the_step(name: str, width: float | None) -> None:
    surrogate = surrogate_of(name, width)
    assert surrogate.width == (surrogate_of(name).width if width is None else width)
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    fired = spike(x, surrogate)
    assert fired.tolist() == [float(value > 0) for value in X]
    scale = torch.arange(1.0, len(X) + 1, dtype=torch.float64)
    (fired * scale).sum().backward()  # type: ignore[no-untyped-call]
    expected = [formula(name, value, surrogate.width) for value in X]
    assert x.grad is not None
    torch.testing.assert_close(
        x.grad / scale, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15
    )


def test_published_widths_and_the_default() -> None:
    widths = {name: surrogate_of(name).width for name in SURROGATES}
    assert widths == {
        "arctanspike": 4.0,
        "superspike": 10.0,
        "mgspike": 0.5,
        "trianglespike": 1.0,
    }
    assert Surrogate() == surrogate_of("arctanspike")


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("arctan", None, "surrogate must be one of arctanspike, superspike, mgspike, triangle"),
        ("superspike", 0.0, "surrogate_width must be positive, got 0.0"),
        ("superspike", math.nan, "surrogate_width must be positive"),
        ("superspike", math.inf, "surrogate_width must be positive"),
    ],
)
def test_impossible_surrogates(name: str, width: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        surrogate_of(name, width)

"""Spikes that learn: a Heaviside step forward, a surrogate of its derivative backward.

Let x be the membrane above the threshold and w the width:

* ``arctanspike``: ``1 / (1 + w x^2)``. Fang et al., "Incorporating learnable membrane time
  constant", ICCV 2021. Hagenaars et al. (NeurIPS 2021) use w = 10; 4, the width here, reaches more
  of the unit-variance currents that batch norm gives.
* ``superspike``: ``1 / (1 + w |x|)^2``, w = 10. Zenke and Ganguli, "SuperSpike", Neural
  Computation 2018.
* ``mgspike``: ``1.15 N(x; 0, w) - 0.15 N(x; w, 6w) - 0.15 N(x; -w, 6w)`` with the normal density
  ``N(x; mean, deviation)``, w = 0.5. Yin, Corradi and Bohte, "Accurate and efficient time-domain
  classification with adaptive spiking recurrent neural networks", Nature Machine Intelligence 2021.
* ``trianglespike``: ``max(0, 1 - w |x|)``, w = 1. Bellec et al., "Long short-term memory and
  learning-to-learn in networks of spiking neurons", NeurIPS 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def _arctan(x: Tensor, width: float) -> Tensor:
    return 1 / (1 + width * x * x)


def _fast_sigmoid(x: Tensor, width: float) -> Tensor:
    return 1 / (1 + width * x.abs()) ** 2


def _normal(x: Tensor, mean: float, deviation: float) -> Tensor:
    scale = 1 / (deviation * math.sqrt(2 * math.pi))
    return scale * torch.exp(-((x - mean) ** 2) / (2 * deviation**2))


def _multi_gaussian(x: Tensor, width: float) -> Tensor:
    sides = _normal(x, width, 6 * width) + _normal(x, -width, 6 * width)
    return 1.15 * _normal(x, 0.0, width) - 0.15 * sides


def _triangle(x: Tensor, width: float) -> Tensor:
    return torch.relu(1 - width * x.abs())


_DERIVATIVES: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "arctanspike": (_arctan, 4.0),
    "superspike": (_fast_sigmoid, 10.0),
    "mgspike": (_multi_gaussian, 0.5),
    "trianglespike": (_triangle, 1.0),
}
SURROGATES = tuple(_DERIVATIVES)


class Surrogate(NamedTuple):
    """A surrogate by its name, one of ``SURROGATES``, and its width."""

    name: str = "arctanspike"
    width: float = _DERIVATIVES["arctanspike"][1]

    def derivative(self, x: Tensor) -> Tensor:
        """The surrogate of the Heaviside step's derivative at x, of x's shape."""
        return _DERIVATIVES[self.name][0](x, self.width)


ARCTAN = Surrogate()


def surrogate_of(name: str, width: float | None = None) -> Surrogate:
    """A surrogate by name.

    Args:
        name: one of ``SURROGATES``.
        width: None for the surrogate's own.

    Raises:
        ValueError: unknown name, or a width that is not positive.
    """
    if name not in _DERIVATIVES:
        raise ValueError(f"surrogate must be one of {', '.join(SURROGATES)}, got {name!r}")
    width = _DERIVATIVES[name][1] if width is None else width
    if not 0 < width < math.inf:
        raise ValueError(f"surrogate_width must be positive, got {width}")
    return Surrogate(name, width)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x > 0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(x), None


def spike(x: Tensor, surrogate: Surrogate = ARCTAN) -> Tensor:
    """1 where x > 0, else 0 (a tie does not fire), with the surrogate's gradient.

    Args:
        x: membrane above the threshold, any shape, floating point.
        surrogate: its derivative takes the place of the step's.
    """
    fired: Tensor = _Spike.apply(x, surrogate)  # type: ignore[no-untyped-call]
    return fired

"""Muon for convolutions: momentum whose every update is brought to singular values near 1.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". Gradients through
spikes are dominated by a few directions; an orthogonal update moves the others as far. torch's own
class takes matrices only, and a network of convolutions has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the paper's quintic, which takes singular values in 0..1 close to 1."""

_ADAM_RMS = 0.2
"""Root mean square of Adam's updates at rate 1; these are scaled to it, so one rate suits both."""


class Muon(torch.optim.Optimizer):
    """Orthogonal updates for convolutions between hidden layers, Adam's for all else.

    A weight [Cout, Cin, kh, kw] counts as a matrix [Cout, Cin * kh * kw] where Cout and Cin exceed
    2: the first layer's inputs and the flow head's outputs are no hidden channels.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, of the size that suits Adam.
        momentum: of the orthogonal updates, with Nesterov's look ahead.
        betas, eps: Adam's.
        weight_decay: decoupled, of all parameters.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(params, {**options, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; ``closure`` is called first where there is one, and its value returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = _orthogonal if _is_hidden(parameter) else _adam
                parameter.add_(
                    update(parameter.grad, self.state[parameter], group), alpha=-group["lr"]
                )
        return loss


def _is_hidden(parameter: Tensor) -> bool:
    return parameter.ndim == 4 and min(parameter.shape[:2]) > 2


def _orthogonal(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    mean = state.setdefault("momentum", torch.zeros_like(gradient))
    mean.lerp_(gradient, 1 - group["momentum"])
    ahead = gradient.lerp(mean, group["momentum"]).flatten(1)
    return orthogonalized(ahead).view_as(gradient) * _ADAM_RMS * max(ahead.shape) ** 0.5


def _adam(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    step = state["step"] = state.get("step", 0) + 1
    mean = state.setdefault("mean", torch.zeros_like(gradient))
    square = state.setdefault("square", torch.zeros_like(gradient))
    for average, value, beta in zip(
        (mean, square), (gradient, gradient**2), group["betas"], strict=True
    ):
        average.lerp_(value, 1 - beta)
    unbiased = [a / (1 - b**step) for a, b in zip((mean, square), group["betas"], strict=True)]
    return unbiased[0] / (unbiased[1].sqrt() + group["eps"])


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix [M, N] with the singular vectors of the given one, its singular values near 1.

    Newton-Schulz iteration (equation and coefficients of the paper): values of 0.01 and more of the
    largest end between 0.6 and 1.3.
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (torch.linalg.matrix_norm(wide) + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x

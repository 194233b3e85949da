"""The neuron as one function with its own derivative, compiled to one kernel each way.

The arithmetic is that of :func:`models.lif.lif_step`, which is faster where nothing is compiled.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.surrogates import Surrogate

Forward = Callable[[Tensor, Tensor, Tensor, Tensor, str], tuple[Tensor, Tensor, Tensor]]
Backward = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def forward(
    current: Tensor, mem: Tensor, beta: Tensor, threshold: Tensor, reset: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(spike, mem_out, u), u being the membrane before its reset; see ``lif_step``."""
    u = _per_channel(beta) * mem + current
    fired = u > _per_channel(threshold)
    if reset == "zero":
        after = torch.where(fired, 0.0, u)
    elif reset == "subtract":
        after = torch.where(fired, u - _per_channel(threshold), u)
    else:
        after = u.clone()
    return fired.to(u.dtype), after, u


def backward(
    grad_spike: Tensor,
    grad_mem: Tensor,
    u: Tensor,
    mem: Tensor,
    beta: Tensor,
    threshold: Tensor,
    reset: str,
    surrogate: Surrogate,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of current, mem, beta and threshold; the reset itself is not differentiated."""
    x = u - _per_channel(threshold)
    fired = u > _per_channel(threshold)
    through_spike = grad_spike * surrogate.derivative(x)
    grad_u = through_spike + (torch.where(fired, 0.0, grad_mem) if reset == "zero" else grad_mem)
    grad_threshold = -through_spike
    if reset == "subtract":
        grad_threshold = grad_threshold - torch.where(fired, grad_mem, 0.0)
    places = (0, 2, 3)
    return (
        grad_u,
        grad_u * _per_channel(beta),
        (grad_u * mem).sum(places),
        grad_threshold.sum(places),
    )


class _Neuron(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        mem: Tensor,
        beta: Tensor,
        threshold: Tensor,
        reset: str,
        surrogate: Surrogate,
        functions: tuple[Forward, Backward],
    ) -> tuple[Tensor, Tensor]:
        spike, after, u = functions[0](current, mem, beta, threshold, reset)
        ctx.save_for_backward(u, mem, beta, threshold)
        ctx.reset, ctx.surrogate, ctx.function = reset, surrogate, functions[1]
        return spike, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spike: Tensor, grad_mem: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        # A gradient that was broadcast has strides of its own, and would be compiled anew.
        grads = (grad_spike.contiguous(), grad_mem.contiguous())
        result = ctx.function(*grads, *saved, ctx.reset, ctx.surrogate)
        return (*result, None, None, None)


def neuron(
    current: Tensor,
    mem: Tensor,
    beta: Tensor,
    threshold: Tensor,
    reset: str,
    surrogate: Surrogate,
    functions: tuple[Forward, Backward] = (forward, backward),
) -> tuple[Tensor, Tensor]:
    """One step of the neuron, see :func:`models.lif.lif_step`.

    Args:
        current, mem: [N, C, H, W]. beta, threshold: [C]. reset: as there.
        surrogate: of the spike's derivative.
        functions: :func:`forward` and :func:`backward`, or both compiled.

    Returns:
        (spike, mem_out), both [N, C, H, W].
    """
    result: tuple[Tensor, Tensor] = _Neuron.apply(  # type: ignore[no-untyped-call]
        current, mem, beta, threshold, reset, surrogate, functions
    )
    return result


@functools.cache
def compiled(device_type: str) -> tuple[Forward, Backward] | None:
    """Both functions compiled for a kind of device; None, with one warning, where they cannot be.

    Whether they can is tried once, on something else: the first shape that a function sees is the
    one that it is made for.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device_type))
    # What a compiler that is not there raises is a matter of the backend.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(
            f"neurons are not compiled and train more slowly: {reason}. Install a C++ compiler, or "
            "leave out 'compiled'",
            stacklevel=3,
        )
        return None
    return torch.compile(forward), torch.compile(backward)

"""What a network remembers between two windows, and what is done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor


class LIFState(NamedTuple):
    """Membrane after reset and spikes of the previous step, both float32 [N, C, H, W]."""

    mem: Tensor
    spike: Tensor


class HiddenState(NamedTuple):
    """Hidden state of a recurrent layer without spikes, float32 [N, C, H, W]."""

    hidden: Tensor


State = TypeVar("State", LIFState, HiddenState)


def _map(state: State, change: Callable[[Tensor], Tensor]) -> State:
    return type(state)(*(change(part) for part in state))


def detach(states: Mapping[str, State]) -> dict[str, State]:
    """Cut the states from the graph that computed them (truncated back-propagation)."""
    return {name: _map(state, Tensor.detach) for name, state in states.items()}


def keep(states: Mapping[str, State], kept: Tensor) -> dict[str, State]:
    """The states with zeros in every slot of the batch that is not kept.

    Args:
        states: per layer.
        kept: bool [N].
    """
    mask = kept.view(-1, 1, 1, 1)
    return {
        name: _map(state, lambda part: torch.where(mask, part, torch.zeros_like(part)))
        for name, state in states.items()
    }


def activity(states: Mapping[str, LIFState] | Mapping[str, HiddenState]) -> dict[str, float]:
    """Share of neurons, 0 to 1, that fired in the last step; layers without spikes are left out."""
    return {
        name: float(state.spike.detach().mean())
        for name, state in states.items()
        if isinstance(state, LIFState)
    }


def restore(saved: Mapping[str, tuple[Tensor, ...]]) -> dict[str, LIFState | HiddenState]:
    """States of the plain tuples that they were saved as, which is how ``torch.save`` takes them.

    Raises:
        ValueError: a tuple of some other length.
    """
    states: dict[str, LIFState | HiddenState] = {}
    for name, parts in saved.items():
        if len(parts) not in (1, 2):
            raise ValueError(f"the state of layer {name!r} has {len(parts)} tensors, not 1 or 2")
        states[name] = LIFState(*parts) if len(parts) == 2 else HiddenState(*parts)
    return states

"""What can be logged about a network while it trains: its gradients and how much it fires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def gradient_rows(model: nn.Module) -> list[tuple[str, float, float, float]]:
    """Per trained parameter: name, gradient's norm, largest absolute value, share of zeros.

    A parameter that the loss did not reach has zeros only.
    """
    rows = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            gradient = torch.zeros(1) if gradient is None else gradient.detach().float()
            zeros = float((gradient == 0).float().mean())
            rows.append((name, float(gradient.norm()), float(gradient.abs().max()), zeros))
    return rows


def activity(inputs: Tensor, states: Mapping[str, Any]) -> dict[str, float]:
    """Share of values that are not zero: of the input, and of every layer's newest output.

    Args:
        inputs: [B, bins, H, W], of the newest window.
        states: per layer, as a network's ``step`` returns them; the last tensor of a layer's state
            is what it gave to the next (the spikes of a spiking layer).
    """
    shares = {"input": float((inputs != 0).float().mean())}
    for name, state in states.items():
        output = state if isinstance(state, Tensor) else state[-1]
        shares[name] = float((output != 0).float().mean())
    return shares

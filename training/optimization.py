"""The optimiser and its learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from training.config import OptimizerSection

FLOOR = 0.01
PLATEAU_FACTOR = 0.5
PLATEAU_LOWEST = 1e-6


def build_optimizer(
    section: OptimizerSection,
    body: Iterable[nn.Parameter],
    head: Iterable[nn.Parameter],
    flow_scaling: float,
) -> torch.optim.Optimizer:
    """The configured optimiser over the parameters that are trained.

    Args:
        section: name, rate and options.
        body, head: parameters of the layers and of the flow head; frozen ones are left alone.
        flow_scaling: pixels per window for an output of 1.
    """
    head_lr = section.lr / flow_scaling if section.scale_head else section.lr
    groups = [
        {"params": list(body), "lr": section.lr},
        {"params": list(head), "lr": head_lr},
    ]
    optimizer: torch.optim.Optimizer = section.kind()(groups, lr=section.lr, **section.options())
    return optimizer


def rate(section: OptimizerSection, update: int, updates: int) -> float:
    """Factor on the learning rate before update number ``update`` (from 0) of ``updates``.

    Linear warm-up, then a half cosine to a hundredth, or a constant.
    """
    if update < section.warmup_updates:
        return (update + 1) / section.warmup_updates
    if section.schedule != "cosine":
        return 1.0
    done = (update - section.warmup_updates) / max(1, updates - section.warmup_updates)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Schedule:
    """The learning rate: warm-up and decay by update, or halving by validation error.

    Args:
        section: kind of schedule, warm-up, patience.
        optimizer: whose rates it sets.
        updates: length of the run.
    """

    def __init__(
        self, section: OptimizerSection, optimizer: torch.optim.Optimizer, updates: int
    ) -> None:
        self._warmup = section.warmup_updates
        self._by_update = LambdaLR(optimizer, lambda update: rate(section, update, updates))
        self._by_error = None
        if section.schedule == "plateau":
            self._by_error = ReduceLROnPlateau(
                optimizer,
                factor=PLATEAU_FACTOR,
                patience=section.plateau_patience,
                min_lr=PLATEAU_LOWEST,
            )

    def after_update(self) -> None:
        """Set the rate of the next update."""
        # Once the warm-up is over, only the error moves the rates of a plateau schedule.
        if self._by_error is None or self._by_update.last_epoch < self._warmup:
            self._by_update.step()

    def after_validation(self, error: float) -> None:
        """Tell the schedule the newest validation error."""
        if self._by_error is not None and self._by_update.last_epoch >= self._warmup:
            self._by_error.step(error)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next rate depends on."""
        by_error = None if self._by_error is None else self._by_error.state_dict()
        return {"by_update": self._by_update.state_dict(), "by_error": by_error}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self._by_update.load_state_dict(state["by_update"])
        if self._by_error is not None:
            self._by_error.load_state_dict(state["by_error"])

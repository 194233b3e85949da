"""Where a run stands: counters, the best so far, and what early stop and summaries need."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Standing:
    """Counters of a run; all of it is saved with the run's state.

    update: updates done, skipped ones included.
    seconds: of training, validation included.
    skipped, skipped_in_a_row: updates that left the parameters as they were.
    best, best_values: lowest validation error, and everything measured with it.
    best_loss: lowest mean training loss between two validations.
    validations: so far.
    reference, stale: what early stop compares with, and validations that did not get below it.
    losses: of the updates since the last validation.
    """

    update: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float = math.inf
    best_values: dict[str, float] = field(default_factory=dict)
    best_loss: float = math.inf
    validations: int = 0
    reference: float = math.inf
    stale: int = 0
    losses: list[float] = field(default_factory=list)

    def count(self, loss: float | None) -> None:
        """One update is done; None for a skipped one."""
        self.update += 1
        if loss is None:
            self.skipped += 1
            self.skipped_in_a_row += 1
        else:
            self.skipped_in_a_row = 0
            self.losses.append(loss)

    def mean_loss(self) -> float:
        """Mean loss since the last validation; NaN without any."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan

    def judge(self, error: float, min_delta: float) -> None:
        """One validation is done: count it for early stop, and begin anew with the losses."""
        self.validations += 1
        self.losses = []
        if error < self.reference - min_delta:
            self.reference, self.stale = error, 0
        else:
            self.stale += 1

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        vars(self).update(state)

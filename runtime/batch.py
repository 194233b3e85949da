"""Several recordings at once through the batch axis of networks.

Every recording has a slot of its own, whose state is reset when the recording begins and never
meets another's. A slot whose recording has ended takes the next; once none is left, the batch
shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from runtime.errors import SessionError
from runtime.metadata import Artifact
from runtime.runner import Array, Flow, Runner
from runtime.spikes import SpikeCount, spike_counts


class Batch:
    """One network with a slot for every recording that is driven."""

    def __init__(self, make: Callable[[int], Runner], size: int) -> None:
        """``make``: gives a runner for so many sequences. ``size``: slots at first.

        Raises SessionError where the artifact takes a batch of 1 only.
        """
        self._make = make
        self._runner = make(size)
        self.slots = [Slot(self) for _ in range(size)]

    @property
    def runner(self) -> Runner:
        """The network of the whole batch."""
        return self._runner

    def step(self, inputs: Sequence[Array]) -> Flow:
        """Advance every slot by its input [1, bins, h, w]; flow float32 [N, 2, H, W]."""
        return self._runner.step(np.concatenate(inputs))

    def spike_counts(self) -> dict[str, SpikeCount]:
        """Spikes of the last step by layer, of each slot."""
        return spike_counts(self._runner)

    def reset(self, slot: Slot) -> None:
        """Return one slot to the state before the first step."""
        states, at = self._runner.states(), self.slots.index(slot)
        for state in self._runner.artifact.states:
            states[state.input][at] = state.init
        self._runner.set_states(states)

    def remove(self, slot: Slot) -> None:
        """Give a slot up; the states of the others are kept."""
        at = self.slots.index(slot)
        states = {name: np.delete(array, at, 0) for name, array in self._runner.states().items()}
        self.slots.remove(slot)
        if self.slots:
            self._runner = self._make(len(self.slots))
            self._runner.set_states(states)


class Slot:
    """One slot of a batch with the interface of a runner, except that it cannot step alone."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    @property
    def artifact(self) -> Artifact:
        """The network's metadata."""
        return self._batch.runner.artifact

    @property
    def resolution(self) -> tuple[int, int] | None:
        """(H, W) of the recordings."""
        return self._batch.runner.resolution

    def step(self, events: Array) -> Flow:
        """Refused: all slots step together. Raises SessionError."""
        raise SessionError("a slot of a batch cannot step alone; step the batch")

    def reset(self) -> None:
        """Return to the state before the first step."""
        self._batch.reset(self)

    def states(self) -> dict[str, Array]:
        """Copies of this slot's states, batch 1."""
        return self._own(self._batch.runner.states())

    def set_states(self, states: Mapping[str, Array]) -> None:
        """Put this slot's states in, batch 1."""
        every, at = self._batch.runner.states(), self._batch.slots.index(self)
        for name, array in states.items():
            every[name][at] = array[0]
        self._batch.runner.set_states(every)

    def outputs(self) -> dict[str, Array]:
        """Copies of this slot's outputs of the last step, batch 1."""
        return self._own(self._batch.runner.outputs())

    def spikes(self) -> dict[str, Array]:
        """Copies of this slot's last spikes, [1, C, H, W]; empty unless diagnostic."""
        return self._own(self._batch.runner.spikes())

    def diagnostic(self) -> Slot:
        """Itself: whether spikes are shown is the batch's choice."""
        return self

    def _own(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        at = self._batch.slots.index(self)
        return {name: array[at : at + 1] for name, array in arrays.items()}

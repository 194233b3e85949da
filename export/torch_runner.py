"""The PyTorch integer emulation as a runner, so that parity compares it like any other."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from quant import IntegerNetwork, IntegerState, IntegerStep
from quant.spec import NetworkSpec
from runtime.layout import channels_first, from_channels_first
from runtime.metadata import Artifact
from runtime.runner import Array, Flow, check_events


class TorchRunner:
    """Steps :class:`quant.IntegerNetwork` behind the interface of ``runtime.runner.Runner``.

    Args:
        spec: the integers of the network.
        artifact: metadata of the integer artifact made from them.
        resolution: (H, W) of the events.
    """

    def __init__(self, spec: NetworkSpec, artifact: Artifact, resolution: tuple[int, int]) -> None:
        self._network = IntegerNetwork(spec)
        self._artifact, self._resolution = artifact, resolution
        self._last: IntegerStep | None = None
        self._states: dict[str, IntegerState] = {}
        self.reset()

    @property
    def artifact(self) -> Artifact:
        """Metadata of the artifact that the emulation stands for."""
        return self._artifact

    @property
    def resolution(self) -> tuple[int, int]:
        """(H, W) of the events."""
        return self._resolution

    def step(self, events: Array) -> Flow:
        """Advance by one window: uint8 [1, num_bins, H, W] to float32 [1, 2, H, W]."""
        check_events(self._artifact, events, self._resolution, 1)
        self._last = self._network.step(torch.from_numpy(events), self._states)
        self._states = self._last.states
        flow: Flow = self._last.flow.numpy()
        return flow

    def reset(self) -> None:
        """Return to the zero state."""
        events = torch.zeros(1, self._artifact.num_bins, *self._resolution, dtype=torch.uint8)
        self._states = {
            layer.name: self._network.initial_state(layer, events)
            for layer in self._network.spec.layers
        }

    def states(self) -> dict[str, Array]:
        """Copies of the states by the name of their graph input."""
        arrays: dict[str, Array] = {}
        for state in self._artifact.states:
            pair = self._states[state.layer]
            array = (pair.mem if state.role == "mem" else pair.spike).numpy()
            arrays[state.input] = from_channels_first(state, array).copy()
        return arrays

    def set_states(self, states: Mapping[str, Array]) -> None:
        """Put back what :meth:`states` returned."""
        for state in self._artifact.states:
            array = channels_first(self._artifact, state, states[state.input])
            value = torch.from_numpy(array.copy())
            pair = self._states[state.layer]
            self._states[state.layer] = (
                IntegerState(value, pair.spike)
                if state.role == "mem"
                else IntegerState(pair.mem, value)
            )

    def outputs(self) -> dict[str, Array]:
        """``flow`` and ``flow_acc`` of the last step; empty before the first."""
        if self._last is None:
            return {}
        return {"flow": self._last.flow.numpy(), "flow_acc": self._last.flow_acc.numpy()}

    def spikes(self) -> dict[str, Array]:
        """Spikes of every layer in the last step."""
        return {name: state.spike.numpy().copy() for name, state in self._states.items()}

    def diagnostic(self) -> TorchRunner:
        """A fresh runner of the same network; it always shows its spikes."""
        return TorchRunner(self._network.spec, self._artifact, self._resolution)

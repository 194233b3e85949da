"""Running an artifact in the ONNX reference evaluator: slow, simple, and nobody's optimiser.

The evaluator executes the function bodies that the file carries, so it is an independent witness
of what an integer artifact means. Meant for small images and few steps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx.reference import ReferenceEvaluator

from runtime.artifact import LoadedModel, load_model
from runtime.errors import SessionError
from runtime.graph import diagnostic_copy
from runtime.graph_checks import EVENTS, FLOW, FLOW_ACC, check_state_bytes
from runtime.layout import unpacked_layers
from runtime.metadata import Artifact
from runtime.runner import Array, Flow, check_events, check_states

MAX_STATE_BYTES = 1 << 28
"""Beyond this the evaluator would take minutes per step."""


class ReferenceStream:
    """One sequence through the reference evaluator; the interface of ``runtime.session.Stream``."""

    def __init__(
        self,
        path: str | os.PathLike[str] | LoadedModel,
        *,
        resolution: tuple[int, int] | None = None,
        spike_outputs: Mapping[str, str] | None = None,
    ) -> None:
        """Load an artifact.

        Args:
            path: the file, or a model already loaded.
            resolution: (H, W), needed for files that leave it free.
            spike_outputs: name of each layer's spike output, for diagnostic copies.

        Raises:
            ArtifactError: the file is refused or its states are too big for this evaluator.
            SessionError: no resolution, or one the file does not have.
        """
        self._loaded = path if isinstance(path, LoadedModel) else load_model(path)
        artifact = self._loaded.artifact
        if resolution is None and artifact.spatial_free:
            raise SessionError(
                f"{self._loaded.path} leaves the size free; give a resolution (H, W)"
            )
        size = tuple(resolution or artifact.resolution)
        if not artifact.spatial_free and size != artifact.resolution:
            raise SessionError(f"{self._loaded.path} is made for {artifact.resolution}, not {size}")
        self._resolution = (size[0], size[1])
        check_state_bytes(
            artifact, 1, self._resolution, MAX_STATE_BYTES, os.fspath(self._loaded.path)
        )
        self._spike_outputs = dict(spike_outputs or {})
        self._evaluator = ReferenceEvaluator(self._loaded.model)
        self._states: dict[str, Array] = {}
        self._results: dict[str, Array] = {}
        self.reset()

    @property
    def artifact(self) -> Artifact:
        """The metadata of the artifact."""
        return self._loaded.artifact

    @property
    def resolution(self) -> tuple[int, int] | None:
        """(H, W)."""
        return self._resolution

    def step(self, events: Array) -> Flow:
        """Advance by one window; see ``runtime.session.Stream.step``. Batch is 1."""
        check_events(self.artifact, events, self._resolution, 1)
        names = [output.name for output in self._loaded.model.graph.output]
        values = self._evaluator.run(names, {EVENTS: events, **self._states})
        self._results = {n: np.asarray(v) for n, v in zip(names, values, strict=True)}
        # Reads the outputs by name, so that a state whose type the evaluator changed shows here.
        self.set_states({s.input: self._results[s.output] for s in self.artifact.states})
        flow: Flow = self._results[FLOW].astype(np.float32, copy=False)
        return flow

    def reset(self) -> None:
        """Return to the state before the first step."""
        self._states = {
            state.input: np.full(
                state.resolved_shape(1, *self._resolution), state.init, np.dtype(state.dtype)
            )
            for state in self.artifact.states
        }

    def states(self) -> dict[str, Array]:
        """Copies of the current states by the name of their graph input."""
        return {name: array.copy() for name, array in self._states.items()}

    def set_states(self, states: Mapping[str, Array]) -> None:
        """Put states in; raises SessionError unless every state fits in type and shape."""
        check_states(self.artifact, states, 1, self._resolution)
        self._states = {name: np.array(array) for name, array in states.items()}

    def outputs(self) -> dict[str, Array]:
        """Copies of the last step's ``flow``, and ``flow_acc`` of int8 artifacts."""
        return {n: a.copy() for n, a in self._results.items() if n in (FLOW, FLOW_ACC)}

    def spikes(self) -> dict[str, Array]:
        """Copies of every layer's last spikes, [N, C, H, W]; empty unless diagnostic."""
        spikes = {layer: self._results[name].copy() for layer, name in self._spike_outputs.items()}
        return unpacked_layers(self.artifact, spikes)

    def diagnostic(self) -> ReferenceStream:
        """A fresh stream on a copy of the graph that shows every layer's spikes."""
        copy, names = diagnostic_copy(self._loaded.model, self.artifact)
        loaded = replace(self._loaded, model=copy)
        return ReferenceStream(loaded, resolution=self._resolution, spike_outputs=names)

"""What drives a network one step at a time: the interface, and the checks its makers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from calib_data.encodings import COUNT_LIMIT, event_counts, voxel_grid
from calib_data.events import Events
from runtime.errors import SessionError
from runtime.metadata import Artifact

Array = npt.NDArray[np.generic]
Flow = npt.NDArray[np.float32]


class Runner(Protocol):
    """A network with its state: ONNX Runtime streams, the ONNX reference evaluator, ..."""

    @property
    def artifact(self) -> Artifact: ...
    @property
    def resolution(self) -> tuple[int, int] | None: ...
    def step(self, events: Array) -> Flow: ...
    def reset(self) -> None: ...
    def states(self) -> dict[str, Array]: ...
    def set_states(self, states: Mapping[str, Array]) -> None: ...
    def outputs(self) -> dict[str, Array]: ...
    def spikes(self) -> dict[str, Array]: ...
    def diagnostic(self) -> Runner: ...


def encode(artifact: Artifact, events: Events, resolution: tuple[int, int]) -> Array:
    """Encode a window of events as the ``events`` tensor of an artifact.

    Counts saturate at 127 in integer artifacts; that is part of their arithmetic.

    Args:
        artifact: the metadata that names the encoding.
        events: the window; coordinates inside ``resolution``.
        resolution: (H, W).

    Returns:
        [1, num_bins, H, W], uint8 for int8 artifacts and float32 otherwise.

    Raises:
        SessionError: an integer artifact with voxel input, which has no integer encoding yet.
    """
    if artifact.encoding == "cnt":
        limit = COUNT_LIMIT if artifact.event_dtype == np.uint8 else None
        return event_counts(events, resolution, artifact.event_dtype, limit)[np.newaxis]
    if artifact.is_integer:
        raise SessionError(
            f"model {artifact.model}: integer artifacts take event counts, not voxel grids; "
            "export a network with encoding cnt"
        )
    return voxel_grid(events, artifact.num_bins, resolution)[np.newaxis]


def check_events(
    artifact: Artifact, events: Array, resolution: tuple[int, int] | None, batch: int
) -> None:
    """Refuse an ``events`` array that the artifact cannot take, saying what it wants.

    ``resolution`` None leaves the size open. Raises SessionError.
    """
    fits = (
        isinstance(events, np.ndarray)
        and events.dtype == artifact.event_dtype
        and events.ndim == 4
        and events.shape[:2] == (batch, artifact.num_bins)
        and events.shape[2:] == (events.shape[2:] if resolution is None else tuple(resolution))
        and 0 not in events.shape[2:]
    )
    if not fits:
        raise SessionError(_unfit(artifact, events, resolution, batch))
    if events.dtype == np.uint8 and int(events.max()) > COUNT_LIMIT:
        raise SessionError(
            f"events hold a count of {int(events.max())}; integer networks take counts up to "
            f"{COUNT_LIMIT}: saturate them, or use encode()"
        )


def _unfit(
    artifact: Artifact, events: Array, resolution: tuple[int, int] | None, batch: int
) -> str:
    """What is wrong with an array. Written only then: it takes longer than the check."""
    height, width = resolution if resolution is not None else ("H", "W")
    wanted = f"{artifact.event_dtype} [{batch}, {artifact.num_bins}, {height}, {width}]"
    if not isinstance(events, np.ndarray):
        return f"events must be a NumPy array {wanted}, got {type(events).__name__}"
    hint = ""
    if events.dtype != artifact.event_dtype and artifact.event_dtype == np.uint8:
        hint = "; saturate counts at 127 and cast, or use encode()"
    return f"events must be {wanted}, got {events.dtype} {list(events.shape)}{hint}"


def check_states(
    artifact: Artifact, states: Mapping[str, Array], batch: int, resolution: tuple[int, int]
) -> None:
    """Refuse state arrays that are not exactly the artifact's. Raises SessionError."""
    names = {state.input for state in artifact.states}
    if not isinstance(states, Mapping):
        raise SessionError(
            f"states must be arrays by the name of their input, got {type(states).__name__}"
        )
    if set(states) != names:
        odd = sorted(set(states) ^ names)
        raise SessionError(f"states given and expected differ in {', '.join(odd)}")
    for state in artifact.states:
        array = states[state.input]
        shape = state.resolved_shape(batch, *resolution)
        if not isinstance(array, np.ndarray):
            raise SessionError(
                f"state {state.input!r} must be a NumPy array {state.dtype} {list(shape)}, got "
                f"{type(array).__name__}"
            )
        if array.dtype != np.dtype(state.dtype) or array.shape != shape:
            raise SessionError(
                f"state {state.input!r} must be {state.dtype} {list(shape)}, got "
                f"{array.dtype} {list(array.shape)}"
            )

"""States of artifacts in one layout, so that a file and its rewritten form get the same numbers."""

from __future__ import annotations

import onnx

from export.grids import artifact_of
from export.passes.base import Array
from runtime.layout import channels_first, from_channels_first


class StateLayouts:
    """How a model lays out its states; tensors that are none, and files that are no artifacts, stay
    as they are."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Reads the metadata of the model, if it has any."""
        self._artifact = artifact_of(model)
        states = self._artifact.states if self._artifact is not None else ()
        self._by_name = {name: s for s in states for name in (s.input, s.output)}

    def plain_shape(self, name: str, shape: list[int]) -> list[int]:
        """The shape of an input as [N, C, H, W], from its shape in the model's layout."""
        state = self._by_name.get(name)
        if state is None or self._artifact is None or len(shape) != 4 or state.layout == "NCHW":
            return shape
        batch, height, width, channels = shape
        if state.layout == "packed32":
            channels = self._artifact.layer(state.layer).channels
        return [batch, channels, height, width]

    def laid_out(self, name: str, array: Array) -> Array:
        """An array [N, C, H, W] as the model takes it."""
        state = self._by_name.get(name)
        return array if state is None else from_channels_first(state, array)

    def plain(self, name: str, array: Array) -> Array:
        """The inverse of ``laid_out``."""
        state = self._by_name.get(name)
        if state is None or self._artifact is None:
            return array
        return channels_first(self._artifact, state, array)

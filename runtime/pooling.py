"""Networks run below the sensor's resolution: events pooled, flow brought back to full size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from calib_data.encodings import COUNT_LIMIT, event_counts, voxel_grid
from calib_data.events import Events
from runtime.errors import EvaluationError
from runtime.metadata import Artifact
from runtime.runner import Array, Flow, Runner
from runtime.spikes import SpikeCount, spike_counts

Pooling = Literal["sum", "average"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class PooledRunner:
    """A network of h x w pixels behind the interface of one of the sensor's H x W.

    Events are encoded at H x W and pooled over blocks of H/h x W/w pixels. ``sum`` keeps whole
    event counts, what a sensor of larger pixels would have counted; it is average pooling times
    the block's area. ``average`` is what the snnTorch fork of event_flow does: a 2 x 2 block
    divides counts by 4, so its networks were trained on such fractions.

    Flow is multiplied by W/w and H/h, since a displacement of one pixel of the network is as many
    of the sensor's, and every vector is repeated over its block (nearest upsampling). States and
    spikes keep the network's own size.
    """

    def __init__(self, runner: Runner, resolution: tuple[int, int], pooling: Pooling) -> None:
        """``runner``: with a fixed resolution (h, w). ``resolution``: (H, W) of the sensor.

        Raises EvaluationError unless h divides H and w divides W, and for averages of counts where
        an integer network takes whole ones.
        """
        size = runner.resolution
        if size is None or resolution[0] % size[0] or resolution[1] % size[1]:
            small = "its own size" if size is None else f"{size[0]} x {size[1]}"
            raise EvaluationError(
                f"{resolution[0]} x {resolution[1]} pixels cannot be pooled to {small}: expected "
                "whole divisors of the height and the width; crop the recording"
            )
        if pooling == "average" and runner.artifact.is_integer:
            raise EvaluationError(
                "averages of event counts are fractions and integer networks take whole counts; "
                "pool with sum"
            )
        self._runner = runner
        self._blocks = resolution[0] // size[0], resolution[1] // size[1]
        self._pooling = pooling
        self.resolution: tuple[int, int] | None = resolution

    @property
    def artifact(self) -> Artifact:
        """The network's metadata; its flow scaling holds for the full-size flow given here."""
        return self._runner.artifact

    def encode(self, events: Events) -> Array:
        """The pooled tensor of a window: [1, bins, h, w] of the network's dtype."""
        assert self.resolution is not None
        if self.artifact.encoding == "cnt":
            full = event_counts(events, self.resolution, np.float32)
        elif self.artifact.is_integer:
            raise EvaluationError("integer networks take event counts, not voxel grids")
        else:
            full = voxel_grid(events, self.artifact.num_bins, self.resolution)
        pooled = pool(full, self._blocks, self._pooling)
        if self.artifact.is_integer:
            pooled = np.minimum(pooled, COUNT_LIMIT)
        cast: Array = pooled.astype(self.artifact.event_dtype)[np.newaxis]
        return cast

    def step(self, events: Array) -> Flow:
        """Run one pooled tensor; flow float32 [1, 2, H, W]."""
        return enlarge(self._runner.step(events), self._blocks)

    def reset(self) -> None:
        """Set the states to zero."""
        self._runner.reset()

    def states(self) -> dict[str, Array]:
        """The network's states, of its own size."""
        return self._runner.states()

    def set_states(self, states: Mapping[str, Array]) -> None:
        """Put states in place, of the network's own size."""
        self._runner.set_states(states)

    def outputs(self) -> dict[str, Array]:
        """The last step's outputs, of the network's own size and units."""
        return self._runner.outputs()

    def spikes(self) -> dict[str, Array]:
        """The last step's spikes by layer, of the network's own size."""
        return self._runner.spikes()

    def spike_counts(self) -> dict[str, SpikeCount]:
        """How many of the network's neurons fired in the last step, by layer."""
        return spike_counts(self._runner)

    def diagnostic(self) -> PooledRunner:
        """The same around the runner's diagnostic form."""
        assert self.resolution is not None
        return PooledRunner(self._runner.diagnostic(), self.resolution, self._pooling)


def pool(image: Array, blocks: tuple[int, int], pooling: Pooling) -> Array:
    """Sum or average [C, H, W] over blocks of (rows, columns) that divide H and W."""
    channels, height, width = image.shape
    rows, columns = blocks
    parts = image.reshape(channels, height // rows, rows, width // columns, columns)
    pooled: Array = parts.sum(axis=(2, 4)) if pooling == "sum" else parts.mean(axis=(2, 4))
    return pooled


def enlarge(flow: Flow, blocks: tuple[int, int]) -> Flow:
    """Flow [N, 2, h, w] in its own pixels to [N, 2, h*rows, w*columns] in the smaller pixels."""
    rows, columns = blocks
    scaled = flow * np.array([columns, rows], np.float32).reshape(1, 2, 1, 1)
    full: Flow = np.repeat(np.repeat(scaled, rows, axis=2), columns, axis=3)
    return full

"""Driving artifacts and counting what their layers do, by NeuroBench's rules.

The rules are those of Yik et al., The NeuroBench framework for benchmarking neuromorphic computing
algorithms and systems, Nature Communications 16 (2025), as its harness computes them (repository
NeuroBench/neurobench, docs/metrics/workload_metrics/synaptic_operations.rst, and in
neurobench/metrics workload/synaptic_operations.py, utils/layers/macs.py, utils/layers/input.py and
workload/membrane_updates.py):

* Dense operations: every synapse once per step. Synapses that would read the padding do not exist,
  here and below, so pixels at the border have fewer.
* Effective operations: synapses whose weight and whose input both differ from 0. A bias is none.
* The effective operations of a connection in a step are accumulates (ACs) where all its inputs are
  -1, 0 or 1, and multiply-accumulates (MACs) otherwise. Spikes always give the former; event counts
  give the latter in every window in which a pixel has two events of one polarity.
* Membrane updates: membranes that differ from those before the step; in the first step, all.

The harness counts per module. Here a recurrent layer has two connections, from its input and from
its own previous spikes, in every form of a file.

Memory traffic is that of one step in the artifact's own storage forms: parameters once, the inputs
of every connection, membranes in and out, and the layer's spikes (or the flow) out. What a runtime
keeps between the nodes of one layer, accumulators for example, is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from bench import energy
from bench.activity import dense_operations, effective_operations, is_binary
from bench.connections import HEAD, Connection, Network, Receiver, read_network
from calib_data import console
from calib_data.events import Events
from runtime.artifact import LoadedModel
from runtime.graph import output_form
from runtime.graph_checks import EVENTS
from runtime.layout import channels_first
from runtime.runner import Array, encode
from runtime.session import Settings, Stream, make_engine

TRAFFIC = ("parameters", "membranes_read", "membranes_written", "inputs_read", "outputs_written")
"""Kinds of memory traffic."""


@dataclass
class ConnectionCounts:
    """What one connection did, summed over steps.

    inputs, active: its inputs and those that were not 0. dense, acs, macs: synaptic operations.
    """

    source: str
    previous: bool
    integer: bool
    inputs: int = 0
    active: int = 0
    dense: int = 0
    acs: int = 0
    macs: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The sums as JSON values."""
        return {
            "source": self.source,
            "previous": self.previous,
            "inputs": self.inputs,
            "active": self.active,
            "dense": self.dense,
            "acs": self.acs,
            "macs": self.macs,
        }


@dataclass
class LayerCounts:
    """What one layer, or the flow head, did, summed over steps.

    neurons: chances to fire, which is also how often a membrane was computed. spikes: how often
    one fired. changed: membrane updates in NeuroBench's sense. traffic: bytes by kind.
    """

    name: str
    connections: list[ConnectionCounts]
    integer: bool | None
    neurons: int = 0
    spikes: int = 0
    changed: int = 0
    traffic: dict[str, int] = field(default_factory=dict)

    def total(self, what: str) -> int:
        """Sum of a field over the connections."""
        return sum(getattr(connection, what) for connection in self.connections)

    def energy(self, memory: str) -> dict[str, float]:
        """Picojoules; ``memory``: a key of ``energy.MEMORIES``. See ``bench.energy``."""
        parts = {"synapses": 0.0, "dense_synapses": 0.0}
        for connection in self.connections:
            kind = connection.integer
            parts["synapses"] += energy.synapse_energy(
                connection.acs, connection.macs, integer=kind
            )
            parts["dense_synapses"] += energy.synapse_energy(0, connection.dense, integer=kind)
        parts["updates"] = energy.update_energy(self.neurons, integer=bool(self.integer))
        parts["memory"] = energy.memory_energy(sum(self.traffic.values()), memory)
        return parts


@dataclass
class Synops:
    """What one artifact did over a sequence: its layers in order, the flow head last."""

    path: Path
    kind: str
    layers: list[LayerCounts]
    steps: int = 0

    def to_dict(self, memory: str) -> dict[str, Any]:
        """Means per step, and the exact sums of each connection, as JSON values."""
        rows = [layer_row(layer, self.steps, memory) for layer in self.layers]
        for row, layer in zip(rows, self.layers, strict=True):
            row["connections"] = [connection.to_dict() for connection in layer.connections]
        return {
            "file": str(self.path),
            "kind": self.kind,
            "steps": self.steps,
            "layers": rows,
            "total": total_row(self.layers, self.steps, memory),
        }


def layer_row(layer: LayerCounts, steps: int, memory: str) -> dict[str, Any]:
    """A layer's means per step by the name of a column; None where it has no such thing."""
    return {"layer": layer.name} | _row([layer], steps, memory)


def total_row(layers: Sequence[LayerCounts], steps: int, memory: str) -> dict[str, Any]:
    """The same over all layers."""
    return {"layer": "total"} | _row(layers, steps, memory)


def _row(layers: Sequence[LayerCounts], steps: int, memory: str) -> dict[str, Any]:
    def mean(values: Iterable[float]) -> float:
        return sum(values) / steps if steps else 0.0

    neurons = sum(layer.neurons for layer in layers)
    traffic = {
        f"{kind}_bytes": mean(layer.traffic.get(kind, 0) for layer in layers) for kind in TRAFFIC
    }
    energies = [layer.energy(memory) for layer in layers]
    joules = {f"{part}_pj": mean(e[part] for e in energies) for part in energies[0]}
    sizes = sum(layer.total("inputs") for layer in layers)
    return {
        "input_density": sum(layer.total("active") for layer in layers) / sizes if sizes else None,
        "spike_rate": sum(layer.spikes for layer in layers) / neurons if neurons else None,
        "dense": mean(layer.total("dense") for layer in layers),
        "acs": mean(layer.total("acs") for layer in layers),
        "macs": mean(layer.total("macs") for layer in layers),
        "neurons": mean(layer.neurons for layer in layers),
        "membrane_updates": mean(layer.changed for layer in layers),
        **traffic,
        **joules,
        "energy_pj": joules["synapses_pj"] + joules["updates_pj"] + joules["memory_pj"],
    }


class Counter:
    """Drives one artifact and counts what it does."""

    def __init__(
        self,
        loaded: LoadedModel,
        resolution: tuple[int, int],
        *,
        threads: int = 1,
        library: str = "auto",
    ) -> None:
        """Prepare the artifact for images of that size.

        Raises:
            BenchError: its synapses cannot be counted. SessionError: it does not run at that
                resolution.
        """
        self._artifact = loaded.artifact
        self._network = read_network(loaded)
        model = self._network.model
        watched = replace(loaded, model=model, data=model.SerializeToString())
        settings = Settings(threads=threads, library=library)
        engine = make_engine(watched, settings, self._network.spikes)
        self._stream = Stream(engine, resolution)
        self._size = (1, *resolution)
        self._resolution = resolution
        self._dense: dict[tuple[str, int], int] = {}
        self._traffic = _traffic(self._network, loaded, self._size)
        self._states = self._stream.states()
        layers = [
            LayerCounts(
                receiver.name,
                [ConnectionCounts(c.source, c.previous, c.integer) for c in receiver.connections],
                receiver.integer,
            )
            for receiver in self._network.receivers
        ]
        self.result = Synops(loaded.path, loaded.artifact.kind, layers)

    def encode(self, events: Events) -> Array:
        """A window as the artifact's ``events``."""
        return encode(self._artifact, events, self._resolution)

    def step(self, events: Array) -> None:
        """Advance by one window, given as ``events`` tensor, and count. See ``Stream.step``."""
        before = self._states
        self._stream.step(events, copy=False)
        self._states = after = self._stream.states()
        spikes = self._stream.spikes()
        sources: dict[tuple[str, bool], Array] = {(EVENTS, False): events}
        sources |= {(layer, False): array for layer, array in spikes.items()}
        sources |= {
            (state.layer, True): channels_first(self._artifact, state, before[state.input])
            for state in self._artifact.states
            if state.role == "spike"
        }
        for receiver, counts in zip(self._network.receivers, self.result.layers, strict=True):
            pairs = zip(receiver.connections, counts.connections, strict=True)
            for number, (connection, sums) in enumerate(pairs):
                values = sources[connection.source, connection.previous]
                self._count(connection, sums, values, (receiver.name, number))
            for kind, size in self._traffic[receiver.name].items():
                counts.traffic[kind] = counts.traffic.get(kind, 0) + size
            if receiver.name != HEAD:
                fired, name = spikes[receiver.name], f"mem.{receiver.name}"
                counts.neurons += fired.size
                counts.spikes += int(np.count_nonzero(fired))
                changed = int(np.count_nonzero(before[name] != after[name]))
                counts.changed += changed if self.result.steps else fired.size
        self.result.steps += 1

    def _count(
        self,
        connection: Connection,
        sums: ConnectionCounts,
        values: Array,
        key: tuple[str, int],
    ) -> None:
        active = values != 0
        if key not in self._dense:
            size = (values.shape[2], values.shape[3])
            self._dense[key] = dense_operations(
                values.shape[1], connection.fanout, connection.geometry, size
            )
        sums.dense += self._dense[key]
        sums.inputs += active.size
        sums.active += int(np.count_nonzero(active))
        operations = effective_operations(connection.nonzero, connection.geometry, active)
        if connection.source != EVENTS or is_binary(values):
            sums.acs += operations
        else:
            sums.macs += operations


def _traffic(
    network: Network, loaded: LoadedModel, size: tuple[int, int, int]
) -> dict[str, dict[str, int]]:
    """Bytes that each layer moves in a step, by kind; ``size`` is (N, H, W)."""
    artifact, model = loaded.artifact, network.model
    batch, height, width = size
    states = {
        (state.role, state.layer): int(np.prod(state.resolved_shape(*size)))
        * np.dtype(state.dtype).itemsize
        for state in artifact.states
    }
    events = batch * artifact.num_bins * height * width * np.dtype(artifact.event_dtype).itemsize
    spikes = {layer: _output_bytes(model, name, size) for layer, name in network.spikes.items()}

    def read(receiver: Receiver) -> int:
        total = 0
        for connection in receiver.connections:
            if connection.source == EVENTS:
                total += events
            elif connection.previous:
                total += states["spike", connection.source]
            else:
                total += spikes[connection.source]
        return total

    flow = batch * 2 * height * width * np.dtype(np.float32).itemsize
    return {
        receiver.name: dict(
            parameters=receiver.parameter_bytes,
            membranes_read=states.get(("mem", receiver.name), 0),
            membranes_written=states.get(("mem", receiver.name), 0),
            inputs_read=read(receiver),
            outputs_written=flow if receiver.name == HEAD else spikes[receiver.name],
        )
        for receiver in network.receivers
    }


def _output_bytes(model: ModelProto, name: str, size: tuple[int, int, int]) -> int:
    shape, kind = output_form(model, name, size)
    return int(np.prod(shape)) * kind.itemsize


def count(
    loaded: Sequence[LoadedModel],
    windows: Sequence[Events],
    resolution: tuple[int, int],
    *,
    threads: int = 1,
    library: str = "auto",
    quiet: bool = False,
) -> list[Synops]:
    """Drive artifacts over the same windows and count what each of them does.

    Args:
        loaded: the artifacts. windows: events, in order. resolution: (H, W).
        threads, library: as in ``runtime.session.Settings``. quiet: no progress bar.

    Raises:
        BenchError, SessionError: as ``Counter``.
    """
    counters = [Counter(model, resolution, threads=threads, library=library) for model in loaded]
    for events in console.progress(windows, "counting", len(windows), quiet=quiet):
        for counter in counters:
            counter.step(counter.encode(events))
    return [counter.result for counter in counters]

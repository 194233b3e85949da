"""Statistics of spikes and membranes per layer and channel, in constant memory.

A neuron is one channel of a layer at one pixel. Over the steps that were added:

* spike rate: spikes per neuron and step.
* dead neuron: it never fired. Dead channel: none of its neurons ever fired.
* saturated neuron: it fired in at least the share ``saturated`` of the steps. Saturated channel:
  its spike rate is at least that share.
* membranes are those after the step, thus after resets, in units of the state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.neurons import LayerMoment, LayerNeurons
from runtime.runner import Array
from runtime.streaming import Histogram

SATURATED = 0.9
Counts = npt.NDArray[np.int64]
Number = int | float
_PIXELS = (0, 2, 3)


class MembraneStatistics:
    """Extremes, means and deviations per channel of float membranes, and a histogram of all."""

    def __init__(self, channels: int) -> None:
        self.values = 0
        self.low: npt.NDArray[np.float64] = np.full(channels, np.inf)
        self.high: npt.NDArray[np.float64] = np.full(channels, -np.inf)
        self._mean: npt.NDArray[np.float64] = np.zeros(channels)
        self._squares: npt.NDArray[np.float64] = np.zeros(channels)
        self._histogram = Histogram(signed=True)

    def add(self, membranes: Array) -> None:
        """Take the membranes of a step in: [N, C, H, W].

        Means and squared deviations are merged as in Chan, Golub and LeVeque, "Updating formulae
        and a pairwise algorithm for computing sample variances" (1979).
        """
        real = membranes.astype(np.float64)
        new = real.shape[0] * real.shape[2] * real.shape[3]
        mean = real.mean(_PIXELS)
        squares = ((real - mean[:, None, None]) ** 2).sum(_PIXELS)
        total, delta = self.values + new, mean - self._mean
        self._squares += squares + delta**2 * (self.values * new / total)
        self._mean += delta * (new / total)
        self.values = total
        self.low = np.minimum(self.low, real.min(_PIXELS))
        self.high = np.maximum(self.high, real.max(_PIXELS))
        self._histogram.add(real)

    def channel(self, number: int) -> dict[str, Number]:
        """Minimum, maximum, mean and (population) standard deviation of a channel."""
        return {
            "membrane_min": float(self.low[number]),
            "membrane_max": float(self.high[number]),
            "membrane_mean": float(self._mean[number]),
            "membrane_std": math.sqrt(self._squares[number] / self.values),
        }

    def histogram(self) -> tuple[npt.NDArray[np.float64], Counts]:
        """Edges [B + 1] and counts [B] of all channels."""
        return self._histogram.edges, self._histogram.counts


class IntegerMembraneStatistics:
    """The same of integer membranes: sums are integers of any size, so that nothing is rounded."""

    def __init__(self, channels: int, dtype: str) -> None:
        limits = np.iinfo(dtype)
        self.limits = (int(limits.min), int(limits.max))
        self.values = 0
        self.low = [self.limits[1]] * channels
        self.high = [self.limits[0]] * channels
        self._sums = [0] * channels
        self._squares = [0] * channels
        self._counts: Counts = np.zeros(self.limits[1] - self.limits[0] + 1, np.int64)

    def add(self, membranes: Array) -> None:
        """Take the membranes of a step in: [N, C, H, W]."""
        whole = membranes.astype(np.int64)
        self.values += whole.shape[0] * whole.shape[2] * whole.shape[3]
        sums, squares = whole.sum(_PIXELS), (whole * whole).sum(_PIXELS)
        lows, highs = whole.min(_PIXELS), whole.max(_PIXELS)
        for number in range(len(self._sums)):
            self._sums[number] += int(sums[number])
            self._squares[number] += int(squares[number])
            self.low[number] = min(self.low[number], int(lows[number]))
            self.high[number] = max(self.high[number], int(highs[number]))
        shifted = whole.ravel() - self.limits[0]
        self._counts += np.bincount(shifted, minlength=len(self._counts))

    def channel(self, number: int) -> dict[str, Number]:
        """Minimum, maximum, mean and (population) standard deviation of a channel."""
        total = self._sums[number]
        # Exact until the last division and root.
        spread = self.values * self._squares[number] - total * total
        return {
            "membrane_min": self.low[number],
            "membrane_max": self.high[number],
            "membrane_mean": total / self.values,
            "membrane_std": math.sqrt(spread / self.values**2),
        }

    def histogram(self) -> tuple[npt.NDArray[np.float64], Counts]:
        """Edges [B + 1], half way between integers, and counts [B]: one bin per integer seen."""
        used = np.flatnonzero(self._counts)
        first, last = int(used[0]), int(used[-1])
        edges: npt.NDArray[np.float64] = np.arange(first, last + 2).astype(np.float64)
        edges += self.limits[0] - 0.5
        return edges, self._counts[first : last + 1].copy()


class LayerActivity:
    """What is gathered about one layer.

    fired: int64 [N, C, H, W], in how many steps each neuron fired; None before the first step and
    where spikes are not shown.
    """

    def __init__(self, neurons: LayerNeurons) -> None:
        self.neurons = neurons
        self.steps = 0
        self.fired: Counts | None = None
        self.membranes: MembraneStatistics | IntegerMembraneStatistics | None = None

    def add(self, moment: LayerMoment) -> None:
        """Take a step in."""
        self.steps += 1
        if moment.spikes is not None:
            if self.fired is None:
                self.fired = np.zeros(moment.spikes.shape, np.int64)
            self.fired += moment.spikes != 0
        if moment.membranes is not None:
            if self.membranes is None:
                self.membranes = self._fresh(moment.membranes)
            self.membranes.add(moment.membranes)

    def _fresh(self, membranes: Array) -> MembraneStatistics | IntegerMembraneStatistics:
        channels = self.neurons.channels
        if np.issubdtype(membranes.dtype, np.integer):
            return IntegerMembraneStatistics(channels, membranes.dtype.name)
        return MembraneStatistics(channels)

    def spike_rates(self) -> npt.NDArray[np.float64] | None:
        """Float64 [C], spikes per neuron and step; None where spikes are not shown."""
        if self.fired is None:
            return None
        neurons = self.fired.size // self.neurons.channels
        return self.fired.sum(_PIXELS) / (neurons * self.steps)

    def rows(self, saturated: float = SATURATED) -> list[dict[str, Any]]:
        """One row of values per channel; None where the file does not show one."""
        return [self._row(number, saturated) for number in range(self.neurons.channels)]

    def _row(self, number: int, saturated: float) -> dict[str, Any]:
        row: dict[str, Any] = {"layer": self.neurons.name, "channel": number, "steps": self.steps}
        row |= self._spikes(number, saturated)
        empty = dict.fromkeys(("membrane_min", "membrane_max", "membrane_mean", "membrane_std"))
        row |= empty if self.membranes is None else self.membranes.channel(number)
        whole = self.neurons.integer
        for name, values, is_whole in (
            ("membrane_unit", self.neurons.unit, False),
            ("threshold", self.neurons.threshold, whole),
            ("threshold_real", self.neurons.threshold_real, False),
            ("decay", self.neurons.decay, whole),
            ("decay_real", self.neurons.decay_real, False),
        ):
            value = None if values is None else float(values[number])
            row[name] = int(value) if value is not None and is_whole else value
        return row

    def _spikes(self, number: int, saturated: float) -> dict[str, Any]:
        if self.fired is None:
            names = ("neurons", "spikes", "spike_rate", "dead", "saturated")
            return dict.fromkeys((*names, "dead_neurons", "saturated_neurons"))
        fired = self.fired[:, number]
        spikes = int(fired.sum())
        rate = spikes / (fired.size * self.steps)
        return {
            "neurons": int(fired.size),
            "spikes": spikes,
            "spike_rate": rate,
            "dead": spikes == 0,
            "saturated": rate >= saturated,
            "dead_neurons": int((fired == 0).sum()),
            "saturated_neurons": int((fired / self.steps >= saturated).sum()),
        }

    def to_dict(self, saturated: float = SATURATED) -> dict[str, Any]:
        """The layer as JSON values: totals, a row per channel, and the membranes' histogram."""
        rows = self.rows(saturated)
        shown = self.fired is not None
        total: dict[str, Any] = {
            "neurons": sum(row["neurons"] for row in rows) if shown else None,
            "spikes": sum(row["spikes"] for row in rows) if shown else None,
            "spike_rate": sum(row["spike_rate"] for row in rows) / len(rows) if shown else None,
        }
        for name in ("dead", "saturated"):
            total[f"{name}_channels"] = [r["channel"] for r in rows if r[name]] if shown else None
            total[f"{name}_neurons"] = sum(r[f"{name}_neurons"] for r in rows) if shown else None
        histogram = None
        if self.membranes is not None:
            edges, counts = self.membranes.histogram()
            used = np.flatnonzero(counts)
            histogram = {
                "lower_edge": edges[used].tolist(),
                "width": float(edges[1] - edges[0]),
                "count": counts[used].tolist(),
            }
        return {
            "name": self.neurons.name,
            "reset": self.neurons.reset,
            "membrane_dtype": self.neurons.dtype,
            "integer_neuron": self.neurons.integer,
            **total,
            "channels": rows,
            "membrane_histogram": histogram,
        }


class Activity:
    """What is gathered about a network: call ``add`` after every step."""

    def __init__(self, neurons: Mapping[str, LayerNeurons]) -> None:
        self.layers = {name: LayerActivity(layer) for name, layer in neurons.items()}

    def add(self, moments: Mapping[str, LayerMoment]) -> None:
        """Take the layers after a step in (``runtime.neurons.look``)."""
        for name, layer in self.layers.items():
            layer.add(moments[name])

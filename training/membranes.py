"""What narrow membranes cost, layer by layer: unit, saturation, and currents lost to rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quant import IntegerNetwork, IntegerState, LayerSpec, NetworkSpec
from quant.spec import membrane_limits
from training.data import Sequence


@dataclass(frozen=True)
class MembraneReport:
    """One layer. threshold: median over channels, in membrane units; the fewer, the coarser.
    saturated: share of membranes at a limit after a step. rounded_away: share of the currents that
    are not zero and become zero in membrane units. fired: share of neurons that fired."""

    layer: str
    mem_bits: int
    threshold: float
    saturated: float
    rounded_away: float
    fired: float


class _Watch(IntegerNetwork):
    """Counts per layer what the neurons did: [neurons, saturated, fired, currents, lost]."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self.totals = {layer.name: np.zeros(5, np.int64) for layer in spec.layers}

    def fire(self, layer: LayerSpec, acc: Tensor, mem: Tensor) -> IntegerState:
        after = super().fire(layer, acc, mem)
        low, high = membrane_limits(layer.mem_bits)
        current = self.current(layer, acc)
        # Half a unit is rounded up, towards positive infinity.
        half = 2 ** (-layer.frac_bits - 1) if layer.frac_bits < 0 else 0
        lost = (current != 0) & (current >= -half) & (current < half)
        saturated = (after.mem == low) | (after.mem == high)
        counts = [saturated, after.spike, current != 0, lost]
        self.totals[layer.name] += [acc.numel(), *(int(x.count_nonzero()) for x in counts)]
        return after


def watch_membranes(spec: NetworkSpec, scene: Sequence) -> list[MembraneReport]:
    """Drive an integer network over one scene of event counts, from the zero state."""
    network = _Watch(spec)
    states: dict[str, IntegerState] = {}
    for counts in scene.counts:
        states = network.step(torch.from_numpy(counts[None]), states).states
    return [_report(layer, network.totals[layer.name]) for layer in spec.layers]


def _report(layer: LayerSpec, totals: np.ndarray) -> MembraneReport:
    neurons, saturated, fired, currents, lost = (int(total) for total in totals)
    return MembraneReport(
        layer.name,
        layer.mem_bits,
        float(np.median(layer.threshold)),
        saturated / neurons,
        lost / max(currents, 1),
        fired / neurons,
    )

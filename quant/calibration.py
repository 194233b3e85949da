"""Driving a network over recorded windows: what float layers and integer layers do on them.

The state is carried along each sequence and starts at zero with every new one. It is never reset
in between, because a spiking network's ranges are those of its running state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import LIFState, ModelConfig, SpikingFireNet, lif_step
from quant.emulation import IntegerNetwork
from quant.errors import QuantError
from quant.hybrid import network_of
from quant.spec import CURRENT_ZERO_POINT, LayerSpec, NetworkSpec, membrane_limits
from quant.stepping import NeuronState, SteppedNetwork

_CURRENT_QUANTILE = 0.9999
_SAMPLES = 50_000


@dataclass(frozen=True)
class LayerCalibration:
    """What one layer did on the calibration windows.

    current_range: nearly the largest magnitude (quantile 0.9999) of the float current.
    spike_rate: share of neurons that fired, float network.
    membrane_range: largest magnitude of the float membrane before its reset; None where it was not
        recorded.
    """

    current_range: float
    spike_rate: float
    membrane_range: float | None = None


@dataclass(frozen=True)
class LayerActivity:
    """What one quantized layer did on the calibration windows.

    spike_rate: share of neurons that fired. clipped_current: share of accumulators outside the
    range a current can have, that of its 8 bits included where it is requantized. saturated_mem:
    share of membranes at a limit after the step. Float neurons have no limits: both are 0.
    """

    spike_rate: float
    clipped_current: float
    saturated_mem: float


def check_encoding(config: ModelConfig) -> None:
    """Raise QuantError unless the network takes event counts."""
    if config.encoding != "cnt":
        raise QuantError(
            "integer graphs take event counts; voxel input needs signed bytes with a power-of-two "
            "scale, which is not supported: train with encoding cnt, or export the float graph"
        )


@dataclass(frozen=True)
class FloatLayerStep:
    """One layer in one step of the float network, all float32.

    x: input [N, Cin, H, W]. spike_prev: its own previous spikes. current, mem: of this step, mem
    before the reset.
    """

    name: str
    x: Tensor
    spike_prev: Tensor
    current: Tensor
    mem: Tensor
    state: LIFState


def float_steps(
    model: SpikingFireNet, windows: Iterable[Tensor]
) -> Iterator[tuple[list[FloatLayerStep], Tensor]]:
    """Run the float network over one sequence and show the inside of every step.

    Args:
        model: float network in canonical form.
        windows: float32 [N, num_bins, H, W] each, consecutive.

    Yields:
        the layers of one step in order, and the flow float32 [N, 2, H, W].
    """
    states: dict[str, LIFState] = {}
    for events in windows:
        with torch.no_grad():
            x, rows = events, []
            for name, layer in model.named_layers():
                state = states.get(name) or layer.initial_state(x)
                current = layer.current(x, state.spike)
                beta, threshold = layer.effective_beta(), layer.effective_threshold()
                mem = beta.view(1, -1, 1, 1) * state.mem + current
                after = lif_step(current, state.mem, beta, threshold, layer.reset)
                states[name] = LIFState(after[1], after[0])
                rows.append(FloatLayerStep(name, x, state.spike, current, mem, states[name]))
                x = states[name].spike
            flow = torch.tanh(model.pred(x))
        yield rows, flow


def calibrate(model: SpikingFireNet, *sequences: Iterable[Tensor]) -> dict[str, LayerCalibration]:
    """Drive the float network over sequences, state carried along each, and record each layer.

    Args:
        model: float network in canonical form.
        sequences: consecutive windows, float32 [N, num_bins, H, W] each.

    Raises:
        QuantError: voxel input, no windows, or a layer that never fires on them.
    """
    check_encoding(model.config)
    generator = torch.Generator().manual_seed(0)
    currents: dict[str, float] = {}
    membranes: dict[str, float] = {}
    rates: dict[str, list[float]] = {}
    for windows in sequences:
        for rows, _ in float_steps(model, windows):
            for row in rows:
                seen = _quantile(row.current, generator)
                currents[row.name] = max(currents.get(row.name, 0.0), seen)
                largest = float(row.mem.abs().max())
                membranes[row.name] = max(membranes.get(row.name, 0.0), largest)
                rates.setdefault(row.name, []).append(float(row.state.spike.mean()))
    if not rates:
        raise QuantError("calibration needs at least one window of events")
    result = {
        name: LayerCalibration(currents[name], float(np.mean(rates[name])), membranes[name])
        for name in rates
    }
    for name, seen_layer in result.items():
        if seen_layer.spike_rate == 0:
            raise QuantError(
                f"layer {name!r} never fires on the calibration windows; use windows with more "
                "events, or a trained network"
            )
    return result


def _quantile(current: Tensor, generator: torch.Generator) -> float:
    flat = current.abs().flatten()
    if len(flat) > _SAMPLES:
        flat = flat[torch.randint(len(flat), (_SAMPLES,), generator=generator)]
    return float(torch.quantile(flat, _CURRENT_QUANTILE))


def observe(spec: NetworkSpec, *sequences: Iterable[Tensor]) -> dict[str, LayerActivity]:
    """Drive a quantized network over sequences, state carried along each, and record each layer.

    Args:
        spec: its integers.
        sequences: consecutive windows, uint8 [N, num_bins, H, W] each.

    Raises:
        QuantError: no windows.
    """
    network: SteppedNetwork[Any] = network_of(spec)
    rows: dict[str, list[tuple[float, float, float]]] = {layer.name: [] for layer in spec.layers}
    for windows in sequences:
        states: dict[str, Any] = {}
        for events in windows:
            x = events
            for layer in spec.layers:
                before = states.get(layer.name) or network.initial_state(layer, x)
                acc = network.accumulate(layer, x, before.spike)
                after = states[layer.name] = network.fire(layer, acc, before.mem)
                rows[layer.name].append(_activity(network, layer, acc, after))
                x = after.spike.to(torch.uint8)
    if not all(rows.values()):
        raise QuantError("observation needs at least one window of events")
    return {
        name: LayerActivity(*(float(v) for v in np.mean(row, axis=0))) for name, row in rows.items()
    }


def _activity(
    network: SteppedNetwork[Any], layer: LayerSpec, acc: Tensor, state: NeuronState
) -> tuple[float, float, float]:
    spike_rate = float(state.spike.float().mean())
    if not isinstance(network, IntegerNetwork):
        return spike_rate, 0.0, 0.0
    lo, hi = membrane_limits(layer.mem_bits)
    saturated = (state.mem == lo) | (state.mem == hi)
    return (
        spike_rate,
        float(_clipped(network, layer, acc).float().mean()),
        float(saturated.float().mean()),
    )


def _clipped(network: IntegerNetwork, layer: LayerSpec, acc: Tensor) -> Tensor:
    """Where the accumulator lies outside what the neuron's current can be; bool."""
    lo, hi = membrane_limits(layer.mem_bits)
    wide, f = network.current(layer, acc).to(torch.int64), layer.frac_bits
    if f >= 0:
        span = (hi + 1) >> f
        clipped = (wide < -span) | (wide > span - 1)
    else:
        units = (wide + (1 << (-f - 1))) >> -f
        clipped = (units < lo) | (units > hi)
    if layer.current == "uint8":
        rounded = torch.round(acc.float() * torch.from_numpy(layer.multiplier).view(1, -1, 1, 1))
        clipped |= (rounded < -CURRENT_ZERO_POINT) | (rounded >= CURRENT_ZERO_POINT)
    return clipped

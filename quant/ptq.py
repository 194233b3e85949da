"""Post-training quantization: a trained float network to the integers of a NetworkSpec.

Weights are quantized per output channel by Brevitas; decay, threshold and bias follow from them
(:mod:`quant.spec`). Calibration drives the float network over recorded windows with its state
carried along, and supplies what weights alone do not tell: the membrane's fractional bits when it
has only 8, and the ranges of the currents for graphs that requantize them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import ConvLIF, LIFState, SpikingFireNet
from quant.emulation import IntegerNetwork, IntegerState
from quant.errors import QuantError
from quant.quantizers import quantize_weight
from quant.spec import (
    COUNT_LIMIT,
    ConvSpec,
    Float64,
    Int32,
    LayerSpec,
    NetworkSpec,
    check_frac_bits,
    derive_bias,
    derive_decay,
    derive_threshold,
    membrane_limits,
)

_CURRENT_QUANTILE = 0.9999
_SAMPLES = 50_000


@dataclass(frozen=True)
class QuantOptions:
    """weight_bits: 2 to 8. mem_bits: 8 or 16. frac_bits: one value for every layer, or None for
    0 with 16-bit membranes and a calibrated value with 8-bit ones."""

    weight_bits: int = 7
    mem_bits: int = 16
    frac_bits: int | None = None


@dataclass(frozen=True)
class LayerCalibration:
    """What one layer did on the calibration windows.

    current_range: nearly the largest magnitude (quantile 0.9999) of the float current.
    spike_rate: share of neurons that fired, float network.
    """

    current_range: float
    spike_rate: float


@dataclass(frozen=True)
class LayerActivity:
    """What one integer layer did on the calibration windows.

    spike_rate: share of neurons that fired. clipped_current: share of accumulators outside the
    range a current can have. saturated_mem: share of membranes at a limit after the step.
    """

    spike_rate: float
    clipped_current: float
    saturated_mem: float


def _double(tensor: Tensor) -> Float64:
    return tensor.detach().cpu().numpy().astype(np.float64)


@torch.no_grad()
def calibrate(model: SpikingFireNet, windows: Iterable[Tensor]) -> dict[str, LayerCalibration]:
    """Drive the float network over windows, state carried, and record each layer.

    Args:
        model: float network in canonical form.
        windows: float32 [N, num_bins, H, W] each, consecutive.

    Raises:
        QuantError: voxel input, no windows, or a layer that never fires on them.
    """
    _check_encoding(model)
    generator = torch.Generator().manual_seed(0)
    ranges: dict[str, float] = {}
    rates: dict[str, list[float]] = {}
    states: dict[str, LIFState] = {}
    for events in windows:
        x = events
        for name, layer in model.named_layers():
            state = states.get(name) or layer.initial_state(x)
            seen = _quantile(layer.current(x, state.spike), generator)
            ranges[name] = max(ranges.get(name, 0.0), seen)
            x, states[name] = layer(x, state)
            rates.setdefault(name, []).append(float(x.mean()))
    if not states:
        raise QuantError("calibration needs at least one window of events")
    result = {name: LayerCalibration(ranges[name], float(np.mean(rates[name]))) for name in ranges}
    for name, seen_layer in result.items():
        if seen_layer.spike_rate == 0:
            raise QuantError(
                f"layer {name!r} never fires on the calibration windows; use windows with more "
                "events, or a trained network"
            )
    return result


def _check_encoding(model: SpikingFireNet) -> None:
    if model.config.encoding != "cnt":
        raise QuantError(
            "integer graphs take event counts; voxel input needs signed bytes with a power-of-two "
            "scale, which is not supported: train with encoding cnt, or export the float graph"
        )


def _quantile(current: Tensor, generator: torch.Generator) -> float:
    flat = current.abs().flatten()
    if len(flat) > _SAMPLES:
        flat = flat[torch.randint(len(flat), (_SAMPLES,), generator=generator)]
    return float(torch.quantile(flat, _CURRENT_QUANTILE))


def quantize(
    model: SpikingFireNet,
    options: QuantOptions = QuantOptions(),
    calibration: dict[str, LayerCalibration] | None = None,
) -> NetworkSpec:
    """Derive the integer network.

    Args:
        model: float network in canonical form.
        options: bit widths.
        calibration: needed for 8-bit membranes without a given frac_bits.

    Raises:
        QuantError: voxel input, impossible bit widths, a batch norm that was not folded, a bias
            that fits no 32 bits, or missing calibration.
    """
    membrane_limits(options.mem_bits)
    _check_encoding(model)
    layers = []
    for index, (name, layer) in enumerate(model.named_layers()):
        x_max = COUNT_LIMIT if index == 0 else 1
        seen = None if calibration is None else calibration[name]
        layers.append(_quantize_layer(name, layer, x_max, options, seen))
    return NetworkSpec(
        model=model.config.model,
        encoding=model.config.encoding,
        num_bins=model.config.num_bins,
        flow_scaling=model.config.flow_scaling,
        weight_bits=options.weight_bits,
        layers=tuple(layers),
        head=_quantize_head(model, options.weight_bits),
        checkpoint_sha256=model.checkpoint_sha256,
    )


def _quantize_layer(
    name: str,
    layer: ConvLIF,
    x_max: int,
    options: QuantOptions,
    calibration: LayerCalibration | None,
) -> LayerSpec:
    if layer.norm is not None:
        raise QuantError(f"layer {name!r} has a batch norm; quantize model.folded()")
    weight, weight_rec, scale = quantize_weight(layer.weight, layer.weight_rec, options.weight_bits)
    frac_bits = _choose_frac_bits(name, options, scale, calibration)
    check_frac_bits(frac_bits, options.mem_bits)
    threshold = _double(layer.effective_threshold())
    return LayerSpec(
        name=name,
        conv=ConvSpec(weight, _bias(name, layer.bias, scale), scale, layer.stride, x_max),
        weight_rec=weight_rec,
        decay=derive_decay(_double(layer.effective_beta())),
        threshold=derive_threshold(threshold, scale, frac_bits, options.mem_bits),
        frac_bits=frac_bits,
        mem_bits=options.mem_bits,
        reset=layer.reset,
    )


def _choose_frac_bits(
    name: str, options: QuantOptions, scale: Float64, calibration: LayerCalibration | None
) -> int:
    if options.frac_bits is not None:
        return options.frac_bits
    if options.mem_bits == 16:
        return 0
    if calibration is None:
        raise QuantError(f"layer {name!r}: 8-bit membranes need calibration or frac_bits")
    _, hi = membrane_limits(options.mem_bits)
    # The typical channel decides; a rare large current may saturate, as on the real axis it
    # only exceeds the threshold by more.
    units = calibration.current_range / float(np.median(scale))
    return -max(0, int(np.ceil(np.log2(max(units, 1.0) / hi))))


def _quantize_head(model: SpikingFireNet, bits: int) -> ConvSpec:
    weight, _, scale = quantize_weight(model.pred.weight, None, bits)
    if model.pred.bias is None:
        raise QuantError("the flow head has no bias")
    return ConvSpec(weight, _bias("pred", model.pred.bias, scale), scale, 1, 1)


def _bias(name: str, bias: Tensor, scale: Float64) -> Int32:
    try:
        return derive_bias(_double(bias), scale)
    except QuantError as error:
        raise QuantError(f"layer {name!r}: {error}") from None


def observe(spec: NetworkSpec, windows: Iterable[Tensor]) -> dict[str, LayerActivity]:
    """Drive the integer network over windows and record each layer.

    Args:
        spec: the integer network.
        windows: uint8 [N, num_bins, H, W] each, consecutive.

    Raises:
        QuantError: no windows.
    """
    network = IntegerNetwork(spec)
    states: dict[str, IntegerState] | None = None
    rows: dict[str, list[tuple[float, float, float]]] = {layer.name: [] for layer in spec.layers}
    for events in windows:
        previous = states
        states = network.step(events, states).states
        x = events
        for layer in spec.layers:
            before = (previous or {}).get(layer.name) or network.initial_state(layer, x)
            acc = network.accumulate(layer, x, before.spike)
            rows[layer.name].append(_activity(layer, acc, states[layer.name]))
            x = states[layer.name].spike
    if states is None:
        raise QuantError("observation needs at least one window of events")
    return {
        name: LayerActivity(*(float(v) for v in np.mean(row, axis=0))) for name, row in rows.items()
    }


def _activity(layer: LayerSpec, acc: Tensor, state: IntegerState) -> tuple[float, float, float]:
    lo, hi = membrane_limits(layer.mem_bits)
    wide, f = acc.to(torch.int64), layer.frac_bits
    if f >= 0:
        span = (hi + 1) >> f
        clipped = (wide < -span) | (wide > span - 1)
    else:
        units = (wide + (1 << (-f - 1))) >> -f
        clipped = (units < lo) | (units > hi)
    saturated = (state.mem == lo) | (state.mem == hi)
    return (
        float(state.spike.float().mean()),
        float(clipped.float().mean()),
        float(saturated.float().mean()),
    )

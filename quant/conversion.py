"""From a trained float network to the integers of a NetworkSpec.

Weights are quantized per output channel; decay, threshold and bias follow from them
(:mod:`quant.spec`). Calibration supplies what weights alone do not tell: the membrane's fractional
bits when it has only 8, and the scale of a current that is requantized.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from calib_data.encodings import COUNT_LIMIT
from models import ConvLIF, SpikingFireNet
from quant.calibration import LayerCalibration, check_encoding
from quant.errors import QuantError
from quant.options import DEFAULT_OPTIONS, HEAD, LayerBits, QuantOptions
from quant.quantizers import concatenated, quantize_weight, tensor_scale
from quant.scales import Moments, search_scale
from quant.spec import (
    ConvSpec,
    Float64,
    Int8,
    Int32,
    LayerSpec,
    NetworkSpec,
    check_frac_bits,
    derive_bias,
    derive_decay,
    derive_threshold,
    membrane_limits,
    threshold_frac_bits,
)

CURRENT_LIMIT = 127
_SILENT_FRAC_BITS = -15


def quantize(
    model: SpikingFireNet,
    options: QuantOptions = DEFAULT_OPTIONS,
    calibration: dict[str, LayerCalibration] | None = None,
    moments: Moments | None = None,
) -> NetworkSpec:
    """Derive the integer network.

    Args:
        model: float network in canonical form.
        options: bit widths.
        calibration: needed for 8-bit membranes without given frac_bits, and for uint8 currents.
        moments: of each convolution's inputs (:func:`quant.scales.measure_moments`), by which the
            scale search weighs the errors of weights; without them all weigh the same.

    Raises:
        QuantError: voxel input, impossible options, a batch norm that was not folded, a bias
            that fits no 32 bits, or missing calibration.
    """
    check_encoding(model.config)
    names = [name for name, _ in model.named_layers()]
    options.check(names)
    layers = []
    for index, (name, layer) in enumerate(model.named_layers()):
        x_max = COUNT_LIMIT if index == 0 else 1
        seen = None if calibration is None else calibration[name]
        layers.append(_quantize_layer(name, layer, x_max, options, seen, moments))
    return NetworkSpec(
        model=model.config.model,
        encoding=model.config.encoding,
        num_bins=model.config.num_bins,
        flow_scaling=model.config.flow_scaling,
        weight_bits=max(options.of(name).weight_bits for name in [*names, HEAD]),
        layers=tuple(layers),
        head=_quantize_head(model, options, moments),
        checkpoint_sha256=model.checkpoint_sha256,
        neuron=options.neuron,
    )


def _quantize_layer(
    name: str,
    layer: ConvLIF,
    x_max: int,
    options: QuantOptions,
    calibration: LayerCalibration | None,
    moments: Moments | None,
) -> LayerSpec:
    if layer.norm is not None:
        raise QuantError(f"layer {name!r} has a batch norm; quantize model.folded()")
    bits = options.of(name)
    weight, weight_rec, scale = _weights(name, layer.weight, layer.weight_rec, options, moments)
    threshold = _double(layer.effective_threshold())
    current_scale = _current_scale(name, options, calibration)
    unit = scale if current_scale is None else np.full(len(scale), current_scale)
    if options.neuron == "float":
        frac_bits = threshold_frac_bits(threshold, unit)
    else:
        frac_bits = _choose_frac_bits(name, bits, current_scale, unit, threshold, calibration)
    check_frac_bits(frac_bits, bits.mem_bits)
    return LayerSpec(
        name=name,
        conv=ConvSpec(weight, _bias(name, layer.bias, scale), scale, layer.stride, x_max),
        weight_rec=weight_rec,
        decay=derive_decay(_double(layer.effective_beta())),
        threshold=derive_threshold(threshold, unit, frac_bits, bits.mem_bits),
        frac_bits=frac_bits,
        mem_bits=bits.mem_bits,
        reset=layer.reset,
        current=options.current,
        current_scale=current_scale,
        weight_bits=bits.weight_bits,
    )


def _weights(
    name: str,
    weight: Tensor,
    weight_rec: Tensor | None,
    options: QuantOptions,
    moments: Moments | None,
) -> tuple[Int8, Int8 | None, Float64]:
    bits = options.of(name).weight_bits
    scale = None
    if options.scale_search:
        moment = None if moments is None else moments[name]
        scale = search_scale(weight, weight_rec, bits, moment).scale
    elif options.per_tensor:
        scale = tensor_scale(concatenated(weight, weight_rec), bits)
    return quantize_weight(weight, weight_rec, bits, scale)


def _current_scale(
    name: str, options: QuantOptions, calibration: LayerCalibration | None
) -> float | None:
    """s_y, a float32 value: nearly the largest current fills the 8 bits."""
    if options.current == "accumulator":
        return None
    if calibration is None:
        raise QuantError(f"layer {name!r}: uint8 currents need calibration")
    return float(np.float32(calibration.current_range / CURRENT_LIMIT))


def _choose_frac_bits(
    name: str,
    bits: LayerBits,
    current_scale: float | None,
    unit: Float64,
    threshold: Float64,
    calibration: LayerCalibration | None,
) -> int:
    if bits.frac_bits is not None:
        return bits.frac_bits
    if current_scale is not None:
        return _finest(name, bits.mem_bits, current_scale, threshold, calibration)
    if bits.mem_bits == 16:
        return 0
    if calibration is None:
        raise QuantError(f"layer {name!r}: 8-bit membranes need calibration or frac_bits")
    _, hi = membrane_limits(bits.mem_bits)
    # The typical channel decides; a rare large current may saturate, as on the real axis it
    # only exceeds the threshold by more. A threshold at the limit would never be exceeded.
    units = max(
        calibration.current_range / float(np.median(unit)) / hi,
        float(np.median(threshold / unit)) / (hi - 1),
        1.0 / hi,
    )
    return -max(0, math.ceil(math.log2(units)))


def _finest(
    name: str,
    mem_bits: int,
    current_scale: float,
    threshold: Float64,
    calibration: LayerCalibration | None,
) -> int:
    """Most fractional bits with which no membrane of the calibration saturates."""
    if calibration is None or calibration.membrane_range is None:
        raise QuantError(f"layer {name!r}: uint8 currents need calibration with membrane ranges")
    _, hi = membrane_limits(mem_bits)
    largest = max(calibration.membrane_range, float(np.median(threshold)))
    finest = math.floor(math.log2((hi - 1) * current_scale / largest))
    return max(_SILENT_FRAC_BITS, min(finest, mem_bits - 2))


def _quantize_head(
    model: SpikingFireNet, options: QuantOptions, moments: Moments | None
) -> ConvSpec:
    weight, _, scale = _weights(HEAD, model.pred.weight, None, options, moments)
    if model.pred.bias is None:
        raise QuantError("the flow head has no bias")
    return ConvSpec(weight, _bias(HEAD, model.pred.bias, scale), scale, 1, 1)


def _bias(name: str, bias: Tensor, scale: Float64) -> Int32:
    try:
        return derive_bias(_double(bias), scale)
    except QuantError as error:
        raise QuantError(f"layer {name!r}: {error}") from None


def _double(tensor: Tensor) -> Float64:
    return tensor.detach().cpu().numpy().astype(np.float64)

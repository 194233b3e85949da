"""The QDQ graph: standard QuantizeLinear/DequantizeLinear with real scales around ``snn::LIF``.

Meant for other people's compilers. Event counts and spikes are uint8 with scale 1 (exact);
weights int8 per output channel; biases int32; each current is requantized to uint8 with zero
point 128, which is the form stock ONNX Runtime fuses into QLinearConv. A recurrent layer
concatenates its two inputs, so it is one convolution with one output quantizer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir

import lif_op.spec
from export.graphs.builder import Dims, GraphBuilder
from export.graphs.floating import add_neuron, float_artifact
from models import SpikingFireNet
from quant.calibration import LayerCalibration
from quant.spec import ConvSpec, LayerSpec, NetworkSpec

CURRENT_ZERO_POINT = 128
CURRENT_LEVELS = 127


def _unit_quantize(builder: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    """Counts or spikes to uint8 with scale 1."""
    return builder.op("QuantizeLinear", [x, *_unit(builder)], f"{name}.q")


def _unit(builder: GraphBuilder) -> list[ir.Value]:
    return [builder.scalar("unit.scale", 1.0, np.float32), builder.scalar("unit.zero", 0, np.uint8)]


def _constants(
    builder: GraphBuilder, conv: ConvSpec, weight: np.ndarray, name: str
) -> list[ir.Value]:
    """Dequantized weight and bias of a convolution with unit input scale."""
    channels = weight.shape[0]
    scale = builder.constant(f"{name}.scale", conv.weight_scale.astype(np.float32))
    weight_zero = builder.constant(f"{name}.weight_zero", np.zeros(channels, np.int8))
    bias_zero = builder.constant(f"{name}.bias_zero", np.zeros(channels, np.int32))
    weight_q = builder.constant(f"{name}.weight", weight)
    bias_q = builder.constant(f"{name}.bias", conv.bias)
    return [
        builder.op("DequantizeLinear", [weight_q, scale, weight_zero], f"{name}.w", {"axis": 0}),
        builder.op("DequantizeLinear", [bias_q, scale, bias_zero], f"{name}.b", {"axis": 0}),
    ]


def _current(
    builder: GraphBuilder,
    x: ir.Value,
    layer: LayerSpec,
    current_range: float,
    dims: Dims,
) -> ir.Value:
    name, weight = layer.name, layer.conv.weight
    x_q = _unit_quantize(builder, x, f"{name}.x")
    if layer.weight_rec is not None:
        previous = builder.state_input("spike", name, "float32", dims.shape(layer.channels))
        previous_q = _unit_quantize(builder, previous, f"{name}.prev")
        x_q = builder.op("Concat", [x_q, previous_q], f"{name}.inputs", {"axis": 1})
        weight = np.concatenate([weight, layer.weight_rec], axis=1)
    x_dq = builder.op("DequantizeLinear", [x_q, *_unit(builder)], f"{name}.x_dq")
    attributes = {"strides": [layer.conv.stride] * 2, "pads": [layer.conv.padding] * 4}
    inputs = [x_dq, *_constants(builder, layer.conv, weight, name)]
    current = builder.op("Conv", inputs, f"{name}.conv", attributes)
    scale = builder.scalar(f"{name}.current_scale", current_range / CURRENT_LEVELS, np.float32)
    zero = builder.scalar("current.zero", CURRENT_ZERO_POINT, np.uint8)
    current_q = builder.op("QuantizeLinear", [current, scale, zero], f"{name}.current_q")
    return builder.op("DequantizeLinear", [current_q, scale, zero], f"{name}.current")


def qdq_model(
    model: SpikingFireNet,
    spec: NetworkSpec,
    calibration: dict[str, LayerCalibration],
    dims: Dims,
) -> onnx.ModelProto:
    """Build the QDQ artifact.

    Before: the float graph. After: the same graph with a quantizer on every convolution's input,
    weight, bias and output; neurons, decay and threshold stay float.

    Args:
        model: float network, for the neurons.
        spec: its integers, for weights and biases.
        calibration: for the ranges of the currents.
        dims: fixed or free spatial dimensions.
    """
    builder = GraphBuilder(model.config.model)
    x = builder.input("events", "float32", dims.shape(model.config.num_bins))
    for (name, layer), integers in zip(model.named_layers(), spec.layers, strict=True):
        current = _current(builder, x, integers, calibration[name].current_range, dims)
        x = add_neuron(builder, current, name, layer, dims)
    x_q = _unit_quantize(builder, x, "pred.x")
    x_dq = builder.op("DequantizeLinear", [x_q, *_unit(builder)], "pred.x_dq")
    inputs = [x_dq, *_constants(builder, spec.head, spec.head.weight, "pred")]
    acc = builder.op("Conv", inputs, "pred.conv", {"strides": [1, 1], "pads": [0] * 4})
    builder.output(builder.op("Tanh", [acc], "flow"), "float32", dims.shape(2))
    artifact = float_artifact(builder, model, dims, kind="qdq")
    layers = tuple(
        replace(layer, weight_bits=integers.weight_bits)
        for layer, integers in zip(artifact.layers, spec.layers, strict=True)
    )
    return builder.model([lif_op.spec.function("LIF")], replace(artifact, layers=layers))

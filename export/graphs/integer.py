"""The integer graph: ``snn::QConv`` and ``snn::QLIF``, integers from the counts to ``flow_acc``."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

import lif_op.spec
from export.graphs.builder import Dims, GraphBuilder, tool_version
from quant.spec import ConvSpec, LayerSpec, NetworkSpec
from runtime.metadata import Artifact, Layer


def _conv(builder: GraphBuilder, x: ir.Value, conv: ConvSpec, name: str) -> ir.Value:
    return builder.op(
        "QConv",
        [
            x,
            builder.constant(f"{name}.weight", conv.weight),
            builder.constant(f"{name}.bias", conv.bias),
        ],
        f"{name}.acc",
        {"strides": [conv.stride] * 2, "pads": [conv.padding] * 4},
        domain=lif_op.spec.DOMAIN,
    )


def _accumulator(builder: GraphBuilder, x: ir.Value, layer: LayerSpec, dims: Dims) -> ir.Value:
    acc = _conv(builder, x, layer.conv, layer.name)
    if layer.weight_rec is None:
        return acc
    previous = builder.state_input("spike", layer.name, "uint8", dims.shape(layer.channels))
    recurrent = ConvSpec(
        layer.weight_rec,
        np.zeros(layer.channels, np.int32),
        layer.conv.weight_scale,
        stride=1,
        x_max=1,
    )
    acc_rec = _conv(builder, previous, recurrent, f"{layer.name}.rec")
    return builder.op("Add", [acc, acc_rec], f"{layer.name}.acc_sum")


def add_integer_layer(builder: GraphBuilder, x: ir.Value, layer: LayerSpec, dims: Dims) -> ir.Value:
    """Add one integer ConvLIF layer with its states; returns the spikes."""
    acc = _accumulator(builder, x, layer, dims)
    shape, mem_type = dims.shape(layer.channels), f"int{layer.mem_bits}"
    mem = builder.state_input("mem", layer.name, mem_type, shape)
    spike, mem_out = builder.neuron(
        "QLIF",
        [
            acc,
            mem,
            builder.constant(f"{layer.name}.decay", layer.decay),
            builder.constant(f"{layer.name}.threshold", layer.threshold),
        ],
        layer.name,
        {"frac_bits": layer.frac_bits, "reset": layer.reset},
    )
    builder.state_output(mem_out, mem_type, shape)
    if layer.weight_rec is not None:
        builder.state_output(spike, "uint8", shape)
    return spike


def integer_functions(spec: NetworkSpec) -> list[onnx.FunctionProto]:
    """Bodies of QConv and QLIF; QConv in its strict form if float32 sums could be inexact."""
    strict = not spec.exact_in_float32()
    return [lif_op.spec.function("QConv", strict_conv=strict), lif_op.spec.function("QLIF")]


def integer_model(spec: NetworkSpec, dims: Dims) -> onnx.ModelProto:
    """Build the integer artifact.

    Before: ``DequantizeLinear -> Conv -> LIF`` with a scale per convolution. After: the scales of
    every spiking layer have moved into its threshold and vanished; input ``events`` uint8, output
    ``flow_acc`` int32, and ``flow = tanh(flow_acc * scale)`` as the only float step.
    """
    builder = GraphBuilder(spec.model)
    x = builder.input("events", "uint8", dims.shape(spec.num_bins))
    for layer in spec.layers:
        x = add_integer_layer(builder, x, layer, dims)
    acc = _conv(builder, x, spec.head, "pred")
    acc.name = "flow_acc"
    scale = spec.head.weight_scale.astype(np.float32).reshape(1, -1, 1, 1)
    real = builder.op("Cast", [acc], "flow_acc_float", {"to": int(ir.DataType.FLOAT)})
    scaled = builder.op("Mul", [real, builder.constant("pred.scale", scale)], "flow_pre")
    builder.output(builder.op("Tanh", [scaled], "flow"), "float32", dims.shape(2))
    builder.output(acc, "int32", dims.shape(2))
    return builder.model(integer_functions(spec), _artifact(builder, spec, dims))


def layer_metadata(spec: NetworkSpec, layer: LayerSpec) -> Layer:
    """What an integer artifact records about a layer."""
    return Layer(
        name=layer.name,
        recurrent=layer.weight_rec is not None,
        channels=layer.channels,
        kernel=layer.conv.weight.shape[2],
        stride=layer.conv.stride,
        reset=layer.reset,
        frac_bits=layer.frac_bits,
        mem_bits=layer.mem_bits,
        weight_bits=spec.weight_bits,
        decay=tuple(int(v) for v in layer.decay),
        threshold=tuple(int(v) for v in layer.threshold),
        weight_scale=tuple(float(v) for v in layer.conv.weight_scale),
    )


def _artifact(builder: GraphBuilder, spec: NetworkSpec, dims: Dims) -> Artifact:
    return Artifact(
        model=spec.model,
        kind="int8",
        encoding=spec.encoding,
        num_bins=spec.num_bins,
        resolution=dims.resolution,
        spatial_free=dims.free,
        flow_scaling=spec.flow_scaling,
        states=tuple(builder.states),
        layers=tuple(layer_metadata(spec, layer) for layer in spec.layers),
        head={"weight_scale": [float(v) for v in spec.head.weight_scale]},
        checkpoint_sha256=spec.checkpoint_sha256,
        version=tool_version(),
    )

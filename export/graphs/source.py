"""The source graph: a quantized network in the canonical QDQ spelling.

Every convolution has dequantized inputs, every membrane is an integer state between a
``DequantizeLinear`` and a ``QuantizeLinear`` around ``snn::LIF`` (or a float32 state, where only
the convolutions are quantized), and every constant says with its scale which integer it stands for.
It is what both PyTorch exporters give after the canonicalising passes, and what the passes turn
into integer graphs: the integers of the :class:`quant.spec.NetworkSpec` can be read back from it
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

import lif_op.spec
from export.graphs.builder import Dims, GraphBuilder, tool_version
from quant.spec import CURRENT_ZERO_POINT, ConvSpec, LayerSpec, NetworkSpec
from runtime.metadata import Artifact, Layer, State


def source_model(spec: NetworkSpec, dims: Dims, *, conv_only: bool = False) -> onnx.ModelProto:
    """Build the source graph of a network.

    Input ``events`` float32 [N, num_bins, H, W], output ``flow`` float32 [N, 2, H, W]; states
    ``mem.<layer>`` int16 or int8 and, of recurrent layers, ``spike.<layer>`` float32, all NCHW.
    A file of kind ``qdq``.

    Args:
        spec: the integers.
        dims: fixed or free batch and spatial dimensions.
        conv_only: only the convolutions are quantized: membranes are float32 states. Networks with
            float neurons have no other form.
    """
    builder, conv_only = GraphBuilder(spec.model), conv_only or spec.neuron == "float"
    x = builder.input("events", "float32", dims.shape(spec.num_bins))
    for layer in spec.layers:
        x = add_source_layer(builder, x, layer, dims, conv_only=conv_only)
    acc = _conv(builder, _unit_quantized(builder, x, "pred.x"), spec.head, spec.head.weight, "pred")
    builder.output(builder.op("Tanh", [acc], "flow"), "float32", dims.shape(2))
    artifact = source_artifact(builder.states, spec, dims)
    return builder.model([lif_op.spec.function("LIF")], artifact)


def add_source_layer(
    builder: GraphBuilder, x: ir.Value, layer: LayerSpec, dims: Dims, *, conv_only: bool = False
) -> ir.Value:
    """Add one quantized ConvLIF layer with its states; returns the spikes, float32 0 or 1."""
    shape = dims.shape(layer.channels)
    current = _current(builder, x, layer, dims)
    dtype = "float32" if conv_only else f"int{layer.mem_bits}"
    mem = builder.state_input("mem", layer.name, dtype, shape)
    grid = [] if conv_only else _membrane_grid(builder, layer)
    axis = {"axis": 1} if layer.current == "accumulator" else None
    if not conv_only:
        mem = builder.op("DequantizeLinear", [mem, *grid], f"{layer.name}.mem_dq", axis)
    inputs = [
        current,
        mem,
        builder.constant(f"{layer.name}.beta", layer.real_beta),
        builder.constant(f"{layer.name}.threshold", layer.real_threshold),
    ]
    spike, mem_out = builder.neuron("LIF", inputs, layer.name, {"reset": layer.reset})
    if not conv_only:
        mem_out.name = f"{layer.name}.mem_real"
        mem_out = builder.op("QuantizeLinear", [mem_out, *grid], f"mem_out.{layer.name}", axis)
    builder.state_output(mem_out, dtype, shape)
    if layer.weight_rec is not None:
        builder.state_output(spike, "float32", shape)
    return spike


def _membrane_grid(builder: GraphBuilder, layer: LayerSpec) -> list[ir.Value]:
    """Scale and zero point of a layer's membrane: per channel, or scalars for uint8 currents."""
    scale = layer.membrane_unit.astype(np.float32)
    zero = np.zeros(scale.shape, f"int{layer.mem_bits}")
    name = layer.name
    if layer.current_scale is not None:
        return [
            builder.scalar(f"{name}.mem_scale", float(scale[0]), np.float32),
            builder.scalar(f"{name}.mem_zero", 0, zero.dtype),
        ]
    return [
        builder.constant(f"{name}.mem_scale", scale),
        builder.constant(f"{name}.mem_zero", zero),
    ]


def _unit_quantized(builder: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    """Counts or spikes through uint8 with scale 1, which loses nothing."""
    unit = [builder.scalar("unit.scale", 1.0, np.float32), builder.scalar("unit.zero", 0, np.uint8)]
    quantized = builder.op("QuantizeLinear", [x, *unit], f"{name}_q")
    return builder.op("DequantizeLinear", [quantized, *unit], f"{name}_dq")


def _current(builder: GraphBuilder, x: ir.Value, layer: LayerSpec, dims: Dims) -> ir.Value:
    name, weight = layer.name, layer.conv.weight
    x = _unit_quantized(builder, x, f"{name}.x")
    if layer.weight_rec is not None:
        previous = builder.state_input("spike", name, "float32", dims.shape(layer.channels))
        both = [x, _unit_quantized(builder, previous, f"{name}.prev")]
        x = builder.op("Concat", both, f"{name}.inputs", {"axis": 1})
        weight = np.concatenate([weight, layer.weight_rec], axis=1)
    current = _conv(builder, x, layer.conv, weight, name)
    if layer.current_scale is None:
        return current
    grid = [
        builder.scalar(f"{name}.current_scale", layer.current_scale, np.float32),
        builder.scalar("current.zero", CURRENT_ZERO_POINT, np.uint8),
    ]
    quantized = builder.op("QuantizeLinear", [current, *grid], f"{name}.current_q")
    return builder.op("DequantizeLinear", [quantized, *grid], f"{name}.current")


def _conv(
    builder: GraphBuilder, x: ir.Value, conv: ConvSpec, weight: npt.NDArray[np.int8], name: str
) -> ir.Value:
    """A convolution with dequantized weight and bias, for an input of scale 1."""
    channels = weight.shape[0]
    scale = builder.constant(f"{name}.scale", conv.weight_scale.astype(np.float32))
    inputs = [x]
    for what, integers in (("weight", weight), ("bias", conv.bias)):
        zero = builder.constant(f"{name}.{what}_zero", np.zeros(channels, integers.dtype))
        values = builder.constant(f"{name}.{what}", integers)
        inputs.append(
            builder.op("DequantizeLinear", [values, scale, zero], f"{name}.{what}_dq", {"axis": 0})
        )
    attributes = {"strides": [conv.stride] * 2, "pads": [conv.padding] * 4}
    return builder.op("Conv", inputs, f"{name}.conv", attributes)


def _layer_metadata(layer: LayerSpec) -> Layer:
    return Layer(
        name=layer.name,
        recurrent=layer.weight_rec is not None,
        channels=layer.channels,
        kernel=layer.conv.weight.shape[2],
        stride=layer.conv.stride,
        reset=layer.reset,
        weight_bits=layer.weight_bits,
    )


def source_artifact(states: Sequence[State], spec: NetworkSpec, dims: Dims) -> Artifact:
    """Metadata of a source graph, whoever built it."""
    return Artifact(
        model=spec.model,
        kind="qdq",
        encoding=spec.encoding,
        num_bins=spec.num_bins,
        resolution=dims.resolution,
        spatial_free=dims.free,
        flow_scaling=spec.flow_scaling,
        states=tuple(states),
        layers=tuple(_layer_metadata(layer) for layer in spec.layers),
        checkpoint_sha256=spec.checkpoint_sha256,
        version=tool_version(),
    )

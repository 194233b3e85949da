"""The float graph: ``Conv`` and ``snn::LIF``, float32 throughout."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from torch import Tensor

import lif_op.spec
from export.errors import ExportError
from export.graphs.builder import Dims, GraphBuilder, tool_version
from models import ConvLIF, SpikingFireNet
from runtime.metadata import Artifact, Layer


def array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A parameter as float32 NumPy array."""
    return tensor.detach().cpu().numpy().astype(np.float32)


def conv_attributes(layer: ConvLIF) -> dict[str, list[int]]:
    """Strides and pads of a layer's feed-forward convolution."""
    return {"strides": [layer.stride] * 2, "pads": [layer.kernel_size // 2] * 4}


def layer_metadata(name: str, layer: ConvLIF) -> Layer:
    """What a float artifact records about a layer."""
    return Layer(
        name=name,
        recurrent=layer.recurrent,
        channels=layer.channels,
        kernel=layer.kernel_size,
        stride=layer.stride,
        reset=layer.reset,
    )


def add_neuron(
    builder: GraphBuilder, current: ir.Value, name: str, layer: ConvLIF, dims: Dims
) -> ir.Value:
    """Add ``snn::LIF`` with its states to the graph; returns the spikes."""
    shape = dims.shape(layer.channels)
    mem = builder.state_input("mem", name, "float32", shape)
    spike, mem_out = builder.neuron(
        "LIF",
        [
            current,
            mem,
            builder.constant(f"{name}.beta", array(layer.effective_beta())),
            builder.constant(f"{name}.threshold", array(layer.effective_threshold())),
        ],
        name,
        {"reset": layer.reset},
    )
    builder.state_output(mem_out, "float32", shape)
    if layer.recurrent:
        builder.state_output(spike, "float32", shape)
    return spike


def _current(builder: GraphBuilder, x: ir.Value, name: str, layer: ConvLIF, dims: Dims) -> ir.Value:
    if layer.norm is not None:
        raise ExportError(f"layer {name!r} has a batch norm; export model.folded()")
    weight = builder.constant(f"{name}.weight", array(layer.weight))
    bias = builder.constant(f"{name}.bias", array(layer.bias))
    current = builder.op("Conv", [x, weight, bias], f"{name}.conv", conv_attributes(layer))
    if layer.weight_rec is None:
        return current
    previous = builder.state_input("spike", name, "float32", dims.shape(layer.channels))
    weight_rec = builder.constant(f"{name}.weight_rec", array(layer.weight_rec))
    attributes = {"strides": [1, 1], "pads": [layer.kernel_size // 2] * 4}
    recurrent = builder.op("Conv", [previous, weight_rec], f"{name}.conv_rec", attributes)
    return builder.op("Add", [current, recurrent], f"{name}.current")


def add_float_layer(
    builder: GraphBuilder, x: ir.Value, name: str, layer: ConvLIF, dims: Dims
) -> ir.Value:
    """Add one float ConvLIF layer with its states; returns the spikes."""
    return add_neuron(builder, _current(builder, x, name, layer, dims), name, layer, dims)


def float_model(model: SpikingFireNet, dims: Dims) -> onnx.ModelProto:
    """Build the float artifact.

    Before: a network in PyTorch, state in Python. After: input ``events`` float32
    [N, num_bins, H, W], output ``flow`` float32 [N, 2, H, W], every membrane and every previous
    spike an explicit input and output.
    """
    builder = GraphBuilder(model.config.model)
    x = builder.input("events", "float32", dims.shape(model.config.num_bins))
    for name, layer in model.named_layers():
        x = add_float_layer(builder, x, name, layer, dims)
    add_float_head(builder, x, model, dims)
    return builder.model([lif_op.spec.function("LIF")], float_artifact(builder, model, dims))


def add_float_head(builder: GraphBuilder, x: ir.Value, model: SpikingFireNet, dims: Dims) -> None:
    """Add the 1x1 convolution and tanh that turn spikes into flow."""
    if model.pred.bias is None:
        raise ValueError("the flow head has no bias")
    weight = builder.constant("pred.weight", array(model.pred.weight))
    bias = builder.constant("pred.bias", array(model.pred.bias))
    acc = builder.op("Conv", [x, weight, bias], "pred.conv", {"strides": [1, 1], "pads": [0] * 4})
    builder.output(builder.op("Tanh", [acc], "flow"), "float32", dims.shape(2))


def float_artifact(
    builder: GraphBuilder, model: SpikingFireNet, dims: Dims, kind: str = "float"
) -> Artifact:
    """Metadata of a graph with float neurons."""
    return Artifact(
        model=model.config.model,
        kind=kind,
        encoding=model.config.encoding,
        num_bins=model.config.num_bins,
        resolution=dims.resolution,
        spatial_free=dims.free,
        flow_scaling=model.config.flow_scaling,
        states=tuple(builder.states),
        layers=tuple(layer_metadata(name, layer) for name, layer in model.named_layers()),
        checkpoint_sha256=model.checkpoint_sha256,
        version=tool_version(),
    )

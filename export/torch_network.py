"""A quantized network of the family as a PyTorch module that both exporters can take.

The module shows the integers of a :class:`quant.spec.NetworkSpec` to Brevitas: its convolutions
are ``QuantConv2d`` whose scales are constants, so the exported weights, biases and scales are those
of the spec and nothing is estimated again. Membranes are integer states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from brevitas.core.scaling import PowerOfTwoIntScaling
from brevitas.inject.enum import ScalingImplType
from brevitas.nn import QuantConv2d, QuantIdentity
from brevitas.quant import Int8WeightPerChannelFloat, Int32Bias, Uint8ActPerTensorFloat
from torch import Tensor, nn

import lif_op.spec
from export.errors import ExportError
from export.graphs.builder import Dims, tool_version
from export.graphs.source import source_artifact
from export.torch_graph import DynamicAxes, Route, export_qdq
from export.torch_lif import dequantize, lif, quantize
from quant.spec import CURRENT_ZERO_POINT, ConvSpec, LayerSpec, NetworkSpec
from runtime.metadata import METADATA_KEY, Artifact, State

_MEM_TYPES = {8: torch.int8, 16: torch.int16}


class UnitActivation(Uint8ActPerTensorFloat):  # type: ignore[misc]
    """Counts and spikes: uint8 with the constant scale 1, which loses nothing."""

    scaling_impl_type = ScalingImplType.CONST
    scaling_init = 255.0


def _weight_quantizer(scale: npt.NDArray[np.float64]) -> type[Int8WeightPerChannelFloat]:
    """An int8 weight quantizer of constant scale per channel.

    Brevitas divides a threshold by the number of levels; with a power of two the quotient is the
    scale itself, bit for bit.
    """
    threshold = torch.from_numpy(scale * 128).float().view(-1, 1, 1, 1)
    return type(
        "FixedInt8Weight",
        (Int8WeightPerChannelFloat,),
        {
            "scaling_impl_type": ScalingImplType.CONST,
            "scaling_init": threshold,
            "int_scaling_impl": PowerOfTwoIntScaling,
            "narrow_range": True,
        },
    )


def _float32(values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def quantized_conv(conv: ConvSpec, weight: npt.NDArray[np.int8], name: str) -> QuantConv2d:
    """A Brevitas convolution that holds these integers.

    Args:
        conv: scale, bias and stride.
        weight: int8 [Cout, Cin, k, k]; of a recurrent layer both convolutions', side by side.
        name: of the layer, for errors.

    Raises:
        ExportError: Brevitas reads other integers back, which a bias beyond 24 bits causes.
    """
    layer = QuantConv2d(
        weight.shape[1],
        weight.shape[0],
        weight.shape[2],
        stride=conv.stride,
        padding=conv.padding,
        weight_quant=_weight_quantizer(conv.weight_scale),
        bias_quant=Int32Bias,
    )
    scale = conv.weight_scale
    with torch.no_grad():
        layer.weight.copy_(_float32(weight * scale[:, None, None, None]))
        layer.bias.copy_(_float32(conv.bias * scale))
    read = layer.eval().quant_weight()
    biases = np.rint(layer.bias.detach().numpy() / scale.astype(np.float32))
    if not (
        np.array_equal(read.int().numpy(), weight)
        and np.array_equal(read.scale.detach().numpy().reshape(-1), scale.astype(np.float32))
        and np.array_equal(biases, conv.bias)
    ):
        raise ExportError(
            f"layer {name!r}: its integers do not survive float32 parameters; build the graph "
            "from the integers (export.graphs.source)"
        )
    return layer


class QuantizedLayer(nn.Module):
    """One ConvLIF layer: quantized convolution, then ``torch.ops.snn.lif`` on integer states.

    Args:
        layer: its integers.
        conv_only: the membrane stays float32.
    """

    beta: Tensor
    threshold: Tensor
    mem_scale: Tensor
    mem_zero: Tensor
    current_scale: Tensor | None
    current_zero: Tensor | None

    def __init__(self, layer: LayerSpec, *, conv_only: bool) -> None:
        super().__init__()
        self.recurrent = layer.weight_rec is not None
        self.reset, self.conv_only = layer.reset, conv_only
        parts = [layer.conv.weight] + ([] if layer.weight_rec is None else [layer.weight_rec])
        self.input_quant = QuantIdentity(act_quant=UnitActivation, return_quant_tensor=True)
        if self.recurrent:
            self.previous_quant = QuantIdentity(act_quant=UnitActivation, return_quant_tensor=True)
        self.conv = quantized_conv(layer.conv, np.concatenate(parts, axis=1), layer.name)
        current = None if layer.current_scale is None else np.array(layer.current_scale)
        unit = layer.conv.weight_scale if current is None else current
        mem_scale = _float32(unit / np.array(2.0**layer.frac_bits))
        mem_type = _MEM_TYPES[layer.mem_bits]
        zero = torch.tensor(CURRENT_ZERO_POINT, dtype=torch.uint8)
        self.register_buffer("beta", torch.from_numpy(layer.real_beta))
        self.register_buffer("threshold", torch.from_numpy(layer.real_threshold))
        self.register_buffer("mem_scale", mem_scale)
        self.register_buffer("mem_zero", torch.zeros(mem_scale.shape, dtype=mem_type))
        self.register_buffer("current_scale", None if current is None else _float32(current))
        self.register_buffer("current_zero", None if current is None else zero)

    def forward(self, x: Tensor, mem: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        """Spikes float32 and the new membrane, from input, membrane and previous spikes."""
        inputs = self.input_quant(x)
        if previous is not None:
            inputs = torch.cat([inputs, self.previous_quant(previous)], 1)
        current = self.conv(inputs)
        if self.current_scale is not None and self.current_zero is not None:
            levels = quantize(current, self.current_scale, self.current_zero)
            current = dequantize(levels, self.current_scale, self.current_zero)
        real = mem if self.conv_only else dequantize(mem, self.mem_scale, self.mem_zero)
        spike, after = lif(current, real, self.beta, self.threshold, self.reset)
        return spike, after if self.conv_only else quantize(after, self.mem_scale, self.mem_zero)


class QuantizedNetwork(nn.Module):
    """All layers and the flow head; events and states in, flow and states out, as flat tuples.

    Args:
        spec: the integers.
        conv_only: membranes are float32 states.
    """

    def __init__(self, spec: NetworkSpec, *, conv_only: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            QuantizedLayer(layer, conv_only=conv_only) for layer in spec.layers
        )
        self.pred_quant = QuantIdentity(act_quant=UnitActivation, return_quant_tensor=True)
        self.pred = quantized_conv(spec.head, spec.head.weight, "pred")
        self.eval()

    def forward(self, events: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step.

        Args:
            events: float32 [N, num_bins, H, W].
            states: layer by layer the previous spikes (recurrent layers) and the membrane.

        Returns:
            flow float32 [N, 2, H, W], then layer by layer the membrane and the spikes (recurrent
            layers).
        """
        given, x, after = iter(states), events, []
        for layer in self.layers:
            previous = next(given) if layer.recurrent else None
            x, mem = layer(x, next(given), previous)
            after += [mem, x] if layer.recurrent else [mem]
        return torch.tanh(self.pred(self.pred_quant(x))), *after


def _states(spec: NetworkSpec, dims: Dims, conv_only: bool) -> list[State]:
    """States in the order of the network's inputs."""
    states = []
    for layer in spec.layers:
        mem_type = "float32" if conv_only else f"int{layer.mem_bits}"
        roles = [("mem", mem_type)]
        if layer.weight_rec is not None:
            roles.insert(0, ("spike", "float32"))
        for role, dtype in roles:
            names = f"{role}.{layer.name}", f"{role}_out.{layer.name}"
            states.append(State(*names, role, "NCHW", dtype, dims.shape(layer.channels)))
    return states


def _outputs(states: list[State]) -> list[State]:
    """The same in the order of the network's outputs: a layer's membrane first."""
    layers = list(dict.fromkeys(state.layer for state in states))
    return sorted(states, key=lambda state: (layers.index(state.layer), state.role != "mem"))


def export_network(
    spec: NetworkSpec, dims: Dims, route: Route = "torchscript", *, conv_only: bool = False
) -> onnx.ModelProto:
    """Export a quantized network through PyTorch, to be canonicalised by the passes.

    Args:
        spec: the integers.
        dims: fixed or free batch and spatial dimensions.
        route: "torchscript" or "dynamo".
        conv_only: membranes are float32 states.

    Returns:
        the exporter's graph under the interface of :func:`export.graphs.source.source_model`:
        ``events``, ``flow``, ``mem.<layer>``, ``spike.<layer>`` and their outputs, with the
        metadata and the function body of ``snn::LIF``.

    Raises:
        ExportError: the integers do not survive float32 parameters, or the export fails.
    """
    network = QuantizedNetwork(spec, conv_only=conv_only)
    states = _states(spec, dims, conv_only)
    outputs = _outputs(states)
    events = torch.zeros(1, spec.num_bins, *dims.resolution)
    example = (events, *(_zeros(state, dims.resolution) for state in states))
    names = ["events", *(state.input for state in states)]
    output_names = ["flow", *(state.output for state in outputs)]
    axes: DynamicAxes | None = None
    if dims.free:
        axes = {name: {0: "N", 2: "H", 3: "W"} for name in [*names, *output_names]}
    model = export_qdq(
        network,
        example,
        route=route,
        input_names=names,
        output_names=output_names,
        dynamic_axes=axes,
    )
    _restore_biases(model.graph, [*(layer.conv for layer in spec.layers), spec.head])
    shapes = [dims.shape(spec.num_bins), *(state.shape for state in states)]
    _declare(model.graph.input, shapes)
    _declare(model.graph.output, [dims.shape(2), *(state.shape for state in outputs)])
    return _described(model, source_artifact(states, spec, dims))


def _restore_biases(graph: onnx.GraphProto, convs: Sequence[ConvSpec]) -> None:
    """Give back the biases that are zero, which the dynamo exporter's optimiser drops."""
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    for node, conv in zip(nodes, convs, strict=True):
        if len(node.input) == 2:
            name = f"{node.name}.bias"
            zeros = np.zeros(conv.bias.shape, np.float32)
            graph.initializer.append(onnx.numpy_helper.from_array(zeros, name))
            node.input.append(name)


def _zeros(state: State, resolution: tuple[int, int]) -> Tensor:
    shape = state.resolved_shape(1, *resolution)
    return torch.zeros(shape, dtype=getattr(torch, state.dtype))


def _declare(
    declared: Iterable[onnx.ValueInfoProto], shapes: Sequence[tuple[int | str, ...]]
) -> None:
    """Write shapes as the artifact's metadata has them; exporters invent names for free axes."""
    for value, shape in zip(declared, shapes, strict=True):
        kind = value.type.tensor_type.elem_type
        value.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, shape))


def _described(model: onnx.ModelProto, artifact: Artifact) -> onnx.ModelProto:
    """Metadata, the neuron's body and its domain, as in every artifact of the house."""
    # What exporters infer about inner values has their own names for free axes.
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.functions[:]
    model.functions.append(lif_op.spec.function("LIF"))
    known = {entry.domain for entry in model.opset_import}
    if lif_op.spec.DOMAIN not in known:
        model.opset_import.add(domain=lif_op.spec.DOMAIN, version=lif_op.spec.DOMAIN_VERSION)
    onnx.helper.set_model_props(model, {METADATA_KEY: artifact.to_json()})
    model.graph.name = artifact.model
    model.producer_name, model.producer_version = "spikedeploy", tool_version()
    onnx.checker.check_model(model)
    return model

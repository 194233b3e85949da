"""The integer graph: ``snn::QConvLIF``, integers from the counts to ``flow_acc``.

It is the source graph after a few passes, which move every scale into a threshold or behind the
flow head's accumulator, and make one op of every convolution and its neuron.
"""

from __future__ import annotations

import onnx

from export.graphs.builder import Dims
from export.graphs.source import source_model
from export.passes.attach_functions import AttachFunctions
from export.passes.base import GraphPass
from export.passes.clean import Clean
from export.passes.expose_flow_accumulator import ExposeFlowAccumulator
from export.passes.fuse_conv_lif import FuseConvLif
from export.passes.fuse_qlinear import FuseQLinear
from export.passes.integer_inputs import IntegerInputs
from export.passes.lower_lif import LowerLif
from export.passes.run import run_passes
from export.passes.sink_dequantize import SinkDequantize
from quant.spec import NetworkSpec

SEPARATE: tuple[type[GraphPass], ...] = (
    SinkDequantize,
    IntegerInputs,
    LowerLif,
    ExposeFlowAccumulator,
    FuseQLinear,
    Clean,
)
"""What turns a source graph into an integer one of ``snn::QConv`` and ``snn::QLIF``, in order."""

PASSES: tuple[type[GraphPass], ...] = (*SEPARATE, FuseConvLif)
"""The same and the fused ops: what turns a source graph into the integer artifact."""


def integer_model(spec: NetworkSpec, dims: Dims, *, fused: bool = True) -> onnx.ModelProto:
    """Build the integer artifact.

    Before: the source graph, ``DequantizeLinear -> Conv -> LIF`` with a scale per convolution.
    After: the scales of every spiking layer have moved into its threshold and vanished; input
    ``events`` uint8, output ``flow_acc`` int32, and ``flow = tanh(flow_acc * scale)`` as the only
    float step. Spikes are packed, 32 channels to a word, and membranes have their channels last.
    Layers with uint8 currents keep one requantization, as ``QLinearConv``, and a separate neuron.

    Args:
        spec: the integers.
        dims: fixed or free batch and spatial dimensions.
        fused: False keeps convolutions and neurons apart, spikes as bytes and channels first.
    """
    return lower(source_model(spec, dims), fused=fused)


def lower(source: onnx.ModelProto, *, fused: bool = True) -> onnx.ModelProto:
    """Turn a source graph into an integer graph with the bodies of its ops.

    Args:
        source: in canonical QDQ form.
        fused: False keeps convolutions and neurons apart.

    Raises:
        PassError: a node that has no integer form.
    """
    passes = PASSES if fused else SEPARATE
    return run_passes(source, [*(entry() for entry in passes), AttachFunctions()])[0]

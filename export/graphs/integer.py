"""The integer graph: ``snn::QConv`` and ``snn::QLIF``, integers from the counts to ``flow_acc``.

It is the source graph after a few passes, which move every scale into a threshold or behind the
flow head's accumulator.
"""

from __future__ import annotations

import onnx

from export.graphs.builder import Dims
from export.graphs.source import source_model
from export.passes.attach_functions import AttachFunctions
from export.passes.base import GraphPass
from export.passes.clean import Clean
from export.passes.expose_flow_accumulator import ExposeFlowAccumulator
from export.passes.fuse_qlinear import FuseQLinear
from export.passes.integer_inputs import IntegerInputs
from export.passes.lower_lif import LowerLif
from export.passes.run import run_passes
from export.passes.sink_dequantize import SinkDequantize
from quant.spec import NetworkSpec

PASSES: tuple[type[GraphPass], ...] = (
    SinkDequantize,
    IntegerInputs,
    LowerLif,
    ExposeFlowAccumulator,
    FuseQLinear,
    Clean,
)
"""What turns a source graph into an integer one, in order."""


def integer_model(spec: NetworkSpec, dims: Dims) -> onnx.ModelProto:
    """Build the integer artifact.

    Before: the source graph, ``DequantizeLinear -> Conv -> LIF`` with a scale per convolution.
    After: the scales of every spiking layer have moved into its threshold and vanished; input
    ``events`` uint8, output ``flow_acc`` int32, and ``flow = tanh(flow_acc * scale)`` as the only
    float step. A recurrent layer convolves its input and its previous spikes side by side. Layers
    with uint8 currents keep one requantization, as ``QLinearConv``.

    Args:
        spec: the integers.
        dims: fixed or free batch and spatial dimensions.
    """
    return lower(source_model(spec, dims))


def lower(source: onnx.ModelProto) -> onnx.ModelProto:
    """Turn a source graph into an integer graph with the bodies of its ops.

    Args:
        source: in canonical QDQ form.

    Raises:
        PassError: a node that has no integer form.
    """
    return run_passes(source, [*(entry() for entry in PASSES), AttachFunctions()])[0]

"""The flow head's accumulator becomes an output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.passes.artifact import follow_graph, read_artifact, write_artifact
from export.passes.base import Array, GraphPass, constant, producer
from export.passes.quantizers import quantized_type
from lif_op.spec import DOMAIN
from runtime.graph_checks import FLOW, FLOW_ACC


class ExposeFlowAccumulator(GraphPass):
    """Show the last integers of the network, which runtimes agree on where ``tanh`` differs.

    Before::

        QConv -> acc i32 -> DequantizeLinear (or Cast, Mul) -> Tanh -> flow

    After: the same, with ``acc`` as graph output ``flow_acc`` int32 [N, 2, H, W] behind ``flow``
    and before the states.
    """

    name = "expose_flow_accumulator"
    summary = "the flow head's int32 accumulator becomes graph output flow_acc"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        outputs = model.graph.outputs
        names = [value.name for value in outputs]
        if FLOW not in names or FLOW_ACC in names:
            return 0
        flow = outputs[names.index(FLOW)]
        found = _accumulator(flow)
        if found is None:
            return 0
        acc, scale = found
        acc.name, acc.shape = FLOW_ACC, flow.shape
        acc.type = ir.TensorType(ir.DataType.INT32)
        outputs.insert(names.index(FLOW) + 1, acc)
        artifact = read_artifact(model)
        if artifact is not None:
            scales = np.broadcast_to(scale.astype(np.float64).reshape(-1), 2)
            head = {**artifact.head, "weight_scale": [float(v) for v in scales]}
            write_artifact(model, replace(artifact, head=head))
            follow_graph(model)
        return 1


def _accumulator(flow: ir.Value) -> tuple[ir.Value, Array] | None:
    """The int32 tensor behind the flow's tanh and its scale, [2] or a scalar."""
    tanh = producer(flow, "Tanh")
    if tanh is None:
        return None
    dequantize = producer(tanh.inputs[0], "DequantizeLinear")
    if dequantize is not None:
        acc, scale = dequantize.inputs[0], constant(dequantize.inputs[1])
        integer = quantized_type(dequantize) == np.int32
    else:
        multiply = producer(tanh.inputs[0], "Mul")
        cast = None if multiply is None else producer(multiply.inputs[0], "Cast")
        if multiply is None or cast is None:
            return None
        acc, scale = cast.inputs[0], constant(multiply.inputs[1])
        known = producer(acc, "QConv", DOMAIN) is not None
        integer = known or (acc is not None and acc.dtype == ir.DataType.INT32)
    if not integer or acc is None or scale is None or scale.size not in (1, 2):
        return None
    return None if acc.is_graph_input() or acc.is_graph_output() else (acc, scale)

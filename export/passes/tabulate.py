"""Elementwise functions of one 8-bit tensor become tables of their 256 values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import lif_op.spec
from export.arithmetic import quantize
from export.passes.base import Array, GraphPass, constant, is_op
from export.passes.dequantized import Emitter, Facts, Quantized, dequantized, infer, quantizer

_NAMES = """
    Abs Add Cast Ceil Celu Clip Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu
    Log Max Min Mish Mul Neg Pow Reciprocal Relu Round Selu Sigmoid Sign Softplus Softsign Sqrt Sub
    Tanh ThresholdedRelu
"""
ELEMENTWISE = frozenset(_NAMES.split())
"""Operators whose every output element depends on the elements at its place alone."""

_LONGEST = 64


class Tabulate(GraphPass):
    """Look results up instead of computing them in float.

    Before::

        q u8 -> DQ -> Add(3) -> Clip(0, 6) -> Mul(x) -> Div(6) -> Q
                 \\------------ x -----------/

    After::

        q u8 -> Cast int32 -> Gather(table u8 [256])

    An 8-bit tensor has 256 values, so the table is the function: it holds what the subgraph gives
    for each of them in float32, quantized by the quantizer's own rule. Requantization from one
    8-bit grid to another is the shortest such function. A negative int8 counts from the end of the
    table, as Gather does. Chains that read a second tensor, or a constant that is not a scalar,
    stay as they are.
    """

    name = "tabulate"
    summary = "elementwise functions of an 8-bit tensor to tables"

    def rewrite(self, model: ir.Model) -> int:
        """See the class."""
        facts, emit = infer(model), Emitter(model.graph)
        changes = 0
        for node in list(model.graph):
            result = quantizer(node) if is_op(node, "QuantizeLinear") else None
            if result is not None and result.eight_bit and result.axis is None:
                changes += _tabulate(node, result, facts, emit)
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


def _tabulate(node: ir.Node, result: Quantized, facts: Facts, emit: Emitter) -> bool:
    value = node.inputs[0]
    found = None if value is None else _chain(value, facts)
    if value is None or found is None:
        return False
    source, chain = found
    if _largest_rank(chain) > (facts.rank(source) or 0):
        return False
    dtype = helper.tensor_dtype_to_np_dtype(facts.types[source])
    numbers = _run(chain, source, value, np.arange(256, dtype=np.uint8).view(dtype))
    if np.isnan(numbers).any():
        return False
    table = quantize(numbers, result.scale, result.zero)
    name = node.outputs[0].name or "looked_up"
    index = emit.op("Cast", [source], f"{name}.index", {"to": int(ir.DataType.INT32)})[0]
    inputs = [emit.constant(f"{name}.table", table), index]
    looked_up = emit.op("Gather", inputs, name, {"axis": 0})
    facts.inherit(looked_up[0], node.outputs[0])
    emit.place(node, looked_up)
    return True


def _chain(end: ir.Value, facts: Facts) -> tuple[ir.Value, list[ir.Node]] | None:
    """The 8-bit tensor that alone determines a value elementwise, and the nodes between."""
    sources: dict[ir.Value, None] = {}
    order: dict[ir.Node, None] = {}
    if not _collect(end, facts, sources, order) or len(sources) != 1:
        return None
    return next(iter(sources)), list(order)


def _collect(
    value: ir.Value, facts: Facts, sources: dict[ir.Value, None], order: dict[ir.Node, None]
) -> bool:
    """Walk to the sources; nodes are noted after those they read. False: no such chain."""
    array = constant(value)
    if array is not None:
        return array.size == 1
    if facts.types.get(value) in (onnx.TensorProto.UINT8, onnx.TensorProto.INT8):
        sources[value] = None
        return len(sources) == 1
    node = value.producer()
    if node is None or node.domain or len(node.outputs) != 1:
        return False
    if node in order:
        return True
    if is_op(node, "DequantizeLinear"):
        operand = dequantized(value)
        inputs = [] if operand is None or operand.axis is not None else [operand.value]
    else:
        inputs = list(_inputs(node)) if node.op_type in ELEMENTWISE else []
    walked = bool(inputs) and all(_collect(entry, facts, sources, order) for entry in inputs)
    order[node] = None
    return walked and len(order) <= _LONGEST


def _inputs(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in node.inputs if value is not None)


def _constants(chain: list[ir.Node]) -> Iterator[tuple[ir.Value, Array]]:
    for node in chain:
        for value in _inputs(node):
            array = constant(value)
            if array is not None:
                yield value, array


def _largest_rank(chain: list[ir.Node]) -> int:
    """Of its constants; a scalar of higher rank than the tensor would add dimensions."""
    return max((array.ndim for _, array in _constants(chain)), default=0)


def _run(chain: list[ir.Node], source: ir.Value, end: ir.Value, numbers: Array) -> Array:
    """What a chain computes for those integers, float32 of the same shape."""
    scalars = {str(value.name): array.reshape(()) for value, array in _constants(chain)}
    element = helper.np_dtype_to_tensor_dtype(numbers.dtype)
    given = helper.make_tensor_value_info(str(source.name), element, numbers.shape)
    asked = helper.make_tensor_value_info(str(end.name), onnx.TensorProto.FLOAT, numbers.shape)
    nodes = [ir.to_proto(node) for node in chain]
    constants = [numpy_helper.from_array(array, name) for name, array in scalars.items()]
    graph = helper.make_graph(nodes, "chain", [given], [asked], constants)
    imports = [helper.make_opsetid("", lif_op.spec.OPSET)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=lif_op.spec.IR_VERSION)
    with np.errstate(all="ignore"):
        (result,) = ReferenceEvaluator(model).run(None, {str(source.name): numbers})
    return np.asarray(result)

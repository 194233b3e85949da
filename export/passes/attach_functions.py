"""A graph with ops of the library gets the functions that define them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

import lif_op.spec
from export.errors import ExportError
from export.passes.base import (
    FunctionPass,
    PassError,
    attribute,
    constant,
    producer,
)
from export.passes.quantizers import value_type
from export.passes.ranges import Ranges
from lif_op.spec import DOMAIN
from quant.spec import EXACT_FLOAT32
from runtime.graph import LIBRARY_DOMAINS, all_nodes
from runtime.graph_checks import canonical_body

Int64 = npt.NDArray[np.int64]
Op = tuple[str, str]

_CONVOLUTIONS = {"QConv": (1, 2, None), "QConvLIF": (1, 2, None), "QConvLIFRec": (1, 2, 4)}
"""Where the weight, the bias and the recurrent weight of each convolution are."""

_BYTE = float(np.iinfo(np.uint8).max)


class AttachFunctions(FunctionPass):
    """Give every op of the library its body, so that any runtime can execute it.

    Before: nodes such as ``snn::QLIF`` in a model without functions. After: the same nodes, and
    one function per op. A convolution of which float32 might not hold every sum gets the strict
    body, on ``ConvInteger``, even in the place of the other one. Further bodies that are there
    already stay, unless nothing calls them.
    """

    name = "attach_functions"
    summary = "the definition of every op of domain snn as an ONNX function"

    def rewrite_model(self, model: onnx.ModelProto) -> int:
        """See the class.

        Raises:
            ExportError: an op without definition, or a convolution with computed constants.
        """
        called = set(_called(model))
        strict = inexact_ops(model)
        kept = [body for body in model.functions if _stays(body, called, strict)]
        changes = len(model.functions) - len(kept)
        missing = sorted(called - {(body.domain, body.name) for body in kept})
        bodies = [_body(op, strict) for op in missing]
        del model.functions[:]
        model.functions.extend([*kept, *bodies])
        return changes + len(bodies)


def _called(model: onnx.ModelProto) -> Iterator[Op]:
    """The library's ops that the graph or a function of another domain uses."""
    nodes = list(all_nodes(model.graph))
    for function in model.functions:
        nodes += function.node
    for node in nodes:
        if node.domain in LIBRARY_DOMAINS:
            yield node.domain, node.op_type


def _stays(body: onnx.FunctionProto, called: set[Op], strict: set[Op]) -> bool:
    op = (body.domain, body.name)
    if body.domain not in LIBRARY_DOMAINS:
        return True
    if op not in called:
        return False
    return op not in strict or canonical_body(body) != canonical_body(_body(op, set()))


def _body(op: Op, strict: set[Op]) -> onnx.FunctionProto:
    domain, name = op
    try:
        return lif_op.spec.function(name, domain=domain, strict_conv=op in strict)
    except KeyError:
        raise ExportError(
            f"op {domain}::{name} has no definition in this version; update the tool"
        ) from None


def inexact_ops(model: onnx.ModelProto) -> set[Op]:
    """The ops with a convolution of which float32 might not hold every sum.

    It holds them while ``x_max * sum|w| + |b| <= 2^24`` in every channel, where x_max is 1 for
    spikes, 127 for the event counts of an artifact, and what the graph proves for other bytes.

    Raises:
        PassError: a weight or bias is computed in the graph.
    """
    parsed = ir.from_proto(model)
    ranges = Ranges(parsed)
    return {
        (node.domain, node.op_type)
        for node in parsed.graph.all_nodes()
        if node.domain == DOMAIN
        and node.op_type in _CONVOLUTIONS
        and _largest_sum(node, ranges) > EXACT_FLOAT32
    }


def _largest_sum(node: ir.Node, ranges: Ranges) -> int:
    at_weight, at_bias, at_recurrent = _CONVOLUTIONS[node.op_type]
    weight = _integers(node, at_weight)
    limits = _limits(node.inputs[0], weight.shape[1], ranges)
    sums = _magnitudes(weight) @ limits + np.abs(_integers(node, at_bias))
    if at_recurrent is not None:
        sums += _magnitudes(_integers(node, at_recurrent)).sum(axis=1)
    return int(sums.max(initial=0))


def _integers(node: ir.Node, position: int) -> Int64:
    array = constant(node.inputs[position])
    if array is None:
        raise PassError(
            node, "its weight or bias is computed in the graph", "run fold_weights before"
        )
    return array.astype(np.int64)


def _magnitudes(weight: Int64) -> Int64:
    """Sum of magnitudes for each output and input channel, [Cout, Cin]."""
    magnitudes: Int64 = np.abs(weight).reshape(*weight.shape[:2], -1).sum(axis=2)
    return magnitudes


def _limits(x: ir.Value | None, channels: int, ranges: Ranges) -> Int64:
    """The largest value of every input channel, [Cin]."""
    concat = producer(x, "Concat")
    if concat is None or attribute(concat, "axis") != 1:
        return np.full(channels, _largest(x, ranges), np.int64)
    largest = [_largest(part, ranges) for part in concat.inputs]
    sizes = [_channels(part) for part in concat.inputs]
    if sizes.count(None) == 1:
        rest = channels - sum(size for size in sizes if size is not None)
        sizes = [rest if size is None else size for size in sizes]
    known = [size for size in sizes if size is not None and size >= 0]
    if len(known) < len(sizes) or sum(known) != channels:
        return np.full(channels, max(largest), np.int64)
    return np.repeat(largest, known)


def _largest(x: ir.Value | None, ranges: Ranges) -> int:
    """Packed spikes are words, of which the convolution reads the bits."""
    packed = x is not None and value_type(x) == np.uint32
    if packed or producer(x, "PackSpikes", DOMAIN) is not None:
        return 1
    return int(min(ranges.of(x)[1], _BYTE))


def _channels(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None or value.shape.rank() < 2:
        return None
    size = value.shape[1]
    return size if isinstance(size, int) else None

"""A graph with ops of the library gets the functions that define them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

import lif_op.spec
from export.errors import ExportError
from export.passes.base import FunctionPass
from export.passes.convolution_sums import CONVOLUTIONS, largest_sums
from export.passes.ranges import Ranges
from lif_op.spec import DOMAIN
from quant.spec import EXACT_FLOAT32
from runtime.body_checks import canonical_body
from runtime.graph import LIBRARY_DOMAINS, all_nodes

Op = tuple[str, str]


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

    It holds them up to 2^24.

    Raises:
        PassError: a weight or bias is computed in the graph.
    """
    parsed = ir.from_proto(model)
    ranges = Ranges(parsed)
    return {
        (node.domain, node.op_type)
        for node in parsed.graph.all_nodes()
        if node.domain == DOMAIN
        and node.op_type in CONVOLUTIONS
        and int(largest_sums(node, ranges).max(initial=0)) > EXACT_FLOAT32
    }

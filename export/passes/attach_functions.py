"""A graph with ops of the library gets the functions that define them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

import lif_op.spec
from calib_data.encodings import COUNT_LIMIT
from export.errors import ExportError
from export.passes.base import FunctionPass
from quant.spec import EXACT_FLOAT32
from runtime.graph import LIBRARY_DOMAINS, all_nodes
from runtime.graph_checks import EVENTS

_CONVOLUTIONS = {"QConv": (1, 2, None), "QConvLIF": (1, 2, None), "QConvLIFRec": (1, 2, 4)}
"""Where the weight, the bias and the recurrent weight of each convolution are."""


class AttachFunctions(FunctionPass):
    """Give every op of the library its body, so that any runtime can execute it.

    Before: nodes such as ``snn::QLIF`` in a model without functions. After: the same nodes, and
    one function per op. Convolutions whose sums float32 does not hold exactly get the strict body,
    on ``ConvInteger``. Bodies that are there already stay.
    """

    name = "attach_functions"
    summary = "the definition of every op of domain snn as an ONNX function"

    def rewrite_model(self, model: onnx.ModelProto) -> int:
        """See the class."""
        present = {(body.domain, body.name) for body in model.functions}
        used = {
            (node.domain, node.op_type)
            for node in all_nodes(model.graph)
            if node.domain in LIBRARY_DOMAINS
        }
        missing = sorted(used - present)
        strict = not exact_in_float32(model)
        for domain, name in missing:
            try:
                body = lif_op.spec.function(name, domain=domain, strict_conv=strict)
            except KeyError:
                raise ExportError(
                    f"op {domain}::{name} has no definition in this version; update the tool"
                ) from None
            model.functions.append(body)
        return len(missing)


def exact_in_float32(model: onnx.ModelProto) -> bool:
    """Whether float32 holds every sum of the model's integer convolutions."""
    return all(total <= EXACT_FLOAT32 for total in _largest_sums(model.graph))


def _largest_sums(graph: onnx.GraphProto) -> Iterator[int]:
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    spikes = _spikes(graph)
    for node in graph.node:
        if node.domain != lif_op.spec.DOMAIN or node.op_type not in _CONVOLUTIONS:
            continue
        weight, bias, recurrent = _CONVOLUTIONS[node.op_type]
        names = [node.input[i] for i in (weight, bias, recurrent) if i is not None]
        if any(name not in arrays for name in names):
            raise ExportError(f"node {node.name!r}: its weight or bias is no initializer; fold it")
        values = [numpy_helper.to_array(arrays[name]).astype(np.int64) for name in names]
        sums = [np.abs(w).reshape(len(w), -1).sum(axis=1) for w in values]
        total = sums[0] * _largest_input(node.input[0], spikes) + sum(sums[1:])
        yield int(total.max(initial=0))


def _largest_input(name: str, spikes: set[str]) -> int:
    if name == EVENTS:
        return COUNT_LIMIT
    return 1 if name in spikes else int(np.iinfo(np.uint8).max)


def _spikes(graph: onnx.GraphProto) -> set[str]:
    """Tensors that hold spikes only: 0 or 1, packed or not."""
    found = {value.name for value in graph.input if value.name.startswith("spike.")}
    for node in graph.node:
        if node.op_type == "Concat" and all(name in found for name in node.input):
            found.update(node.output)
        elif node.domain == lif_op.spec.DOMAIN and node.op_type != "QConv":
            if node.op_type in ("PackSpikes", "UnpackSpikes"):
                found.update(node.output if node.input[0] in found else ())
            else:
                found.add(node.output[0])
    return found

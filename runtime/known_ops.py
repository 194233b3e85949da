"""The operators an artifact may be made of.

A network of this kind is a feed-forward graph of arithmetic. Operators that repeat, draw random
numbers, work on text or make tensors as large as a constant says have no place in it; what such a
file computed, or took, would be up to whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from runtime.errors import ArtifactError
from runtime.graph import LIBRARY_DOMAINS, all_nodes, subgraphs

_STANDARD_DOMAINS = ("", "ai.onnx")

_ARITHMETIC = """
    Abs Add And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Clip Div Equal Erf Exp
    Floor Greater GreaterOrEqual HardSigmoid HardSwish LeakyRelu Less LessOrEqual Log Max Mean
    Min Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Sigmoid Sign Softplus Sqrt Sub Sum
    Tanh Where Xor
"""
_LINEAR = """
    AveragePool BatchNormalization Conv ConvInteger ConvTranspose Gemm GlobalAveragePool MatMul
    MatMulInteger MaxPool QLinearConv QLinearMatMul ReduceMax ReduceMean ReduceMin ReduceSum
"""
_TYPES = "Cast CastLike DequantizeLinear DynamicQuantizeLinear QuantizeLinear"
_MOVEMENT = """
    Concat Constant DepthToSpace Flatten Gather Identity If Reshape Shape Size Slice SpaceToDepth
    Split Squeeze Transpose Unsqueeze
"""
_GROWTH = ("ConstantOfShape", "Expand", "Pad", "Resize")
"""Allowed where they depend on a graph input; of constants alone they would be computed, and their
result allocated, while the file is loaded."""

STANDARD_OPS = frozenset(" ".join([_ARITHMETIC, _LINEAR, _TYPES, _MOVEMENT, *_GROWTH]).split())
"""Operators of ONNX that an artifact may have: what the exporters and passes write, and the usual
arithmetic for what others add."""


def check_ops(model: ModelProto, where: str) -> None:
    """Refuse operators that an artifact has no use for, and versions of ONNX nobody here knows.

    Raises:
        ArtifactError: naming the first of them.
    """
    _check_version(model, where)
    functions = {(function.domain, function.name) for function in model.functions}
    for node in all_nodes(model.graph):
        standard = node.domain in _STANDARD_DOMAINS and node.op_type in STANDARD_OPS
        # Which of the library's ops there are, and how they are written, is checked with the nodes.
        if standard or node.domain in LIBRARY_DOMAINS or (node.domain, node.op_type) in functions:
            continue
        label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        raise ArtifactError(
            f"{where}: node {node.name!r} is a {label}, which an artifact may not have (the known "
            "operators are in runtime/known_ops.py); rewrite the graph without it"
        )
    inputs = {value.name for value in model.graph.input}
    for node, depends in _with_dependence(model.graph, inputs):
        if node.op_type in _GROWTH and not depends:
            raise ArtifactError(
                f"{where}: node {node.name!r} ({node.op_type}) makes a tensor from constants "
                "alone, as large as they say; store the tensor in the file instead"
            )


def _check_version(model: ModelProto, where: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in _STANDARD_DOMAINS and not 1 <= entry.version <= newest:
            raise ArtifactError(
                f"{where}: imports version {entry.version} of the standard operators, the onnx "
                f"package here knows 1 to {newest}; update it or export the file again"
            )


def _with_dependence(graph: GraphProto, known: set[str]) -> Iterator[tuple[NodeProto, bool]]:
    """Every node, nested ones too, and whether it depends on a name in ``known``, which grows."""
    for node in graph.node:
        inner = [pair for nested in subgraphs(node) for pair in _with_dependence(nested, known)]
        depends = any(name in known for name in node.input) or any(d for _, d in inner)
        if depends:
            known.update(node.output)
        yield node, depends
        yield from inner

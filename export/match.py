"""Which tensor of one graph is which of another: by name, and where names differ by order.

Passes rename and merge: ``Conv``, ``QConv`` and ``ConvInteger -> Add`` leave the same
accumulator. Every tensor has a role, what it is to the network whatever operator computes it. A
tensor that a pass replaces by another of the same role passes on its name with a suffix; tensors
left over between two that have the same name are paired in order where role and rank agree.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx

from export.grids import constants

_PRODUCTS = {
    "Conv": "accumulator",
    "QConv": "accumulator",
    "ConvInteger": "accumulator",
    "ConvTranspose": "accumulator",
    "FusedConv": "accumulator",
    "Gemm": "product",
    "MatMul": "product",
    "MatMulInteger": "product",
    "QLinearConv": "accumulator quantized",
    "QLinearMatMul": "product quantized",
}
_NEURONS = frozenset({"LIF", "QLIF", "QLif"})
_SAME_VALUE = frozenset({"DequantizeLinear", "Cast", "Identity"})

Pairs = list[tuple[str, str]]
Key = tuple[str, int | None]


def roles(model: onnx.ModelProto) -> dict[str, str]:
    """The role of every tensor that the graph computes, in order; aliases of another have none.

    Dequantized and cast tensors mean what their source means, so they have a role only as graph
    outputs; the terms of a sum of accumulators are only parts of one.
    """
    found: dict[str, str] = {}
    meaning: dict[str, str] = {}
    arrays = constants(model.graph)
    fixed = set(arrays)
    results = {output.name for output in model.graph.output}
    for node in model.graph.node:
        if node.input and all(name in fixed for name in node.input if name):
            fixed.update(node.output)
            continue
        role = _role(node, meaning)
        for position, name in enumerate(node.output):
            if node.op_type in _NEURONS:
                role = ("spike", "membrane")[position]
            meaning[name] = role
            alias = node.op_type in _SAME_VALUE or _repeats(node, meaning, fixed, arrays)
            if name in results or not alias:
                found[name] = role
        if node.op_type == "Add" and role in ("accumulator", "product"):
            for name in node.input:
                if name not in results:
                    found.pop(name, None)
        if node.op_type == "RequantShift":
            # Its input lacks the bias, which the other spellings of a convolution include.
            found.pop(node.input[0], None)
    return found


def _role(node: onnx.NodeProto, meaning: Mapping[str, str]) -> str:
    source = meaning.get(node.input[0], "input") if node.input else node.op_type
    if node.op_type in _PRODUCTS:
        return _PRODUCTS[node.op_type]
    if node.op_type in _SAME_VALUE:
        return source
    if node.op_type in ("QuantizeLinear", "RequantShift"):
        return source if source.endswith("quantized") else f"{source} quantized"
    if node.op_type in ("Add", "Sub"):
        terms = {meaning[name] for name in node.input if name in meaning}
        if len(terms) == 1:
            term = terms.pop()
            if term.startswith(("accumulator", "product")):
                return term
    return node.op_type


def _repeats(
    node: onnx.NodeProto,
    meaning: Mapping[str, str],
    fixed: set[str],
    arrays: Mapping[str, npt.NDArray[Any]],
) -> bool:
    """Whether a node only shifts the zero point, or quantizes counts or spikes with scale 1."""
    if node.op_type == "QuantizeLinear":
        scale = arrays.get(node.input[1])
        unit = scale is not None and bool((scale == 1).all())
        return unit and meaning.get(node.input[0], "input") in ("spike", "input")
    shifts = node.op_type in ("Add", "Sub") and any(name in fixed for name in node.input)
    return shifts and meaning[node.output[0]].endswith("quantized")


def match(
    a: Mapping[str, str],
    b: Mapping[str, str],
    ranks: Sequence[Mapping[str, int]],
    *,
    by_order: bool = True,
) -> Pairs:
    """Pair the tensors of two graphs.

    Args:
        a, b: role of every tensor in order, as :func:`roles` gives them.
        ranks: rank of every tensor of ``a`` and of ``b``.
        by_order: pair what names leave over by order; such a pair is likely and not certain.

    Returns:
        pairs of names, in the order of ``a``.
    """
    names_a, names_b = list(a), list(b)
    common = [name for name in names_a if name in b]
    anchors = _longest_in_order(common, names_b)
    pairs: Pairs = [(name, name) for name in common] + _derived(a, b, ranks)
    if by_order:
        pairs += _between(a, b, ranks, anchors, pairs)
    place = {name: number for number, name in enumerate(names_a)}
    return sorted(pairs, key=lambda pair: place[pair[0]])


def _derived(
    a: Mapping[str, str], b: Mapping[str, str], ranks: Sequence[Mapping[str, int]]
) -> Pairs:
    """Tensors whose name is that of a replaced one with a suffix, of the same role and rank."""
    found: dict[str, str] = {}
    for one, other, flip in ((a, b, False), (b, a, True)):
        left, right = (ranks[1], ranks[0]) if flip else (ranks[0], ranks[1])
        for name, role in other.items():
            stem = name.rpartition(".")[0]
            same = one.get(stem) == role and left.get(stem) == right.get(name)
            if stem not in other and name not in one and same:
                found |= {name: stem} if flip else {stem: name}
    return list(found.items())


def _between(
    a: Mapping[str, str],
    b: Mapping[str, str],
    ranks: Sequence[Mapping[str, int]],
    anchors: Sequence[str],
    known: Pairs,
) -> Pairs:
    """Pairs by order of what is left over between two anchors."""
    names_a, names_b = list(a), list(b)
    used = {name for name, _ in known}, {name for _, name in known}
    pairs: Pairs = []
    start_a = start_b = 0
    for anchor in [*anchors, None]:
        end_a = len(names_a) if anchor is None else names_a.index(anchor)
        end_b = len(names_b) if anchor is None else names_b.index(anchor)
        free_a = [name for name in names_a[start_a:end_a] if name not in used[0]]
        free_b = [name for name in names_b[start_b:end_b] if name not in used[1]]
        keys_a = [(a[name], ranks[0].get(name)) for name in free_a]
        keys_b = [(b[name], ranks[1].get(name)) for name in free_b]
        pairs += _in_order(free_a, free_b, keys_a, keys_b)
        start_a, start_b = end_a + 1, end_b + 1
    return pairs


def _longest_in_order(common: list[str], names: list[str]) -> list[str]:
    """Names that stand in the same order in both lists."""
    wanted = set(common)
    other = [name for name in names if name in wanted]
    matcher = difflib.SequenceMatcher(None, common, other, autojunk=False)
    blocks = matcher.get_matching_blocks()
    return [name for block in blocks for name in common[block.a : block.a + block.size]]


def _in_order(
    names_a: list[str], names_b: list[str], keys_a: list[Key], keys_b: list[Key]
) -> Pairs:
    matcher = difflib.SequenceMatcher(None, keys_a, keys_b, autojunk=False)
    return [
        (names_a[block.a + k], names_b[block.b + k])
        for block in matcher.get_matching_blocks()
        for k in range(block.size)
    ]


def unmatched(names: Iterable[str], pairs: Pairs, side: int) -> list[str]:
    """Names of one side (0 or 1) that no pair holds."""
    held = Counter(pair[side] for pair in pairs)
    return [name for name in names if name not in held]

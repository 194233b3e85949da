"""Where a DequantizeLinear may move: one row per operator, consulted by ``sink_dequantize``.

A dequantized tensor is ``s * (q - z)``. A row says under which condition an operator ``f`` has an
integer operator ``g`` with ``f(s * (q - z)) = s' * (g(q) - z')`` for every q, and why. Rows without
a move are operators that other passes lower or that nothing can lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

import lif_op.spec
from export.passes.base import is_op
from export.passes.dequantized import Emitter, Quantized, dequantized, infer
from export.passes.moves import elementwise, layout, linear, pooling, selection
from export.passes.moves.site import Illegal, Move, Site

__all__ = ["HEADINGS", "TABLE", "Row", "lower", "markdown_rows", "rows_of", "why_not"]


HEADINGS = ("operator", "legal when", "becomes", "scale and axis", "because")
"""Of the table as text."""


@dataclass(frozen=True)
class Row:
    """One way through an operator.

    condition: when the move is legal. becomes: the integer operator. scale: of the result, and
    where its channels are. reason: the algebra. move: what the pass calls, None if it leaves the
    operator alone.
    """

    op_type: str
    condition: str
    becomes: str
    scale: str
    reason: str
    move: Move | None
    domain: str = ""


_ONE_SCALE = "any scale per tensor; per channel while the channels keep an axis"
_CHOOSES = "s; the axis follows"
_SELECTION = "it only chooses elements, and dequantization is elementwise"

TABLE: tuple[Row, ...] = (
    Row(
        "Conv",
        "x 8 bits with one scale and zero point; w constant, 8 bits, scale per tensor or on axis 0,"
        " one zero point (0 if per channel); bias int32 with scale s_x*s_w, or none; any stride,"
        " pad, dilation, group",
        "snn::QConv for x uint8 with zero point 0, w int8 with zero point 0, 2-D, group 1,"
        " dilation 1; else ConvInteger (+ Add)",
        "s_x*s_w; axis 1",
        "sums of products are bilinear: sum (s_x x)(s_w w) = s_x s_w sum x w; padded zeros are"
        " zero points",
        linear.conv,
    ),
    Row(
        "Gemm",
        "alpha = beta = 1; x and w as for Conv, w's scales on its output axis; bias as for Conv",
        "MatMulInteger (+ Add); transposes are written out",
        "s_x*s_w; axis 1",
        "bilinear, as Conv",
        linear.gemm,
    ),
    Row(
        "MatMul",
        "8 bits; the first factor one scale; the second constant with scales on its last axis, or"
        " computed with one scale",
        "MatMulInteger",
        "s_a*s_b; last axis",
        "bilinear; scales of the summed axis could not leave the sum",
        linear.matmul,
    ),
    Row(
        "Relu",
        "any scale; one zero point",
        "Relu of int32; Clip at the zero point of 8 bits; nothing where the type ends there",
        "s; same axis",
        "s > 0: max(s(q - z), 0) = s(max(q, z) - z)",
        elementwise.relu,
    ),
    Row(
        "MaxPool",
        "8 bits (ONNX Runtime has no int32 MaxPool); indices not used",
        "MaxPool",
        "s; same axis",
        "s > 0 keeps order, so the maximum is the same element",
        pooling.max_pool,
    ),
    Row(
        "GlobalAveragePool",
        "fixed spatial size n",
        "Cast, Sub zero point, ReduceSum",
        "s/n; same axis",
        "the mean of s(q - z) is s/n times an integer sum",
        pooling.global_average_pool,
    ),
    Row(
        "AveragePool",
        "8 bits with one scale; no ceil_mode; no pads unless they are counted; fixed channels",
        "depthwise ConvInteger with ones",
        "s/n",
        "every window sums the same number n of elements, padded ones being zero",
        pooling.average_pool,
    ),
    Row(
        "ReduceMean",
        "constant axes of fixed size n, not the axis of the channels",
        "Cast, Sub zero point, ReduceSum",
        "s/n; the axis follows",
        "the mean of s(q - z) is s/n times an integer sum",
        pooling.reduce_mean,
    ),
    *(
        Row(name, _ONE_SCALE, name, _CHOOSES, _SELECTION, layout.reshape)
        for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
    ),
    Row(
        "Transpose",
        "any scale",
        "Transpose",
        "s; axis = perm^-1(axis)",
        _SELECTION,
        layout.transpose,
    ),
    Row(
        "Slice",
        "any scale; constant ends on the axis of the channels",
        "Slice",
        "scales of the channels that stay",
        _SELECTION,
        selection.slice_,
    ),
    Row("Split", "any scale", "Split", "scales of each part", _SELECTION, selection.split),
    Row(
        "Gather",
        "any scale; constant indices of rank 1 on the axis of the channels",
        "Gather",
        "scales of the chosen channels; the axis follows",
        _SELECTION,
        selection.gather,
    ),
    *(
        Row(name, "one scale", name, "s", _SELECTION, selection.choose)
        for name in ("GatherElements", "GatherND", "Expand", "Tile")
    ),
    Row(
        "Pad",
        "padded with 0, or by repeating elements; one zero point; no new channels",
        "Pad with the zero point",
        "s; same axis",
        "real 0 is the integer z",
        selection.pad,
    ),
    Row("Identity", "any scale", "nothing", "s; same axis", "f(x) = x", layout.identity),
    Row(
        "Concat",
        "equal scales; or scales per channel along the axis of concatenation",
        "Concat; of int32 where zero points or types differ",
        "s, or the scales one after the other",
        _SELECTION,
        layout.concat,
    ),
    Row(
        "Add",
        "equal scales (per channel on the same axis)",
        "Cast, Sub zero point, Add of int32",
        "s; same axis",
        "distributive: s a + s b = s(a + b); unequal scales have no common integer grid",
        elementwise.add_or_sub,
    ),
    Row(
        "Sub",
        "equal scales (per channel on the same axis)",
        "Cast, Sub zero point, Sub of int32",
        "s; same axis",
        "distributive: s a - s b = s(a - b)",
        elementwise.add_or_sub,
    ),
    Row(
        "Mul",
        "two dequantized tensors, at most one with a scale per channel",
        "Cast, Sub zero point, Mul of int32",
        "s_a*s_b; same axis",
        "(s_a a)(s_b b) = s_a s_b (a b)",
        elementwise.mul,
    ),
    Row(
        "Mul",
        "a positive constant scalar c",
        "nothing",
        "s*c; same axis",
        "c(s q) = (c s)q",
        elementwise.mul_constant,
    ),
    Row(
        "Div",
        "a positive constant scalar c",
        "nothing",
        "s/c; same axis",
        "(s q)/c = (s/c)q",
        elementwise.div_constant,
    ),
    Row(
        "Resize",
        "nearest neighbour; the axis of the channels keeps its size",
        "Resize",
        "s; same axis",
        _SELECTION,
        selection.resize,
    ),
    Row(
        "Resize",
        "linear and cubic: illegal",
        "-",
        "-",
        "it computes values between grid points and would have to round them",
        None,
    ),
    Row(
        "LIF",
        "accumulator int32, scale s per channel on axis 1; lowered by lower_lif",
        "snn::QLIF",
        "vanishes: threshold/s, membrane in units of s",
        "positively homogeneous: spikes of (s I, s m, s theta) are the spikes of (I, m, theta)",
        None,
        lif_op.spec.DOMAIN,
    ),
)
"""Every row; a new operator gets one here and a move in ``export.passes.moves``."""


def rows_of(node: ir.Node) -> list[Row]:
    """The rows of a node's operator."""
    return [row for row in TABLE if is_op(node, row.op_type, row.domain)]


def lower(site: Site) -> list[Quantized]:
    """Emit a node's integer operator by the first row that allows it.

    Raises:
        Illegal: no row does; the reason is the last row's.
        PassError: a row does, but the result may not fit in 32 bits.
    """
    if not any(dequantized(value) is not None for value in site.node.inputs):
        raise Illegal("none of its inputs is the result of a DequantizeLinear")
    refusal = Illegal("the table has no row that moves a DequantizeLinear through it")
    for row in rows_of(site.node):
        if row.move is None:
            continue
        try:
            return list(row.move(site))
        except Illegal as reason:
            refusal = reason
            site.emit.discard()
    raise refusal


def why_not(model: ir.Model, node: ir.Node) -> str | None:
    """Why a DequantizeLinear stays before a node of the model; None if it need not."""
    emit = Emitter(model.graph)
    site = Site(node, infer(model), {}, emit)
    try:
        lower(site)
    except Illegal as reason:
        return str(reason)
    finally:
        emit.discard()
    return None


def markdown_rows() -> list[tuple[str, str, str, str, str]]:
    """The table as text: operator, condition, becomes, scale and axis, reason."""
    rows = []
    for row in TABLE:
        name = f"{row.domain}::{row.op_type}" if row.domain else row.op_type
        rows.append((name, row.condition, row.becomes, row.scale, row.reason))
    return rows


def markdown() -> str:
    """The table in Markdown, as docs/passes.md holds it."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *markdown_rows()]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)

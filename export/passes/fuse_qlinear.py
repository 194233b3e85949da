"""Requantization spelled so that every runtime rounds alike."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from export.passes.base import Array, GraphPass, is_op, only_user
from export.passes.dequantized import (
    Emitter,
    Facts,
    Quantized,
    dequantized,
    infer,
    quantizer,
)
from export.passes.integer_convolution import Operands, convolution_behind
from export.passes.rectifiers import Limits, limits_before

KERNELS = {("uint8", "uint8", "uint8"), ("uint8", "int8", "uint8"), ("int8", "int8", "int8")}
"""Types (x, w, y) for which ONNX Runtime has a QLinearConv."""

_ONE = np.ones((), np.float32)
_RAISED = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat")
_SUMS = ("Add", "Sub", "Relu")


class FuseQLinear(GraphPass):
    """Write every requantization as ``saturate(rint(float32(acc) * m) + z)``.

    Before, a convolution (also still as ``DQ, DQ[, DQ] -> Conv``), another accumulator, and a sum
    of unequal scales::

        x, w, b -> snn::QConv | ConvInteger (-> Add b) -> [Relu] -> DQ(s) -> [Clip] -> Q(s_y, z)
        acc -> DQ(s) -> [Relu | Clip] -> Q(s_y, z)
        a -> DQ(s_a) \\
        b -> DQ(s_b) -- Add -> [Relu | Clip] -> Q(s_y, z)

    After::

        x, w, b -> QLinearConv(x_scale 1, w_scale s, y_scale s_y, z) -> [Clip]
        acc -> DQ(s / s_y) -> Q(1, z) -> [Clip]
        a -> int32 -> DQ(s_a / s_y) \\
        b -> int32 -> DQ(s_b / s_y) -- Add -> Q(1, z) -> [Clip]

    Quantization keeps order, so a Relu or Clip before it equals a Clip of integers after it, and
    nothing where the integer type ends there already; for the same reason it may be computed
    before MaxPool and before anything that only chooses elements. int32 operands keep ONNX
    Runtime from its own quantized addition, whose rounding depends on the platform. An accumulator
    that has other readers, and types without a kernel, keep the second form; with ``kernels`` false
    every convolution does, for consumers that cannot read a QLinearConv with per-channel scales.
    """

    name = "fuse_qlinear"
    summary = "convolutions to QLinearConv; every other requantization to one float32 factor"

    def __init__(self, *, kernels: bool = True) -> None:
        """kernels: write convolutions as QLinearConv where one exists."""
        super().__init__()
        self._kernels = kernels

    def rewrite(self, model: ir.Model) -> int:
        """See the class.

        Raises:
            PassError: a convolution whose sums may not fit in 32 bits.
        """
        work = _Work(infer(model), Emitter(model.graph), self._kernels)
        changes = sum(
            work.quantizer(node) for node in list(model.graph) if is_op(node, "QuantizeLinear")
        )
        if changes:
            common.RemoveUnusedNodesPass()(model)
        return changes


class _Work:
    """Rewrites the quantizers of one graph."""

    def __init__(self, facts: Facts, emit: Emitter, kernels: bool) -> None:
        self._facts, self._emit, self._kernels = facts, emit, kernels

    def quantizer(self, node: ir.Node) -> int:
        """Rewrite one QuantizeLinear and what leads to it; returns how many places changed."""
        result = quantizer(node)
        if result is None or result.axis is not None or result.zero.ndim or result.scale.ndim:
            return 0
        raised = self._raise(node, result)
        if raised:
            return 1 + sum(self.quantizer(entry) for entry in raised)
        value, limits = limits_before(node, result)
        name = node.outputs[0].name or node.name or "requantized"
        fused = None
        if self._kernels:
            fused = self._convolution(value, limits, result, name)
        fused = fused or self._factor(node, value, limits, result, name)
        if fused is None:
            self._emit.discard()
            return 0
        y, limits = fused
        self._place(node, self._clip(y, limits, result, name))
        return 1

    def _place(self, node: ir.Node, y: ir.Value) -> None:
        self._facts.inherit(y, node.outputs[0])
        self._emit.place(node, [y])

    def _clip(self, y: ir.Value, limits: Limits, result: Quantized, name: str) -> ir.Value:
        info = np.iinfo(result.dtype)
        if limits.low <= info.min and limits.high >= info.max:
            return y
        low = self._emit.parameter(f"{name}.low", np.asarray(limits.low, result.dtype))
        high = self._emit.parameter(f"{name}.high", np.asarray(limits.high, result.dtype))
        return self._emit.op("Clip", [y, low, high], f"{name}.clip")[0]

    def _raise(self, node: ir.Node, result: Quantized) -> list[ir.Node]:
        """Quantize before the operator that chooses elements; the new quantizers."""
        value = node.inputs[0]
        chooser = None if value is None else value.producer()
        if (
            value is None
            or chooser is None
            or chooser.domain
            or chooser.op_type not in _RAISED
            or len(chooser.outputs) != 1
            or only_user(value) is not node
            or (chooser.op_type == "MaxPool" and not result.eight_bit)
        ):
            return []
        count = len(chooser.inputs) if chooser.op_type == "Concat" else 1
        sources = [x for x in chooser.inputs[:count] if x is not None]
        if not all(_comes_from_integers(x) for x in sources):
            return []
        name = node.outputs[0].name or "quantized"
        raised = [self._emit.quantize(x, result.scale, result.zero, f"{name}.q") for x in sources]
        inputs = [*raised, *chooser.inputs[count:]]
        y = self._emit.op(chooser.op_type, inputs, name, dict(chooser.attributes))[0]
        for x, q in zip(sources, raised, strict=True):
            if x in self._facts.shapes:
                self._facts.shapes[q] = self._facts.shapes[x]
        self._place(node, y)
        return [entry for q in raised if (entry := q.producer()) is not None]

    def _convolution(
        self, value: ir.Value, limits: Limits, result: Quantized, name: str
    ) -> tuple[ir.Value, Limits] | None:
        conv = convolution_behind(value, self._facts, self._emit)
        if conv is None:
            return None
        types = (conv.x_zero.dtype.name, conv.weight_zero.dtype.name, result.dtype.name)
        if types not in KERNELS:
            return None
        if conv.rectified:
            limits = limits.then(int(result.zero), np.iinfo(np.int32).max)
        return _qlinear_conv(self._emit, conv, result, name), limits

    def _factor(
        self, node: ir.Node, value: ir.Value, limits: Limits, result: Quantized, name: str
    ) -> tuple[ir.Value, Limits] | None:
        """One float32 factor per accumulator, and a quantizer of scale 1."""
        stripped = node.inputs[0] is not value
        if result.scale == 1 and not stripped:
            return None
        source = dequantized(value)
        if source is not None and source.eight_bit and source.axis is None:
            return None
        scaled = self._scaled(value, result.scale, name)
        if scaled is None:
            return None
        return self._emit.quantize(scaled, _ONE, result.zero, f"{name}.q"), limits

    def _scaled(self, value: ir.Value, unit: Array, name: str) -> ir.Value | None:
        """The value in units of ``unit``; None if it is not a sum of dequantized integers."""
        source = dequantized(value)
        if source is not None:
            return self._scaled_leaf(source, unit, name)
        node = value.producer()
        if node is None or node.domain or node.op_type not in _SUMS or only_user(value) is None:
            return None
        terms = []
        for entry in node.inputs:
            term = None if entry is None else self._scaled(entry, unit, name)
            if term is None:
                return None
            terms.append(term)
        return self._emit.op(node.op_type, terms, f"{name}.sum")[0]

    def _scaled_leaf(self, source: Quantized, unit: Array, name: str) -> ir.Value | None:
        wide = self._emit.widen(source, self._facts.rank(source.value), name)
        factor = np.asarray(source.scale / unit)
        if wide is None or not (np.isfinite(factor) & (factor > 0)).all():
            return None
        integers = Quantized(wide, factor, np.zeros((), np.int32), source.axis)
        return self._emit.dequantize(integers, f"{name}.scaled")


def _qlinear_conv(emit: Emitter, conv: Operands, result: Quantized, name: str) -> ir.Value:
    scale = conv.weight_scale
    parameters = {
        "x_scale": conv.x_scale,
        "x_zero": conv.x_zero,
        "w_scale": scale,
        "w_zero": np.array(np.broadcast_to(conv.weight_zero, scale.shape)),
        "y_scale": result.scale,
        "y_zero": result.zero,
    }
    given = [emit.parameter(f"{name}.{what}", array) for what, array in parameters.items()]
    inputs: list[ir.Value | None] = [conv.x, *given[:2], conv.weight, *given[2:]]
    if isinstance(conv.bias, ir.Value):
        inputs.append(conv.bias)
    elif conv.bias is not None:
        inputs.append(emit.constant(f"{name}.bias", conv.bias))
    return emit.op("QLinearConv", inputs, name, conv.attributes)[0]


def _comes_from_integers(value: ir.Value) -> bool:
    """Whether a value is a dequantized tensor, a convolution or a sum of such, limited or not."""
    if dequantized(value) is not None:
        return True
    node = value.producer()
    if node is None or node.domain or only_user(value) is None:
        return False
    if node.op_type == "Conv":
        return dequantized(node.inputs[0]) is not None
    sources = [x for x in node.inputs if x is not None]
    if node.op_type in (*_SUMS, "Concat"):
        return all(_comes_from_integers(x) for x in sources)
    return node.op_type in ("Clip", *_RAISED) and _comes_from_integers(sources[0])

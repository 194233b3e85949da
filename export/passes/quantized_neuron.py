"""A float neuron between quantizers: its current and its membrane as integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.passes.base import PassError, is_op, producer
from export.passes.quantizers import Parameters, parameters, quantized_element

Float64 = npt.NDArray[np.float64]

_MEM_BITS = {ir.DataType.INT8: 8, ir.DataType.INT16: 16}
_CANONICAL = "write it as DequantizeLinear(int32 accumulator or uint8 current) -> snn::LIF"


@dataclass(frozen=True)
class Current:
    """The integers a neuron receives: value int32, or uint8 around ``zero``; scale float64, a
    scalar or [C]."""

    value: ir.Value
    scale: Float64
    zero: int


@dataclass(frozen=True)
class Membrane:
    """A neuron's state before the step, its bits, and its fractional bits."""

    value: ir.Value
    bits: int
    frac_bits: int


def current_of(node: ir.Node) -> Current | None:
    """The integers behind a neuron's current; None where it is not dequantized.

    Raises:
        PassError: they are neither an accumulator nor a quantized current.
    """
    dequantize = producer(node.inputs[0], "DequantizeLinear")
    if dequantize is None or (value := dequantize.inputs[0]) is None:
        return None
    kind = quantized_element(dequantize)
    given = _parameters(node, dequantize, "current")
    if kind == ir.DataType.INT32:
        return Current(value, _symmetric_scale(node, dequantize, "current"), 0)
    if kind != ir.DataType.UINT8 or given.zero.ndim:
        found = "another type" if kind is None else kind.name.lower()
        raise PassError(node, f"its current is dequantized from {found}", _CANONICAL)
    return Current(value, given.scale.astype(np.float64), int(given.zero))


def membrane_of(node: ir.Node, current: Current, *, bits: int, frac_bits: int) -> Membrane:
    """The integers behind a neuron's membrane.

    Args:
        node: the neuron.
        current: what it receives.
        bits, frac_bits: what a membrane gets that is a float state of its own.

    Raises:
        PassError: its quantizers are not those of an integer state in units of the current's
            divided by a power of two.
    """
    real = node.inputs[1]
    dequantize = producer(real, "DequantizeLinear")
    if dequantize is None:
        if real is None or not real.is_graph_input() or len(list(real.uses())) != 1:
            raise PassError(
                node,
                "its membrane is neither a dequantized integer nor a graph input of its own",
                "make the membrane a state: a graph input that only this neuron reads",
            )
        return Membrane(real, bits, frac_bits)
    mem = dequantize.inputs[0]
    kind = quantized_element(dequantize)
    if mem is None or kind not in _MEM_BITS:
        raise PassError(node, "its membrane has neither 8 nor 16 bits", "use int8 or int16")
    scale = _symmetric_scale(node, dequantize, "membrane")
    _check_written_back(node, scale)
    return Membrane(mem, _MEM_BITS[kind], _frac_bits(node, current.scale, scale))


def _parameters(node: ir.Node, quantizer: ir.Node, what: str) -> Parameters:
    given = parameters(quantizer)
    if given is None:
        reason = f"the scale or zero point of its {what} is no constant"
        raise PassError(node, reason, "make them initializers")
    if not (np.isfinite(given.scale) & (given.scale > 0)).all():
        raise PassError(node, f"a scale of its {what} is no positive number", "quantize again")
    if not given.per_tensor and given.axis != 1:
        raise PassError(node, f"the scale of its {what} runs along another axis", "use axis 1")
    return given


def _symmetric_scale(node: ir.Node, quantizer: ir.Node, what: str) -> Float64:
    """The scale of a (de)quantizer whose zero point is 0: [C] or a scalar."""
    given = _parameters(node, quantizer, what)
    if given.zero.any():
        raise PassError(node, f"the zero point of its {what} is not 0", "quantize symmetrically")
    return given.scale.astype(np.float64)


def _check_written_back(node: ir.Node, scale: Float64) -> None:
    """The membrane leaves the neuron through a quantizer with the scale it came in with."""
    mem_out = node.outputs[1]
    readers = [reader for reader, _ in mem_out.uses()]
    fits = (
        not mem_out.is_graph_output()
        and len(readers) == 1
        and is_op(readers[0], "QuantizeLinear")
        and np.array_equal(_symmetric_scale(node, readers[0], "new membrane"), scale)
    )
    if not fits:
        raise PassError(
            node,
            "its new membrane is not quantized as the old one was",
            "let mem_out go into one QuantizeLinear with the membrane's scale and nothing else",
        )


def _frac_bits(node: ir.Node, current: Float64, mem: Float64) -> int:
    """f of ``s_mem = s_current / 2^f``."""
    ratios = np.log2(np.broadcast_to(current, np.broadcast_shapes(current.shape, mem.shape)) / mem)
    frac_bits = int(np.rint(ratios.flat[0]))
    if not (ratios == frac_bits).all():
        raise PassError(
            node,
            "its membrane's scale is not the current's divided by one power of two",
            f"set it to the current's scale / 2^{frac_bits} in every channel",
        )
    return frac_bits

"""What a move is given, how it refuses, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from export.arithmetic import along
from export.passes.base import Array, PassError, attribute, constant
from export.passes.dequantized import Emitter, Facts, Quantized, Shape, dequantized

INT32_LIMIT = 2**31
ZERO32 = np.zeros((), np.int32)
"""The zero point of every accumulator."""


class Illegal(Exception):
    """The move would change the function; the message says why."""


@dataclass
class Site:
    """A node, what is known about its graph, and where new nodes go.

    bounds: largest magnitude of int32 values that moves have produced.
    """

    node: ir.Node
    facts: Facts
    bounds: dict[ir.Value, int]
    emit: Emitter

    @property
    def name(self) -> str:
        """What new nodes are called after."""
        return self.node.outputs[0].name or self.node.name or self.node.op_type

    def input(self, index: int) -> ir.Value | None:
        """An input, None where it is absent."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def operand(self, index: int = 0) -> Quantized:
        """A dequantized input."""
        found = dequantized(self.input(index))
        if found is None:
            raise Illegal(f"input {index} is not the result of a DequantizeLinear")
        return found

    def narrow(self, index: int = 0) -> Quantized:
        """A dequantized 8-bit input with one scale."""
        found = self.operand(index)
        if not found.eight_bit:
            raise Illegal(f"input {index} is {found.dtype}, not 8 bits: requantize it first")
        if found.axis is not None or found.zero.ndim:
            raise Illegal(f"input {index} has a scale per channel, and sums run over channels")
        return found

    def array(self, index: int, what: str) -> Array:
        """A constant input."""
        found = constant(self.input(index))
        if found is None:
            raise Illegal(f"{what} is not constant")
        return found

    def rank(self, value: ir.Value | None) -> int:
        """Number of dimensions of a value."""
        rank = None if value is None else self.facts.rank(value)
        if rank is None:
            raise Illegal("the rank of an input is not known")
        return rank

    def shape(self, value: ir.Value | None) -> Shape:
        """Shape of a value."""
        self.rank(value)
        assert value is not None
        return self.facts.shapes[value]

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        return attribute(self.node, name, default)

    def bound(self, operand: Quantized) -> int:
        """Largest magnitude of ``value - zero``."""
        array, zero = constant(operand.value), operand.zero.astype(np.int64)
        if array is not None:
            axis = 0 if operand.axis is None else operand.axis
            return int(np.abs(array.astype(np.int64) - along(zero, axis, array.ndim)).max())
        if operand.dtype.itemsize < 4:
            info = np.iinfo(operand.dtype)
            return int(max((zero - info.min).max(), (info.max - zero).max()))
        if operand.value not in self.bounds:
            raise Illegal("no bound is known for its int32 input")
        return self.bounds[operand.value]

    def accumulator(self, value: ir.Value, bound: int) -> ir.Value:
        """Note the bound of an int32 result.

        Raises:
            PassError: 32 bits may not hold it.
        """
        if bound >= INT32_LIMIT:
            raise PassError(
                self.node,
                f"its integer result may reach {bound}, and int32 ends at {INT32_LIMIT - 1}",
                "supported are results that fit: fewer bits, or the node split in parts",
            )
        self.bounds[value] = bound
        return value

    def clone(self, inputs: Sequence[ir.Value | None], **attributes: Any) -> list[ir.Value]:
        """The node's own operator on other inputs."""
        kept = {k: v for k, v in self.node.attributes.items()}
        return self.emit.op(
            self.node.op_type,
            inputs,
            f"{self.name}.int",
            {**kept, **attributes},
            num_outputs=len(self.node.outputs),
        )

    def with_integers(self, operand: Quantized) -> list[ir.Value]:
        """The node's own operator on the integers of its first input; bounds carry over."""
        results = self.clone([operand.value, *self.node.inputs[1:]])
        if operand.value in self.bounds:
            self.bounds.update(dict.fromkeys(results, self.bounds[operand.value]))
        return results


Move = Callable[[Site], Sequence[Quantized]]

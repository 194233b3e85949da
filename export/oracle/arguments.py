"""What a rule is given: attributes by name and inputs by position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from export.arithmetic import Array

__all__ = ["Array", "Attributes", "Inputs", "Rule", "optional", "text"]

Attributes = Mapping[str, Any]
Inputs = Sequence[Any]
Rule = Callable[[Attributes, Inputs], Any]
"""Computes a node's output, or a tuple of its outputs. ``outputs`` among the attributes is their
number; an absent input is None."""


def optional(inputs: Inputs, index: int, default: Any = None) -> Any:
    """An input that a node may leave out."""
    given = inputs[index] if index < len(inputs) else None
    return default if given is None else given


def text(attributes: Attributes, name: str, default: str) -> str:
    """An attribute that is text."""
    value = attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)

"""Places for buffers in one piece of memory: intervals of time, coloured by offsets.

Two buffers may share bytes if they never live at the same moment. Choosing offsets so that the
whole is smallest is the interval colouring problem (dynamic storage allocation), NP-hard in
general; no arrangement is smaller than the bytes that live at one moment, and for the few buffers
of a network that bound is nearly always reached.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_TRY_ALL = 6
"""Up to so many buffers every order is tried, so that the result is the smallest there is."""


@dataclass(frozen=True)
class Buffer:
    """What needs a place: bytes, and the first and last moment at which it holds a value."""

    name: str
    size: int
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.last < self.first:
            raise ValueError(f"buffer {self.name!r}: {self.size} bytes, {self.first}..{self.last}")

    def meets(self, other: Buffer) -> bool:
        """Whether both live at some moment."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Offsets in bytes by buffer name.

    size: of the whole. bound: no plan can be smaller. apart: size if nothing were shared.
    """

    offsets: dict[str, int]
    size: int
    bound: int
    apart: int


def plan_buffers(buffers: Sequence[Buffer], alignment: int = 4) -> Plan:
    """Place buffers so that no two that live at the same moment overlap.

    Args:
        buffers: with distinct names.
        alignment: every offset is a multiple of it.

    Raises:
        ValueError: a name twice.
    """
    if len({buffer.name for buffer in buffers}) != len(buffers):
        raise ValueError("two buffers have one name")
    bound = largest_load(buffers, alignment)
    apart = sum(_aligned(buffer.size, alignment) for buffer in buffers)
    best: Plan | None = None
    for order in _orders(buffers):
        offsets = _first_fit(order, alignment)
        size = max((offsets[b.name] + _aligned(b.size, alignment) for b in buffers), default=0)
        if best is None or size < best.size:
            best = Plan(offsets, size, bound, apart)
        if best.size == bound:
            break
    return best or Plan({}, 0, 0, 0)


def largest_load(buffers: Iterable[Buffer], alignment: int = 4) -> int:
    """Most bytes that live at one moment."""
    listed = list(buffers)
    return max(
        (
            sum(_aligned(b.size, alignment) for b in listed if b.first <= moment <= b.last)
            for moment in {b.first for b in listed}
        ),
        default=0,
    )


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _orders(buffers: Sequence[Buffer]) -> Iterable[Sequence[Buffer]]:
    """Orders in which to place: likely good ones, then all of them if they are few."""
    yield sorted(buffers, key=lambda b: (-b.size, b.first, b.name))
    yield sorted(buffers, key=lambda b: (b.first - b.last, -b.size, b.name))
    yield sorted(buffers, key=lambda b: (b.first, -b.size, b.name))
    yield sorted(buffers, key=lambda b: ((b.first - b.last - 1) * b.size, b.name))
    if len(buffers) <= _TRY_ALL:
        yield from itertools.permutations(buffers)


def _first_fit(order: Sequence[Buffer], alignment: int) -> dict[str, int]:
    """Each in turn at the lowest offset at which it overlaps nothing placed before."""
    placed: list[tuple[int, int, Buffer]] = []
    for buffer in order:
        size = _aligned(buffer.size, alignment)
        offset = 0
        for start, end, _ in sorted(
            (entry for entry in placed if entry[2].meets(buffer)), key=lambda entry: entry[:2]
        ):
            if offset + size <= start:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, buffer))
    return {buffer.name: start for start, _, buffer in placed}

"""Energy estimates from published costs of single operations.

What is estimated is arithmetic and memory traffic in a 45 nm process, not the machine this runs
on: no control, no clock, no network on chip. Effective operations are what hardware that skips
zeros executes; dense ones, all as multiply-accumulates, what hardware that does not executes.
Convolutions with integer weights multiply int8 and add int32, all others compute in float32; a
neuron update multiplies (the decay), adds (the current) and compares (priced as an addition), in
int32 or float32. Every byte of traffic is charged at the cost of one memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_HOROWITZ = (
    "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, "
    "figure 1.1.9: 45 nm, 0.9 V"
)


@dataclass(frozen=True)
class Constant:
    """Cost of one operation in picojoules, and where the number is from."""

    picojoules: float
    source: str = _HOROWITZ


CONSTANTS: Mapping[str, Constant] = {
    "int32 add": Constant(0.1),
    "int8 multiply": Constant(0.2),
    "int32 multiply": Constant(3.1),
    "float32 add": Constant(0.9),
    "float32 multiply": Constant(3.7),
    "SRAM 8 KB, 64 bits": Constant(10.0),
    "SRAM 32 KB, 64 bits": Constant(20.0),
    "SRAM 1 MB, 64 bits": Constant(100.0),
    "DRAM, 64 bits": Constant(1300.0, _HOROWITZ + "; the lower end of 1.3 to 2.6 nJ"),
}
"""Every number the estimates are made of."""

MEMORIES: Mapping[str, str] = {
    "sram-8k": "SRAM 8 KB, 64 bits",
    "sram-32k": "SRAM 32 KB, 64 bits",
    "sram-1m": "SRAM 1 MB, 64 bits",
    "dram": "DRAM, 64 bits",
}
"""Memories that traffic can be charged to."""

_ACCESS_BYTES = 8


@dataclass(frozen=True)
class Costs:
    """Operations, named as in CONSTANTS, that each unit of work is made of."""

    accumulate: tuple[str, ...]
    multiply_accumulate: tuple[str, ...]
    update: tuple[str, ...]


INTEGER = Costs(
    accumulate=("int32 add",),
    multiply_accumulate=("int8 multiply", "int32 add"),
    update=("int32 multiply", "int32 add", "int32 add"),
)
FLOAT = Costs(
    accumulate=("float32 add",),
    multiply_accumulate=("float32 multiply", "float32 add"),
    update=("float32 multiply", "float32 add", "float32 add"),
)


def picojoules(operations: tuple[str, ...]) -> float:
    """Cost of some operations together."""
    return sum(CONSTANTS[name].picojoules for name in operations)


def synapse_energy(acs: float, macs: float, *, integer: bool) -> float:
    """Picojoules of accumulations and multiply-accumulates."""
    costs = INTEGER if integer else FLOAT
    return acs * picojoules(costs.accumulate) + macs * picojoules(costs.multiply_accumulate)


def update_energy(updates: float, *, integer: bool) -> float:
    """Picojoules of neuron updates."""
    return updates * picojoules((INTEGER if integer else FLOAT).update)


def memory_energy(count: float, memory: str) -> float:
    """Picojoules of moving ``count`` bytes in 64-bit accesses; ``memory``: a key of MEMORIES."""
    return count / _ACCESS_BYTES * CONSTANTS[MEMORIES[memory]].picojoules


def used_constants(memory: str) -> dict[str, Constant]:
    """The constants that estimates with this memory are made of."""
    others = {name for key, name in MEMORIES.items() if key != memory}
    return {name: constant for name, constant in CONSTANTS.items() if name not in others}

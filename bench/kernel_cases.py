"""Single nodes of the op library with constants and tensors to time them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import lif_op.spec
from bench.spikes import draw, probability
from runtime.runner import Array

KERNEL = 3
HEAD_CHANNELS = 2
_BETA, _DECAY = 0.9, 230
_COUNT_LIMIT = 3
_MEMBRANES: Mapping[str, tuple[int, int]] = {"int16": (0, 500), "int8": (-3, 60)}
"""frac_bits and threshold by the membrane's type."""


@dataclass(frozen=True)
class Case:
    """A node with everything it needs for a step.

    op, variant: its name. constants, inputs: tensors by the name of the op's input. outputs: shape
    and type by the name of the op's output. inplace: the input that an output overwrites.
    macs: multiply-accumulates of a dense step, padding included.
    """

    op: str
    variant: str
    constants: Mapping[str, Array]
    inputs: Mapping[str, Array]
    outputs: Mapping[str, tuple[tuple[int, ...], str]]
    attributes: Mapping[str, Any]
    inplace: Mapping[str, str] = field(default_factory=dict)
    macs: int = 0

    @property
    def name(self) -> str:
        """Op and variant."""
        return f"{self.op} {self.variant}"

    @property
    def bytes(self) -> int:
        """What a step reads and writes of tensors, constants apart."""
        written = (
            int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in self.outputs.values()
        )
        return sum(array.nbytes for array in self.inputs.values()) + sum(written)


@dataclass(frozen=True)
class Setting:
    """What the cases are made for.

    channels, size: of a layer. density, pattern: of its input spikes. weight_bits: of all weights.
    """

    channels: int = 32
    size: tuple[int, int] = (256, 256)
    density: float = 0.1
    pattern: str = "uniform"
    weight_bits: int = 7
    seed: int = 0


def cases(setting: Setting) -> Iterator[Case]:
    """Every op and variant, the neurons alone first."""
    makers = _Makers(setting)
    yield makers.lif()
    for mem in _MEMBRANES:
        yield makers.qlif(mem)
    yield makers.qconv()
    yield makers.packed_qconv()
    for mem in _MEMBRANES:
        yield makers.fused(mem, counts=True)
    for mem in _MEMBRANES:
        yield makers.fused(mem)
    for mem in _MEMBRANES:
        yield makers.fused(mem, recurrent=True)


class _Makers:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.rng = np.random.default_rng(setting.seed)
        self.first = (1, setting.channels, *setting.size)
        self.last = (1, *setting.size, setting.channels)
        self.packed = (1, *setting.size, lif_op.spec.words(setting.channels))

    def weight(self, outputs: int, inputs: int, kernel: int = KERNEL) -> Array:
        limit = 2 ** (self.setting.weight_bits - 1) - 1
        shape = (outputs, inputs, kernel, kernel)
        return self.rng.integers(-limit, limit + 1, shape).astype(np.int8)

    def bias(self, outputs: int) -> Array:
        return self.rng.integers(-50, 51, outputs).astype(np.int32)

    def spikes(self) -> Any:
        size, density = self.setting.size, self.setting.density
        chance = probability(size, density, self.setting.pattern, self.rng)
        return draw(chance, self.setting.channels, self.rng)

    def per_channel(self, value: float, kind: Any) -> Array:
        return np.full(self.setting.channels, value, kind)

    def macs(self, weight: Array) -> int:
        return weight.size * self.setting.size[0] * self.setting.size[1]

    def lif(self) -> Case:
        current = self.rng.normal(0, 0.5, self.first).astype(np.float32)
        return Case(
            "LIF",
            "float32",
            {"beta": self.per_channel(_BETA, np.float32), "threshold": self.per_channel(1, "f4")},
            {"current": current, "mem": np.zeros(self.first, np.float32)},
            {"spike": (self.first, "float32"), "mem_out": (self.first, "float32")},
            {"reset": "zero"},
            {"mem_out": "mem"},
        )

    def qlif(self, mem: str) -> Case:
        constants, attributes = self.neuron(mem)
        acc = self.rng.integers(-500, 501, self.first).astype(np.int32)
        return Case(
            "QLIF",
            mem,
            constants,
            {"acc": acc, "mem": np.zeros(self.first, mem)},
            {"spike": (self.first, "uint8"), "mem_out": (self.first, mem)},
            attributes,
            {"mem_out": "mem"},
        )

    def neuron(self, mem: str) -> tuple[dict[str, Array], dict[str, Any]]:
        frac_bits, threshold = _MEMBRANES[mem]
        constants = {
            "decay": self.per_channel(_DECAY, np.int32),
            "threshold": self.per_channel(threshold, np.int32),
        }
        return constants, {"frac_bits": frac_bits, "reset": "zero"}

    def qconv(self) -> Case:
        channels = self.setting.channels
        weight = self.weight(channels, channels)
        return Case(
            "QConv",
            f"{channels}>{channels}",
            {"weight": weight, "bias": self.bias(channels)},
            {"x": self.spikes()},
            {"acc": (self.first, "int32")},
            _same(KERNEL),
            macs=self.macs(weight),
        )

    def packed_qconv(self) -> Case:
        """The flow head: 1x1 on packed spikes."""
        weight = self.weight(HEAD_CHANNELS, self.setting.channels, 1)
        return Case(
            "QConv",
            f"packed {self.setting.channels}>{HEAD_CHANNELS} 1x1",
            {"weight": weight, "bias": self.bias(HEAD_CHANNELS)},
            {"x": lif_op.spec.pack_spikes(self.spikes())},
            {"acc": ((1, HEAD_CHANNELS, *self.setting.size), "int32")},
            _same(1),
            macs=self.macs(weight),
        )

    def fused(self, mem: str, *, counts: bool = False, recurrent: bool = False) -> Case:
        channels = self.setting.channels
        inputs = HEAD_CHANNELS if counts else channels
        constants, attributes = self.neuron(mem)
        constants |= {"weight": self.weight(channels, inputs), "bias": self.bias(channels)}
        tensors: dict[str, Array] = {"mem": np.zeros(self.last, mem)}
        if counts:
            chance = self.spikes()[:, :1] * np.ones((1, inputs, 1, 1), np.uint8)
            drawn = self.rng.integers(1, _COUNT_LIMIT + 1, chance.shape)
            tensors["x"] = (chance * drawn).astype(np.uint8)
        else:
            tensors["x"] = lif_op.spec.pack_spikes(self.spikes())
        macs = self.macs(constants["weight"])
        if recurrent:
            constants["weight_rec"] = self.weight(channels, channels)
            tensors["spike_prev"] = lif_op.spec.pack_spikes(self.spikes())
            macs += self.macs(constants["weight_rec"])
        what = "counts " if counts else ""
        return Case(
            "QConvLIFRec" if recurrent else "QConvLIF",
            f"{what}{inputs}>{channels} {mem}",
            constants,
            tensors,
            {"spike": (self.packed, "uint32"), "mem_out": (self.last, mem)},
            attributes | _same(KERNEL),
            {"mem_out": "mem"},
            macs,
        )


def _same(kernel: int) -> dict[str, list[int]]:
    """Attributes of a convolution that keeps the size."""
    return {"strides": [1, 1], "pads": [kernel // 2] * 4}

"""What a Brevitas module computes at each of its quantizers, under the names of its graph."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from export.difference import Array, Arrays
from export.gap import Computed
from export.local import Graph
from export.match import Pairs
from export.module_inputs import Inputs
from export.torch_graph import run_module

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="fast_hadamard_transform package not found")
    from brevitas.proxy import ActQuantProxyFromInjector

Key = tuple[tuple[int, ...], float]


@dataclass(frozen=True)
class _Call:
    """One quantizer's result: real values, and the scale and zero point behind them."""

    value: Array
    scale: float
    zero: float

    @property
    def key(self) -> Key:
        return self.value.shape, self.scale


def trace_brevitas(
    module: nn.Module, sample: Inputs, graph: Graph, outputs: Sequence[str]
) -> tuple[Computed, Pairs]:
    """Run a module and find its quantizers in its graph.

    A call of a quantizer and a tensor of the graph are the same where shape, scale and order agree.

    Args:
        module: in eval mode.
        sample: its inputs.
        graph: its QDQ graph, run on the same sample.
        outputs: names of the module's outputs.

    Returns:
        the integers of its quantizers and its outputs, and the pairs of tensors that they make.
    """
    with _recording(module) as calls:
        results = run_module(module, sample)
    values: Arrays = {}
    tensors = _quantized(graph)
    keys = [(graph.values[name].shape, _scale(graph, name)) for name in tensors]
    matcher = difflib.SequenceMatcher(None, [call.key for call in calls], keys, autojunk=False)
    for block in matcher.get_matching_blocks():
        for k in range(block.size):
            name, call = tensors[block.b + k], calls[block.a + k]
            values[name] = _integers(call, graph.values[name])
    values |= {name: r.detach().numpy() for name, r in zip(outputs, results, strict=True)}
    grids = {name: graph.grids[name] for name in values if name in graph.grids}
    return Computed(values, grids), [(name, name) for name in values]


@contextmanager
def _recording(module: nn.Module) -> Iterator[list[_Call]]:
    calls: list[_Call] = []

    def record(part: nn.Module, inputs: Any, result: Any) -> None:
        scale, zero = getattr(result, "scale", None), getattr(result, "zero_point", None)
        if scale is not None and zero is not None and scale.numel() == 1:
            value = result.value.detach().numpy()
            calls.append(_Call(value, float(scale.item()), float(zero.item())))

    handles = [
        part.register_forward_hook(record)
        for part in module.modules()
        # A disabled proxy passes on what the one before it quantized.
        if isinstance(part, ActQuantProxyFromInjector) and part.is_quant_enabled
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _quantized(graph: Graph) -> list[str]:
    """Quantized tensors in order, behind their limits where a range has less than 8 bits."""
    clips = [node for node in graph.model.graph.node if node.op_type == "Clip"]
    limited = {node.input[0]: node.output[0] for node in clips}
    return [
        name
        for name, (_, entry) in graph.roundings.items()
        if entry.scale.size == 1 and limited.get(name) not in graph.roundings
    ]


def _scale(graph: Graph, name: str) -> float:
    return float(graph.roundings[name][1].scale.reshape(-1)[0])


def _integers(call: _Call, like: Array) -> Array:
    levels = np.rint(call.value.astype(np.float64) / call.scale) + call.zero
    limits = np.iinfo(like.dtype)
    return np.clip(levels, limits.min, limits.max).astype(like.dtype)

"""Layer by layer from one graph to the next: each layer computed on equal inputs.

The later of two graphs is run with every tensor it has in common with the earlier one dictated: who
reads such a tensor reads the value of the earlier graph, on the later one's grid. What a layer then
computes differs by what that layer changed, and by nothing that the layers before it did, so a
rounding tie near the input does not grow with the depth of the network.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from export.difference import Array, Arrays
from export.gap import Computed, same_integers
from export.grids import MOVES, Grid, constants, find_grids, find_roundings
from export.match import Pairs, match, roles
from export.trace import FORCED, Tracer, with_types

_ACCUMULATING = ("Conv", "Gemm")
_KEEPS_UNIT = MOVES | {"Add", "Sub"}


class Graph(Computed):
    """A stage's graph, run on one sample.

    Args:
        model: its inputs and outputs are those of every other stage.
        feed: an array per input.

    Raises:
        ExportError: ONNX Runtime refuses it.
    """

    def __init__(self, model: onnx.ModelProto, feed: Arrays) -> None:
        tracer = Tracer(model)
        super().__init__(tracer.run(feed), find_grids(model), find_roundings(model))
        self.model, self.feed = model, feed
        self._constants = constants(model.graph)
        self.names = [n for n in tracer.names if n not in self._constants]
        self.outputs = [output.name for output in model.graph.output]
        self.roles = roles(model)

    def array(self, name: str) -> Array:
        """A tensor or a constant of the graph."""
        found = self._constants.get(name)
        return self.values[name] if found is None else found

    def dictated(self, given: Arrays) -> Computed:
        """What the graph computes where readers of these tensors read the given values."""
        seen = {name: self.values[name] for name in given}
        tracer = Tracer(with_types(self.model, seen), given)
        forced = {FORCED + name: value for name, value in given.items()}
        read = {name: value for name, value in forced.items() if name in tracer.forced}
        return Computed(tracer.run({**self.feed, **read}), self.grids, self.roundings)

    def accumulator_units(self) -> dict[str, Array]:
        """The unit of a bias, shaped to broadcast, by the tensor of sums that it is added to."""
        arrays = self._constants
        makers = {name: node for node in self.model.graph.node for name in node.output}
        units: dict[str, Array] = {}
        for node in self.model.graph.node:
            bias = makers.get(node.input[2]) if len(node.input) > 2 else None
            if node.op_type in _ACCUMULATING and bias is not None and len(bias.input) > 1:
                scale = arrays.get(bias.input[1])
                if scale is not None:
                    rank = self.values[node.output[0]].ndim
                    shape = (1, -1, *(1,) * (rank - 2)) if scale.size > 1 else (1,) * rank
                    units[node.output[0]] = scale.astype(np.float64).reshape(shape)
        return units


def counterparts(before: Graph, after: Graph) -> Pairs:
    """Tensors of both graphs that mean the same: those of one name, and of derived names.

    Passes keep the names of what they keep, so none is paired by order. An integer that is read in
    another unit than the real tensor it replaces has no counterpart.
    """
    ranks = [{n: v.ndim for n, v in graph.values.items()} for graph in (before, after)]
    common = set(before.names) & set(after.names)
    derived = match(before.roles, after.roles, ranks, by_order=False)
    pairs = [(name, name) for name in common]
    pairs += [p for p in derived if not {*p} & common and _same_unit(before, after, *p)]
    place = {name: number for number, name in enumerate(after.names)}
    alike = [(a, b) for a, b in pairs if before.values[a].shape == after.values[b].shape]
    return sorted(alike, key=lambda pair: place.get(pair[1], -1))


def _same_unit(before: Graph, after: Graph, real: str, integer: str) -> bool:
    """Whether an integer's dequantized form is, in the stage before, the real tensor it replaces.

    A factor that followed the real tensor may have become part of the scale; then it is not.
    """
    seen, results, queue = {integer}, [], [integer]
    while queue:
        name = queue.pop()
        for node in after.model.graph.node:
            if name in node.input and node.op_type == "DequantizeLinear":
                results.append(node.output[0])
            elif name in node.input and node.op_type in _KEEPS_UNIT:
                queue += [output for output in node.output if output not in seen]
                seen.update(node.output)
    return bool(results) and all(_comes_from(before, result, real) for result in results)


def _comes_from(graph: Graph, result: str, source: str) -> bool:
    """Whether a tensor is another one, moved, limited or added to."""
    seen, queue = {result}, [result]
    makers = {name: node for node in graph.model.graph.node for name in node.output}
    while queue:
        name = queue.pop()
        if name == source:
            return True
        node = makers.get(name)
        if node is not None and node.op_type in _KEEPS_UNIT:
            queue += [other for other in node.input if other not in seen]
            seen.update(node.input)
    return False


def translated(value: Array, grid: Grid | None, like: Array, other: Grid | None) -> Array | None:
    """A value as another graph holds it; None where nothing says how the two relate.

    Args:
        value: on ``grid``, or real where that is None.
        like: of the type that is wanted, on ``other``.
    """
    integer, wanted = value.dtype.kind in "iu", like.dtype.kind in "iu"
    if not integer and not wanted:
        return value if value.dtype == like.dtype else None
    if grid is None and other is None:
        return value if value.dtype == like.dtype else None
    if integer and not wanted:
        return None if grid is None else grid.real(value).astype(like.dtype)
    if integer and same_integers(value, grid, like, other):
        return value
    if other is None or (integer and (grid is None or not grid.same_scale(other))):
        return None
    units = (
        grid.units(value)
        if integer and grid is not None
        else np.rint(value.astype(np.float64) / other.spread(value.ndim))
    )
    limits = np.iinfo(like.dtype)
    return np.clip(units + other.offset(value.ndim), limits.min, limits.max).astype(like.dtype)


def run_dictated(before: Computed, after: Graph, pairs: Iterable[tuple[str, str]]) -> Computed:
    """Run a graph on the values of another, layer by layer.

    Args:
        pairs: names in ``before`` and in ``after``.
    """
    given: Arrays = {}
    for one, other in pairs:
        value = translated(
            before.values[one], before.grids.get(one), after.values[other], after.grids.get(other)
        )
        if value is not None:
            given[other] = value
    return after.dictated(given)

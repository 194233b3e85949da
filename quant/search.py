"""Per-layer choices by measurement: tuning of membranes, and which layer is sensitive to what.

Both vary one layer at a time. The layers before it are then unchanged, so their spikes are computed
once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from calib_data.files import atomic_path
from quant.errors import QuantError
from quant.options import HEAD, LayerOptions, QuantOptions
from quant.scoring import Scorer
from quant.spec import NetworkSpec

Derive = Callable[[QuantOptions], NetworkSpec]
WEIGHT_BITS = range(2, 9)
_REACH = 2
"""Candidates lie up to this many fractional bits from the automatic choice."""


def with_layer(options: QuantOptions, name: str, **bits: int) -> QuantOptions:
    """The options with one layer's exceptions changed."""
    own = replace(options.layers.get(name, LayerOptions()), **bits)
    return replace(options, layers={**options.layers, name: own})


class Memo:
    """Errors already measured, in a file that an interrupted search goes on from.

    Args:
        path: the file; None keeps them in memory only.
        identity: what the errors depend on; a file of another identity is started anew.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self._path, self._identity = path, json.loads(json.dumps(identity))
        self._errors: dict[str, float] = {}
        if path is not None:
            self._errors = self._read(path)

    def _read(self, path: Path) -> dict[str, float]:
        try:
            content = json.loads(path.read_text())
            if content["identity"] != self._identity:
                return {}
            return {str(key): float(value) for key, value in content["errors"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise QuantError(f"{path}: no unfinished search; delete it to start anew") from None

    def __len__(self) -> int:
        return len(self._errors)

    def error(self, key: str, measure: Callable[[], float]) -> float:
        """The error under a key; measured, and written, where it is not known."""
        if key not in self._errors:
            self._errors[key] = measure()
            if self._path is not None:
                with atomic_path(self._path) as temporary:
                    content = {"identity": self._identity, "errors": self._errors}
                    temporary.write_text(json.dumps(content) + "\n")
        return self._errors[key]


@dataclass(frozen=True)
class Tuned:
    """Result of a tuning.

    options: with an exception per layer whose automatic choice was not the best. error,
    error_before: pixels, by the scorer's measure. trials: networks that were measured.
    """

    options: QuantOptions
    error: float
    error_before: float
    trials: int


@dataclass(frozen=True)
class Progress:
    """How far a tuning is: tried of total candidates, and the lowest error."""

    tried: int
    total: int
    error: float


class Membrane(NamedTuple):
    """Bits of a layer's membrane, and how many of them are fractional."""

    mem_bits: int
    frac_bits: int


def membrane_candidates(derive: Derive, options: QuantOptions, index: int) -> list[Membrane]:
    """Membranes to try for layer ``index``: its own, those of other fractional bits nearest first,
    and, where it has 16 bits, the automatic one of 8."""
    layer = derive(options).layers[index]
    own = Membrane(layer.mem_bits, layer.frac_bits)
    around = range(own.frac_bits - _REACH, own.frac_bits + _REACH + 1)
    usable = [f for f in around if -15 <= f <= own.mem_bits - 2 and f != own.frac_bits]
    usable.sort(key=lambda f: (abs(f - own.frac_bits), f))
    candidates = [own, *(Membrane(own.mem_bits, f) for f in usable)]
    if own.mem_bits == 16 and options.of(layer.name).frac_bits is None:
        small = derive(with_layer(options, layer.name, mem_bits=8)).layers[index]
        candidates.append(Membrane(8, small.frac_bits))
    return candidates


def tune(
    derive: Derive, options: QuantOptions, scorer: Scorer, memo: Memo
) -> Iterator[Progress | Tuned]:
    """Greedy coordinate search over the layers' membranes.

    From the first layer to the last, each is given the candidate with the lowest error while all
    others stay; the automatic choice wins ties.

    Args:
        derive: options to integers.
        options: to start from.
        scorer: measures errors.
        memo: errors known from an interrupted run.

    Yields:
        Progress after every candidate, and Tuned at last.
    """
    start = derive(options)
    plan = [membrane_candidates(derive, options, index) for index in range(len(start.layers))]
    total = sum(map(len, plan))
    best = before = memo.error(_key(start), partial(scorer.error, start))
    tried = 0
    inputs = scorer.inputs()
    for index, layer in enumerate(start.layers):
        chosen = plan[index][0]
        for membrane in plan[index]:
            spec = derive(with_layer(options, layer.name, **membrane._asdict()))
            error = memo.error(_key(spec), partial(scorer.error, spec, inputs, index))
            if error < best:
                best, chosen = error, membrane
            tried += 1
            yield Progress(tried, total, best)
        if chosen != plan[index][0]:
            options = with_layer(options, layer.name, **chosen._asdict())
        inputs = scorer.advance(derive(options), inputs, index, index + 1)
    yield Tuned(options, best, before, len(memo))


def _key(spec: NetworkSpec) -> str:
    return " ".join(f"{layer.name}:{layer.mem_bits}:{layer.frac_bits}" for layer in spec.layers)


@dataclass(frozen=True)
class Sensitivity:
    """Error in pixels with one layer changed and all others at 8-bit weights, 16-bit membranes.

    weight_bits: its weights' bits; mem_bits: its membrane's (0 for the flow head).
    """

    layer: str
    weight_bits: int
    mem_bits: int
    error: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def sensitivity(derive: Derive, options: QuantOptions, scorer: Scorer) -> Iterator[Sensitivity]:
    """Which layer costs how much at which width.

    First the network with 8-bit weights and 16-bit membranes everywhere, as layer "none"; then
    each layer at weights of 7 to 2 bits, and each spiking layer at an 8-bit membrane, unless its
    neurons are float.

    Args:
        derive: options to integers.
        options: current mode, neuron and scale search are taken from them.
        scorer: measures errors.
    """
    base = replace(options, weight_bits=8, mem_bits=16, frac_bits=None, layers={})
    start = derive(base)
    yield Sensitivity("none", 8, 16, scorer.error(start))
    inputs = scorer.inputs()
    for index, name in enumerate([*(layer.name for layer in start.layers), HEAD]):
        mem_bits = 0 if name == HEAD else 16
        for bits in reversed(WEIGHT_BITS[:-1]):
            spec = derive(with_layer(base, name, weight_bits=bits))
            yield Sensitivity(name, bits, mem_bits, scorer.error(spec, inputs, index))
        if name != HEAD:
            if options.neuron == "integer":
                spec = derive(with_layer(base, name, mem_bits=8))
                yield Sensitivity(name, 8, 8, scorer.error(spec, inputs, index))
            inputs = scorer.advance(start, inputs, index, index + 1)


def sensitivity_trials(layers: int, neuron: str = "integer") -> int:
    """How many networks :func:`sensitivity` measures."""
    membranes = layers if neuron == "integer" else 0
    return 1 + (len(WEIGHT_BITS) - 1) * (layers + 1) + membranes

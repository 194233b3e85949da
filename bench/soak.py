"""Drive an integer artifact for a very long time and look for anything that creeps.

    python -m bench.soak model.int8.onnx [--steps N] [--resolution H W] [--json]

The artifact runs on the fastest kernels of this machine and, in the same order of inputs, on the
scalar ones. Their flow accumulators are compared after every step. At checkpoints all states are
compared, membranes are held against the bounds that their thresholds set, and from the state
reached the function bodies (ONNX Runtime without the op library) and the ONNX reference evaluator
make some steps beside the kernels. In the end ``reset()`` must bring back the first steps exactly.
Memory is looked at after a tenth of the run and at its end.

Inputs come in stretches of one kind each: silence, few events, many, every count at its limit of
127, and a pixel that never rests. The exit status is 1 where anything differs or leaves its bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

import lif_op
from bench.errors import BenchError
from calib_data import console
from runtime.arguments import positive
from runtime.artifact import Artifact, LoadedModel, load_model
from runtime.graph_checks import FLOW_ACC
from runtime.house import start_command
from runtime.layout import channels_first
from runtime.reference import ReferenceStream
from runtime.runner import Array, Flow
from runtime.session import StatefulSession

MOST_COUNT = 127
REPEATED = 16
"""How many first steps ``reset()`` has to bring back."""

_STRETCH = 128
_PER_KIND = 8
_BESIDE = {"bodies": 16, "evaluator": 1}
_TARGET = "LIF_OP_TARGET"

Counts = npt.NDArray[np.uint8]


class Driven(Protocol):
    """What makes steps: a session, or the reference evaluator."""

    def step(self, events: Array) -> Flow: ...

    def reset(self) -> None: ...

    def states(self) -> dict[str, Array]: ...

    def set_states(self, states: Mapping[str, Array]) -> None: ...

    def outputs(self) -> dict[str, Array]: ...


@dataclass(frozen=True)
class Soaked:
    """What a soak found.

    beside: steps made by others at the checkpoints. saturated_steps: with every count at its
        limit. membranes: lowest and highest value of each layer's at the checkpoints.
    growth_bytes: of the resident memory, from a tenth of the run to its end.
    """

    steps: int
    checkpoints: int
    beside: dict[str, int]
    saturated_steps: int
    differences: tuple[str, ...]
    membranes: dict[str, tuple[int, int]]
    growth_bytes: int
    seconds: float


def inputs(shape: Sequence[int], steps: int, seed: int = 0) -> Iterator[tuple[Counts, bool]]:
    """Event counts uint8 of a shape [1, bins, H, W], and whether all of them are at the limit."""
    rng = np.random.default_rng(seed)
    pixel = np.zeros(shape, np.uint8)
    pixel[..., 0, 0] = 1
    pools = [
        [np.zeros(shape, np.uint8)],
        [rng.poisson(0.02, shape).astype(np.uint8) for _ in range(_PER_KIND)],
        [rng.poisson(0.5, shape).astype(np.uint8) for _ in range(_PER_KIND)],
        [rng.integers(0, MOST_COUNT + 1, shape).astype(np.uint8) for _ in range(_PER_KIND)],
        [pixel],
        [np.full(shape, MOST_COUNT, np.uint8)],
    ]
    for start in range(0, steps, _STRETCH):
        pool = pools[int(rng.integers(len(pools)))]
        for _ in range(min(_STRETCH, steps - start)):
            yield pool[int(rng.integers(len(pool)))], pool is pools[-1]


def soak(
    artifact: Artifact,
    tested: Driven,
    witness: Driven,
    beside: Mapping[str, Driven],
    resolution: tuple[int, int],
    steps: int,
    checkpoint: int,
    seed: int = 0,
) -> Soaked:
    """Drive ``tested`` and ``witness`` over the same inputs, others beside them at checkpoints.

    Args:
        artifact: what all of them run. resolution: (H, W).
        beside: "bodies" and "evaluator", or some of them.
        steps: how many; checkpoint: every so many of them.
    """
    shape = (1, artifact.num_bins, *resolution)
    first = [counts.copy() for counts, _ in islice(inputs(shape, steps, seed), REPEATED)]
    expected = [_accumulators(tested, counts) for counts in first]
    tested.reset()
    begun, early, saturated, checkpoints = time.monotonic(), 0, 0, 0
    differences: list[str] = []
    membranes: dict[str, tuple[int, int]] = {}
    made = dict.fromkeys(beside, 0)
    for step, (counts, full) in enumerate(inputs(shape, steps, seed), start=1):
        saturated += full
        if not np.array_equal(_accumulators(tested, counts), _accumulators(witness, counts)):
            differences.append(f"step {step}: flow accumulators differ")
            break
        if step == max(1, steps // 10):
            early = _resident_bytes()
        if step % checkpoint and step != steps:
            continue
        checkpoints += 1
        states = tested.states()
        differences += _unequal(states, witness.states(), f"step {step}")
        differences += _out_of_bounds(artifact, states, membranes, f"step {step}")
        for name, other in beside.items():
            differences += _beside(name, other, tested, states, first, step)
            made[name] += _BESIDE[name]
            tested.set_states(states)
        if differences:
            break
    growth = _resident_bytes() - early
    tested.reset()
    for number, (counts, before) in enumerate(zip(first, expected, strict=True), start=1):
        if not np.array_equal(_accumulators(tested, counts), before):
            differences.append(f"after reset(): step {number} is not what it was at first")
            break
    return Soaked(
        step, checkpoints, made, saturated, tuple(differences), membranes, growth,
        time.monotonic() - begun,
    )  # fmt: skip


def _accumulators(stream: Driven, counts: Counts) -> Array:
    stream.step(counts)
    return stream.outputs()[FLOW_ACC]


def _unequal(states: Mapping[str, Array], others: Mapping[str, Array], where: str) -> list[str]:
    return [
        f"{where}: state {name} differs"
        for name, array in states.items()
        if not np.array_equal(array, others[name])
    ]


def _beside(
    name: str,
    other: Driven,
    tested: Driven,
    states: Mapping[str, Array],
    counts: Sequence[Counts],
    step: int,
) -> list[str]:
    """Make some steps with both from the same states."""
    other.set_states(states)
    for number in range(_BESIDE[name]):
        given = counts[(step + number) % len(counts)]
        if not np.array_equal(_accumulators(tested, given), _accumulators(other, given)):
            return [f"step {step}: flow accumulators differ from the {name}'s, {number + 1} later"]
    return _unequal(tested.states(), other.states(), f"step {step}, {name}")


def _out_of_bounds(
    artifact: Artifact,
    states: Mapping[str, Array],
    seen: dict[str, tuple[int, int]],
    where: str,
) -> list[str]:
    """Membranes above what their reset leaves; the range of each is added to ``seen``.

    With reset "zero" a membrane is 0 or did not exceed its threshold; with "subtract" it may be as
    far above 0 as its type reaches above the threshold. The type itself is the lower bound.
    """
    found = []
    for state in artifact.states:
        if state.role != "mem":
            continue
        layer = artifact.layer(state.layer)
        mem = channels_first(artifact, state, states[state.input])
        low, high = seen.get(layer.name, (0, 0))
        seen[layer.name] = (min(low, int(mem.min())), max(high, int(mem.max())))
        threshold = np.array(layer.threshold, np.int64)
        most = int(np.iinfo(state.dtype).max)
        if layer.reset == "zero":
            bound = np.maximum(threshold, 0)
        elif layer.reset == "subtract":
            bound = np.maximum(threshold, most - threshold)
        else:
            bound = np.full(threshold.shape, most)
        if (mem > bound[:, None, None]).any():
            found.append(f"{where}: a membrane of {layer.name} is above its bound")
    return found


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@contextmanager
def _forced(target: str) -> Iterator[None]:
    """Sessions made within take their kernels from one target."""
    before = os.environ.get(_TARGET)
    os.environ[_TARGET] = target
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TARGET]
        else:
            os.environ[_TARGET] = before


def soak_file(
    loaded: LoadedModel, resolution: tuple[int, int], steps: int, checkpoint: int, seed: int = 0
) -> Soaked:
    """Soak an integer artifact: fastest kernels, scalar ones, bodies and reference evaluator.

    Raises:
        BenchError: it is no integer artifact. SessionError: not of that size.
        lif_op.LibraryError: the op library is missing.
    """
    if not loaded.artifact.is_integer:
        raise BenchError(f"{loaded.path}: is no integer artifact; give a model.int8.onnx")
    tested = StatefulSession(loaded, resolution=resolution, library="require")
    with _forced("scalar"):
        witness = StatefulSession(loaded, resolution=resolution, library="require")
    beside: dict[str, Driven] = {
        "bodies": StatefulSession(loaded, resolution=resolution, library="never"),
        "evaluator": ReferenceStream(loaded, resolution=resolution),
    }
    return soak(loaded.artifact, tested, witness, beside, resolution, steps, checkpoint, seed)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    loaded = load_model(arguments.model)
    fixed = None if loaded.artifact.spatial_free else loaded.artifact.resolution
    resolution = tuple(arguments.resolution or fixed or (16, 16))
    checkpoint = arguments.checkpoint or max(1, arguments.steps // 100)
    found = soak_file(
        loaded, (resolution[0], resolution[1]), arguments.steps, checkpoint, arguments.seed
    )
    if arguments.json:
        print(json.dumps(asdict(found) | {"target": lif_op.active_target()}))
    else:
        _print(found)
    return 1 if found.differences else 0


def _print(found: Soaked) -> None:
    beside = ", ".join(f"{steps} beside the {name}" for name, steps in found.beside.items())
    print(
        f"{found.steps} steps on {lif_op.active_target()} equal to scalar, {beside}, "
        f"{found.saturated_steps} of them saturated, in {found.seconds:.0f} s"
        if not found.differences
        else "\n".join(found.differences)
    )
    for layer, (low, high) in found.membranes.items():
        print(f"  membrane of {layer}: {low} to {high} at {found.checkpoints} checkpoints")
    print(f"  resident memory grew by {found.growth_bytes / 2**20:.1f} MiB after the first tenth")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="A very long run of an integer artifact: differences, bounds, memory, reset.",
        epilog="example: python -m bench.soak build/demo/model.int8.onnx --steps 1000000",
    )
    parser.add_argument("model", type=Path, metavar="model.int8.onnx")
    parser.add_argument("--steps", type=positive, default=1_000_000, metavar="N")
    parser.add_argument(
        "--resolution", type=positive, nargs=2, metavar=("H", "W"),
        help="of files that leave it free (default: 16 16)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=positive, metavar="N",
        help="compare all states every N steps (default: a hundredth of them)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the inputs")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

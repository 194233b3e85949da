"""Are two runs of the same network equal, bit for bit? If not: where do they part?

    python -m runtime.parity A.onnx B.onnx --data F.h5 [--steps N]

B may be the same file as A with other settings (``--b-library never``, ``--b-threads 2``,
``--b-runtime reference``, ...). Every state and the flow accumulator are compared after each step.
On the first difference both networks repeat that step from the last equal state on copies of their
graphs that show every spike, and the first layer, channel and pixel to differ is named.

The tanh of the flow head differs in its last bit between runtimes, so ``flow`` is not compared.
Exit status: 0 equal, 1 different, 2 not comparable.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calib_data import console
from calib_data.events import EventSource
from calib_data.files import atomic_path
from calib_data.npz import open_events
from calib_data.windows import count_windows, iterate_windows
from runtime.arguments import add_recording_arguments, positive
from runtime.artifact import load_model
from runtime.errors import ParityError
from runtime.graph_checks import FLOW_ACC
from runtime.house import start_command
from runtime.layout import states_channels_first
from runtime.metadata import Artifact, State
from runtime.reference import ReferenceStream
from runtime.runner import Array, Runner, encode
from runtime.sequence import check_resolution, default_window
from runtime.session import BINDINGS, LIBRARY_CHOICES, OPTIMIZATIONS, StatefulSession

RUNTIMES = ("onnxruntime", "reference")


@dataclass(frozen=True)
class Difference:
    """The first place where two runs differ.

    step: number of the step, from 0. tensor: "spike", "membrane" or "flow_acc". layer: its name
    ("pred" for the accumulator). channel, y, x: the first differing element. a, b: the two values.
    count: elements of that tensor that differ.
    reproduced: whether repeating the step on the diagnostic copies showed a difference again; if
        not, the place is that of the first differing state, and the cause may lie before it.
    """

    step: int
    tensor: str
    layer: str
    channel: int
    y: int
    x: int
    a: float
    b: float
    count: int
    reproduced: bool = True

    def __str__(self) -> str:
        note = "" if self.reproduced else " (not reproduced when the step was repeated)"
        return (
            f"step {self.step}: {self.tensor} of layer {self.layer}, channel {self.channel}, "
            f"y {self.y}, x {self.x}: {self.a:g} against {self.b:g}; {self.count} values of that "
            f"tensor differ{note}"
        )


@dataclass(frozen=True)
class ParityResult:
    """What a comparison found.

    steps: steps made, the differing one included. difference: None if all was equal. fired: steps
    (of those watched) in which each layer fired; watching ends once every layer has. compared:
    names of what was compared after each step.
    """

    steps: int
    difference: Difference | None
    fired: Mapping[str, int]
    compared: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether no difference was found."""
        return self.difference is None

    @property
    def silent_layers(self) -> tuple[str, ...]:
        """Layers that never fired, whose equality therefore says little."""
        return tuple(layer for layer, times in self.fired.items() if not times)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; a value that is not finite is written as text."""
        values = asdict(self)
        for side in ("a", "b") if self.difference is not None else ():
            if not np.isfinite(values["difference"][side]):
                values["difference"][side] = str(values["difference"][side])
        return values | {"equal": self.equal, "silent_layers": list(self.silent_layers)}


def compare(a: Runner, b: Runner, steps: Iterable[tuple[Array, Array]]) -> ParityResult:
    """Step two networks side by side until they differ or the steps end.

    Args:
        a, b: the networks, in equal states (fresh ones are). The spikes of ``a`` are watched.
        steps: the ``events`` tensors of each step for ``a`` and for ``b``.

    Returns:
        What was found; every step was equal unless it has a difference.

    Raises:
        ParityError: networks of different kinds or with different states, no steps, or inputs on
            which no neuron fires.
    """
    check_comparable(a.artifact, b.artifact)
    witness = _Witness(a)
    before: tuple[dict[str, Array], dict[str, Array]] | None = None
    made = 0
    difference = None
    for number, (events_a, events_b) in enumerate(steps):
        a.step(events_a)
        b.step(events_b)
        witness.step(events_a)
        made = number + 1
        states = a.states(), b.states()
        after = _observed(a, states[0]), _observed(b, states[1])
        if _differing(*after):
            difference = _locate(number, a, b, before, (events_a, events_b), after)
            break
        before = states
    if not made:
        raise ParityError("no steps to compare; the recording is too short for this window")
    if difference is None and not any(witness.fired.values()):
        raise ParityError(
            f"no neuron fired in {made} steps, so their equality proves nothing; use a recording "
            "with more events, longer windows or more steps"
        )
    names = [state.input for state in a.artifact.states]
    compared = (*names, FLOW_ACC) if a.artifact.is_integer else tuple(names)
    return ParityResult(made, difference, witness.fired, compared)


def check_comparable(a: Artifact, b: Artifact) -> None:
    """Raise ParityError unless equality of the two networks is a meaningful question."""
    if a.kind != b.kind:
        raise ParityError(
            f"networks of kind {a.kind} and {b.kind} are never equal spike for spike; compare "
            "their errors with runtime.evaluate"
        )
    mine, other = ({_comparable(x, s) for s in x.states} for x in (a, b))
    if mine != other:
        odd = ", ".join(sorted(str(name) for name, _, _ in mine ^ other))
        raise ParityError(f"the two networks differ in their states ({odd}), so nothing can match")


def _comparable(artifact: Artifact, state: State) -> tuple[str, str, int | str]:
    """What two networks must share of a state; its layout may differ."""
    dtype = "uint8" if state.layout == "packed32" else state.dtype
    channels = state.shape[1] if state.layout == "NCHW" else artifact.layer(state.layer).channels
    return state.input, dtype, channels


class _Witness:
    """Watches a network's spikes on a diagnostic copy until every layer has fired once."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner.diagnostic()
        if runner.resolution is not None:
            self._runner.set_states(runner.states())
        self.fired = {layer.name: 0 for layer in runner.artifact.layers}

    def step(self, events: Array) -> None:
        if all(self.fired.values()):
            return
        self._runner.step(events)
        for layer, spikes in self._runner.spikes().items():
            self.fired[layer] += bool(spikes.any())


def _observed(runner: Runner, states: Mapping[str, Array]) -> dict[str, Array]:
    """What is compared after a step: states, channels first, and the accumulator of integer
    networks."""
    seen = states_channels_first(runner.artifact, states)
    if runner.artifact.is_integer:
        seen[FLOW_ACC] = runner.outputs()[FLOW_ACC]
    return seen


def _differing(a: Mapping[str, Array], b: Mapping[str, Array]) -> list[str]:
    return [name for name in a if not np.array_equal(a[name], b[name])]


def _locate(
    step: int,
    a: Runner,
    b: Runner,
    before: tuple[Mapping[str, Array], Mapping[str, Array]] | None,
    events: tuple[Array, Array],
    after: tuple[Mapping[str, Array], Mapping[str, Array]],
) -> Difference:
    """Repeat one step from the last equal state and find the first layer that differs."""
    traces = []
    for side, runner in enumerate((a, b)):
        copy = runner.diagnostic()
        if before is not None:
            copy.set_states(before[side])
        copy.step(events[side])
        traces.append(_trace(copy.artifact, copy.spikes(), _observed(copy, copy.states())))
    found = _first_difference(step, *traces, reproduced=True)
    if found is not None:
        return found
    states = [_trace(a.artifact, {}, seen) for seen in after]
    found = _first_difference(step, *states, reproduced=False)
    if found is None:
        raise ParityError(f"step {step}: shapes of the two networks differ; compare equal sizes")
    return found


Trace = list[tuple[str, str, Array]]


def _trace(artifact: Artifact, spikes: Mapping[str, Array], seen: Mapping[str, Array]) -> Trace:
    """Tensors in the order the network computes them: (kind, layer, state, values)."""
    trace: Trace = []
    for layer in artifact.layers:
        if layer.name in spikes:
            trace.append(("spike", layer.name, spikes[layer.name]))
        trace.append(("membrane", layer.name, seen[f"mem.{layer.name}"]))
        if layer.recurrent:
            trace.append(("spike", layer.name, seen[f"spike.{layer.name}"]))
    if FLOW_ACC in seen:
        trace.append((FLOW_ACC, "pred", seen[FLOW_ACC]))
    return trace


def _first_difference(step: int, a: Trace, b: Trace, *, reproduced: bool) -> Difference | None:
    for (kind, layer, one), (_, _, other) in zip(a, b, strict=True):
        if one.shape != other.shape or np.array_equal(one, other):
            continue
        places = np.argwhere(one != other)
        first = tuple(int(i) for i in places[0])
        channel, y, x = first[1:4]
        return Difference(
            step,
            kind,
            layer,
            channel,
            y,
            x,
            float(one[first]),
            float(other[first]),
            len(places),
            reproduced,
        )
    return None


def steps_of(
    file: EventSource, a: Artifact, b: Artifact, mode: str, window: float, limit: int
) -> Iterator[tuple[Array, Array]]:
    """The windows of a recording, encoded for both networks."""
    for cut in iterate_windows(file, mode, window, limit=limit):
        yield encode(a, cut.events, file.resolution), encode(b, cut.events, file.resolution)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    with open_events(arguments.data, arguments.resolution) as file:
        window = arguments.window or default_window(arguments.mode, file.resolution)
        a, b = (_runner(arguments, side, file.resolution) for side in ("a", "b"))
        check_comparable(a.artifact, b.artifact)
        for runner in (a, b):
            check_resolution(runner, file)
        total = min(count_windows(file, arguments.mode, window), arguments.steps)
        steps = steps_of(file, a.artifact, b.artifact, arguments.mode, window, arguments.steps)
        result = compare(a, b, console.progress(steps, "comparing", total))
    if arguments.json is not None:
        with atomic_path(arguments.json) as path:
            path.write_text(json.dumps(result.to_dict(), indent=2) + "\n")
    print(summary(result, arguments.steps))
    return 0 if result.equal else 1


def summary(result: ParityResult, asked: int) -> str:
    """The result in words, one to three lines."""
    if result.difference is not None:
        return f"different at {result.difference}"
    lines = [
        f"equal: {result.steps} steps, {len(result.compared)} tensors after each "
        f"({', '.join(result.compared)})"
    ]
    if result.steps < asked:
        lines.append(f"note: the recording ended after {result.steps} of {asked} steps")
    if result.silent_layers:
        lines.append(f"note: never fired: {', '.join(result.silent_layers)}")
    return "\n".join(lines)


def _runner(arguments: argparse.Namespace, side: str, resolution: tuple[int, int]) -> Runner:
    values = vars(arguments)
    loaded = load_model(values[side])
    size = resolution if loaded.artifact.spatial_free else None
    if values[f"{side}_runtime"] == "reference":
        return ReferenceStream(loaded, resolution=size)
    return StatefulSession(
        loaded,
        resolution=size,
        threads=values[f"{side}_threads"],
        library=values[f"{side}_library"],
        optimization=values[f"{side}_optimization"],
        binding=values[f"{side}_binding"],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.parity",
        description="Compare two runs of the same network step by step, bit for bit.",
        epilog="exit status: 0 equal, 1 different, 2 not comparable. "
        "example: python -m runtime.parity model.int8.onnx model.int8.onnx --data recording.h5 "
        "--b-library never",
    )
    parser.add_argument("a", metavar="A.onnx", type=Path)
    parser.add_argument("b", metavar="B.onnx", type=Path, help="may be the same file as A")
    add_recording_arguments(parser)
    parser.add_argument("--steps", type=positive, default=1000, metavar="N")
    parser.add_argument("--json", type=Path, metavar="F", help="write the result there")
    for side, name in itertools.product("ab", ("runtime", "library", "threads")):
        what = {
            "runtime": {"choices": RUNTIMES, "default": "onnxruntime"},
            "library": {"choices": LIBRARY_CHOICES, "default": "auto"},
            "threads": {"type": positive, "default": 1},
        }[name]
        parser.add_argument(f"--{side}-{name}", **what)  # type: ignore[arg-type]
    for side in "ab":
        parser.add_argument(f"--{side}-optimization", choices=OPTIMIZATIONS, default="all")
        parser.add_argument(f"--{side}-binding", choices=BINDINGS, default="auto")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))

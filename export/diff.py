"""Where do two graphs of one network part? Every intermediate tensor, layer by layer.

    python -m export.diff A.onnx B.onnx --data F.h5 [--steps N]

Both graphs make each step from equal states, with every intermediate tensor exposed. Tensors are
matched by name, and where names differ by order and role; integers are compared exactly, and as
real values where one side is integer and the other real. Files that are no artifacts of this tool
take ``--random``, or an .npz of arrays by input name as ``--data``.

Exit status: 0 equal, 1 different, 2 not comparable.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from rich.console import Console
from rich.table import Table

from calib_data.console import progress, run
from calib_data.files import atomic_path
from calib_data.npz import open_events
from calib_data.windows import MODES, count_windows, iterate_windows
from export.difference import (
    Array,
    Arrays,
    DiffError,
    DiffResult,
    Row,
    Side,
    check_comparable,
    convert,
    diff,
    integer_first,
)
from runtime.arguments import positive, positive_length
from runtime.house import start_command
from runtime.metadata import Artifact
from runtime.runner import encode
from runtime.sequence import default_window

RANDOM_RESOLUTION = (32, 48)
"""Of random events, where the files leave the size free."""

_EVENTS = "events"
_EVENTS_PER_PIXEL = 0.1
_RANDOM_LIMIT = 127
_SHOWN_ALONE = 6

Steps = Iterator[tuple[Arrays, Arrays]]


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``. Returns the exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    if arguments.random is (arguments.data is not None):
        raise DiffError("give either --data F or --random")
    a, b = Side.load(arguments.a), Side.load(arguments.b)
    check_comparable(a, b)
    artifact = a.artifact
    if artifact is not None and b.artifact is not None:
        result = _compare_artifacts(arguments, a, b, artifact)
    else:
        steps = _plain_steps(arguments, a, b)
        result = diff(a, b, _shown(steps, arguments), {}, arguments.tolerance)
    if arguments.json is not None:
        with atomic_path(arguments.json) as path:
            path.write_text(json.dumps(result.to_dict(), indent=2) + "\n")
    _print(result, Console(width=None if sys.stdout.isatty() else 160))
    return 0 if result.equal else 1


def _shown(steps: Steps, arguments: argparse.Namespace, total: int | None = None) -> Steps:
    return progress(steps, "comparing", total or arguments.steps)


def _compare_artifacts(
    arguments: argparse.Namespace, a: Side, b: Side, artifact: Artifact
) -> DiffResult:
    states = {state.input: state.output for state in artifact.states}
    if arguments.random:
        size = RANDOM_RESOLUTION if artifact.spatial_free else artifact.resolution
        steps = _random_events(arguments, artifact, size)
        pairs = _with_states(a, b, steps, size)
        return diff(a, b, _shown(pairs, arguments), states, arguments.tolerance)
    with open_events(arguments.data, arguments.resolution) as file:
        if not artifact.spatial_free and artifact.resolution != file.resolution:
            raise DiffError(
                f"{arguments.data} has {file.resolution[0]} x {file.resolution[1]} pixels, and "
                f"{a.label} is made for {artifact.resolution[0]} x {artifact.resolution[1]}"
            )
        window = arguments.window or default_window(arguments.mode, file.resolution)
        total = min(count_windows(file, arguments.mode, window), arguments.steps)
        cuts = iterate_windows(file, arguments.mode, window, limit=arguments.steps)
        counts = (encode(artifact, cut.events, file.resolution) for cut in cuts)
        pairs = _with_states(a, b, counts, file.resolution)
        return diff(a, b, _shown(pairs, arguments, total), states, arguments.tolerance)


def _random_events(
    arguments: argparse.Namespace, artifact: Artifact, size: tuple[int, int]
) -> Iterator[Array]:
    generator = np.random.default_rng(arguments.seed)
    for _ in range(arguments.steps):
        counts = generator.poisson(_EVENTS_PER_PIXEL, (1, artifact.num_bins, *size))
        yield np.minimum(counts, _RANDOM_LIMIT).astype(artifact.event_dtype)


def _with_states(a: Side, b: Side, events: Iterator[Array], size: tuple[int, int]) -> Steps:
    """Both sides' inputs: the events as each takes them, and zero states at the first step."""
    for number, window in enumerate(events):
        limited = np.minimum(window, _RANDOM_LIMIT) if b.inputs[_EVENTS].kind != "f" else window
        given = {_EVENTS: limited}, {_EVENTS: convert(limited, _EVENTS, a, b)}
        if number == 0:
            for side, arrays in zip((a, b), given, strict=True):
                arrays |= _zero_states(side, size)
        yield given


def _zero_states(side: Side, size: tuple[int, int]) -> Arrays:
    states = () if side.artifact is None else side.artifact.states
    return {
        state.input: np.full(state.resolved_shape(1, *size), state.init, side.inputs[state.input])
        for state in states
    }


def _plain_steps(arguments: argparse.Namespace, a: Side, b: Side) -> Steps:
    """Inputs of models that say nothing about themselves: from an .npz, or random."""
    if arguments.data is not None:
        yield _converted(_read_arrays(arguments.data, a), a, b)
        return
    generator = np.random.default_rng(arguments.seed)
    for _ in range(arguments.steps):
        given: dict[str, tuple[Side, Array]] = {}
        for name in a.inputs:
            source, _ = integer_first(name, a, b)
            given[name] = source, _random(source, name, generator)
        yield tuple(
            {name: convert(value, name, source, side) for name, (source, value) in given.items()}
            for side in (a, b)
        )  # type: ignore[misc]


def _converted(arrays: Arrays, a: Side, b: Side) -> tuple[Arrays, Arrays]:
    return arrays, {name: convert(value, name, a, b) for name, value in arrays.items()}


def _read_arrays(path: Path, side: Side) -> Arrays:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DiffError(f"{path}: one array, not an .npz file; write it with numpy.savez")
        with loaded as file:
            found = {name: file[name] for name in file.files}
    except DiffError:
        raise
    except (ValueError, EOFError, BadZipFile) as error:
        raise DiffError(f"{path}: not an .npz of arrays ({error})") from None
    lacking = sorted(set(side.inputs) - set(found))
    if lacking:
        raise DiffError(f"{path}: no array {', '.join(lacking)}; name arrays as graph inputs are")
    return {name: found[name].astype(kind) for name, kind in side.inputs.items()}


def _random(side: Side, name: str, generator: np.random.Generator) -> Array:
    """Normal values, or integers over the type's range; free dimensions are 1."""
    value = next(v for v in side.model.graph.input if v.name == name)
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    kind = side.inputs[name]
    if kind.kind == "f":
        return generator.standard_normal(shape).astype(kind)
    if kind.kind == "b":
        return generator.integers(0, 2, shape).astype(kind)
    info = np.iinfo(kind)
    low, high = max(int(info.min), -_RANDOM_LIMIT), min(int(info.max), 255)
    return generator.integers(low, high + 1, shape).astype(kind)


def _print(result: DiffResult, out: Console) -> None:
    table = Table(title=f"{len(result.rows)} pairs of tensors, {result.steps} steps")
    for heading in ("tensor of A", "tensor of B", "role", "compared as", "largest", "differ"):
        right = heading in ("largest", "differ")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in result.rows:
        style = "bold red" if row.step is not None else ""
        same = "" if row.a == row.b else row.b
        table.add_row(row.a, same, row.role, row.kind, _size(row), str(row.count), style=style)
    out.print(table)
    for side, names in (("A", result.alone_a), ("B", result.alone_b)):
        if names:
            shown = ", ".join(names[:_SHOWN_ALONE])
            more = f" and {len(names) - _SHOWN_ALONE} more" if len(names) > _SHOWN_ALONE else ""
            out.print(f"only in {side}: {shown}{more}", highlight=False, markup=False)
    print(summary(result))


def _size(row: Row) -> str:
    return f"{row.largest:g} LSB" if row.kind == "integer" else f"{row.largest:.3g}"


def summary(result: DiffResult) -> str:
    """The result in one line."""
    first = result.first
    if first is None:
        return f"equal: {len(result.rows)} tensors over {result.steps} steps"
    return (
        f"different: step {first.step}, tensor {first.a} ({first.role}) is the first to depart; "
        f"at most {_size(first)}, {first.count} values beyond {first.allowed:.3g}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.diff",
        description="Compare two graphs of one network tensor by tensor.",
        epilog="exit status: 0 equal, 1 different, 2 not comparable. example: "
        "python -m export.diff model.qdq.onnx model.int8.onnx --random --steps 5",
    )
    parser.add_argument("a", metavar="A.onnx", type=Path)
    parser.add_argument("b", metavar="B.onnx", type=Path)
    parser.add_argument("--data", type=Path, metavar="F", help="recording, or .npz of inputs")
    parser.add_argument("--random", action="store_true", help="random inputs instead")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs")
    parser.add_argument("--mode", choices=MODES, default="gtflow_dt1", help="how windows are cut")
    parser.add_argument("--window", type=positive_length, help="their length")
    parser.add_argument(
        "--resolution", type=positive, nargs=2, metavar=("H", "W"), help="of the recording"
    )
    parser.add_argument("--steps", type=positive, default=10, metavar="N")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="T",
        help="largest accepted difference: units of the last place for integer pairs, real values "
        "for others (default: 0, and 1e-5 of the tensor's largest value)",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write the result there")
    return parser


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(run(main))

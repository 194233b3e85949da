"""Damages what the Python side reads, over and over, and demands success or one clear error.

    python fuzz/readers.py [--target NAME] [--seconds 60] [--executions N] [--seed N] [--json]

Targets: artifacts, their metadata, recordings (HDF5 and .npz, read to the end), the formats that
``calib_data.prepare`` reads, checkpoints (float and quantized), and configurations. An execution
takes a sound file, changes some bytes, and reads it. Anything but success, an OSError or an error
of the package's own is a finding: its input is kept in ``build/fuzz/readers/`` and the exit status
is 1. So is a crash of a library, since the work is done in a child process, and an execution of
more than ten seconds or four gigabytes.

Execution N of a target is the same every time: ``--first N --executions 1`` repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[1]
KEPT = REPOSITORY / "build" / "fuzz" / "readers"
SECONDS = 10
MEMORY = 4 << 30
_LEAST = 16
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 62)

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """seeds: sound contents. suffix: of the file they are written to. read: what is tried."""

    seeds: tuple[bytes, ...]
    suffix: str
    read: Read


@dataclass(frozen=True)
class Finding:
    """An execution that ended neither well nor in a clear error."""

    target: str
    execution: int
    what: str
    kept: str


@dataclass(frozen=True)
class Outcome:
    """taken: executions whose damaged input was read without an error."""

    target: str
    executions: int
    taken: int
    findings: tuple[Finding, ...]
    seconds: float


# --- what is read ---------------------------------------------------------------------------------


def artifact() -> Target:
    from runtime.artifact import load_model

    names = ("attacks/sound/int8.onnx", "attacks/sound/float.onnx")
    vectors = "tests/runtime/vectors/other.int8.onnx"
    seeds = tuple((REPOSITORY / name).read_bytes() for name in (*names, vectors))
    return Target(seeds, ".onnx", load_model)


def metadata() -> Target:
    from runtime.artifact import Artifact
    from runtime.graph import load_proto

    models = [
        load_proto((REPOSITORY / f"attacks/sound/{k}.onnx").read_bytes()) for k in ("int8", "float")
    ]
    seeds = tuple(model.metadata_props[0].value.encode() for model in models)

    def read(path: Path) -> None:
        found = Artifact.from_json(path.read_text(errors="replace"))
        if Artifact.from_json(found.to_json()) != found:
            raise AssertionError("does not survive a round trip")

    return Target(seeds, ".json", read)


def _drive(path: Path) -> None:
    """All windows by number and by ground truth, all maps and images."""
    from calib_data.npz import open_events
    from calib_data.windows import iterate_windows

    with open_events(path) as file:
        seen = sum(len(w.events) for w in iterate_windows(file, "events", 50))
        if path.suffix == ".npz":
            return
        seen += sum(len(w.events) for w in iterate_windows(file, "gtflow_dt1", 1))
        for index in range(min(len(file.image_times()), 100)):
            file.read_image(index)


def hdf5() -> Target:
    from calib_data import EventFileWriter

    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for compression in (None, "gzip"):
            path = Path(folder) / f"{compression}.h5"
            with EventFileWriter(path, (12, 16), t0=5.0, compression=compression) as writer:
                writer.append(_events())
                for number in range(3):
                    writer.add_flow("dt1", 0.3 * number, np.ones((2, 12, 16), np.float32))
                    writer.add_image(0.3 * number, np.zeros((12, 16), np.uint8))
            seeds.append(path.read_bytes())
    return Target(tuple(seeds), ".h5", _drive)


def npz() -> Target:
    events, seeds = _events(), []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(
            buffer, xs=events.xs, ys=events.ys, ts=events.ts, ps=events.ps > 0, sensor_size=[12, 16]
        )
        seeds.append(buffer.getvalue())
    return Target(tuple(seeds), ".npz", _drive)


def _events() -> Any:
    from calib_data import Events

    rng = np.random.default_rng(0)
    count = 300
    return Events(
        rng.integers(0, 16, count).astype(np.int16),
        rng.integers(0, 12, count).astype(np.int16),
        np.sort(rng.integers(0, 1_000_000, count)) / 1e6,
        rng.choice([-1, 1], count).astype(np.int8),
    )


def _prepared(format: str, suffix: str, write: Callable[[Path, Any], object]) -> Target:
    from calib_data.prepare import main

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sound{suffix}"
        write(path, _events())
        seed = path.read_bytes()

    def read(path: Path) -> bool:
        with tempfile.TemporaryDirectory() as out:
            return main([format, str(path), out, "--resolution", "480", "640"]) == 0

    return Target((seed,), suffix, read)


def text() -> Target:
    return _prepared("text", ".txt", _files().write_text)


def evt2() -> Target:
    return _prepared("prophesee", ".raw", _files().write_evt2)


def evt3() -> Target:
    return _prepared("prophesee", ".raw", _files().write_evt3)


def dat() -> Target:
    return _prepared("prophesee", ".dat", _files().write_dat)


def aedat4() -> Target:
    return _prepared("aedat4", ".aedat4", _files().write_aedat4)


def _files() -> Any:
    """What the tests write recordings of other formats with."""
    return importlib.import_module("tests.calib_data.recording_files")


def checkpoint() -> Target:
    from models.checkpoint import load_network, shipped_checkpoint

    return Target(
        (shipped_checkpoint("LIFFireNet_short").read_bytes(),), ".safetensors", load_network
    )


def quantized() -> Target:
    from quant.checkpoint import load_spec

    path = REPOSITORY / "models/weights/LIFFireNet_short-16.quantized.safetensors"
    return Target((path.read_bytes(),), ".safetensors", load_spec)


def configuration() -> Target:
    from training.config import load_config

    seeds = tuple(path.read_bytes() for path in sorted((REPOSITORY / "configs").glob("*.yml")))
    return Target(seeds, ".yml", load_config)


TARGETS: dict[str, Callable[[], Target]] = {
    make.__name__: make
    for make in (
        artifact, metadata, hdf5, npz, text, evt2, evt3, dat, aedat4, checkpoint, quantized,
        configuration,
    )
}  # fmt: skip


# --- damage ---------------------------------------------------------------------------------------


def damaged(seeds: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    """One of the contents with one to eight changes."""
    content = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(int(rng.integers(1, 9))):
        _change(content, seeds, rng)
    return bytes(content)


def _change(content: bytearray, seeds: tuple[bytes, ...], rng: np.random.Generator) -> None:
    if len(content) < _LEAST:
        content += bytes(rng.integers(0, 256, _LEAST, np.uint8))
    at = int(rng.integers(len(content)))
    count = int(2 ** rng.uniform(0, 8))
    kind = int(rng.integers(8))
    if kind == 0:
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        content[at] = int(rng.integers(256))
    elif kind == 2:
        del content[at : at + count]
    elif kind == 3:
        content[at:at] = bytes(rng.integers(0, 256, count, np.uint8))
    elif kind == 4:
        content[at:at] = content[int(rng.integers(len(content))) :][:count]
    elif kind == 5:
        size = int(rng.choice([1, 2, 4, 8]))
        value = _INTERESTING[rng.integers(len(_INTERESTING))] % (1 << 8 * size)
        content[at : at + size] = value.to_bytes(size, "little")
    elif kind == 6:
        other = seeds[rng.integers(len(seeds))]
        start = int(rng.integers(len(other)))
        content[at : at + count] = other[start : start + count]
    elif rng.random() < 0.2:
        del content[at:]


# --- executions -----------------------------------------------------------------------------------


def clear(error: BaseException) -> bool:
    """Whether an error is one that commands print as a single line."""
    return isinstance(error, OSError) or bool(getattr(type(error), "user_error", False))


def content_of(name: str, target: Target, seed: int, execution: int) -> bytes:
    """The damaged input of an execution."""
    return damaged(
        target.seeds, np.random.default_rng([zlib.crc32(name.encode()), seed, execution])
    )


def _child(name: str, seed: int, first: int, last: int, until: float, shared: Any) -> None:
    """Executions first..last-1; ``shared`` is (reached, taken), read when the child has died."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    target = TARGETS[name]()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        path = Path(folder) / f"input{target.suffix}"
        for seed_content in target.seeds:
            path.write_bytes(seed_content)
            with contextlib.redirect_stdout(nowhere):
                if target.read(path) is False:
                    raise AssertionError("the sound input is not taken")
        for execution in range(first, last):
            if time.monotonic() > until:
                break
            shared[0] = execution
            path.write_bytes(content_of(name, target, seed, execution))
            signal.alarm(SECONDS)
            try:
                with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                    shared[1] += target.read(path) is not False
            except SystemExit:
                pass
            except BaseException as error:
                if not clear(error):
                    signal.alarm(0)
                    raise
            signal.alarm(0)
        else:
            execution = last
        shared[0] = execution


def fuzz(name: str, *, executions: int, seconds: float, seed: int = 0, first: int = 0) -> Outcome:
    """Run a target until either limit; a finding ends its child, and the next goes on after it."""
    context = multiprocessing.get_context("fork")
    begun, last, findings, taken = time.monotonic(), first + executions, [], 0
    reached = first
    while reached < last and time.monotonic() - begun < seconds:
        shared = context.Array("q", [reached, 0])
        with tempfile.TemporaryFile() as errors:
            child = context.Process(
                target=_quietly, args=(errors, name, seed, reached, last, begun + seconds, shared)
            )
            child.start()
            child.join()
            reached, taken = int(shared[0]), taken + int(shared[1])
            if child.exitcode != 0:
                findings.append(_finding(name, seed, reached, child.exitcode or 0, errors))
                reached += 1
    spent = time.monotonic() - begun
    return Outcome(name, reached - first, taken, tuple(findings), spent)


def _quietly(errors: Any, *arguments: Any) -> None:
    """The child's work, what libraries print kept apart."""
    os.dup2(errors.fileno(), 2)
    _child(*arguments)


def _finding(name: str, seed: int, execution: int, status: int, errors: Any) -> Finding:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
    what = lines[-1] if status > 0 else f"signal {signal.Signals(-status).name}"
    target = TARGETS[name]()
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = KEPT / f"{name}-{seed}-{execution}{target.suffix}"
    kept.write_bytes(content_of(name, target, seed, execution))
    return Finding(name, execution, what[:300], str(kept))


def main(argv: list[str] | None = None) -> int:
    """The command; 1 where anything was found."""
    arguments = _parser().parse_args(argv)
    outcomes = []
    for name in arguments.target or TARGETS:
        outcome = fuzz(
            name,
            executions=arguments.executions,
            seconds=arguments.seconds,
            seed=arguments.seed,
            first=arguments.first,
        )
        outcomes.append(outcome)
        if not arguments.json:
            print(
                f"{name:14} {outcome.executions:9,} executions in {outcome.seconds:5.0f} s, "
                f"{outcome.taken:8,} taken, {len(outcome.findings)} findings",
                flush=True,
            )
            for finding in outcome.findings:
                print(f"  {finding.execution}: {finding.what}\n    {finding.kept}", flush=True)
    if arguments.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes]))
    return 1 if any(outcome.findings for outcome in outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python fuzz/readers.py",
        description="Damaged files for everything the Python side reads.",
        epilog="example: python fuzz/readers.py --target hdf5 --seconds 600",
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be repeated")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--executions", type=int, default=10**9, metavar="N", help="at most")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with this one")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    return parser


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    raise SystemExit(main())

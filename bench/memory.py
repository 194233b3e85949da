"""Memory of one artifact, measured in a process of its own.

    python -m bench.memory model.onnx --resolution H W [--threads N] [--library auto|never]

prints JSON: ``idle_bytes``, resident before the session is made; ``stepping_bytes``, resident after
some steps; ``peak_bytes``, the most that was ever resident. Resident pages are read from the
kernel's account of this process (VmRSS, VmHWM): ``getrusage`` keeps the peak of the process that
started this one, which would hide a smaller child behind a big parent.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import bench
from bench.errors import BenchError
from bench.inputs import DEFAULT_DENSITY, encode_windows, random_windows
from calib_data import console
from runtime.artifact import load_model
from runtime.session import LIBRARY_CHOICES, StatefulSession

STATUS = Path("/proc/self/status")
_STEPS = 5
_TIMEOUT_S = 600


def measure_memory(
    path: Path, resolution: tuple[int, int], *, threads: int, library: str
) -> dict[str, int]:
    """Measure an artifact in a child process; see the module's text for the keys.

    Raises BenchError when the child fails.
    """
    command = [sys.executable, "-W", "ignore", "-m", "bench.memory", str(path)]
    command += ["--resolution", *map(str, resolution)]
    command += ["--threads", str(threads), "--library", library]
    home = str(Path(bench.__file__).resolve().parent.parent)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{path}: measuring memory took more than {_TIMEOUT_S} s") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(f"{path}: memory could not be measured ({reason})")
    result: dict[str, int] = json.loads(done.stdout)
    return result


def resident_bytes() -> tuple[int, int]:
    """Resident memory of this process now and at its peak, bytes."""
    try:
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return tuple(int(fields[key].split()[0]) << 10 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        return peak, peak


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory",
        description="Memory of one artifact.",
        epilog="example: python -m bench.memory model.int8.onnx",
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--resolution", type=int, nargs=2, metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--library", choices=LIBRARY_CHOICES, default="auto")
    arguments = parser.parse_args(argv)
    idle, _ = resident_bytes()
    loaded = load_model(arguments.model)
    size = tuple(arguments.resolution or loaded.artifact.resolution)
    session = StatefulSession(
        loaded, resolution=size, threads=arguments.threads, library=arguments.library
    )
    windows = random_windows((size[0], size[1]), DEFAULT_DENSITY, 1)
    tensor = encode_windows(loaded.artifact, windows, (size[0], size[1]))[0]
    for _ in range(_STEPS):
        session.step(tensor, copy=False)
    stepping, peak = resident_bytes()
    print(json.dumps({"idle_bytes": idle, "stepping_bytes": stepping, "peak_bytes": peak}))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(main))

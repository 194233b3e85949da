"""Latency of a step in C++ and in Python, the same file and events, in turns.

python examples/cpp/compare_latency.py build/developer/runtime/example_latency model.int8.onnx
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import onnxruntime

import lif_op
from runtime.session import StatefulSession


def python_median(session: StatefulSession, events: np.ndarray, steps: int) -> float:
    """Median milliseconds of so many steps; the flow is not copied, as in C++."""
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        session.step(events, copy=False)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def same_libraries() -> dict[str, str]:
    """The environment in which the program loads what Python runs with."""
    (runtime,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return {
        "SPIKEDEPLOY_ONNXRUNTIME": str(runtime),
        "SPIKEDEPLOY_OP_LIBRARY": str(lif_op.library_path()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, help="the compiled examples/cpp/latency.cc")
    parser.add_argument("model", type=Path, help="an int8 artifact of free size")
    parser.add_argument("--resolution", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30, help="of each in a round")
    options = parser.parse_args()
    height, width = options.resolution
    session = StatefulSession(
        options.model, resolution=(height, width), threads=options.threads, library="require"
    )
    random = np.random.default_rng(0)
    events = (random.random((1, 2, height, width)) < 1 / 16).astype(np.uint8)
    command = [options.program, options.model, height, width, options.threads]
    with subprocess.Popen(
        [str(part) for part in command],
        env=os.environ | same_libraries(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        if program.stdin is None or program.stdout is None:
            raise SystemExit("error: the program has no pipes")
        pairs = []
        for _ in range(options.rounds + 1):
            program.stdin.write(f"{options.steps}\n")
            program.stdin.flush()
            answer = program.stdout.readline()
            if not answer:
                raise SystemExit("error: the program ended")
            pairs.append((float(answer), python_median(session, events, options.steps)))
        program.stdin.close()
    pairs = pairs[1:]  # the first round warms up
    ratios = sorted(ours / python for ours, python in pairs)
    print(
        f"{lif_op.active_target()}, {options.threads} threads, {height} x {width}, 1 in 16 active"
    )
    print(f"C++    median {statistics.median(p[0] for p in pairs):.4f} ms per step")
    print(f"Python median {statistics.median(p[1] for p in pairs):.4f} ms per step")
    print(
        f"C++ over Python: median {statistics.median(ratios):.3f}, "
        f"rounds from {ratios[0]:.3f} to {ratios[-1]:.3f}"
    )


if __name__ == "__main__":
    main()

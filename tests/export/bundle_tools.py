"""Artifacts of every kind as bundles, compiled and run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.bundle import Bundle, make_bundle, write_bundle
from export.files import write_model
from export.microcontroller.vectors import Step
from quant import QuantOptions
from runtime.artifact import load_model

SIZE = (18, 26)
CASES: dict[str, tuple[str, QuantOptions, dict[str, Any], bool]] = {
    "LIFFireNet": ("LIFFireNet", QuantOptions(7, 16, 0), {"channels": 8}, True),
    "short-4-8": (
        "LIFFireNet_short",
        QuantOptions(4, 8),
        {"channels": 12, "reset": "subtract"},
        False,
    ),
    "flow-8-16": (
        "LIFFireFlowNet",
        QuantOptions(8, 16, 2),
        {"channels": 17, "reset": "none"},
        False,
    ),
    "flow-short": ("LIFFireFlowNet_short", QuantOptions(8, 8), {"channels": 4}, True),
    "uint8": ("LIFFireNet_short", QuantOptions(8, 16, current="uint8"), {"channels": 8}, False),
    "uint8-4-8": ("LIFFireNet", QuantOptions(4, 8, current="uint8"), {"channels": 8}, True),
    "words": ("LIFFireNet_short", QuantOptions(8, 16), {"channels": 40}, False),
    "kernel-5": ("LIFFireNet_short", QuantOptions(8, 16), {"channels": 8, "kernel_size": 5}, False),
}
"""Network, its integers, its configuration, and whether its flow is in fixed point."""

CC = ("cc", "-std=c99", "-O2")
STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic")
SELFTEST = ("selftest/selftest.c", "port/port_host.c")
TRACE = Path(__file__).parent / "bundle_trace.c"


@dataclass(frozen=True)
class Written:
    """A bundle in a folder, and the artifact it was made of."""

    bundle: Bundle
    folder: Path
    model: Path

    def compile(self, program: Path, compiler: Sequence[str], *sources: str | Path) -> Path:
        """Compile the network with further sources, of the bundle or elsewhere."""
        files = [self.folder / name for name in ("net.c", "net_head.c", *sources)]
        includes = [f"-I{self.folder}", f"-I{self.folder}/port", f"-I{self.folder}/selftest"]
        run([*compiler, *includes, "-o", program, *files, "-lm"])
        return program


def write(model: onnx.ModelProto, folder: Path, **options: object) -> Written:
    """Make a bundle of a graph in memory."""
    path = write_model(model, folder / "model.onnx")
    bundle = make_bundle(load_model(path), **options)  # type: ignore[arg-type]
    write_bundle(bundle, folder / "bundle")
    return Written(bundle, folder / "bundle", path)


def run(command: Sequence[object], given: bytes = b"") -> bytes:
    """Run a program to its end; what it says on failure is part of the error."""
    arguments = [str(entry) for entry in command]
    done = subprocess.run(arguments, input=given, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-4000:])
    return done.stdout


def trace(
    program: Sequence[object], bundle: Bundle, windows: Sequence[npt.NDArray[np.uint8]]
) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
    """What ``bundle_trace.c`` writes, per step: states by label, ``sums`` and ``flow``."""
    height, width = bundle.network.resolution
    given = b"".join(np.ascontiguousarray(window).tobytes() for window in windows)
    left = run(program, given)
    flow = np.dtype("<f4" if bundle.fixed is None else "<i2")
    for _ in windows:
        found = {}
        for name, like in bundle.vectors.steps[0].states.items():
            dtype = like.dtype.newbyteorder("<")
            found[name], left = _take(left, dtype, like.shape)
        found["sums"], left = _take(left, np.dtype("<i4"), (1, 2, height, width))
        found["flow"], left = _take(left, flow, (1, 2, height, width))
        yield found
    assert not left


def _take(
    data: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.generic], bytes]:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(data[:size], dtype).reshape(shape), data[size:]


def assert_step(bundle: Bundle, found: dict[str, npt.NDArray[np.generic]], step: Step) -> None:
    """States, accumulator and fixed-point flow are equal; float flow to a few last bits."""
    for name, array in step.states.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    np.testing.assert_array_equal(found["sums"], step.sums)
    if bundle.fixed is not None:
        np.testing.assert_array_equal(found["flow"], bundle.fixed.values(step.sums))
        return
    scaled = step.sums.astype(np.float32) * bundle.network.head.scale.reshape(1, 2, 1, 1)
    exact = np.tanh(scaled.astype(np.float64))
    np.testing.assert_allclose(found["flow"], exact, rtol=3e-7, atol=0)
    np.testing.assert_allclose(found["flow"], step.flow, rtol=1e-5, atol=1e-7)

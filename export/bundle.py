"""``python -m export.bundle model.int8.onnx --target c --out DIR``: C code for microcontrollers.

The folder holds one network as plain C99: constants as arrays, one static piece of memory, a
function per layer, a self-test with expected results. ``docs/targets/bundle.md`` describes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calib_data import console
from calib_data.npz import open_events
from calib_data.windows import iterate_windows
from export.microcontroller import source
from export.microcontroller.constants import weights_header
from export.microcontroller.figures import Figures, measure
from export.microcontroller.flow_head import FixedHead, fixed_head
from export.microcontroller.folder import atomic_folder, check_replaceable, write_files
from export.microcontroller.memory import Sizes, memory_sizes, state_arrays
from export.microcontroller.network import BundleError, Network, read_network
from export.microcontroller.readme import readme
from export.microcontroller.schedule import Schedule, make_schedule
from export.microcontroller.vectors import (
    MOST_STEPS,
    Vectors,
    make_vectors,
    trace_text,
    vectors_header,
)
from runtime.artifact import LoadedModel, load_model
from runtime.house import start_command
from runtime.runner import encode
from runtime.sequence import default_window

TARGETS = ("c",)
FLOWS = ("float", "fixed")
MOST_BYTES = 1 << 28
"""Largest arena: far beyond a microcontroller, and well inside 32-bit offsets."""

_COPIED = {
    "net_kernels.h": "net_kernels.h",
    "port/port.h": "port.h",
    "port/port_host.c": "port_host.c",
    "port/cortex_m_dsp.h": "cortex_m_dsp.h",
    "port/mps2/startup.c": "mps2_startup.c",
    "port/mps2/mps2.ld": "mps2.ld",
    "port/mps2/toolchain.cmake": "mps2_toolchain.cmake",
    "selftest/selftest.c": "selftest.c",
}
"""Files that are the same in every bundle, and their templates."""


@dataclass(frozen=True)
class Bundle:
    """A network as C: its parts, its sizes in bytes, and its files' texts by path."""

    network: Network
    schedule: Schedule
    sizes: Sizes
    fixed: FixedHead | None
    vectors: Vectors
    files: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """What ``bundle.json`` holds: sizes, and where every buffer lies and when it is used."""
        plan = self.schedule.plan
        artifact = self.network.artifact
        return {
            "model": artifact.model,
            "checkpoint_sha256": artifact.checkpoint_sha256,
            "resolution": list(self.network.resolution),
            "bytes": {**asdict(self.sizes), "arena": self.sizes.arena},
            "least_buffer_bytes": plan.bound,
            "states": [
                {"name": array.label, "type": array.kind, "bytes": array.size}
                for array in state_arrays(self.network)
            ],
            "buffers": [
                {**asdict(buffer), "offset": plan.offsets[buffer.name]}
                for buffer in self.schedule.buffers
            ],
            "flow": {
                "type": "float32" if self.fixed is None else f"int16 {self.fixed.format}",
                "scaling": artifact.flow_scaling,
                "error": None if self.fixed is None else self.fixed.error,
            },
            "selftest": {
                "steps": len(self.vectors.steps),
                "silent_layers": list(self.vectors.silent),
            },
        }


def make_bundle(
    loaded: LoadedModel,
    *,
    resolution: tuple[int, int] | None = None,
    fixed: bool = False,
    recorded: Iterator[npt.NDArray[np.uint8]] | None = None,
    allow_silent: bool = False,
) -> Bundle:
    """Everything of a bundle, in memory.

    Args:
        loaded: an integer artifact.
        resolution: (height, width), for one that leaves them free.
        fixed: flow in fixed point instead of float32.
        recorded: counts for the self-test; without them, synthetic ones.
        allow_silent: go on if some layer never fires on these counts.

    Raises:
        BundleError: an artifact that cannot be expressed, or a self-test that proves nothing.
    """
    network = read_network(loaded, resolution)
    head = fixed_head(network.head) if fixed else None
    schedule = make_schedule(network)
    sizes = memory_sizes(network, schedule, head)
    if sizes.arena > MOST_BYTES:
        height, width = network.resolution
        raise BundleError(
            f"{loaded.path}: needs {sizes.arena / 2**20:.0f} MiB of RAM at {height} x {width} "
            f"pixels, more than the {MOST_BYTES >> 20} MiB of a bundle; use a smaller image"
        )
    vectors = make_vectors(loaded, network, recorded)
    if not vectors.steps:
        raise BundleError("the recording has no window for the self-test; give a longer one")
    if vectors.silent and not allow_silent:
        raise BundleError(
            f"layer {vectors.silent[0]!r} never fires in the {len(vectors.steps)} steps of the "
            "self-test, so their equality would prove nothing about it; give a recording with "
            "--data, or --allow-silent"
        )
    files = {name: source.template(file) for name, file in _COPIED.items()}
    files |= {
        "net.h": source.header(network, sizes, head),
        "net.c": source.main_source(network, schedule),
        "net_head.c": source.head_source(network, head),
        "net_weights.h": weights_header(network),
        "selftest/selftest_vectors.h": vectors_header(vectors, head),
        "selftest/expected.txt": trace_text(vectors, head),
        "CMakeLists.txt": source.template("CMakeLists.txt").replace(
            "@libm@", "m" if head is None else ""
        ),
    }
    bundle = Bundle(network, schedule, sizes, head, vectors, files)
    files["README.md"] = readme(bundle.network, bundle.schedule, sizes, head)
    return bundle


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle; the folder appears whole or not at all, in place of an older bundle.

    Raises:
        BundleError: the folder holds something else. OSError: it cannot be written.
    """
    with atomic_folder(folder) as fresh:
        write_files(fresh, bundle.files, bundle.to_dict())


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    check_replaceable(arguments.out)
    loaded = load_model(arguments.model)
    wanted = _resolution(arguments.resolution)
    network = read_network(loaded, wanted)
    recorded = None if arguments.data is None else _recorded(arguments, network)
    bundle = make_bundle(
        loaded,
        resolution=wanted,
        fixed=arguments.flow == "fixed",
        recorded=recorded,
        allow_silent=arguments.allow_silent,
    )
    write_bundle(bundle, arguments.out)
    figures = measure(arguments.out, len(bundle.vectors.steps)) if arguments.measure else None
    if arguments.json:
        more = {} if figures is None else {"figures": figures.to_dict()}
        print(json.dumps({"folder": str(arguments.out), **bundle.to_dict(), **more}))
    else:
        print(summary(bundle, arguments.out, figures))
    return 0


def _resolution(given: list[int] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    if min(given) < 1 or max(given) > 4096:
        raise BundleError(f"--resolution {given[0]} {given[1]}: expected 1 to 4096 pixels")
    return given[0], given[1]


def _recorded(arguments: argparse.Namespace, network: Network) -> Iterator[npt.NDArray[np.uint8]]:
    with open_events(arguments.data, None) as file:
        if tuple(file.resolution) != network.resolution:
            raise BundleError(
                f"{arguments.data}: {file.resolution[0]} x {file.resolution[1]} pixels, and the "
                f"bundle takes {network.resolution[0]} x {network.resolution[1]}; give that with "
                "--resolution"
            )
        window = arguments.window or default_window(arguments.mode, file.resolution)
        for cut in iterate_windows(file, arguments.mode, window, limit=MOST_STEPS):
            yield encode(network.artifact, cut.events, network.resolution).astype(np.uint8)


def summary(bundle: Bundle, folder: Path, figures: Figures | None) -> str:
    """What was written, in words."""
    sizes, plan = bundle.sizes, bundle.schedule.plan
    height, width = bundle.network.resolution
    flow = "float32, tanhf of the C library"
    if bundle.fixed is not None:
        pixels = bundle.fixed.error * bundle.network.artifact.flow_scaling
        flow = (
            f"int16 in {bundle.fixed.format} (value / 2^{bundle.fixed.frac_bits}), off tanh by at "
            f"most {bundle.fixed.error:.3g}, {pixels:.2g} pixels per window"
        )
    lines = [
        f"{folder}: {bundle.network.artifact.model} at {height} x {width} pixels as C99",
        f"arena      {sizes.arena:>9} bytes of RAM, static",
        f"  state    {sizes.state:>9} membranes and previous spikes",
        f"  buffers  {sizes.buffers:>9} lines between layers (side by side: {plan.apart}, at "
        f"least: {plan.bound})",
        f"constants  {sizes.constants:>9} bytes of flash",
        f"flow       {flow}",
        f"self-test  {len(bundle.vectors.steps)} steps",
    ]
    if bundle.vectors.silent:
        lines.append(f"note: never fired: {', '.join(bundle.vectors.silent)}")
    if figures is not None:
        lines += figures.lines()
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.bundle",
        description="Write an integer network as a folder of plain C99 for microcontrollers.",
        epilog="example: python -m export.bundle build/export/model.int8.onnx --target c "
        "--resolution 64 64 --out build/bundle",
    )
    parser.add_argument("model", type=Path, help="an integer artifact, such as model.int8.onnx")
    parser.add_argument("--target", choices=TARGETS, default="c")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--resolution",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="for a file that leaves its size free (default: the nominal one in the file)",
    )
    parser.add_argument(
        "--flow",
        choices=FLOWS,
        default="float",
        help="type of the flow: float32, or 16-bit fixed point without any floating-point number",
    )
    parser.add_argument("--data", type=Path, metavar="F", help="recording for the self-test")
    parser.add_argument("--mode", default="events", help="how --data is cut into windows")
    parser.add_argument("--window", type=float, help="length of a window")
    parser.add_argument(
        "--allow-silent", action="store_true", help="write it even if a layer never fires"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="compile it and print code sizes and instructions per step, with the compilers and "
        "valgrind that are here",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(console.run(main))

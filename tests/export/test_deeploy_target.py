"""The deeploy profile compiled by Deeploy itself, run for several steps with state.

Deeploy needs an environment of its own: ``make deeploy`` makes one and runs this. Elsewhere these
are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from export.deeploy import write_bundle
from export.passes import run_passes
from export.passes.requant_shift import RequantShift
from quant import IntegerNetwork, QuantOptions

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "deeploy"
PYTHON = Path(os.environ.get("SPIKEDEPLOY_DEEPLOY_PYTHON", REPOSITORY / "build/deeploy/bin/python"))
TYPES = {"int8_t": np.int8, "int16_t": np.int16, "int32_t": np.int32}
STEPS = 20

pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason="no Deeploy; `make deeploy` runs this")


def compiled(folder: Path, out: Path) -> Path:
    """The program of a folder of the deeploy profile."""
    compiler = [PYTHON, EXAMPLE / "compile.py", folder, "--out", out]
    done = subprocess.run(compiler, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    sources = [out / "Network.c", EXAMPLE / "kernels.c", EXAMPLE / "steps.c"]
    # Deeploy defines some buffers in its header too, hence -fcommon.
    command = ["cc", "-std=c11", "-O1", "-fcommon", "-w", f"-I{out}", f"-I{EXAMPLE}", *sources]
    subprocess.run([*command, "-o", out / "steps"], check=True, timeout=300)
    return out / "steps"


def outputs_of(
    program: Path, windows: list[np.ndarray[Any, Any]], network: onnx.ModelProto, folder: Path
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """What the program writes, by step and tensor."""
    given = b"".join(np.ascontiguousarray(window).tobytes() for window in windows)
    left = subprocess.run([program], input=given, capture_output=True, check=True).stdout
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in network.graph.output
    }
    entries = json.loads((folder / "types.json").read_text())["outputs"]
    steps = []
    for _ in windows:
        step = {}
        for entry in entries:
            array = np.frombuffer(left, TYPES[entry["type"]], np.prod(shapes[entry["tensor"]]))
            step[entry["tensor"]] = array.reshape(shapes[entry["tensor"]])
            left = left[array.nbytes :]
        steps.append(step)
    assert not left
    return steps


@pytest.mark.parametrize(
    ("name", "options", "reset"),
    [
        ("LIFFireNet", QuantOptions(7, 16, 0), "zero"),
        ("LIFFireNet_short", QuantOptions(8, 16, -2), "subtract"),
        ("LIFFireFlowNet", QuantOptions(8, 8), "none"),
        ("LIFFireNet", QuantOptions(4, 8), "zero"),
    ],
)
def test_equals_the_integer_network_over_steps(
    name: str,
    options: QuantOptions,
    reset: str,
    make_sources: Any,
    moving_counts: Callable[..., list[np.ndarray[Any, Any]]],
    tmp_path: Path,
) -> None:
    sources = make_sources(name, options, channels=8, reset=reset)
    model, _ = run_passes(sources.graph("separate"), [RequantShift()])
    size = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][2:]
    windows = moving_counts(STEPS, tuple(size))
    folder = tmp_path / "model.deeploy"
    first = zeros(model) | {"events": windows[0].astype(np.int8)}
    write_bundle(model, folder, first)
    program = compiled(folder, tmp_path / "out")
    found = outputs_of(program, windows, model, folder)
    network, states = IntegerNetwork(sources.spec), None
    fired: dict[str, int] = {}
    for events, outputs in zip(windows, found, strict=True):
        expected = network.step(torch.from_numpy(events), states)
        states = expected.states
        np.testing.assert_array_equal(outputs["flow_acc"], expected.flow_acc.numpy())
        for layer, state in states.items():
            fired[layer] = fired.get(layer, 0) + int(state.spike.sum())
            np.testing.assert_array_equal(outputs[f"mem_out.{layer}"], state.mem.numpy())
            if f"spike_out.{layer}" in outputs:
                np.testing.assert_array_equal(outputs[f"spike_out.{layer}"], state.spike.numpy())
    assert all(fired.values())


def zeros(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of the first step, the events left at zero."""
    return {
        value.name: np.zeros(
            [d.dim_value for d in value.type.tensor_type.shape.dim],
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in model.graph.input
    }


def test_without_registration_the_neuron_is_unknown(
    make_sources: Any, moving_counts: Any, tmp_path: Path
) -> None:
    """What docs/targets/deeploy.md says of Deeploy alone."""
    sources = make_sources("LIFFireNet_short", QuantOptions(8, 8), channels=4)
    model, _ = run_passes(sources.graph("separate"), [RequantShift()])
    write_bundle(model, tmp_path / "model.deeploy", zeros(model))
    code = (
        f"import sys; sys.path.insert(0, {str(EXAMPLE)!r}); import qlif; "
        "from Deeploy.Targets.Generic.Platform import GenericPlatform; "
        "qlif.platform = GenericPlatform; import compile as c; "
        f"from pathlib import Path; c.compile_network(Path({str(tmp_path / 'model.deeploy')!r}), "
        f"Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "QLif" in done.stderr

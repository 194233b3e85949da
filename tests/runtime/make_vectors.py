"""Writes the test vectors of ``tests/runtime/vectors``, which the C++ runtime replays.

python tests/runtime/make_vectors.py FOLDER

A small integer network of free size, another one, counts of events, and a hash of every state and
of the flow's accumulator after every step, as Python's runtime computes them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from models import SpikingFireNet, untrained
from quant import QuantOptions, quantize
from runtime.session import StatefulSession

RESOLUTION = (12, 18)
STEPS = 12


def fnv(array: np.ndarray[Any, Any]) -> str:
    """FNV-1a of 64 bits over an array's bytes."""
    value = 14695981039346656037
    for byte in np.ascontiguousarray(array).tobytes():
        value = (value ^ byte) * 1099511628211 % 2**64
    return f"{value:016x}"


def lines(session: StatefulSession, counts: np.ndarray[Any, Any]) -> str:
    """What the C++ program ``runtime_replay`` prints: step, tensor, hash."""
    out = []
    for step, events in enumerate(counts.astype(session.artifact.event_dtype)):
        session.step(events[np.newaxis])
        states = session.states()
        seen = {state.input: states[state.input] for state in session.artifact.states}
        outputs = session.outputs()
        name = "flow_acc" if "flow_acc" in outputs else "flow"
        for key, array in (seen | {name: outputs[name]}).items():
            out.append(f"{step} {key} {fnv(array)}\n")
    return "".join(out)


def counts() -> np.ndarray[Any, Any]:
    """uint8 [T, 2, H, W]: noise, one empty window, one full one."""
    windows = np.random.default_rng(5).poisson(0.3, (STEPS, 2, *RESOLUTION)).astype(np.uint8)
    windows[4] = 0
    windows[7] = 127
    return windows


def events_file(windows: np.ndarray[Any, Any]) -> bytes:
    """Four int32 (steps, channels, height, width), then the counts."""
    return np.array(windows.shape, "<i4").tobytes() + windows.tobytes()


def network(name: str, seed: int) -> SpikingFireNet:
    """Random weights, decays and thresholds under which every layer fires."""
    torch.manual_seed(seed)
    model = untrained(name, channels=8)
    with torch.no_grad():
        for _, layer in model.named_layers():
            layer.beta.uniform_(0.3, 0.9)
            layer.threshold.uniform_(0.05, 0.2)
    return model


def main(folder: Path) -> None:
    """Write the vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, name in (("model.int8.onnx", "LIFFireNet"), ("other.int8.onnx", "LIFFireNet_short")):
        spec = quantize(network(name, 3), QuantOptions())
        write_model(integer_model(spec, Dims(RESOLUTION, True)), folder / file)
    windows = counts()
    (folder / "events.bin").write_bytes(events_file(windows))
    session = StatefulSession(folder / "model.int8.onnx", resolution=RESOLUTION, library="never")
    (folder / "expected.txt").write_text(lines(session, windows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

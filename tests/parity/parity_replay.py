"""Run an integer artifact in ONNX Runtime and compare every step with a recorded trace.

A process of its own, so that ``LIF_OP_TARGET`` can force the kernels, and without torch, as on a
deployment machine. Reads a JSON task from standard input:

    {"model": "m.onnx", "trace": "t.npz", "runs": [{"library": "require", "threads": 2, ...}]}

and prints, per run, what it found: ``{"difference": null or [step, tensor], ...}``. The trace holds
``events`` uint8 [T, 2, H, W] and one uint32 checksum per step and tensor, states channels first.
"""

from __future__ import annotations

import json
import sys
import zlib
from typing import Any

import numpy as np

import lif_op
from runtime.artifact import load_model
from runtime.layout import states_channels_first
from runtime.session import StatefulSession


def checksum(array: np.ndarray[Any, Any]) -> int:
    """Of type, shape and values."""
    label = f"{array.dtype} {array.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(array), zlib.crc32(label))


def observed(stream: Any) -> dict[str, Any]:
    """Every state, channels first, and the flow accumulator, as the emulation has them."""
    states = states_channels_first(stream.artifact, stream.states())
    return states | {"flow_acc": stream.outputs()["flow_acc"]}


def replay(model: Any, trace: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Step one session over the trace until something differs."""
    settings = {name: value for name, value in run.items() if name not in ("watched", "steps")}
    session = StatefulSession(model, **settings)
    stream = session.diagnostic() if run["watched"] else session
    found = {"native": session.native, "inplace": len(session.inplace), "difference": None}
    for step, events in enumerate(trace["events"][: run["steps"]]):
        stream.step(events[np.newaxis])
        seen = observed(stream)
        seen |= {f"spikes.{layer}": spikes for layer, spikes in stream.spikes().items()}
        for name, array in seen.items():
            if checksum(array) != trace[name][step]:
                return found | {"difference": [step, name]}
    return found | {"compared": sorted(seen), "steps": step + 1}


def main() -> int:
    """Do the task on standard input."""
    task = json.load(sys.stdin)
    with np.load(task["trace"]) as file:
        trace = {name: file[name] for name in file.files}
    model = load_model(task["model"])
    target = lif_op.active_target()
    results = [{"target": target, **replay(model, trace, run)} for run in task["runs"]]
    print(json.dumps({"torch": "torch" in sys.modules, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

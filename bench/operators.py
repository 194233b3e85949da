"""Time per operator type, from ONNX Runtime's own profiler in a run apart from the timed one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.artifact import LoadedModel
from runtime.runner import Array
from runtime.session import StatefulSession

_KERNEL = "_kernel_time"


def operator_times(
    loaded: LoadedModel,
    inputs: Sequence[Array],
    *,
    threads: int,
    library: str,
    steps: int,
    warmup: int = 3,
) -> dict[str, float]:
    """Milliseconds per step by operator type, longest first.

    Args:
        loaded: the artifact. inputs: ``events`` tensors, used round and round.
        threads, library: as for the timed session.
        steps: profiled steps, after ``warmup`` others.
    """
    with tempfile.TemporaryDirectory(prefix="spikedeploy-") as folder:
        session = StatefulSession(
            loaded,
            resolution=(inputs[0].shape[2], inputs[0].shape[3]),
            threads=threads,
            library=library,
            profile=str(Path(folder) / "profile"),
        )
        for number in range(warmup + steps):
            session.step(inputs[number % len(inputs)], copy=False)
        events = json.loads(session.end_profile().read_text())
    return sum_kernels(events, steps)


def sum_kernels(events: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """Sum a profile's kernel times over its last ``steps`` runs: milliseconds per step by type."""
    runs = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    first = runs[-steps] if len(runs) >= steps else 0
    totals: dict[str, float] = {}
    for event in events:
        kernel = event.get("cat") == "Node" and event["name"].endswith(_KERNEL)
        if kernel and event["ts"] >= first:
            name = event["args"]["op_name"]
            totals[name] = totals.get(name, 0.0) + event["dur"] / 1e3 / steps
    return dict(sorted(totals.items(), key=lambda item: -item[1]))

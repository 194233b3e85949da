"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import onnxruntime

import lif_op

CPUINFO = Path("/proc/cpuinfo")


def cpu_model(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name, from /proc/cpuinfo where there is one."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware"):
            return value.strip()
    return platform.machine()


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def instruction_set(native: bool) -> str:
    """The op library's kernel target; "none" where only ONNX Runtime's own operators run."""
    return lif_op.active_target() if native else "none"


def describe(threads: int) -> dict[str, Any]:
    """The machine and its software, as JSON values."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "threads": threads,
        "load_average": os.getloadavg()[0],
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }

"""Fails every allocation of the op library and of its Python module, one after the other.

usage: LD_PRELOAD=failing_new.so FAILING_NEW_LIBRARY=NAME python failing_allocations.py WHAT MODEL

Runs in a process of its own, for the allocator is preloaded. Prints JSON: how many allocations
failed in each operation, and what the errors were. An operation is repeated with its first, second,
... allocation failing until none fails any more; it must raise each time but the last, and give the
right result then.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

import lif_op
from lif_op import _core

_allocator = ctypes.CDLL(None)
_allocator.fail_nth_new.argtypes = [ctypes.c_long]
MOST = 10_000


def every_failure(operation: Callable[[], Any], expected: Any) -> dict[str, Any]:
    messages: set[str] = set()
    for n in range(1, MOST):
        result, error = None, None
        _allocator.fail_nth_new(n)
        try:
            result = operation()
        except Exception as caught:
            error = caught
        failed = bool(_allocator.new_failed())
        if error is not None:
            if not failed:
                raise error
            messages.add(f"{type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        for a, b in zip(result or (), expected or (), strict=True):
            np.testing.assert_array_equal(a, b)
        if not failed:
            return {"failures": n - 1, "errors": sorted(messages)}
    raise AssertionError("never succeeded")


def core_operations() -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    acc = rng.integers(-99, 99, (1, 8, 5, 7)).astype(np.int32)
    mem = rng.integers(-99, 99, acc.shape).astype(np.int16)
    per_channel = rng.integers(0, 256, 8).astype(np.int32)
    x = rng.integers(0, 127, (1, 2, 5, 7)).astype(np.uint8)
    weight = rng.integers(-63, 63, (8, 2, 3, 3)).astype(np.int8)
    conv = {"strides": [1, 1], "pads": [1, 1, 1, 1]}
    neuron = (mem.transpose(0, 2, 3, 1).copy(), per_channel, per_channel)
    return {
        "qlif": lambda: _core.qlif(acc, mem, per_channel, per_channel),
        "lif": lambda: _core.lif(
            *(a.astype(np.float32) for a in (acc, mem, per_channel, per_channel))
        ),
        "qconv": lambda: (_core.qconv(x, weight, per_channel, **conv),),
        "qconv_lif": lambda: _core.qconv_lif(x, weight, per_channel, *neuron, **conv),
        "targets": lambda: [len(name) for name in _core.targets()],
    }


def library_operations(model: str) -> dict[str, Callable[[], Any]]:
    from runtime.session import StatefulSession

    def options() -> onnxruntime.SessionOptions:
        made = onnxruntime.SessionOptions()
        made.log_severity_level = 4
        made.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return made

    loadable = options()
    lif_op.register(loadable)
    session = StatefulSession(model, resolution=(8, 8), library="require")
    counts = np.random.default_rng(1).integers(0, 5, (1, 2, 8, 8))

    def load() -> None:
        onnxruntime.InferenceSession(model, loadable, providers=["CPUExecutionProvider"])

    def step() -> Any:
        session.reset()
        session.step(counts.astype(np.uint8))
        return list(session.states().values())

    return {"register": lambda: lif_op.register(options()), "step": step, "load": load}


def main(what: str, model: str) -> None:
    operations = core_operations() if what == "_core" else library_operations(model)
    found = {}
    for name, operation in operations.items():
        found[name] = every_failure(operation, operation())
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

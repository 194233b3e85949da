"""Where and in what precision a network computes while it trains."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal

import torch

from training.config import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: Literal["auto", "cpu", "cuda"], precision: Precision) -> torch.device:
    """The device to train on; "auto" is cuda where there is one.

    Raises:
        ConfigError: no such device, or a precision that it does not train in.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ConfigError("device cuda: torch finds no GPU; use device cpu or auto")
    device = torch.device("cuda" if found and name != "cpu" else "cpu")
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("precision float16 needs a GPU; use bfloat16 or float32")
    return device


@contextlib.contextmanager
def forward_numerics(device: torch.device, precision: Precision, exact: bool) -> Iterator[None]:
    """For a forward pass: autocast as asked, or plain float32 where sums must be exact.

    Args:
        device: where the network is.
        precision: of convolutions; "float32" computes everything in it.
        exact: for networks on their integer grid, whose sums are whole numbers that float32 holds.
            No autocast then, not even an outer one; on a GPU no cuDNN either, whose Winograd
            transforms round.
    """
    dtype = _AUTOCAST.get(precision)
    autocast = torch.autocast(device.type, dtype, enabled=dtype is not None and not exact)
    if exact and device.type == "cuda":
        with autocast, torch.backends.cudnn.flags(enabled=False, allow_tf32=False):
            yield
    else:
        with autocast:
            yield


@contextlib.contextmanager
def reproducible(deterministic: bool) -> Iterator[None]:
    """Float32 products without TF32 and, if asked for, deterministic algorithms; then as before.

    An operation that has no deterministic form on a GPU warns and runs.
    """
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    was = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    if deterministic:
        # cuBLAS reads it when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cuda.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    torch.use_deterministic_algorithms(was or deterministic, warn_only=True)
    # Nothing here reads memory that nobody wrote, and filling it takes time.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = filled
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
        torch.use_deterministic_algorithms(was, warn_only=warned)

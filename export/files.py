"""Writing artifacts and test vectors; nothing half-written ever has its final name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from calib_data.files import atomic_path


def write_model(
    model: onnx.ModelProto, path: Path, check: Callable[[Path], None] | None = None
) -> Path:
    """Write an ONNX file; its folder is made when it is missing.

    Args:
        model: what to write.
        path: where.
        check: called with a temporary file of this content; when it raises, ``path`` stays as it
            was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        if check is not None:
            check(temporary)
    return path


def write_arrays(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> Path:
    """Write an ``.npz`` of named arrays; its folder is made when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # Keys such as "mem.head" are legal names in a zip, but not keyword arguments of a checker.
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    return path

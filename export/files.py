"""ONNX files and test vectors; nothing half-written ever has its final name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from calib_data.files import atomic_path
from export.errors import ExportError
from runtime.artifact import MAX_FILE_BYTES
from runtime.graph import load_proto
from runtime.graph_checks import check_no_external_data


def read_model(path: Path) -> onnx.ModelProto:
    """Read any ONNX file that holds all of itself.

    Raises:
        ExportError: too big, not ONNX or cut off. ArtifactError: values in another file.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ExportError(
            f"{path}: {size / 2**30:.1f} GiB is more than this tool reads "
            f"({MAX_FILE_BYTES / 2**30:.0f} GiB)"
        )
    try:
        model = load_proto(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{path}: not an ONNX file, or cut off; export it again") from error
    if not model.ir_version or not model.graph.node:
        raise ExportError(f"{path}: not an ONNX file (no graph in it); export it again")
    check_no_external_data(model, str(path))
    return model


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

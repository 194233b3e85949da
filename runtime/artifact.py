"""Artifacts: ONNX files that say what they are. Loading one validates everything.

>>> loaded = load_model("model.int8.onnx")
>>> loaded.artifact.model, loaded.artifact.kind
('LIFFireNet', 'int8')
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from runtime.errors import ArtifactError
from runtime.graph import load_proto
from runtime.graph_checks import check_model
from runtime.metadata import METADATA_KEY, SCHEMA, Artifact, Layer, State

__all__ = [
    "MAX_FILE_BYTES",
    "METADATA_KEY",
    "SCHEMA",
    "Artifact",
    "ArtifactError",
    "Layer",
    "LoadedModel",
    "State",
    "load_model",
    "validate_model",
]

MAX_FILE_BYTES = 1 << 30
"""A spiking flow network is a few megabytes; protobuf itself ends at 2 GiB."""


@dataclass(frozen=True)
class LoadedModel:
    """A validated artifact: the file's bytes, the parsed model and its metadata.

    Sessions are made from ``data``, never from the path again, so what was checked is what runs.
    """

    path: Path
    artifact: Artifact
    model: ModelProto = field(repr=False)
    data: bytes = field(repr=False)


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Read and validate an artifact.

    Refused, each with one line naming the thing: a file that is not ONNX or is cut off, missing
    metadata, an unknown schema, states that are missing or of another type, rank or shape than
    the graph's, decays outside 0..256 (or 0..1), float thresholds that are not positive, values
    kept in other files, embedded functions other than the op library's own, unknown ops.

    Raises:
        ArtifactError: the file is refused. OSError: it cannot be read.
    """
    where = os.fspath(path)
    file = Path(path)
    data = _read(file, where)
    try:
        model = load_proto(data)
    except DecodeError as error:
        raise ArtifactError(
            f"{where}: not an ONNX file, or cut off; copy or export it again"
        ) from error
    if not model.ir_version or not model.graph.node:
        raise ArtifactError(f"{where}: not an ONNX file (no graph in it); export it again")
    return LoadedModel(file, validate_model(model, where), model, data)


def _read(file: Path, where: str) -> bytes:
    """The file's bytes; of a pipe or a device, which may never end, not one."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ArtifactError(f"{where}: not a plain file; copy the artifact to one")
    if status.st_size > MAX_FILE_BYTES:
        raise ArtifactError(
            f"{where}: {status.st_size / 2**30:.1f} GiB is more than an artifact can have "
            f"({MAX_FILE_BYTES / 2**30:.0f} GiB)"
        )
    return file.read_bytes()


def validate_model(model: ModelProto, where: str = "model") -> Artifact:
    """Validate a model in memory and return its metadata; raises ArtifactError as load_model."""
    artifact = Artifact.from_model(model, where)
    check_model(model, artifact, where)
    return artifact

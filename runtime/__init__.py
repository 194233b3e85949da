"""Running artifacts step by step, measuring them, and comparing runs bit for bit; no PyTorch."""

from runtime.artifact import Artifact, ArtifactError, LoadedModel, load_model
from runtime.errors import EvaluationError, ParityError, PictureError, SessionError
from runtime.runner import encode
from runtime.session import StatefulSession, Stream

__all__ = [
    "Artifact",
    "ArtifactError",
    "EvaluationError",
    "LoadedModel",
    "ParityError",
    "PictureError",
    "SessionError",
    "StatefulSession",
    "Stream",
    "encode",
    "load_model",
]

"""The op library: spiking neurons and integer convolutions for ONNX Runtime.

``register`` makes native kernels of the ops available to an ONNX Runtime session. ``functions``
returns the same ops as ONNX functions, which run without any library. Importing this package needs
no compiled code; only what really uses the library asks for it.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lif_op.errors import LibraryError
from lif_op.spec import functions

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "LibraryError",
    "active_target",
    "functions",
    "library_path",
    "register",
    "targets",
]

_LIBRARY_NAME = "liblif_ops.so"


def library_path() -> Path:
    """Return the path of the op library, for ``register_custom_ops_library``.

    Raises:
        LibraryError: the library was not built.
    """
    # An editable install keeps compiled files apart from the Python files, so the library is
    # looked for next to the compiled module and not next to this file.
    module = importlib.util.find_spec("lif_op._core")
    if module is None or module.origin is None:
        raise LibraryError(_missing("its compiled module lif_op._core is missing"))
    path = Path(module.origin).with_name(_LIBRARY_NAME)
    if not path.is_file():
        raise LibraryError(_missing(f"there is no {path}"))
    return path


def register(session_options: onnxruntime.SessionOptions) -> None:
    """Make the native kernels available to sessions created with these options.

    The environment variable ``LIF_OP_TARGET`` forces an instruction set, see ``targets``.

    Raises:
        LibraryError: the library was not built, or ``LIF_OP_TARGET`` names a target that does not
            exist or that this CPU cannot run.
    """
    path = library_path()
    try:
        session_options.register_custom_ops_library(str(path))
    except Exception as error:  # ONNX Runtime's own exception classes share no narrower base
        raise LibraryError(f"cannot register the op library: {_one_line(error)}") from error


def targets() -> list[str]:
    """Return the kernel targets this CPU can run, slowest first, ``scalar`` always among them.

    Raises:
        LibraryError: the library was not built.
    """
    names: list[str] = _load_core().targets()
    return names


def active_target() -> str:
    """Return the kernel target in use: ``LIF_OP_TARGET``, or the fastest.

    Raises:
        LibraryError: the library was not built, or ``LIF_OP_TARGET`` is not one of ``targets()``.
    """
    try:
        name: str = _load_core().active_target()
    except ValueError as error:
        raise LibraryError(str(error)) from error
    return name


def _load_core() -> Any:
    try:
        return importlib.import_module("lif_op._core")
    except ImportError as error:
        raise LibraryError(_missing(_one_line(error))) from error


def _missing(detail: str) -> str:
    return (
        f"the op library of spikedeploy is not available ({detail}); "
        "install it with `pip install -e .` in the repository, which needs a C++ compiler"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

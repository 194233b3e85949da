"""The op library: spiking neurons and integer convolutions for ONNX Runtime.

``register`` makes native kernels of the ops available to an ONNX Runtime session. ``functions``
returns the same ops as ONNX functions, which run without any library. Importing this package needs
no compiled code; only what really uses the library asks for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import struct
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

_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
"""Elf64_Ehdr. The table of sections, which e_shoff (6), e_shentsize (11) and e_shnum (12) place,
comes last in the files that linkers write."""


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
    _check_whole(path)
    try:
        session_options.register_custom_ops_library(str(path))
    except Exception as error:  # ONNX Runtime's own exception classes share no narrower base
        raise LibraryError(f"cannot register the op library: {_one_line(error)}") from error


def _check_whole(path: Path) -> None:
    """A library whose end is missing, say after an interrupted copy, would end the process."""
    try:
        with path.open("rb") as file:
            head = file.read(_ELF_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise LibraryError(f"cannot register the op library: {error}") from error
    if len(head) < _ELF_HEADER.size or not head.startswith(b"\x7fELF\x02\x01"):
        return
    fields = _ELF_HEADER.unpack(head)
    start, entry, entries = fields[6], fields[11], fields[12]
    if start + entry * entries > size:
        raise LibraryError(
            f"cannot register the op library: {path} is cut off ({size} bytes); install "
            "spikedeploy again"
        )


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

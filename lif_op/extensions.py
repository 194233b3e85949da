"""The neurons as Python ops, for stepping through a network in a debugger.

``register`` makes ONNX Runtime call ``lif_op.spec.lif`` and ``lif_op.spec.qlif`` for every neuron
layer of a model, by way of the package onnxruntime-extensions (extra ``[extensions]``). Set a
breakpoint there and look at currents and membranes layer by layer.

This replaces the native library: register one of the two with a session, never both. ``QConv`` has
no Python op, since that package cannot hand over its list attributes; it runs as the ONNX function
that every exported file carries.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from lif_op import spec
from lif_op.errors import LibraryError

if TYPE_CHECKING:
    import onnxruntime


def register(session_options: onnxruntime.SessionOptions) -> None:
    """Make sessions created with these options compute ``snn::LIF`` and ``snn::QLIF`` in Python.

    Raises:
        LibraryError: onnxruntime-extensions is not installed.
    """
    session_options.register_custom_ops_library(_library_with_neurons())


@functools.cache
def _library_with_neurons() -> str:
    """Define the ops, once per process, and return the path of the library that calls them."""
    try:
        from onnxruntime_extensions import PyCustomOpDef, get_library_path, onnx_op
    except ImportError as error:
        raise LibraryError(
            f"Python ops need the package onnxruntime-extensions ({error}); "
            "install it with `pip install spikedeploy[extensions]`"
        ) from error
    types: Any = PyCustomOpDef
    onnx_op(
        op_type=f"{spec.DOMAIN}::LIF",
        inputs=[types.dt_float] * 4,
        outputs=[types.dt_float] * 2,
        attrs={"reset": types.dt_string},
    )(_lif)
    for mem_type in (types.dt_int16, types.dt_int8):
        onnx_op(
            op_type=f"{spec.DOMAIN}::QLIF",
            inputs=[types.dt_int32, mem_type, types.dt_int32, types.dt_int32],
            outputs=[types.dt_uint8, mem_type],
            attrs={"frac_bits": types.dt_int64, "reset": types.dt_string},
        )(_qlif)
    path: str = get_library_path()
    return path


# `spec` is looked into at every call, so that what stands there can be replaced while debugging.
def _lif(current: Any, mem: Any, beta: Any, threshold: Any, reset: str) -> tuple[Any, Any]:
    return spec.lif(current, mem, beta, threshold, reset)


def _qlif(
    acc: Any, mem: Any, decay: Any, threshold: Any, frac_bits: int, reset: str
) -> tuple[Any, Any]:
    return spec.qlif(acc, mem, decay, threshold, frac_bits, reset)

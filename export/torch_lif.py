"""The neuron and its integer states as torch operators that both exporters know.

``torch.ops.snn`` holds three operators. Run in PyTorch they compute; exported they become one node
each: ``snn::LIF``, ``QuantizeLinear`` and ``DequantizeLinear``. Brevitas' own handlers stop at 8
bits, and a membrane that is a graph input has no quantizer to attach them to, which is why the
states bring their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnxscript import values
from torch import Tensor
from torch.onnx import symbolic_helper, utils

import lif_op.spec
from models import lif_step

_CHANNEL_AXIS = 1


@torch.library.custom_op("snn::lif", mutates_args=())
def lif(
    current: Tensor, mem: Tensor, beta: Tensor, threshold: Tensor, reset: str
) -> tuple[Tensor, Tensor]:
    """The canonical neuron, one step: (spike, mem_out), see :func:`models.lif_step`.

    Args:
        current: float32 [N, C, H, W].
        mem: float32, the same shape.
        beta: float32 [C].
        threshold: float32 [C].
        reset: "zero", "subtract" or "none".
    """
    spike, after = lif_step(current, mem, beta, threshold, reset)
    return spike, after.clone()


@lif.register_fake
def _lif_fake(
    current: Tensor, mem: Tensor, beta: Tensor, threshold: Tensor, reset: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(current), torch.empty_like(mem)


def _per_channel(parameter: Tensor, like: Tensor) -> Tensor:
    return parameter if parameter.ndim == 0 else parameter.view(1, -1, *[1] * (like.ndim - 2))


@torch.library.custom_op("snn::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """``saturate(rint(x / scale) + zero_point)``, as QuantizeLinear.

    Args:
        x: float32 [N, C, ...].
        scale: float32 scalar, or [C] along axis 1.
        zero_point: of scale's shape; its integer type is the result's.
    """
    limits = torch.iinfo(zero_point.dtype)
    levels = torch.round(x / _per_channel(scale, x)) + _per_channel(zero_point, x)
    return levels.clamp(limits.min, limits.max).to(zero_point.dtype)


@quantize.register_fake
def _quantize_fake(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.custom_op("snn::dequantize", mutates_args=())
def dequantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """``(x - zero_point) * scale`` in float32, as DequantizeLinear; see :func:`quantize`."""
    return (x.int() - _per_channel(zero_point, x).int()).float() * _per_channel(scale, x)


@dequantize.register_fake
def _dequantize_fake(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32)


@symbolic_helper.parse_args("v", "v", "v", "v", "s")
def _lif_symbolic(g: Any, current: Any, mem: Any, beta: Any, threshold: Any, reset: str) -> Any:
    name = f"{lif_op.spec.DOMAIN}::LIF"
    spike, after = g.op(name, current, mem, beta, threshold, reset_s=reset, outputs=2)
    spike.setType(current.type())
    after.setType(mem.type())
    return spike, after


def _axis(scale: Any) -> dict[str, int]:
    return {"axis_i": _CHANNEL_AXIS} if scale.type().dim() else {}


def _quantize_symbolic(g: Any, x: Any, scale: Any, zero_point: Any) -> Any:
    result = g.op("QuantizeLinear", x, scale, zero_point, **_axis(scale))
    result.setType(x.type().with_dtype(zero_point.type().dtype()))
    return result


def _dequantize_symbolic(g: Any, x: Any, scale: Any, zero_point: Any) -> Any:
    result = g.op("DequantizeLinear", x, scale, zero_point, **_axis(scale))
    result.setType(x.type().with_dtype(scale.type().dtype()))
    return result


_SYMBOLICS: dict[str, Callable[..., Any]] = {
    "snn::lif": _lif_symbolic,
    "snn::quantize": _quantize_symbolic,
    "snn::dequantize": _dequantize_symbolic,
}


@contextmanager
def torchscript_symbolics() -> Iterator[None]:
    """The operators known to the TorchScript exporter while the block runs."""
    for name, symbolic in _SYMBOLICS.items():
        utils.register_custom_op_symbolic(name, symbolic, lif_op.spec.OPSET)
    try:
        yield
    finally:
        for name in _SYMBOLICS:
            utils.unregister_custom_op_symbolic(name, lif_op.spec.OPSET)


def _lif_op() -> values.Op:
    schema = onnx.defs.OpSchema
    real = "tensor(float)"
    made = schema(
        "LIF",
        lif_op.spec.DOMAIN,
        lif_op.spec.DOMAIN_VERSION,
        inputs=[
            schema.FormalParameter(name, real) for name in ("current", "mem", "beta", "threshold")
        ],
        outputs=[schema.FormalParameter(name, real) for name in ("spike", "mem_out")],
        attributes=[schema.Attribute("reset", schema.AttrType.STRING, "")],
    )
    return values.Op(values.Opset(lif_op.spec.DOMAIN, lif_op.spec.DOMAIN_VERSION), "LIF", made)


def _standard_op(name: str) -> values.Op:
    opset = values.Opset("", lif_op.spec.OPSET)
    return values.Op(opset, name, onnx.defs.get_schema(name, lif_op.spec.OPSET, ""))


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The operators for the dynamo exporter's ``custom_translation_table``."""
    neuron = _lif_op()
    to_integer, to_real = _standard_op("QuantizeLinear"), _standard_op("DequantizeLinear")

    def axis(scale: Any) -> dict[str, int]:
        return {"axis": _CHANNEL_AXIS} if len(scale.shape) else {}

    def lif_node(current: Any, mem: Any, beta: Any, threshold: Any, reset: str) -> Any:
        return neuron(current, mem, beta, threshold, reset=reset)

    def quantize_node(x: Any, scale: Any, zero_point: Any) -> Any:
        return to_integer(x, scale, zero_point, **axis(scale))

    def dequantize_node(x: Any, scale: Any, zero_point: Any) -> Any:
        return to_real(x, scale, zero_point, **axis(scale))

    return {
        torch.ops.snn.lif.default: lif_node,
        torch.ops.snn.quantize.default: quantize_node,
        torch.ops.snn.dequantize.default: dequantize_node,
    }

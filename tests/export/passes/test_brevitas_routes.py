"""Small Brevitas layers by both exporters: one canonical graph, the values of the export."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from brevitas import nn as qnn
from brevitas.export import export_onnx_qcdq
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int32Bias,
)
from qdq_graphs import apply, ops, run_ort
from torch import nn

from export.canonical import difference
from export.passes.clean import Clean
from export.passes.explicit_zero_points import ExplicitZeroPoints
from export.passes.fold_weights import FoldWeights
from export.passes.integer_bias import IntegerBias
from export.passes.remove_redundant_quantizers import RemoveRedundantQuantizers

CANONICAL = (Clean, FoldWeights, IntegerBias, ExplicitZeroPoints, RemoveRedundantQuantizers)


def _network(linear: bool, channels: bool, bits: int, bias: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "weight_bit_width": bits,
        "weight_quant": Int8WeightPerChannelFloat if channels else Int8WeightPerTensorFloat,
        "bias": bias != "none",
        "bias_quant": Int32Bias if bias == "integer" else None,
        "output_quant": Int8ActPerTensorFloat,
        "return_quant_tensor": True,
    }
    first, last = {"input_quant": Int8ActPerTensorFloat}, {"return_quant_tensor": False}
    if linear:
        layers = [
            qnn.QuantLinear(6, 4, **common, **first),
            qnn.QuantLinear(4, 3, **{**common, **last}),
        ]
        x = torch.randn(2, 6)
    else:
        layers = [
            qnn.QuantConv2d(2, 4, 3, padding=1, **common, **first),
            qnn.QuantReLU(bit_width=bits, return_quant_tensor=True),
            qnn.QuantConv2d(4, 3, 1, **{**common, **last}),
        ]
        x = torch.randn(1, 2, 6, 6)
    model = nn.Sequential(*layers)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(x)
    return model.eval(), x


def _exported(model: nn.Module, x: torch.Tensor, path: Path, dynamo: bool) -> onnx.ModelProto:
    options: dict[str, Any] = {"optimize": True} if dynamo else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_onnx_qcdq(
            model, args=x, export_path=str(path), opset_version=21, dynamo=dynamo, **options
        )
    return onnx.load(path)


def _canonical(model: onnx.ModelProto, x: torch.Tensor, unit: float) -> onnx.ModelProto:
    """The canonical form, shown to compute the same up to the rounding of a float bias."""
    result = apply(model, *(entry() for entry in CANONICAL))
    held = {tensor.name for tensor in model.graph.initializer}
    (name,) = (value.name for value in model.graph.input if value.name not in held)
    bare = apply(model, Clean())
    feeds = {name: x.numpy()}
    (before,), (after,) = (run_ort(m, feeds).values() for m in (bare, result))
    assert np.abs(before - after).max() <= unit
    return result


@pytest.mark.parametrize(
    ("linear", "channels", "bits", "bias"),
    [
        (False, True, 8, "none"),
        (False, False, 4, "float"),
        (True, True, 4, "none"),
        (True, False, 8, "float"),
    ],
)
def test_both_exporters_give_one_graph(
    tmp_path: Path, linear: bool, channels: bool, bits: int, bias: str
) -> None:
    model, x = _network(linear, channels, bits, bias)
    # A float bias moves by half a unit of the accumulator, which may flip levels of the output.
    unit = 0.0 if bias == "none" else 0.05
    results = [
        _canonical(_exported(model, x, tmp_path / f"{dynamo}.onnx", dynamo), x, unit)
        for dynamo in (False, True)
    ]
    assert difference(*results) == ""
    stored = [t for t in results[0].graph.initializer if len(t.dims) >= 2]
    assert {t.data_type for t in stored} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("linear", [False, True])
def test_integer_biases_stay_exact(tmp_path: Path, linear: bool) -> None:
    model, x = _network(linear, True, 8, "integer")
    exported = _exported(model, x, tmp_path / "model.onnx", dynamo=False)
    result = _canonical(exported, x, 0.0)
    assert "Clip" not in ops(result) and "MatMul" not in ops(result)

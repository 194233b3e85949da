"""Each pass alone on what Brevitas exports by both routes: the same values before and after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from qdq_graphs import apply, assert_equal, ops, run_ort
from torch import nn

from examples.networks import layers
from export.errors import ExportError
from export.passes.base import GraphPass
from export.passes.clean import Clean
from export.passes.concat_quantized import ConcatQuantized
from export.passes.explicit_zero_points import ExplicitZeroPoints
from export.passes.float_bias import FloatBias
from export.passes.fold_weights import FoldWeights
from export.passes.fuse_qlinear import FuseQLinear
from export.passes.integer_bias import IntegerBias
from export.passes.remove_redundant_quantizers import RemoveRedundantQuantizers
from export.passes.scalar_scales import ScalarScales
from export.passes.sink_dequantize import SinkDequantize
from export.passes.spell_requantize import SpellRequantize
from export.passes.symmetric_activations import SymmetricActivations
from export.passes.unsigned_activations import UnsignedActivations
from export.torch_graph import ROUTES, Route, export_qdq

Factory = Callable[[], nn.Module]

NETWORKS: tuple[tuple[Factory, tuple[int, ...]], ...] = (
    (layers.conv, (1, 3, 8, 8)),
    (layers.conv_per_tensor, (1, 3, 8, 8)),
    (layers.depthwise, (1, 8, 8, 8)),
    (layers.linear_per_channel, (4, 12)),
    (layers.Signed, (1, 3, 8, 8)),
    (layers.SharedInput, (1, 3, 8, 8)),
    (layers.residual_unequal, (1, 4, 8, 8)),
)
CANONICAL: tuple[GraphPass, ...] = (
    Clean(),
    FoldWeights(),
    IntegerBias(),
    ExplicitZeroPoints(),
    RemoveRedundantQuantizers(),
)


def _export(
    factory: Factory, shape: tuple[int, ...], route: Route
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The network after some training steps' statistics, and inputs beyond its range."""
    module = factory()
    generator = torch.Generator().manual_seed(2)
    module.train()
    with torch.no_grad():
        for _ in range(4):
            module(torch.randn(shape, generator=generator))
    x = 2 * torch.randn(shape, generator=generator)
    names = {"input_names": ["x"], "output_names": ["y"]}
    model = export_qdq(module.eval(), (x,), route=route, **names)
    return model, {"x": x.numpy()}


def _same(
    model: onnx.ModelProto, entry: GraphPass, feeds: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """The rewritten model: equal bit for bit, and a second time unchanged."""
    result = apply(model, entry)
    want, got = run_ort(model, feeds), run_ort(result, feeds)
    assert np.unique(want["y"]).size > 10, "a silent network proves nothing"
    assert_equal(got, want, entry.name)
    again = apply(result, entry)
    assert again.SerializeToString() == result.SerializeToString(), entry.name
    return result


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("factory", "shape"), NETWORKS, ids=lambda value: getattr(value, "__name__", "")
)
def test_every_step_keeps_every_value(
    factory: Factory, shape: tuple[int, ...], route: Route
) -> None:
    """Brevitas' biases are int32 already, so that even these do not move."""
    model, feeds = _export(factory, shape, route)
    for entry in (*CANONICAL, ScalarScales(), ConcatQuantized(), UnsignedActivations()):
        model = _same(model, entry, feeds)
    assert "Clip" not in ops(model) and "Constant" not in ops(model)
    _same(model, FloatBias(), feeds)


@pytest.mark.parametrize("route", ROUTES)
def test_signed_networks_in_int8(route: Route) -> None:
    model, feeds = _export(layers.Signed, (1, 3, 8, 8), route)
    model = apply(model, *CANONICAL)
    left = _same(model, SymmetricActivations(), feeds)
    assert list(left.graph.node) == list(model.graph.node)
    back = _same(_same(model, UnsignedActivations(), feeds), SymmetricActivations(), feeds)
    assert {t.data_type for t in back.graph.initializer}.isdisjoint({onnx.TensorProto.UINT8})


@pytest.mark.parametrize("route", ROUTES)
def test_unsigned_networks_have_no_equal_in_int8(route: Route) -> None:
    model, _ = _export(layers.SharedInput, (1, 3, 8, 8), route)
    with pytest.raises(ExportError, match="quantize activations symmetrically"):
        apply(model, *CANONICAL, SymmetricActivations())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("factory", [layers.conv, layers.residual_unequal])
def test_spelled_requantization_gives_the_same_integers(factory: Factory, route: Route) -> None:
    shape = (1, 3, 8, 8) if factory is layers.conv else (1, 4, 8, 8)
    model, feeds = _export(factory, shape, route)
    passes = (UnsignedActivations(), SinkDequantize(), FuseQLinear(kernels=False))
    _same(apply(model, *CANONICAL, *passes), SpellRequantize(), feeds)

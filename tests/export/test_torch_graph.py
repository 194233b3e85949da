"""Brevitas modules to QDQ by both routes: what comes out, and what is refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import numpy as np
import onnxruntime
import pytest
import torch
from brevitas.quant import Int8ActPerTensorFloat, Int32Bias, Uint8ActPerTensorFloat
from torch import Tensor, nn

import lif_op.spec
from export.errors import ExportError
from export.torch_graph import ROUTES, export_float, export_qdq, run_module, without_quantizers
from export.torch_lif import dequantize, lif, quantize

X = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)


class Net(nn.Module):
    """One convolution, with whatever ``change`` does before it."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.change = change
        self.inner = nn.Sequential(
            qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True),
            qnn.QuantConv2d(3, 2, 3, padding=1, bias=True),
        )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.change(x))


def export(module: nn.Module, route: Any = "torchscript", **options: Any) -> Any:
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    return export_qdq(module, (X,), route=route, **(names | options))


def run(model: Any, *inputs: Tensor) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, {n: t.numpy() for n, t in zip(names, inputs, strict=True)})


@pytest.mark.parametrize("route", ROUTES)
def test_opset_versions_names_and_values(
    route: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = Net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = export(module, route)
    assert {entry.version for entry in model.opset_import if not entry.domain} == {21}
    assert model.ir_version == lif_op.spec.IR_VERSION
    assert [entry.name for entry in model.graph.input] == ["x"]
    np.testing.assert_allclose(run(model, X)[0], module(X).detach().numpy(), atol=1e-5)
    assert not list(tmp_path.iterdir())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_float_network_has_no_quantizer() -> None:
    module = Net()
    model = export_float(module, (X,), input_names=["x"], output_names=["y"])
    assert not {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    expected = run_module(without_quantizers(module), (X,))[0].numpy()
    np.testing.assert_allclose(run(model, X)[0], expected, atol=1e-5)
    assert not np.array_equal(expected, module(X).detach().numpy())


def _branches(x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


def _looks_at_shape(x: Tensor) -> Tensor:
    assert x.shape[1] == 3
    return x


@pytest.mark.parametrize("route", ROUTES)
def test_a_branch_on_values_is_refused_and_one_on_shapes_is_not(route: Any) -> None:
    with pytest.raises(ExportError, match=r"branches on the values of a tensor.*torch\.where"):
        export(Net(_branches), route)
    assert len(export(Net(_looks_at_shape), route).graph.node) > 0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one bit": ({"act_quant": Uint8ActPerTensorFloat, "bit_width": 1}, "at least 2 bits"),
    "ten bits": ({"act_quant": Uint8ActPerTensorFloat, "bit_width": 10}, "use 2 to 8 bits"),
    "floor": (
        {"act_quant": Int8ActPerTensorFloat, "float_to_int_impl_type": "floor"},
        "rounds by FLOOR",
    ),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", REFUSED)
def test_a_quantizer_without_a_qdq_form_is_named(case: str, route: Any) -> None:
    options, reason = REFUSED[case]
    module = nn.Sequential(qnn.QuantIdentity(**options)).eval()
    with pytest.raises(ExportError, match=rf"quantizer '0\.act_quant'.*{reason}"):
        export(module, route)


def test_other_mistakes_are_one_line() -> None:
    unused = Net()
    unused.spare = qnn.QuantConv2d(3, 2, 1, bias=True, bias_quant=Int32Bias)
    with pytest.raises(ExportError, match=r"'spare\.bias_quant'.*never called"):
        export(unused)
    with pytest.raises(ExportError, match=r"does not run on inputs of shape \[1, 3, 4, 4\]"):
        export(nn.Sequential(qnn.QuantLinear(5, 2, bias=False)))
    with pytest.raises(ExportError, match="returns a ndarray"):
        export(Returns())
    with pytest.raises(ExportError, match="2 input names for 1 inputs"):
        export(Net(), input_names=["a", "b"])
    with pytest.raises(ExportError, match="1 outputs, 2 names given"):
        export(Net(), output_names=["a", "b"])
    with pytest.raises(ExportError, match="no export route 'fx'"):
        export(Net(), "fx")


class Returns(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.numpy()


class Neuron(nn.Module):
    """An integer membrane around the neuron, per channel or with one scale."""

    def __init__(self, scale: Tensor, dtype: torch.dtype, reset: str) -> None:
        super().__init__()
        self.scale, self.reset = scale, reset
        self.zero = torch.zeros(scale.shape, dtype=dtype)
        self.beta, self.threshold = torch.tensor([0.5, 0.75]), torch.tensor([0.25, 1.5])

    def forward(self, current: Tensor, mem: Tensor) -> tuple[Tensor, Tensor]:
        real = dequantize(mem, self.scale, self.zero)
        spike, after = lif(current, real, self.beta, self.threshold, self.reset)
        return spike, quantize(after, self.scale, self.zero)


@pytest.mark.parametrize("reset", lif_op.spec.RESETS)
@pytest.mark.parametrize("route", ROUTES)
def test_the_neuron_is_one_node_between_integer_states(route: Any, reset: str) -> None:
    per_channel = reset == "zero"
    scale = torch.tensor([0.125, 0.25]) if per_channel else torch.tensor(0.125)
    dtype = torch.int16 if per_channel else torch.int8
    module = Neuron(scale, dtype, reset).eval()
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(1, 2, 5, 6, generator=generator)
    mem = torch.randint(-20, 20, (1, 2, 5, 6), generator=generator, dtype=dtype)
    model = export_qdq(
        module,
        (current, mem),
        route=route,
        input_names=["current", "mem"],
        output_names=["spike", "mem_out"],
    )
    kinds = [node.op_type for node in model.graph.node if node.op_type != "Constant"]
    kinds = [kind for kind in kinds if kind != "Identity"]
    assert kinds == ["DequantizeLinear", "LIF", "QuantizeLinear"]
    del model.functions[:]
    model.functions.append(lif_op.spec.function("LIF"))
    for got, expected in zip(run(model, current, mem), module(current, mem), strict=True):
        assert expected.any()
        np.testing.assert_array_equal(got, expected.numpy())

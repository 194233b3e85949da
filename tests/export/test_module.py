"""``python -m export.qdq --module``: example networks to integers, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from export.canonical import difference
from export.errors import ExportError
from export.module_calibrate import calibrate
from export.module_export import FILES, Options, build_graphs, export_module
from export.module_inputs import Samples, input_names, load_module, parse_shape, read_samples
from export.oracle import run_integer
from export.qdq import main
from export.torch_graph import ROUTES, export_qdq, run_module

ROOT = Path(__file__).parents[2]
IMAGE = ((2, 3, 8, 8),)
LAYERS: dict[str, tuple[tuple[int, ...], ...]] = {
    "conv": IMAGE,
    "conv_without_bias": IMAGE,
    "conv_per_tensor": IMAGE,
    "depthwise": ((1, 8, 9, 9),),
    "linear": ((3, 12),),
    "linear_without_bias": ((3, 12),),
    "linear_per_channel": ((3, 12),),
    "Signed": IMAGE,
    "SharedInput": IMAGE,
    "residual_equal": ((1, 4, 8, 8),),
    "residual_unequal": ((1, 4, 8, 8),),
    "TwoInTwoOut": ((1, 3, 8, 8), (1, 2, 8, 8)),
    "Stateful": ((1, 2, 8, 8), (1, 4, 8, 8)),
}


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are found from the current folder."""
    monkeypatch.chdir(ROOT)


def samples(module: nn.Module, *shapes: tuple[int, ...], count: int = 3) -> Samples:
    generator = torch.Generator().manual_seed(1)
    drawn = [tuple(torch.randn(s, generator=generator) for s in shapes) for _ in range(count)]
    return Samples(input_names(module, len(shapes)), tuple(drawn[:-1]), tuple(drawn[-1:]))


def integer_floats(path: Path) -> list[str]:
    """Float constants of more than one rank, which no scale has."""
    graph = onnx.load(path).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return [name for name, a in arrays.items() if a.dtype.kind == "f" and a.ndim > 1]


def signed_convolutions(path: Path) -> list[str]:
    """QLinearConv nodes with int8 activations, which ONNX Runtime is slow in on x86."""
    graph = onnx.load(path).graph
    types = {t.name: t.data_type for t in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "QLinearConv"]
    return [node.name for node in convolutions if types[node.input[2]] == onnx.TensorProto.INT8]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_becomes_integers_that_equal_brevitas(name: str, tmp_path: Path) -> None:
    module = load_module(f"examples.networks.layers:{name}")
    given = samples(module, *LAYERS[name])
    report = export_module(module, given, tmp_path, Options(quiet=True))
    assert not report.islands and not report.floats_left
    assert report.runs == 6
    assert report.torch_qdq.lsb <= 1.001 and report.qdq_integer.lsb <= 1.001
    assert set(report.constants) <= {"float32", "int32", "int64", "int8", "uint8"}
    assert not integer_floats(report.paths["int8"])
    assert not signed_convolutions(report.paths["int8"])
    feed = dict(zip(given.names, (t.numpy() for t in given.held_out[0]), strict=True))
    got = run_integer(onnx.load(report.paths["int8"]), feed)
    for value, expected in zip(got.values(), run_module(module, given.held_out[0]), strict=True):
        assert expected.std() > 0
        np.testing.assert_allclose(value, expected.numpy(), atol=0.1 * float(expected.std()))


@pytest.mark.parametrize("name", ["depthwise", "linear", "residual_unequal", "TwoInTwoOut"])
def test_both_routes_give_the_same_integers(name: str) -> None:
    module = load_module(f"examples.networks.layers:{name}")
    given = samples(module, *LAYERS[name])
    calibrate(module, given.calibration, quiet=True)
    outputs = [f"y{i}" for i in range(len(run_module(module, given.held_out[0])))]
    graphs = [
        build_graphs(module, given, outputs, Options(route, quiet=True)).models["int8"]
        for route in ROUTES
    ]
    assert difference(*graphs) == ""


def test_attention_keeps_its_softmax_in_float_and_says_so(tmp_path: Path) -> None:
    module = load_module("examples.networks.layers:Attention")
    report = export_module(module, samples(module, (2, 6, 16)), tmp_path, Options(quiet=True))
    assert [text.rpartition(" ")[2] for text in report.islands] == ["(Softmax)"]
    assert report.nodes["MatMulInteger"] == 4
    assert report.torch_qdq.lsb <= 1.001
    with pytest.raises(ExportError, match="packed_in_proj=False"):
        export_qdq(
            module,
            (torch.zeros(2, 6, 16),),
            route="dynamo",
            input_names=["x"],
            output_names=["y"],
        )


@pytest.mark.parametrize(
    ("factory", "convolutions"),
    [("resnet:resnet18_narrow", 20), ("mobilenet:mobilenet_v3_small_narrow", 52)],
)
def test_a_classifier_is_integers_from_image_to_scores(
    factory: str, convolutions: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.npz"
    generator = np.random.default_rng(0)
    np.savez(data, images=generator.standard_normal((4, 3, 32, 32), np.float32))
    arguments = ["--module", f"examples.networks.{factory}", "--input-shape", "1,3,32,32"]
    arguments += ["--calibrate", str(data), "--out", str(tmp_path / "out"), "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["integer_equal"] == "bit for bit" and report["scales"] == "calibrated"
    assert not report["float_islands"] and not report["float_constants"]
    assert report["nodes"]["QLinearConv"] == convolutions
    assert set(report["latency"]) == {"1", "2"}
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {*FILES.values(), "report.json", "stages.json"}


def test_profiles_of_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard operators equal the integers; x86's form is one QLinearConv per convolution."""
    given = ["--module", "examples.networks.resnet:resnet18_narrow", "--input-shape", "1,3,32,32"]
    given += ["--profile", "portable", "portable-int", "ort-x86", "--json"]
    assert main([*given, "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)["profiles"]
    assert found["portable-int"] == {"equal": "bit for bit"}
    assert found["portable"] == {"max_lsb": 0.0, "share_differing": 0.0}
    assert found["ort-x86"]["max_lsb"] < 1.5
    integer = onnx.load(tmp_path / "module.portable-int.onnx")
    assert not integer.functions and not any(node.domain for node in integer.graph.node)
    unsigned = onnx.load(tmp_path / "module.ort-x86.onnx")
    assert sum(node.op_type == "Conv" for node in unsigned.graph.node) == 20


def test_symmetric_networks_suit_tensorrt(tmp_path: Path) -> None:
    """Signed activations stay, biases are float32; unsigned activations are refused by name."""
    given = ["--input-shape", "1,3,8,8", "--profile", "tensorrt", "--out", str(tmp_path)]
    assert main(["--module", "examples.networks.layers:Signed", *given]) == 0
    symmetric = onnx.load(tmp_path / "module.tensorrt.onnx")
    kinds = {t.data_type for t in symmetric.graph.initializer}
    assert not kinds & {onnx.TensorProto.UINT8, onnx.TensorProto.INT32}
    with pytest.raises(ExportError, match=r"profile tensorrt: node .* quantize activations symm"):
        main(["--module", "examples.networks.layers:SharedInput", *given])


def test_profiles_that_a_classifier_cannot_have(tmp_path: Path) -> None:
    """Spiking networks only, or no such profile: refused before anything is written."""
    given = ["--module", "examples.networks.layers:conv", "--input-shape", "1,3,8,8"]
    for name, message in (("deeploy", "spiking networks"), ("portabel", "nearest is 'portable'")):
        with pytest.raises(ExportError, match=message):
            main([*given, "--profile", name, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.parametrize("factory", ["resnet:resnet18", "mobilenet:mobilenet_v3_small"])
def test_full_width_classifiers(factory: str, tmp_path: Path) -> None:
    module = load_module(f"examples.networks.{factory}")
    report = export_module(module, samples(module, (1, 3, 64, 64)), tmp_path, Options(quiet=True))
    assert not report.islands and not report.floats_left


def test_own_scales_and_bias_correction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--module", "examples.networks.layers:conv", "--input-shape", "1,3,8,8"]
    arguments += ["--out", str(tmp_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "scales: the module's own" in text and "equal bit for bit" in text
    module = load_module("examples.networks.layers:conv")
    before = module.layer.bias.detach().clone()
    given = samples(module, *IMAGE)
    calibrate(module, given.calibration, bias_correction=True, quiet=True)
    assert not torch.equal(before, module.layer.bias)


MISTAKES: dict[str, tuple[str, str]] = {
    "no colon": ("examples.networks.layers", "write package.file:factory"),
    "no module": ("examples.nowhere:conv", r"no module 'examples\.nowhere'"),
    "no attribute": ("examples.networks.layers:nothing", "has no 'nothing'"),
    "not a module": ("examples.networks.mobilenet:Row._make", "TypeError"),
    "a constant": ("examples.networks.resnet:DEPTHS", "a tuple cannot be called"),
    "gives no module": ("os:getcwd", "gives a str, expected a torch.nn.Module"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_factory_that_cannot_be_used(case: str) -> None:
    text, reason = MISTAKES[case]
    with pytest.raises(ExportError, match=reason):
        load_module(text)


def test_shapes_that_cannot_be_used(tmp_path: Path) -> None:
    for text in ("", "1,x", "0,3", "-1,3"):
        with pytest.raises(ExportError, match="--input-shape"):
            parse_shape(text)
    with pytest.raises(ExportError, match="takes 1 inputs"):
        input_names(load_module("examples.networks.layers:conv"), 2)
    arguments = ["--module", "examples.networks.layers:conv", "--out", str(tmp_path)]
    with pytest.raises(ExportError, match="needs --input-shape"):
        main(arguments)
    with pytest.raises(ExportError, match=r"does not run on inputs of shape \[1, 4, 8, 8\]"):
        main([*arguments, "--input-shape", "1,4,8,8"])


ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "holds no array"),
    "shape": ({"x": np.zeros((4, 3, 9))}, r"shape \[4, 3, 9\], expected \[samples, 3, 8\]"),
    "not finite": ({"x": np.full((4, 3, 8), np.nan)}, "not finite"),
    "too few": ({"x": np.zeros((1, 3, 8))}, "at least two"),
    "text": ({"x": np.full((4, 3, 8), "a")}, "not numbers"),
    "names": ({"a": np.zeros(1), "b": np.zeros(1)}, "holds a, b; the network's inputs are x"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_samples_that_cannot_be_used(case: str, tmp_path: Path) -> None:
    arrays, reason = ARRAYS[case]
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ExportError, match=reason):
        read_samples(tmp_path / "data.npz", ["x"], [(1, 3, 8)])


def test_samples_are_held_out_and_not_a_zip_is_refused(tmp_path: Path) -> None:
    values = np.arange(16, dtype=np.float32).reshape(8, 2)
    np.savez(tmp_path / "data.npz", x=values)
    given = read_samples(tmp_path / "data.npz", ["x"], [(1, 2)])
    assert (len(given.calibration), len(given.held_out)) == (6, 2)
    assert given.held_out[0][0].tolist() == [[6.0, 7.0]]
    np.save(tmp_path / "one.npy", values)
    with pytest.raises(ExportError, match=r"one\.npy: one array, not an \.npz file"):
        read_samples(tmp_path / "one.npy", ["x"], [(1, 2)])
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ExportError, match="not a readable"):
        read_samples(tmp_path / "text.npz", ["x"], [(1, 2)])


def test_networks_that_have_no_integer_form(tmp_path: Path) -> None:
    conv = load_module("examples.networks.layers:conv")
    with pytest.raises(ExportError, match=r"module '1' \(BatchNorm2d\).*merge_bn"):
        export_module(
            nn.Sequential(conv, nn.BatchNorm2d(8)).eval(),
            Samples(("input",), (), ((torch.zeros(1, 3, 8, 8),),)),
            tmp_path,
            Options(quiet=True),
        )
    with pytest.raises(ExportError, match="no activation quantizer"):
        export_module(
            nn.Sequential(nn.Conv2d(3, 2, 3)),
            Samples(("input",), (), ((torch.zeros(1, 3, 8, 8),),)),
            tmp_path,
            Options(quiet=True),
        )
    assert not list(tmp_path.iterdir())

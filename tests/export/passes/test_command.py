"""python -m export.passes: lists, rewrites, runs both files, refuses in one line."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import Graph

from calib_data import console
from export.errors import ExportError
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.graphs.source import source_model
from export.passes import PASSES, main
from export.passes.clean import Clean
from export.passes.legality import markdown_rows
from export.passes.trial import Difference, TrialSkipped, compare
from runtime.artifact import load_model

SHAPE = (1, 2, 5, 4)


def _model(bias: float = 0.013) -> onnx.ModelProto:
    """A convolution with a float bias that is no multiple of s_x * s_w."""
    graph = Graph()
    x = graph.qdq(graph.input("x", np.float32, SHAPE), 0.04, 128)
    weight = np.arange(-9, 9).reshape(1, 2, 3, 3).astype(np.int8)
    inputs = [x, graph.weight(weight, np.float32(0.3)), graph.const(np.float32([bias]))]
    return graph.model({graph.op("Conv", *inputs): np.float32})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(_model(), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def test_list_has_every_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [entry.name for entry in PASSES]
    assert main(["--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [entry.name for entry in PASSES]
    assert all(row["summary"] for row in rows)


def test_every_pass_is_made_without_arguments() -> None:
    assert len({entry().name for entry in PASSES}) == len(PASSES)


def test_rewrites_and_compares(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = file.with_name("out.onnx")
    run = [str(file), str(out), "--run", "clean,integer_bias", "--tolerance", "0.006"]
    assert main([*run, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(p["name"], p["changes"]) for p in result["passes"]] == [
        ("clean", 0),
        ("integer_bias", 1),
    ]
    # One unit of the accumulator is 0.012: 0.013 becomes 0.012.
    assert 0.0005 < result["check"]["largest"] < 0.006
    assert TensorProto.INT32 in {t.data_type for t in onnx.load(out).graph.initializer}
    assert main([str(file), str(out), "--run", "clean"]) == 0
    text = capsys.readouterr().out
    assert "largest difference 0 on 3 random inputs" in text
    assert [line.split()[1:6:2] for line in text.splitlines() if " clean " in line] == [
        ["clean", "0", "4"]
    ]


def test_legality_is_the_table_of_moves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--legality", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [tuple(row.values()) for row in rows] == markdown_rows()
    assert main(["--legality"]) == 0
    text = capsys.readouterr().out
    assert text.count("legal when") == len(rows) and rows[0]["because"] in text


def test_a_result_beyond_the_tolerance_is_not_written(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = file.with_name("out.onnx")
    out.write_bytes(b"before")
    run = [str(file), str(out), "--run", "integer_bias"]
    for more in ([], ["--tolerance", "1e-4"]):
        assert main([*run, *more]) == 1
        assert "not written: the results differ" in capsys.readouterr().out
    assert main([*run, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["output"] is None
    assert out.read_bytes() == b"before"
    assert main([*run, "--check", "0"]) == 0
    assert "check: skipped, not asked for" in capsys.readouterr().out
    assert onnx.load(out).graph.node
    with pytest.raises(SystemExit):
        main([*run, "--tolerance", "nan"])


def test_integers_have_to_be_equal() -> None:
    """However large the tolerance; floats are measured by their largest value."""
    entry = {"output": "y", "differing": 1, "total": 9, "magnitude": 1000.0}
    assert not Difference(largest=1, integer=True, **entry).accepted(5.0)
    assert Difference(largest=0.009, integer=False, **entry).accepted()
    assert not Difference(largest=0.011, integer=False, **entry).accepted()
    assert Difference(largest=0.011, integer=False, **entry).accepted(0.02)


def _quotient(offset: float) -> onnx.ModelProto:
    """x / 0 + offset / 0: infinities of x's sign, or NaN where offset has the other sign."""
    graph = Graph()
    zero = graph.const(np.float32(0))
    x = graph.op("Div", graph.op("Relu", graph.input("x", np.float32, SHAPE)), zero)
    y = graph.op("Add", graph.op("Abs", x), graph.op("Div", graph.const(np.float32(offset)), zero))
    return graph.model({y: np.float32})


def test_a_new_nan_is_a_difference() -> None:
    same = compare(_quotient(-1), _quotient(-1), 1).outputs[0]
    assert same.differing == 0 and same.accepted()
    other = compare(_quotient(1), _quotient(-1), 1).outputs[0]
    assert other.differing > 0 and other.largest == np.inf and not other.accepted(1e9)


def test_changed_types_are_named(
    make_sources: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Float counts become bytes: both files get the same whole numbers."""
    source = make_sources()  # type: ignore[operator]
    before, after = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(source_model(source.spec, Dims((18, 26), free=False)), before)
    run = [str(before), str(after), "--run", "integer_inputs"]
    assert main(run) == 0
    text = capsys.readouterr().out
    assert "events: float -> uint8" in text and "largest difference 0" in text
    kinds = {v.name: v.type.tensor_type.elem_type for v in onnx.load(after).graph.input}
    assert kinds["events"] == TensorProto.UINT8


def test_an_artifact_stays_one(
    make_sources: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_sources().spec  # type: ignore[operator]
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(integer_model(spec, Dims((18, 26), free=True)), source)
    assert main([str(source), str(out), "--run", "inline_functions", "--check", "1"]) == 0
    assert "largest difference 0 on 1 random inputs" in capsys.readouterr().out
    assert load_model(out).artifact.spatial_free


@pytest.mark.parametrize("fused", [True, False])
def test_states_of_another_layout_are_compared(
    fused: bool, make_sources: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_sources().spec  # type: ignore[operator]
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(integer_model(spec, Dims((18, 26), free=True), fused=fused), source)
    passes = ("split_conv_lif" if fused else "fuse_conv_lif") + ",attach_functions"
    assert main([str(source), str(out), "--run", passes, "--json"]) == 0
    check = json.loads(capsys.readouterr().out)["check"]
    assert check["largest"] == 0 and not check["only"]
    names = {entry["output"] for entry in check["outputs"]}
    assert names == {value.name for value in onnx.load(source).graph.output}


def _error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert console.run(main, list(arguments)) == console.EXIT_USER_ERROR
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_mistakes_are_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(file.with_name("out.onnx"))
    assert "nearest is 'clean'" in _error(capsys, str(file), out, "--run", "cleen")
    assert "--run" in _error(capsys, str(file), out)
    assert "names no pass" in _error(capsys, str(file), out, "--run", ",")
    assert "No such file" in _error(capsys, str(file) + "x", out, "--run", "clean")
    file.write_bytes(b"\x8f" * 300)
    assert "not an ONNX file" in _error(capsys, str(file), out, "--run", "clean")
    file.write_bytes(b"")
    assert "no graph in it" in _error(capsys, str(file), out, "--run", "clean")
    assert not Path(out).exists()


def test_the_output_may_be_the_input(file: Path) -> None:
    before = onnx.load(file)
    assert main([str(file), str(file), "--run", "integer_bias", "--tolerance", "0.006"]) == 0
    assert onnx.load(file) != before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["in.onnx", "out.onnx"])
def test_interrupted_while_writing_nothing_is_half_written(
    name: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    write = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        written = write(path, data[: len(data) // 2])
        signal.raise_signal(signal.SIGINT)
        return written

    monkeypatch.setattr(Path, "write_bytes", half)
    arguments = [str(file), str(file.with_name(name)), "--run", "clean"]
    assert console.run(main, arguments) == console.EXIT_INTERRUPTED == 130
    printed = capsys.readouterr()
    assert printed.err == "interrupted\n" and "out.onnx" not in printed.out
    assert [path.name for path in file.parent.iterdir()] == ["in.onnx"]
    assert file.read_bytes() == before


def test_interrupted_in_a_pass_is_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clean, "rewrite", lambda *_: signal.raise_signal(signal.SIGINT))
    out = file.with_name("out.onnx")
    assert console.run(main, [str(file), str(out), "--run", "clean"]) == 130
    assert capsys.readouterr().err == "interrupted\n" and not out.exists()


def test_huge_files_are_refused_unread(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with file.open("wb") as stream:
        stream.truncate(3 << 30)
    assert "more than this tool reads" in _error(capsys, str(file), str(file), "--run", "clean")


def test_external_data_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(file)
    onnx.save_model(model, file, save_as_external_data=True, location="values", size_threshold=0)
    assert "another file" in _error(capsys, str(file), str(file), "--run", "clean")


def test_a_pass_that_refuses_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(_model(bias=1e9), source)
    text = _error(capsys, str(source), str(out), "--run", "integer_bias")
    assert "(Conv)" in text and "int32" in text
    assert not out.exists()


def test_free_dimensions_get_sizes() -> None:
    model = _model()
    for dimension, name in zip(
        model.graph.input[0].type.tensor_type.shape.dim, "NCHW", strict=True
    ):
        if name != "C":
            dimension.dim_param = name
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert compare(model, model, 2).outputs[0].differing == 0


def test_a_file_that_does_not_run_is_written_unchecked(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = helper.make_node("Nowhere", ["x"], ["y"], domain="stranger")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("stranger", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    onnx.save(model, file)
    out = file.with_name("out.onnx")
    assert main([str(file), str(out), "--run", "clean"]) == 0
    assert "check: skipped, the file given does not run" in capsys.readouterr().out
    assert out.exists()
    with pytest.raises(TrialSkipped):
        compare(model, model, 1)
    with pytest.raises(ExportError, match="--check 0"):
        compare(_renamed(_model()), model, 1)


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its input called as no one else's."""
    for node in model.graph.node:
        node.input[:] = ["x2" if name == "x" else name for name in node.input]
    model.graph.input[0].name = "x2"
    return model


def test_differences_are_found() -> None:
    other = _model()
    for tensor in other.graph.initializer:
        if tensor.dims == [1, 2, 3, 3]:
            array = numpy_helper.to_array(tensor).copy()
            array[0, 0, 0, 0] += 1
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    trial = compare(_model(), other, 2)
    assert trial.largest > 0.01 and trial.outputs[0].differing > 0

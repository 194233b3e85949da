"""``python -m export.diff``: every tensor of two graphs, and the first to depart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calib_data import console
from export import diff
from export.difference import Side
from export.files import write_arrays, write_model
from export.grids import find_grids
from export.match import match, roles


def run(*arguments: object) -> int:
    return console.run(diff.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(sources: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    return {
        kind: write_model(sources.graph(kind, free=True), folder / f"{kind}.onnx")
        for kind in ("float", "qdq", "int8")
    }


def test_a_file_equals_itself_over_a_recording(
    files: dict[str, Path], scene: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = tmp_path / "r.json"
    arguments = (files["int8"], files["int8"], "--data", scene, "--steps", 3, "--json", result)
    assert run(*arguments) == 0
    assert "equal: 25 tensors over 3 steps" in capsys.readouterr().out
    found = json.loads(result.read_text())
    assert found["equal"] and found["first"] is None and found["only_a"] == []
    kinds = {row["a"]: row["kind"] for row in found["tensors"]}
    assert kinds["head.conv.acc"] == kinds["mem_out.G2"] == kinds["flow_acc"] == "integer"
    assert kinds["flow"] == "real"


def test_one_wrong_weight_is_found_where_it_is(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The layers before it stay equal although spikes feed back."""
    model = onnx.load(files["int8"])
    tensor = next(t for t in model.graph.initializer if t.name == "R1b.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[2, 1, 1, 1] ^= 8
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    wrong, result = write_model(model, tmp_path / "wrong.onnx"), tmp_path / "r.json"
    assert run(files["int8"], wrong, "--random", "--json", result) == 1
    assert "tensor R1b.conv.acc (accumulator) is the first to depart" in capsys.readouterr().out
    rows = {row["a"]: row for row in json.loads(result.read_text())["tensors"]}
    assert rows["R1b.conv.acc"]["largest"] == 8 and rows["R1b.conv.acc"]["step"] == 0
    names = list(rows)
    assert all(rows[n]["count"] == 0 for n in names[: names.index("R1b.conv.acc")])
    assert run(files["int8"], wrong, "--random", "--tolerance", 1e9) == 0


def test_integer_and_real_graphs_compare_as_real(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accumulators of the head are the same numbers in float32 and on their grid."""
    result = tmp_path / "r.json"
    assert run(files["qdq"], files["int8"], "--random", "--steps", 1, "--json", result) == 1
    capsys.readouterr()
    rows = {row["a"]: row for row in json.loads(result.read_text())["tensors"]}
    head = rows["head.conv"]
    assert head["b"] == "head.conv.acc" and head["kind"] == "real" and head["count"] == 0
    assert {"G1.conv": "G1.conv.acc", "pred.conv": "flow_acc"}.items() <= {
        name: row["b"] for name, row in rows.items()
    }.items()
    assert rows["mem_out.head"]["count"] > 0


# --- models that say nothing about themselves ---------------------------------------------------


def plain(names: tuple[str, str, str], *, quantized: bool, scale: float = 0.05) -> onnx.ModelProto:
    """Conv -> Relu, in float32 or as Q -> QLinearConv -> DQ."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-20, 21, (4, 3, 3, 3)).astype(np.int8)
    arrays: dict[str, Any] = {}
    if quantized:
        arrays = {
            "s": np.array(0.1, np.float32),
            "z": np.array(0, np.int8),
            "w": weight,
            "sw": np.array(0.01, np.float32),
            "zw": np.array(0, np.int8),
            "sy": np.array(scale, np.float32),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], [names[0]]),
            helper.make_node(
                "QLinearConv",
                [names[0], "s", "z", "w", "sw", "zw", "sy", "z"],
                [names[1]],
                pads=[1] * 4,
            ),
            helper.make_node("DequantizeLinear", [names[1], "sy", "z"], [names[2]]),
        ]
    else:
        arrays = {"w": (weight * np.float32(0.01)).astype(np.float32)}
        nodes = [
            helper.make_node("Conv", ["x", "w"], [names[1]], pads=[1] * 4),
            helper.make_node("Relu", [names[1]], [names[2]]),
        ]
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 8, 8))],
        [helper.make_tensor_value_info(names[2], TensorProto.FLOAT, ("N", 4, 8, 8))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_plain_models_by_order_and_on_their_own_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_model(plain(("q", "c", "y"), quantized=True), tmp_path / "a.onnx")
    other = write_model(plain(("q0", "conv_7", "out"), quantized=True), tmp_path / "b.onnx")
    assert run(one, other, "--random", "--steps", 3) == 0
    assert "equal: 3 tensors over 3 steps" in capsys.readouterr().out
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    data = write_arrays({"x": x}, tmp_path / "x.npz")
    assert run(one, other, "--data", data) == 0
    coarse = write_model(
        plain(("q", "c", "y"), quantized=True, scale=0.06), tmp_path / "coarse.onnx"
    )
    assert run(one, coarse, "--data", data, "--json", tmp_path / "r.json") == 1
    rows = json.loads((tmp_path / "r.json").read_text())["tensors"]
    assert [(row["a"], row["kind"], row["count"] > 0) for row in rows] == [
        ("q", "integer", False),
        ("c", "real", True),
        ("y", "real", True),
    ]
    capsys.readouterr()


MISTAKES = {
    "no data": (["{int8}", "{int8}"], "give either --data F or --random"),
    "no onnx": (["{junk}", "{int8}", "--random"], "junk.onnx: not an ONNX file, or cut off"),
    "empty": (["{int8}", "{empty}", "--random"], "empty.onnx: not an ONNX file"),
    "cut off": (["{cut}", "{int8}", "--random"], "cut.onnx: not an ONNX file, or cut off"),
    "cannot run": (["{broken}", "{broken}", "--random"], "broken.onnx: ONNX Runtime refuses"),
    "absent": (["{tmp}/absent.onnx", "{int8}", "--random"], "absent.onnx: No such file"),
    "another network": (["{plain}", "{int8}", "--random"], "graph inputs differ ("),
    "no arrays": (["{plain}", "{plain}", "--data", "{junk}"], "not an .npz of arrays"),
    "no array": (["{plain}", "{plain}", "--data", "{npz}"], "no array x; name arrays as"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(
    case: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"nothing at all")
    (tmp_path / "empty.onnx").write_bytes(b"")
    whole = files["int8"].read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    broken = plain(("q", "c", "y"), quantized=False)
    broken.graph.node[0].op_type = "NoSuchOperator"
    known = {
        "empty": tmp_path / "empty.onnx",
        "cut": tmp_path / "cut.onnx",
        "broken": write_model(broken, tmp_path / "broken.onnx"),
        "tmp": tmp_path,
        "junk": tmp_path / "junk.onnx",
        "plain": write_model(plain(("q", "c", "y"), quantized=False), tmp_path / "plain.onnx"),
        "npz": write_arrays({"y": np.zeros(1)}, tmp_path / "y.npz"),
    }
    arguments, message = MISTAKES[case]
    assert run(*[text.format(**known, **files) for text in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


# --- its parts ----------------------------------------------------------------------------------


def test_grids_follow_values_and_metadata(sources: Any) -> None:
    grids = find_grids(sources.graph("separate"))
    layer = sources.spec.layers[1]
    np.testing.assert_array_equal(grids["G1.conv.acc"].scale, layer.conv.weight_scale)
    np.testing.assert_array_equal(grids["mem.G1"].scale, layer.conv.weight_scale)
    assert grids["spike_out.G1"].scale == 1 and grids["events"].scale == 1
    np.testing.assert_array_equal(grids["flow_acc"].scale, sources.spec.head.weight_scale)
    quantized = find_grids(sources.graph("qdq"))
    assert int(quantized["head.current_q"].zero) == 128
    assert "head.conv" not in quantized


def test_names_bind_before_order() -> None:
    a = {"p": "accumulator", "same": "Tanh", "q": "accumulator"}
    b = {"r": "accumulator", "same": "Tanh", "s": "accumulator", "t": "spike"}
    ranks = [dict.fromkeys(a, 4), dict.fromkeys(b, 4)]
    assert match(a, b, ranks) == [("p", "r"), ("same", "same"), ("q", "s")]


def test_aliases_have_no_role(sources: Any) -> None:
    found = roles(sources.graph("qdq"))
    assert found["head.conv"] == "accumulator"
    assert found["head.current_q"] == "accumulator quantized"
    assert "head.current" not in found and "head.x.q" not in found
    assert found["spike_out.G1"] == "spike"


def test_a_side_that_cannot_run_is_refused() -> None:
    model = plain(("q", "c", "y"), quantized=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ValueError, match="ONNX Runtime refuses the graph"):
        Side.of(model, "m")

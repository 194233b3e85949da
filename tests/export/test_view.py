"""Looking at graphs: descriptions that change nothing, layouts that can be read, pictures."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from calib_data import console
from export import op_documents, view
from export.float import main as export_float
from export.graph_layout import layout_graph
from lif_op import spec
from runtime import StatefulSession


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped small network in float32."""
    path = tmp_path_factory.mktemp("view") / "model.float.onnx"
    assert export_float(["--model", "LIFFireNet_short", "--out", str(path)]) == 0
    return path


def test_every_op_of_the_project_is_described() -> None:
    names = {function.name for function in spec.functions()}
    assert names == set(op_documents.DOCUMENTS)
    for function in spec.functions():
        assert len(op_documents.op_document(function)) > 40


def test_the_described_copy_computes_the_same(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "described.onnx"
    assert view.main([str(artifact), "--out", str(out)]) == 0
    described = onnx.load(out)
    assert all(function.doc_string for function in described.functions)
    documents = [n.doc_string for n in described.graph.node if n.op_type == "LIF"]
    assert len(documents) == 5
    assert documents[0] == "Layer head: 16 channels, kernel 3, stride 1, reset zero."
    assert "recurrent" in documents[1] and "LIFFireNet_short" in described.graph.doc_string
    before, after = (StatefulSession(p, resolution=(32, 32)) for p in (artifact, out))
    rng = np.random.default_rng(0)
    for _ in range(3):
        events = rng.poisson(0.3, (1, 2, 32, 32)).astype(np.float32)
        assert np.array_equal(before.step(events), after.step(events))


def test_layout_runs_downwards_and_nothing_overlaps(artifact: Path) -> None:
    layout = layout_graph(onnx.load(artifact).graph)
    for start, end, _ in layout.edges:
        assert layout.places[start][1] < layout.places[end][1]
    assert len(set(layout.places.values())) == len(layout.places)
    for row in {row for _, row in layout.places.values()}:
        columns = sorted(c for c, r in layout.places.values() if r == row)
        assert all(b - a >= 1 for a, b in pairwise(columns))
    graph = onnx.load(artifact).graph
    assert len(layout.boxes) == len(graph.node) + len(graph.input) + len(graph.output)


def test_pictures(artifact: Path, tmp_path: Path) -> None:
    from PIL import Image

    png, svg = tmp_path / "g.png", tmp_path / "g.svg"
    assert view.main([str(artifact), "--png", str(png), "--svg", str(svg)]) == 0
    pixels = np.asarray(Image.open(png).convert("RGB")).reshape(-1, 3)
    boxes = {tuple(int(h[i : i + 2], 16) for i in (1, 3, 5)) for h in view._COLOURS.values()}
    for colour in boxes:
        assert (pixels == colour).all(axis=1).mean() > 0.01
    text = svg.read_text()
    assert text.count("<path") > 40 and "</svg>" in text


def test_summary_counts_what_is_in_the_file(artifact: Path, capsys: Any) -> None:
    assert view.main([str(artifact), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    model = onnx.load(artifact)
    assert values["nodes"] == len(model.graph.node) and values["ops"]["snn::LIF"] == 5
    assert values["inputs"][0] == {
        "name": "events",
        "dtype": "float32",
        "shape": ["N", 2, "H", "W"],
    }
    assert [f["name"] for f in values["functions"]] == ["snn::LIF"]
    assert "u > threshold" in values["functions"][0]["document"]


def test_netron_gets_the_described_copy(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {}

    def serve(file: str, data: bytes, *, address: Any, browse: bool) -> None:
        served.update(file=file, data=bytes(data), address=address, browse=browse)

    netron = SimpleNamespace(serve=serve, wait=lambda: served.update(waited=True))
    monkeypatch.setitem(sys.modules, "netron", netron)
    assert view.main([str(artifact), "--port", "8123"]) == 0
    assert served["file"] == "model.float.onnx" and served["address"] == ("localhost", 8123)
    assert served["browse"] and served["waited"]
    assert all(f.doc_string for f in onnx.load_model_from_string(served["data"]).functions)
    served.clear()
    assert view.main([str(artifact), "--no-open"]) == 0
    assert not served


def test_user_mistakes_are_one_line(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "netron", None)
    assert console.run(view.main, [str(artifact)]) == 2
    assert "pip install 'spikedeploy[view]'" in capsys.readouterr().err
    assert console.run(view.main, [str(artifact), "--png", "graph.jpg"]) == 2
    assert "graph.jpg: expected a file that ends in .png" in capsys.readouterr().err

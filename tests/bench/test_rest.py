"""Quiet tiles and tiles at rest: counted as defined, on scenes made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from bench import rest
from bench.errors import BenchError
from bench.rest import Shares, any_in_tile, in_reach
from calib_data import console
from calib_data.npz import open_events
from runtime.artifact import load_model

SIZE = (24, 96)


@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [((3, 3), (1, 1), None), ((1, 5), (2, 1), (0, 2, 0, 2)), ((3, 2), (2, 3), (1, 0, 0, 1))],
)
def test_reach(kernel: tuple[int, int], strides: Any, pads: Any) -> None:
    """As a convolution with a kernel of ones has it, output by output."""
    active = np.random.default_rng(0).random((9, 14)) < 0.1
    top, left, bottom, right = pads or (1, 1, 1, 1)
    padded = np.pad(active, ((top, bottom), (left, right)))
    rows = range(0, padded.shape[0] - kernel[0] + 1, strides[0])
    columns = range(0, padded.shape[1] - kernel[1] + 1, strides[1])
    expected = [[padded[r : r + kernel[0], c : c + kernel[1]].any() for c in columns] for r in rows]
    assert active.any() and not np.all(expected)
    np.testing.assert_array_equal(in_reach(active, kernel, strides, pads), expected)


def test_tiles_may_be_cut_off() -> None:
    pixels = np.zeros((2, 35), bool)
    pixels[0, 15] = pixels[1, 34] = True
    assert any_in_tile(pixels).tolist() == [[True, False, False], [False, False, True]]


def test_a_tile_rests_until_something_happens() -> None:
    """Five steps of a recurrent layer of one tile: spikes in reach, own spikes in reach, quiet with
    a changing membrane, at rest, known to be."""
    names = ["x", "w", "b", "spike.L", "wr", "mem.L", "decay", "threshold"]
    node = helper.make_node(
        "QConvLIFRec", names, ["spike_out.L", "mem_out.L"], strides=[1, 1], pads=[1, 1, 1, 1]
    )
    layer = rest._Layer(node, {"w": (4, 2, 3, 3), "wr": (4, 4, 3, 3)})
    none, some = np.zeros((1, 16), bool), np.arange(16)[None] == 7
    for seen, before, fired, same in (
        (some, none, some, ~some),
        (none, some, none, ~none),
        (none, none, none, ~some),
        (none, none, none, ~none),
        (none, none, none, ~none),
    ):
        layer.look(seen, before, fired, same, count=True)
    assert layer.shares() == Shares(quiet=3 / 5, rest=2 / 5, known=1 / 5)


@pytest.fixture(scope="module")
def fused(
    active_network: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A network with fused layers, and a folder with a clip whose events are all on the left."""
    from export.files import write_model
    from export.graphs.builder import Dims
    from export.graphs.integer import integer_model
    from quant import QuantOptions, quantize

    folder = tmp_path_factory.mktemp("rest")
    (folder / "events").mkdir()
    rng, count = np.random.default_rng(0), 1100
    np.savez(
        folder / "events" / "left.npz",
        xs=rng.integers(0, 12, count).astype(np.uint16),
        ys=rng.integers(0, SIZE[0], count).astype(np.uint16),
        ts=np.sort(rng.random(count)),
        ps=rng.random(count) < 0.5,
        sensor_size=np.array(SIZE),
        t0=np.array(0.0),
    )
    spec = quantize(active_network("LIFFireNet"), QuantOptions())
    model = integer_model(spec, Dims((24, 32), free=True))
    return {
        "folder": folder,
        "model": write_model(model, folder / "fused.onnx"),
    }


def test_a_scene_with_an_empty_side(fused: dict[str, Path], capsys: Any) -> None:
    folder = str(fused["folder"])
    assert console.run(rest.main, [str(fused["model"]), "--folder", folder, "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["left"]
    # Five of six tiles of a row see no events; the first nearly always sees some.
    assert 5 / 6 <= layers["head"]["quiet"] < 0.9
    assert len(layers) > 5
    for shares in layers.values():
        assert 1 >= shares["quiet"] >= shares["rest"] >= shares["known"] >= 0
    assert console.run(rest.main, [str(fused["model"]), "--folder", folder]) == 0
    printed = capsys.readouterr().out
    assert "left" in printed and "at rest" in printed


def test_what_cannot_be_counted(
    make_file: Any, fused: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    apart = load_model(make_file(resolution=None))
    with (
        open_events(fused["folder"] / "events" / "left.npz") as clip,
        pytest.raises(BenchError, match="no fused layers"),
    ):
        rest.measure_clip(apart, clip)
    (tmp_path / "events").mkdir()
    assert console.run(rest.main, [str(fused["model"]), "--folder", str(tmp_path)]) == 2
    assert "set SNN_DATA" in capsys.readouterr().err

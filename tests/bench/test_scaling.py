"""Sweeps: forced densities are reached, verdicts follow from the numbers, files are written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import scaling
from bench.forced import Forcer, choose, forced_events
from bench.scaling import Plan
from bench.scaling_report import density_verdict, sentences, size_verdict
from calib_data import console
from runtime.artifact import load_model
from runtime.session import StatefulSession


def run(*arguments: object) -> int:
    return console.run(scaling.main, [str(argument) for argument in arguments])


def rates(path_or_model: Any, density: float, pattern: str, size: tuple[int, int]) -> Any:
    session = StatefulSession(path_or_model, resolution=size)
    events = forced_events(session.artifact, size, density, pattern, 4, seed=5)
    for window in events * 2:
        session.step(window)
    return scaling._rates(session, events)


@pytest.fixture(scope="module")
def networks(
    active_network: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A recurrent network of eight layers, as convolutions and neurons apart and fused."""
    from export.files import write_model
    from export.graphs.builder import Dims
    from export.graphs.integer import integer_model
    from quant import QuantOptions, quantize

    folder = tmp_path_factory.mktemp("networks")
    spec, dims = quantize(active_network("LIFFireNet"), QuantOptions()), Dims((24, 32), free=True)
    apart, fused = (integer_model(spec, dims, fused=fuse) for fuse in (False, True))
    return {
        "apart": write_model(apart, folder / "apart.onnx"),
        "fused": write_model(fused, folder / "fused.onnx"),
    }


@pytest.mark.parametrize("form", ["apart", "fused"])
@pytest.mark.parametrize(
    ("density", "pattern"), [(0.05, "uniform"), (0.3, "uniform"), (0.05, "clustered")]
)
def test_every_layer_reaches_the_density(
    networks: dict[str, Path], form: str, density: float, pattern: str
) -> None:
    copy = Forcer(load_model(networks[form])).force(density, pattern)
    reached = rates(copy, density, pattern, (96, 96))
    assert reached["reached"] == pytest.approx(density, rel=0.3)
    assert len(reached["reached_by_layer"]) > 5
    for rate in reached["reached_by_layer"].values():
        assert rate == pytest.approx(density, rel=0.6)
    if pattern == "clustered":
        assert reached["active_pixels"] < 0.5


def test_forms_are_forced_alike(networks: dict[str, Path]) -> None:
    """The same thresholds come out whatever the layout of membranes and spikes."""
    both = [
        rates(Forcer(load_model(path)).force(0.1, "uniform"), 0.1, "uniform", (32, 40))
        for path in networks.values()
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize("mem", ["int16", "int8"])
@pytest.mark.parametrize("density", [0, 1])
def test_none_and_all_fire(make_file: Any, mem: str, density: float) -> None:
    copy = Forcer(load_model(make_file(mem=mem))).force(density, "uniform")
    reached = rates(copy, density, "uniform", (12, 16))
    assert set(reached["reached_by_layer"].values()) == {float(density)}


def test_only_parameters_of_neurons_change(make_file: Any) -> None:
    loaded = load_model(make_file())
    copy = Forcer(loaded).force(0.2, "uniform")
    before = {tensor.name: tensor for tensor in loaded.model.graph.initializer}
    after = {tensor.name: tensor for tensor in copy.model.graph.initializer}
    assert all(after[name] == tensor for name, tensor in before.items())
    assert {name.split(".")[0] for name in set(after) - set(before)} == {
        "forced_decay",
        "forced_threshold",
    }
    assert loaded.data == Path(loaded.path).read_bytes()


def test_chosen_thresholds() -> None:
    """Ties of one channel are made up for by the next; nothing goes below the floor."""
    current = np.zeros((1, 3, 1, 10), np.int16)
    current[0, 0, 0] = 7
    current[0, 1, 0] = np.arange(10)
    current[0, 2, 0] = np.arange(10)
    low = np.full(3, -100, np.int32)
    # 4 of 10 wanted: none of the first, then 8, then 4.
    assert choose(current, 0.4, -100, low).tolist() == [7, 1, 5]
    floors = np.array([-100, 6, 6], np.int32)
    assert choose(current, 0.4, -100, floors).tolist() == [7, 6, 6]
    assert choose(current, 1, -100, low).tolist() == [-100, -100, -100]


def test_command(make_file: Any, tmp_path: Path, capsys: Any) -> None:
    path = make_file("net.int8.onnx", resolution=None)
    make_file("net.float.onnx", kind="float", resolution=None)
    out = tmp_path / "out"
    options = ("--turns", 1, "--threads", 1, 2, "--sizes", "8x16", "16x16", "--out", out)
    assert run(path, *options, "--densities", 0, 50, 100) == 0
    printed = capsys.readouterr().out
    for text in ("8 x 16", "clustered", "1 thread(s): cost against pixels", "100.00 to 100.00"):
        assert text in printed
    assert {p.name for p in out.iterdir()} == {
        "scaling.json",
        "sizes.csv",
        "sizes.png",
        "densities.csv",
        "densities.png",
    }
    values = json.loads((out / "scaling.json").read_text())
    sizes = [(row["threads"], row["height"], row["width"]) for row in values["sizes"]]
    assert sizes == [(1, 8, 16), (1, 16, 16), (2, 8, 16), (2, 16, 16)]
    assert all(row["times_faster"] > 0 for row in [*values["sizes"], *values["densities"]])
    assert [row["reached"] for row in values["densities"][::3]] == [0.0] * 4
    with (out / "densities.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3 and float(rows[2]["reached"]) == 1
    assert (out / "sizes.png").read_bytes().startswith(b"\x89PNG")


def test_json_without_stock(make_file: Any, capsys: Any) -> None:
    """A file of one size is swept at that size."""
    assert run(make_file(), "--turns", 1, "--threads", 1, "--densities", 100, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["stock"] is None and "stock_p50_ms" not in values["sizes"][0]
    assert [(row["height"], row["width"]) for row in values["sizes"]] == [(12, 16)]
    assert values["linear"] == []


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("float", [], "integer artifacts only"),
        ("int8", ["--densities", "101"], "density 1.01"),
        ("int8", ["--sizes", "8x8"], "made for 12 x 16, not for 8 x 8"),
        ("int8", ["--sizes", "100000x100000"], "made for 12 x 16, not for 100000 x 100000"),
        ("int8", ["--against", "absent.onnx"], "absent.onnx"),
    ],
)
def test_errors_are_one_line(
    make_file: Any, capsys: Any, kind: str, arguments: list[str], message: str
) -> None:
    assert run(make_file("m.onnx", kind=kind), "--turns", 1, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_stock_is_a_float_file(make_file: Any, capsys: Any) -> None:
    assert run(make_file("a.onnx"), "--against", make_file("b.onnx")) == 2
    assert "stock is a float artifact, this is int8" in capsys.readouterr().err


def test_a_size_is_two_numbers(make_file: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        run(make_file(), "--sizes", "64")
    assert "expected a size as 256x256" in capsys.readouterr().err


def test_verdicts() -> None:
    sizes = [{"threads": t, "ns_per_pixel": c} for t, c in [(1, 80), (1, 100), (2, 50), (2, 80)]]
    by_threads = {row["threads"]: row for row in size_verdict(sizes)}
    assert by_threads[1]["deviation"] == pytest.approx(20 / 180) and by_threads[1]["linear"]
    assert by_threads[2]["deviation"] == pytest.approx(30 / 130) and not by_threads[2]["linear"]
    densities = [
        {"threads": 1, "pattern": pattern, "density": d, "times_slower_than_densest": slower}
        for pattern, d, slower in [
            ("uniform", 0.1, 1.04),
            ("uniform", 1, 1.0),
            ("clustered", 0.1, 1.06),
            ("clustered", 1, 1.0),
        ]
    ]
    verdicts = density_verdict(densities)
    assert [(row["density"], row["kept"]) for row in verdicts] == [(0.1, True), (0.1, False)]
    lines = sentences({"linear": size_verdict(sizes), "worst_density": verdicts})
    assert ["NOT" in line or "MORE" in line for line in lines] == [False, True, False, True]


def test_cost_per_pixel(make_file: Any) -> None:
    loaded = load_model(make_file(resolution=None))
    (row,) = scaling.sweep_sizes(loaded, None, [(12, 16)], 1, Plan(turns=1, quiet=True))
    assert row["ns_per_pixel"] == pytest.approx(row["p50_ms"] * 1e6 / 192)

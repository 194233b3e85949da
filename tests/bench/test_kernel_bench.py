"""The kernels' bench: its nodes compute their op, and it prints, counts and refuses what it should.

No test depends on a duration.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lif_op
import lif_op.spec
from bench import kernels, peaks, turns
from bench.kernel_cases import Case, Setting, cases
from bench.kernel_node import KernelNode, NoKernelError, forced_target
from bench.peaks import Peak
from bench.spikes import draw, probability
from calib_data import console

SETTING = Setting(channels=5, size=(6, 7), density=0.4)
REFERENCES = {
    "LIF": lif_op.spec.lif,
    "QLIF": lif_op.spec.qlif,
    "QConv": lif_op.spec.qconv,
    "QConvLIF": lif_op.spec.qconv_lif,
    "QConvLIFRec": lif_op.spec.qconv_lif_rec,
}
ALWAYS_THERE = {"LIF float32", "QLIF int16", "QLIF int8", "QConv 5>5"}


def run(*arguments: object) -> int:
    return console.run(kernels.main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("case", list(cases(SETTING)), ids=lambda case: case.name)
def test_nodes_compute_their_op(case: Case, library: None) -> None:
    """Two steps on every target, the membrane in place; the first is that of the construction."""
    function: Any = REFERENCES[case.op]
    names = list(lif_op.spec.function(case.op).input)
    for target in lif_op.targets():
        try:
            node = KernelNode(case, target)
        except NoKernelError:
            assert case.name not in ALWAYS_THERE
            return
        node.run()
        tensors: dict[str, Any] = {**case.constants, **case.inputs}
        for _ in range(2):
            found = function(*(tensors[name] for name in names), **case.attributes)
            found = found if isinstance(found, tuple) else (found,)
            results = dict(zip(case.outputs, found, strict=True))
            tensors |= {over: results[name] for name, over in case.inplace.items()}
        for name, expected in results.items():
            assert np.array_equal(node.tensors[name], expected), (target, name)
            assert expected.any(), "a comparison of zeros proves nothing"


def test_counts_of_operations_and_bytes() -> None:
    by_name = {case.name: case for case in cases(SETTING)}
    pixels = 6 * 7
    assert by_name["QConv 5>5"].macs == pixels * 5 * 5 * 9
    assert by_name["QConv 5>5"].bytes == pixels * (5 + 4 * 5)
    assert by_name["QLIF int16"].macs == 0
    assert by_name["QLIF int16"].bytes == pixels * 5 * (4 + 2 * 2 + 1)
    assert by_name["QConvLIF 5>5 int8"].bytes == pixels * (4 + 4 + 2 * 5)
    assert by_name["QConvLIFRec 5>5 int8"].bytes == pixels * (4 + 4 + 4 + 2 * 5)
    assert by_name["QConvLIFRec 5>5 int8"].macs == 2 * by_name["QConvLIF 5>5 int8"].macs
    assert by_name["QConvLIF counts 2>5 int8"].bytes == pixels * (2 + 4 + 2 * 5)


def test_a_function_body_is_not_timed(library: None, monkeypatch: Any) -> None:
    """Without the library's kernels nothing is timed, and the reason is told."""
    monkeypatch.setattr(lif_op, "register", lambda options: None)
    case = next(case for case in cases(SETTING) if case.op == "QLIF")
    result = kernels.measure(case, ["scalar"], peaks.peaks(), 100, turns=1, quiet=True)
    assert result["rows"] == [] and "function body" in result["problem"]


def test_command(library: None, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "kernels.json"
    assert run("--shape", 8, 6, 9, "--turns", 1, "--targets", "scalar", "--json", out) == 0
    printed = capsys.readouterr().out
    for text in ("QConv 8>8", "of ceiling", "1 x 8 x 6 x 9", "imul, add: ", "stream of a layer"):
        assert text in printed
    values = json.loads(out.read_text())
    by_name = {f"{k['op']} {k['variant']}": k for k in values["kernels"]}
    conv, neuron = (by_name[name]["rows"] for name in ("QConv 8>8", "QLIF int16"))
    assert [row["target"] for row in conv] == ["scalar"]
    assert conv[0]["instruction"] == "imul, add" and conv[0]["of_ceiling"] > 0
    assert conv[0]["times_faster_than_first"] == 1 and "of_ceiling" not in neuron[0]
    assert neuron[0]["bytes_per_s"] > 0 and neuron[0]["of_stream"] > 0
    untimed = [kernel for kernel in values["kernels"] if not kernel["rows"]]
    assert printed.count("; not timed") == len(untimed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "z80"], "target 'z80' does not run here; there are scalar"),
        (["--density", "2"], "density 2: expected 0 to 1"),
        (["--json", "."], "is a folder"),
        (["--shape", "32", "100000", "100000"], "320000000000 neurons or weights, more than"),
        (["--shape", "100000", "1", "1"], "90000000000 neurons or weights, more than"),
    ],
)
def test_errors_are_one_line(
    library: None, capsys: Any, arguments: list[str], message: str
) -> None:
    assert run("--shape", 4, 4, 4, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_forced_target_is_put_back(monkeypatch: Any) -> None:
    for before in (None, "scalar"):
        if before is None:
            monkeypatch.delenv("LIF_OP_TARGET", raising=False)
        else:
            monkeypatch.setenv("LIF_OP_TARGET", before)
        with pytest.raises(KeyError), forced_target("avx2"):
            assert os.environ["LIF_OP_TARGET"] == "avx2"
            raise KeyError
        assert os.environ.get("LIF_OP_TARGET") == before


# --- roofs ----------------------------------------------------------------------------------------


def test_peaks_run(library: None) -> None:
    found = peaks.peaks()
    assert found[0].target == "scalar" and found[0].integer
    for peak in found:
        assert peak.macs > 0
        peak.run()


def test_unknown_peak(library: None) -> None:
    from lif_op import _core

    with pytest.raises(ValueError, match="no peak of 'nop'"):
        _core.run_peak("nop", 1)


def test_the_stream_changes_all_of_its_membranes(library: None) -> None:
    stream = peaks.Stream(1001)
    stream.run()
    assert stream.bytes == 4004 and (stream._mem == 1).all()


def test_ceiling_is_the_targets_own_or_that_below() -> None:
    def peak(instruction: str, target: str, operands: str) -> Peak:
        return Peak(instruction, target, operands, 1, lambda: None)

    found = [
        peak("a", "scalar", "int32"),
        peak("b", "fast", "float32"),
        peak("c", "faster", "uint8 x int8"),
        peak("d", "fastest", "float32"),
    ]
    targets = ["scalar", "fast", "faster", "fastest"]
    names = [peaks.ceiling(found, target, targets).instruction for target in targets]
    assert names == ["a", "a", "c", "c"]


# --- turns and spikes -----------------------------------------------------------------------------


def test_everything_has_its_turn(monkeypatch: Any) -> None:
    """Short calls: once untimed and three times timed. Long ones: once."""
    now, log = [0.0], []
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])

    def call(name: str, seconds: float) -> Any:
        def step() -> None:
            log.append(name)
            now[0] += seconds

        return step

    runs = {"a": call("a", 0.01), "b": call("b", 0.5)}
    timings = turns.time_turns(runs, turns=2, quiet=True)
    assert "".join(log) == "ab" + 2 * "aaaab"
    assert timings["a"].seconds == pytest.approx([0.01, 0.01])
    assert timings["b"].seconds == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("pattern", ["uniform", "clustered"])
@pytest.mark.parametrize("density", [0, 0.02, 0.3, 1])
def test_spikes_have_the_density_asked_for(pattern: str, density: float) -> None:
    generator = np.random.default_rng(0)
    chance = probability((96, 120), density, pattern, generator)
    assert chance.mean() == pytest.approx(density, rel=0.01) and chance.max() <= 1
    drawn = draw(chance, 8, generator)
    assert drawn.shape == (1, 8, 96, 120) and drawn.dtype == np.uint8
    assert drawn.mean() == pytest.approx(density, rel=0.05)
    quiet = (drawn[0] == 0).all(axis=0).mean()
    if pattern == "clustered" and 0 < density < 1:
        assert quiet > 0.9 * (1 - np.sqrt(density))

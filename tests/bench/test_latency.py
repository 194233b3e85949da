"""The latency bench: what it finds, measures, refuses and prints. No test depends on a duration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import driver, inputs, latency, machine, memory, operators
from bench.errors import BenchError
from calib_data import console
from runtime import StatefulSession, load_model
from runtime.timing import Timing, time_interleaved, times_faster


def run(*arguments: object) -> int:
    return console.run(latency.main, [str(argument) for argument in arguments])


def test_command_beside_the_float_sibling(make_file: Any, tmp_path: Path, capsys: Any) -> None:
    integer, out = make_file("net.int8.onnx"), tmp_path / "latency.json"
    real = make_file("net.float.onnx", kind="float")
    assert run(integer, "--steps", 12, "--warmup", 2, "--json", out) == 0
    printed = capsys.readouterr().out
    for text in (
        "net.int8.onnx",
        "net.float.onnx",
        " than net.float.onnx (median over pairs",
        "p95",
        "QLIF",
        "12 x 16",
        "stock: ",
        "8-bit convolutions: ",
        "memory added by stepping: net.int8.onnx",
        "driver of net.float.onnx",
    ):
        assert text in printed
    values = json.loads(out.read_text())
    first, second = values["models"]
    assert (first["file"], second["file"]) == (str(integer), str(real))
    assert first["latency"]["steps"] == 12 and first["bytes"] == integer.stat().st_size
    assert first["latency"]["p5_ms"] <= first["latency"]["p50_ms"] <= first["latency"]["p95_ms"]
    assert values["times_faster"] > 0 and values["times_faster_of_medians"] > 0
    assert set(values["baselines"]) == {"stock", "8-bit convolutions"}
    assert all(v["steps"] == 12 and v["times_faster"] > 0 for v in values["baselines"].values())
    assert values["input"]["events_per_pixel"] == pytest.approx(0.061, rel=0.5)
    assert 0 < values["input"]["active_pixels"] < 0.2
    assert first["memory"]["peak_bytes"] >= first["memory"]["idle_bytes"] > 1 << 20
    assert first["native"] == (first["instruction_set"] != "none")
    assert 0 < first["spike_rate"] < 1 and first["driver_ms"] > 0
    stock = values["baselines"]["stock"]["memory"]
    assert stock["peak_bytes"] >= stock["stepping_bytes"] >= stock["idle_bytes"] > 1 << 20


def test_command_without_a_sibling(make_file: Any, capsys: Any) -> None:
    assert run(make_file("alone.int8.onnx"), "--steps", 3, "--no-memory", "--no-library") == 0
    printed = capsys.readouterr().out
    assert "stock" not in printed and "8-bit convolutions: " in printed
    assert "median over pairs" not in printed and "ONNX Runtime only" in printed


def test_a_float_file_beside_stock_and_its_convolutions(
    make_file: Any, tmp_path: Path, capsys: Any
) -> None:
    path, out = make_file("net.float.onnx", kind="float"), tmp_path / "latency.json"
    assert run(path, "--steps", 3, "--json", out) == 0
    printed = capsys.readouterr().out
    assert "stock: " in printed and "float convolutions: " in printed
    baselines = json.loads(out.read_text())["baselines"]
    assert set(baselines) == {"stock", "float convolutions"}
    assert baselines["stock"]["memory"]["peak_bytes"] > 1 << 20


def test_two_threads_say_that_they_do_not_spin(make_file: Any, capsys: Any) -> None:
    path = make_file("a.onnx")
    other = make_file("b.onnx", seed=3)
    arguments = ("--against", other, "--steps", 3, "--threads", 2, "--no-memory")
    assert run(path, *arguments) == 0
    assert "idle threads do not spin" in capsys.readouterr().out


def test_recorded_events(make_file: Any, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "l.json"
    path = make_file("free.onnx", resolution=None)
    assert run(path, "--data", recording, "--steps", 4, "--no-memory", "--json", out) == 0
    values = json.loads(out.read_text())
    assert values["resolution"] == [12, 16] and values["input"]["data"] == str(recording)
    assert values["input"]["events_per_pixel"] == pytest.approx(120 / 192, rel=0.3)


def test_free_size_is_chosen(make_file: Any, tmp_path: Path) -> None:
    out, path = tmp_path / "l.json", make_file("free.onnx", resolution=None)
    assert run(path, "--resolution", 8, 24, "--steps", 2, "--no-memory", "--json", out) == 0
    assert json.loads(out.read_text())["resolution"] == [8, 24]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--density", "-1"], "density -1"),
        (["--data", "absent.h5", "--density", "1"], "brings its own resolution and density"),
        (["--data", "absent.h5"], "absent.h5"),
        (["--against", "absent.onnx"], "absent.onnx"),
        (["--resolution", "8", "8"], "made for 12 x 16, not for 8 x 8"),
        (["--resolution", "200000", "200000"], "made for 12 x 16, not for 200000 x 200000"),
        (["--json", "."], "is a folder"),
    ],
)
def test_errors_are_one_line(
    make_file: Any, capsys: Any, arguments: list[str], message: str
) -> None:
    assert run(make_file(), "--steps", 2, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("size", "message"), [((200_000, 200_000), "states need"), ((1, 40_000), "at most 32767")]
)
def test_huge_sizes_are_refused_before_events_are_drawn(
    make_file: Any, capsys: Any, size: tuple[int, int], message: str
) -> None:
    assert run(make_file("m.onnx", resolution=None), "--resolution", *size) == 2
    assert message in capsys.readouterr().err


def test_short_recording(make_file: Any, recording: Path, capsys: Any) -> None:
    long = ("--data", recording, "--mode", "events", "--window", 10**6)
    assert run(make_file(), *long) == 2
    assert "shorter than one window" in capsys.readouterr().err


def test_float_sibling(tmp_path: Path) -> None:
    for name in ("a.int8.onnx", "a.qdq.onnx", "a.float.onnx", "b.int8.onnx"):
        (tmp_path / name).touch()
    assert latency.float_sibling(tmp_path / "a.int8.onnx") == tmp_path / "a.float.onnx"
    assert latency.float_sibling(tmp_path / "a.qdq.onnx") == tmp_path / "a.float.onnx"
    assert latency.float_sibling(tmp_path / "a.float.onnx") is None
    assert latency.float_sibling(tmp_path / "b.int8.onnx") is None


# --- parts --------------------------------------------------------------------------------------


class Recorder:
    """Stands in for a stream and notes when it is stepped."""

    def __init__(self, name: str, log: list[tuple[str, int]]) -> None:
        self.name, self.log = name, log

    def step(self, events: Any, *, copy: bool) -> None:
        assert not copy
        self.log.append((self.name, int(events[0])))


def test_runs_are_interleaved() -> None:
    log: list[tuple[str, int]] = []
    streams = {name: Recorder(name, log) for name in "ab"}
    tensors = {name: [np.array([0]), np.array([1])] for name in "ab"}
    timings = time_interleaved(streams, tensors, steps=3, warmup=1)  # type: ignore[arg-type]
    assert log == [(name, number % 2) for number in (-1, 0, 1, 2) for name in "ab"]
    assert all(len(timing.seconds) == 3 for timing in timings.values())


def test_the_first_step_of_a_longer_turn_is_not_timed() -> None:
    log: list[tuple[str, int]] = []
    streams = {name: Recorder(name, log) for name in "ab"}
    tensors = {name: [np.array([k]) for k in range(99)] for name in "ab"}
    timings = time_interleaved(streams, tensors, steps=5, warmup=3, turn=3)  # type: ignore[arg-type]
    assert all(len(timing.seconds) == 5 for timing in timings.values())
    assert [name for name, _ in log] == ["a", "a", "a", "b", "b", "b"] * 4
    assert [k for name, k in log if name == "a"][3:] == list(range(9))


def test_ratio_is_that_of_pairs() -> None:
    fast = Timing(np.array([1.0, 10.0, 1.0]))
    slow = Timing(np.array([3.0, 30.0, 3.0]))
    assert times_faster(fast, slow) == pytest.approx(3.0)
    assert Timing(np.array([0.001, 0.002, 0.003])).to_dict()["steps_per_second"] == 500


def test_kernel_times_are_summed_over_the_last_runs() -> None:
    def kernel(ts: int, op: str, dur: int, name: str = "n_kernel_time") -> dict[str, Any]:
        return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": {"op_name": op}}

    events = [
        {"cat": "Session", "name": "model_loading_array", "ts": 0, "dur": 5},
        {"cat": "Session", "name": "model_run", "ts": 10, "dur": 9},
        kernel(11, "Conv", 1_000_000),
        {"cat": "Session", "name": "model_run", "ts": 20, "dur": 9},
        kernel(21, "Conv", 3000), kernel(22, "LIF", 8000), kernel(23, "LIF", 99, "n_fence_before"),
        {"cat": "Session", "name": "model_run", "ts": 30, "dur": 9},
        kernel(31, "Conv", 1000),
    ]  # fmt: skip
    assert operators.sum_kernels(events, 2) == {"LIF": 4.0, "Conv": 2.0}


@pytest.mark.parametrize("kind", ["int8", "float"])
def test_operators_of_a_network(make_file: Any, kind: str, library: None) -> None:
    loaded = load_model(make_file(kind=kind))
    windows = inputs.random_windows((12, 16), 0.2, 2)
    tensors = inputs.encode_windows(loaded.artifact, windows, (12, 16))
    times = operators.operator_times(loaded, tensors, threads=1, library="require", steps=3)
    wanted = {"int8": {"QConv", "QLIF", "Tanh"}, "float": {"LIF"}}[kind]
    assert wanted <= set(times) and list(times.values()) == sorted(times.values(), reverse=True)


def test_memory_grows_with_the_image(make_file: Any) -> None:
    path = make_file("free.onnx", resolution=None)
    small, big = (
        memory.measure_memory(path, size, threads=1, library="never")
        for size in ((16, 16), (1024, 1024))
    )
    added = [m["stepping_bytes"] - m["idle_bytes"] for m in (small, big)]
    assert added[1] - added[0] > 20 * 1024 * 1024
    assert big["peak_bytes"] >= big["stepping_bytes"]


def test_memory_is_the_childs_own(make_file: Any) -> None:
    """A big parent must not show in a small child's peak."""
    ballast = np.ones(60 * 1024 * 1024)
    result = memory.measure_memory(make_file(), (12, 16), threads=1, library="never")
    assert result["peak_bytes"] < ballast.nbytes


def test_memory_of_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(BenchError, match=r"could not be measured .*not an ONNX file"):
        memory.measure_memory(path, (4, 4), threads=1, library="never")


def test_random_windows_have_the_density_asked_for() -> None:
    windows = inputs.random_windows((100, 100), 0.5, 4)
    assert inputs.events_per_pixel(windows, (100, 100)) == pytest.approx(0.5, rel=0.05)
    # Of pixels hit by Poisson events, 1 - exp(-0.5) have at least one.
    assert inputs.active_pixels(windows, (100, 100)) == pytest.approx(1 - np.exp(-0.5), rel=0.05)
    again = inputs.random_windows((100, 100), 0.5, 4)
    assert all(np.array_equal(a.xs, b.xs) for a, b in zip(windows, again, strict=True))
    assert {int(p) for p in windows[0].ps} == {-1, 1}
    assert len(inputs.random_windows((10, 10), 0, 1)[0]) == 0


def test_cpu_model(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Fast One 9000\nmodel name\t: other\n")
    assert machine.cpu_model(info) == "Fast One 9000"
    assert machine.cpu_model(tmp_path / "absent")
    assert machine.instruction_set(False) == "none"
    assert machine.describe(2)["threads"] == 2


def test_spike_rate_is_that_of_the_following_steps(make_file: Any) -> None:
    session = StatefulSession(make_file())
    windows = inputs.random_windows((12, 16), 0.3, 3)
    tensors = inputs.encode_windows(session.artifact, windows, (12, 16))
    before = session.states()
    rate = latency._spike_rate(session, tensors)
    assert 0 < rate < 1
    assert all(np.array_equal(before[n], a) for n, a in session.states().items())


def test_driver_is_what_is_left_of_a_step(make_file: Any, monkeypatch: Any) -> None:
    """A run that takes long must not count, and the session's state stays as it was."""
    session = StatefulSession(make_file())
    tensors = [np.ones((1, 2, 12, 16), np.uint8)]
    session.step(tensors[0])
    before, clock = session.states(), iter(np.cumsum([0, 3, 50, 2] * 4).astype(float))
    # A step: begins, the run begins 3 later, ends 50 later, and the step ends 2 later.
    monkeypatch.setattr(driver.time, "perf_counter", lambda: next(clock))
    assert driver.driver_ms(session, tensors, steps=2) == pytest.approx(5e3)
    assert all(np.array_equal(before[n], a) for n, a in session.states().items())

"""Long recordings: memory that does not grow, and where the time of an evaluation goes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import EventFileWriter, Events
from calib_data.windows import Window
from runtime import evaluation
from runtime.evaluation import Evaluation, NetworkResult
from runtime.metrics import ChosenMetrics, score_frame
from runtime.sequence import Drive, NetworkStep, StepRecord

SIDE = 256
# Not ru_maxrss: it outlives exec, and so has the size of the process that started this one.
COMMAND = """
import re, sys
from pathlib import Path
from runtime import evaluate
status = evaluate.main(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print("peak", peak, file=sys.stderr)
sys.exit(status)
"""


def write_events(path: Path, maps: int, events_per_map: int) -> Path:
    rng = np.random.default_rng(0)
    truth = rng.normal(2.0, 0.5, (2, SIDE, SIDE)).astype(np.float32)
    with EventFileWriter(path, (SIDE, SIDE)) as writer:
        writer.add_flow("dt1", 0.0, truth)
        for number in range(maps):
            times = np.sort(rng.uniform(0.04 * number, 0.04 * (number + 1), events_per_map))
            places = rng.integers(0, SIDE, (2, events_per_map)).astype(np.int16)
            polarities = rng.choice([-1, 1], events_per_map).astype(np.int8)
            writer.append(Events(*places, times, polarities))
            writer.add_flow("dt1", 0.04 * (number + 1), truth)
    return path


def evaluated(model: Path, data: Path, folder: Path) -> tuple[dict[str, Any], int, str]:
    """The JSON result, the peak of resident bytes and what was printed."""
    out, table = folder / "r.json", folder / "r.csv"
    names = "aee_published,outliers_published,aae"
    options = ["--json", str(out), "--csv", str(table), "--metrics", names]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(model), "--data", str(data), *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(list(csv.DictReader(table.open()))) == json.loads(out.read_text())["windows"]
    return json.loads(out.read_text()), int(done.stderr.split()[-1]) << 10, done.stdout


def check_profile(values: dict[str, Any], printed: str) -> None:
    profile = values["profile"]
    parts = ("loading", "encoding", "stepping", "scoring", "pictures", "rest")
    assert sum(profile[part] for part in parts) == pytest.approx(profile["total"], rel=1e-6)
    assert profile["events_per_second"] == pytest.approx(values["events"] / profile["total"])
    (line,) = [line for line in printed.splitlines() if "events per second" in line]
    assert all(f"{part} " in line for part in parts) and "%)" in line


def test_a_small_recording(make_file: Any, tmp_path: Path) -> None:
    data = write_events(tmp_path / "small.h5", 20, 10_000)
    values, peak, printed = evaluated(make_file(resolution=None), data, tmp_path)
    assert values["windows"] == 20 and values["events"] > 199_000
    assert peak < 500 << 20
    check_profile(values, printed)


@pytest.mark.long
def test_ten_million_events(make_file: Any, tmp_path: Path) -> None:
    data = write_events(tmp_path / "large.h5", 1000, 10_000)
    values, peak, printed = evaluated(make_file(resolution=None), data, tmp_path)
    assert values["windows"] == 1000 and values["events"] > 9_990_000
    assert peak < 1 << 30
    check_profile(values, printed)


def records(count: int) -> Iterator[StepRecord]:
    rng = np.random.default_rng(0)
    everywhere = np.ones((3, 4), np.bool_)
    for index in range(count):
        flow, truth = rng.normal(0, 3, (2, 2, 3, 4)).astype(np.float32)
        window = Window(
            index, 0, 0, 0.1 * index, 0.1 * (index + 1), Events.empty(), truth, 0.1, 0.1, True
        )
        score = score_frame(flow, truth, everywhere)
        step = NetworkStep(flow, flow, score, {"G1": 2}, {"G1": 8}, float(index), 0.001)
        yield StepRecord(window, {"net": step}, 0.001, active=everywhere, mask=everywhere)


def test_memory_is_bounded_and_means_are_exact(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluation, "KEPT_WINDOWS", 50)
    network = NetworkResult(metrics=ChosenMetrics(["aae", "aee_published"]))
    result = Evaluation(tmp_path, (3, 4), Drive(), {"net": network})
    seen: list[Any] = []
    result.on_window = seen.append
    taken = []
    for record in records(1500):
        result.add(record)
        taken.append(record.networks["net"].score)
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["windows"] == len(seen) == 1500
    assert [w["index"] for w in values["per_window"]] == list(range(0, 1500, 16))
    assert values["per_window_stride"] == 16 and len(values["per_window"]) <= 100
    net = values["networks"]["net"]
    timeline = net["timeline"]
    assert len(timeline["aee"]) <= 50 and timeline["frames_per_point"] == 32
    aees = [score.aee for score in taken if score is not None]
    assert timeline["aee"][0] == pytest.approx(np.mean(aees[:32]))
    means = net["score"]["by_frames"]
    assert net["score"]["frames"] == 1500 and means["aee"] == pytest.approx(np.mean(aees), 1e-14)
    angles = [score.aae for score in taken if score is not None]
    assert means["aae"] == pytest.approx(np.mean(angles), 1e-14)
    assert net["metrics"]["aae"]["by_frames"] == pytest.approx(np.mean(angles), 1e-14)
    assert net["metrics"]["aee_published"]["values"] == 1500
    assert net["fwl"] == pytest.approx(1499 / 2, 1e-14) and net["spike_rate"] == 0.25
    times, lines = result.metric_lines["aae"].series()
    assert len(times) <= 1000 and lines["net"][0] == pytest.approx(np.mean(angles[:2]))


def test_predictions_that_are_not_finite_are_no_json_numbers(tmp_path: Path) -> None:
    result = Evaluation(tmp_path, (3, 4), Drive(), {"net": NetworkResult()})
    (record,) = records(1)
    flow = np.full((2, 3, 4), np.nan, np.float32)
    assert record.window.flow is not None
    score = score_frame(flow, record.window.flow, np.ones((3, 4), np.bool_))
    result.add(StepRecord(record.window, {"net": NetworkStep(flow, flow, score, {}, {}, None)}))
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["networks"]["net"]["timeline"]["aee"] == [None]

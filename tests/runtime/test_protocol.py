"""Protocols: their hashes, their cuts, what they refuse, and the files they are read from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import EventFile, EventFileWriter, Events
from calib_data.console import MissingExtra
from runtime import EvaluationError, research_config
from runtime.cut import Cut
from runtime.protocol import Protocol, by_name, find_protocol, named_protocols
from runtime.published_results import published_results
from runtime.research_config import read_research_config


def test_hash_tells_settings_apart_and_nothing_else() -> None:
    known = named_protocols()
    assert len({protocol.hash for protocol in known.values()}) == len(known) >= 4
    one = known["mvsec_dt1"]
    assert replace(one, name="other", source="elsewhere").hash == one.hash
    assert replace(one, few_events=9).hash != one.hash
    assert replace(one, ranges={"outdoor_day1": (222.4, 240.5)}).hash != one.hash
    assert len(one.hash) == 12 and one.to_dict()["hash"] == one.hash


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(EvaluationError, match="nearest: mvsec_dt4"):
        find_protocol("mvsec_dt44")


def test_longest_name_wins() -> None:
    table = {"out": 1, "outdoor_day1": 2}
    assert by_name(table, Path("a/outdoor_day1_data.h5"), 0) == 2
    assert by_name(table, Path("outdoor_day2.h5"), 0) == 1
    assert by_name(table, Path("indoor.h5"), 0) == 0


def test_cut_holds_the_events_and_maps_of_its_range(recording: Path) -> None:
    with EventFile(recording) as whole:
        ts = whole.read(0, whole.num_events).ts
        with Cut(whole, 0.2, 0.4) as cut:
            inside = ts[(ts >= 0.2) & (ts < 0.4)]
            assert np.array_equal(cut.read(0, cut.num_events).ts, inside)
            assert np.allclose(cut.flow_times("dt1"), [0.2, 0.3, 0.4])
            assert cut.index_at(0.0) == 0 and cut.index_at(9.0) == cut.num_events
            assert cut.index_at(0.3) == np.searchsorted(inside, 0.3)
            assert np.array_equal(cut.read_flow("dt1", 1), whole.read_flow("dt1", 3))
            assert cut.duration == pytest.approx(0.4)


def test_range_and_rows_reach_the_plan(recording: Path) -> None:
    protocol = Protocol(
        "mine", "time", 0.05, rows={"rec": 7}, ranges={"rec": (0.22, None)}, few_events=3
    )
    with EventFile(recording) as whole:
        part = protocol.source_of(whole)
        plan = protocol.plan(part)
        assert isinstance(part, Cut) and part.start == 0.22
        assert (plan.first, plan.rows, plan.few_events) == (5, 7, 3)
        assert plan.count(part) == plan.count(whole) > 0
        late = replace(protocol, ranges={"rec": (50.0, math.inf)})
        with pytest.raises(EvaluationError, match="scores from 50 s on"):
            late.source_of(whole)
        with pytest.raises(EvaluationError, match="12 x 16 pixels, protocol mvsec_dt1 wants 256"):
            find_protocol("mvsec_dt1").source_of(whole)


def test_a_file_cut_already_is_taken_whole(recording: Path) -> None:
    """The recording lasts 0.6 s and has a clock of its own."""
    protocol = Protocol("mine", ranges={"rec": (222.4, 223.0)})
    with EventFile(recording) as whole:
        source, what = protocol.part_of(whole)
        assert (
            source is whole and what == "all 0.6 s, which is the length of the range 222.4 to 223 s"
        )
        assert protocol.plan(source).count(source) == 6
        longer = replace(protocol, ranges={"rec": (222.4, 224.0)})
        with pytest.raises(EvaluationError, match="say so with --already-cut"):
            longer.part_of(whole)
        source, what = longer.part_of(whole, already_cut=True)
        assert source is whole and "said to be the range 222.4 to 224 s" in what
        with pytest.raises(EvaluationError, match="already-cut"):
            replace(protocol, ranges={"rec": (222.4, None)}).part_of(whole)


def test_a_cut_that_kept_its_clock_is_cut_as_a_whole_one(tmp_path: Path) -> None:
    """A duration that tells the cut's own length does not matter."""
    path, shape = tmp_path / "rec.h5", (12, 16)
    times = np.linspace(222.5, 224.5, 900)
    zeros = np.zeros(900, np.int16)
    with EventFileWriter(path, shape, attributes={"duration": 2.0}) as writer:
        writer.append(Events(zeros, zeros, times, np.ones(900, np.int8)))
        for number in range(21):
            writer.add_flow("dt1", 222.5 + 0.1 * number, np.ones((2, *shape), np.float32))
    protocol = Protocol("mine", ranges={"rec": (222.4, 224.0)})
    with EventFile(path) as whole:
        source, what = protocol.part_of(whole)
        assert isinstance(source, Cut) and what == "its range, 222.4 to 224 s since t0"
        assert np.allclose(source.flow_times("dt1")[[0, -1]], [222.5, 224.0])
        assert protocol.plan(source).count(source) == 15


def test_an_empty_recording_is_refused_as_too_short(make_file: Any, tmp_path: Path) -> None:
    path = tmp_path / "rec.h5"
    with EventFileWriter(path, (12, 16)) as writer:
        writer.add_flow("dt1", 0.0, np.ones((2, 12, 16), np.float32))
    protocol = Protocol("mine", ranges={"rec": (222.4, 224.0)})
    with EventFile(path) as whole:
        source = protocol.source_of(whole)
        assert protocol.plan(source).count(source) == 0


def test_published_numbers_need_exactly_their_protocol() -> None:
    dt4 = find_protocol("mvsec_dt4")
    assert dt4.window == 0.25 and dt4.mode == "gtflow_dt4"
    methods = {result.method: result.values for result in published_results(dt4)}
    assert methods["ConvGRU-EV-FlowNet"]["outdoor_day1"] == [1.69, 12.5]
    assert not published_results(replace(dt4, input_resolution=(128, 128), pooling="sum"))
    assert not published_results(Protocol("custom"))


CONFIG = """
data: {path: somewhere, mode: gtflow_dt4, window: 0.25, window_eval: 15000}
model: {name: LIFFireNet, quantization: {enabled: False}}
metrics: {name: [AEE, FWL], flow_scaling: 128, heat_map: False}
loader: {batch_size: 1, resolution: [128, 128], std_resolution: [256, 256], keep_gt_full_res: True}
hot_filter: {enabled: True, max_px: 100, min_obvs: 5, max_rate: 0.8}
"""


def test_research_configuration_is_mapped(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "eval_MVSEC.yml"
    path.write_text(CONFIG)
    config = read_research_config(path)
    protocol = config.protocol
    assert (protocol.mode, protocol.window, protocol.flow_scaling) == ("gtflow_dt4", 0.25, 128)
    assert protocol.resolution == (256, 256) and protocol.input_resolution == (128, 128)
    assert protocol.pooling == "average" and protocol.hot_pixels and protocol.few_events == 10
    assert config.data == Path("somewhere") and config.fwl_events == 15000
    assert config.metrics == ("aee_published", "outliers_published", "fwl")
    assert "model.quantization.enabled" in config.ignored and "data.mode" not in config.ignored


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {windov: 1}", "unknown key 'data.windov'; nearest: 'data.window'"),
        ("data: {mode: flow}", "data.mode = 'flow'"),
        ("data: {window: -1}", "data.window = -1"),
        ("metrics: {name: [AE]}", "metrics.name holds 'AE'"),
        ("hot_filter: {max_rate: 0.5}", "max_rate is fixed at 0.8"),
        ("loader: {augment: [Horizontal]}", "not augmented"),
        ("loader: {resolution: 128}", r"expected \[H, W\]"),
        ("just text", "expected sections"),
        ("a: [", "no readable YAML"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "eval.yml"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        read_research_config(path)


def test_missing_yaml_is_one_clear_error(tmp_path: Path, monkeypatch: Any) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(research_config.importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match="pip install pyyaml"):
        read_research_config(tmp_path / "eval.yml")

"""Parity: equal runs are equal, a planted difference is named, empty comparisons are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calib_data import console
from runtime import ParityError, StatefulSession, parity
from runtime.artifact import load_model
from runtime.errors import SessionError
from runtime.graph import diagnostic_copy, spike_tensors
from runtime.reference import ReferenceStream


def both(inputs: list[Any]) -> list[tuple[Any, Any]]:
    return [(events, events) for events in inputs]


def shift_threshold(channel: int, by: int, layer: str = "G1") -> Any:
    """An edit that changes one threshold, in the graph and in the metadata."""

    def edit(model: onnx.ModelProto) -> None:
        name = f"{layer}.threshold"
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[channel] += by
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        metadata = json.loads(model.metadata_props[0].value)
        entry = next(x for x in metadata["layers"] if x["name"] == layer)
        entry["threshold"] = [int(v) for v in values]
        model.metadata_props[0].value = json.dumps(metadata)

    return edit


@pytest.mark.parametrize("mem", ["int16", "int8"])
@pytest.mark.parametrize("strict", [False, True])
def test_reference_evaluator_equals_onnxruntime(
    make_file: Any, counts: Any, mem: str, strict: bool
) -> None:
    path = make_file(mem=mem, strict=strict)
    session = StatefulSession(path, library="never")
    result = parity.compare(session, ReferenceStream(path), both(counts(6)))
    assert result.equal and result.steps == 6 and not result.silent_layers
    assert result.compared == ("mem.head", "spike.G1", "mem.G1", "flow_acc")


def test_library_equals_function_bodies(make_file: Any, counts: Any, library: None) -> None:
    path = make_file()
    native = StatefulSession(path, library="require", threads=2)
    for optimization in ("off", "basic", "all"):
        bodies = StatefulSession(path, library="never", optimization=optimization)
        native.reset()
        assert parity.compare(native, bodies, both(counts(50))).equal


def test_float_files_compare_by_their_states(make_file: Any, counts: Any) -> None:
    path = make_file(kind="float")
    a = StatefulSession(path, optimization="off")
    b = StatefulSession(path, optimization="basic", binding="pingpong")
    result = parity.compare(a, b, both(counts(5, np.float32)))
    assert result.equal and "flow_acc" not in result.compared


def test_difference_is_located(make_file: Any, counts: Any) -> None:
    a = StatefulSession(make_file("a.onnx"))
    b = StatefulSession(make_file("b.onnx", edit=shift_threshold(2, 60)))
    inputs = counts(20)
    result = parity.compare(a, b, both(inputs))
    found = result.difference
    assert found is not None and not result.equal and found.reproduced
    assert (found.layer, found.tensor, found.channel) == ("G1", "spike", 2)
    # The same place by hand: step both again and look at the spikes themselves.
    a, b = (
        StatefulSession(load_model(x)).diagnostic()
        for x in (make_file("a.onnx"), make_file("b.onnx", edit=shift_threshold(2, 60)))
    )
    for events in inputs[: found.step + 1]:
        a.step(events)
        b.step(events)
    one, other = a.spikes()["G1"], b.spikes()["G1"]
    assert (found.a, found.b) == (
        one[0, found.channel, found.y, found.x],
        other[0, found.channel, found.y, found.x],
    )
    assert found.count == int((one != other).sum()) > 0
    assert result.steps == found.step + 1
    assert "layer G1, channel 2" in str(found)


def test_silent_difference_in_a_membrane_is_found(make_file: Any, counts: Any) -> None:
    """A membrane that differs without any spike differing."""
    a, b = StatefulSession(make_file("a.onnx")), StatefulSession(make_file("b.onnx"))
    states = b.states()
    b.step(counts(1)[0])
    a.step(counts(1)[0])
    states = b.states()
    states["mem.head"][0, 1, 3, 4] -= 40
    b.set_states(states)
    found = parity.compare(a, b, both(counts(3))).difference
    assert found is not None and found.layer == "head" and found.channel == 1


def test_membrane_that_is_not_a_number_is_a_difference(make_file: Any, counts: Any) -> None:
    path = make_file(kind="float")
    a, b = StatefulSession(path), StatefulSession(path)
    events = counts(1, np.float32)[0]
    for session in (a, b):
        session.step(events)
    states = b.states()
    states["mem.head"][0, 0, 0, 0] = np.nan
    b.set_states(states)
    result = parity.compare(a, b, both([events]))
    assert not result.equal
    values = json.dumps(result.to_dict(), allow_nan=False)
    assert "nan" in values


def test_feed_forward_networks_are_watched_too(make_file: Any, counts: Any) -> None:
    """Without recurrence no spike is a state; firing is then seen on the diagnostic copy."""
    path = make_file(recurrent=False)
    a, b = StatefulSession(path), StatefulSession(path, binding="pingpong")
    assert parity.compare(a, b, both(counts(3))).equal
    silent = [np.zeros_like(events) for events in counts(3)]
    quiet = make_file("quiet.onnx", recurrent=False, edit=raise_thresholds)
    with pytest.raises(ParityError, match="no neuron fired in 3 steps"):
        parity.compare(StatefulSession(quiet), StatefulSession(quiet), both(silent))


def raise_thresholds(model: onnx.ModelProto) -> None:
    for layer in ("head", "G1"):
        for channel in range(4):
            shift_threshold(channel, 30000, layer)(model)


def raise_deep_thresholds(model: onnx.ModelProto) -> None:
    for channel in range(4):
        shift_threshold(channel, 30000, "G1")(model)


def test_layers_that_never_fire_are_named(make_file: Any, counts: Any) -> None:
    path = make_file(edit=raise_deep_thresholds)
    result = parity.compare(StatefulSession(path), StatefulSession(path), both(counts(3)))
    assert result.equal and result.silent_layers == ("G1",)
    assert "never fired: G1" in parity.summary(result, 5)
    assert "ended after 3 of 5 steps" in parity.summary(result, 5)


def test_meaningless_comparisons_are_refused(make_file: Any, counts: Any) -> None:
    integer, real = make_file("i.onnx"), make_file("f.onnx", kind="float")
    with pytest.raises(ParityError, match=r"compare their errors with runtime.evaluate"):
        parity.compare(StatefulSession(integer), StatefulSession(real), both(counts(1)))
    other = make_file("o.onnx", recurrent=False)
    with pytest.raises(ParityError, match=r"differ in their states \(spike.G1\)"):
        parity.compare(StatefulSession(integer), StatefulSession(other), both(counts(1)))
    with pytest.raises(ParityError, match="no steps"):
        parity.compare(StatefulSession(integer), StatefulSession(integer), [])


# --- diagnostic copies --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "float"])
@pytest.mark.parametrize("optimization", ["off", "all"])
def test_diagnostic_copy_computes_the_same(
    make_file: Any, counts: Any, kind: str, optimization: str
) -> None:
    session = StatefulSession(make_file(kind=kind), optimization=optimization)
    watched = session.diagnostic()
    for events in counts(10, session.artifact.event_dtype):
        assert np.array_equal(session.step(events), watched.step(events))
        mine, other = session.states(), watched.states()
        assert all(np.array_equal(mine[name], other[name]) for name in mine)
        assert np.array_equal(watched.spikes()["G1"], mine["spike.G1"])
    assert session.spikes() == {}
    assert watched.spikes()["head"].any()


def test_diagnostic_copy_leaves_the_model_alone(make_file: Any) -> None:
    loaded = load_model(make_file())
    before = loaded.model.SerializeToString()
    copy, names = diagnostic_copy(loaded.model, loaded.artifact)
    assert loaded.model.SerializeToString() == before
    assert names == {"head": "spike_out.head", "G1": "spike_out.G1"}
    assert names == spike_tensors(loaded.model, loaded.artifact)
    outputs = [value.name for value in copy.graph.output]
    assert len(outputs) == len(set(outputs)) and "spike_out.head" in outputs
    onnx.checker.check_model(copy)


# --- the reference evaluator --------------------------------------------------------------------


def test_reference_stream_keeps_state_and_resets(make_file: Any, counts: Any) -> None:
    stream = ReferenceStream(make_file())
    a, b = counts(2)
    first = [stream.step(a), stream.step(b)]
    saved = stream.states()
    stream.reset()
    assert np.array_equal(first[0], stream.step(a)) and np.array_equal(first[1], stream.step(b))
    assert all(np.array_equal(saved[name], array) for name, array in stream.states().items())
    watched = stream.diagnostic()
    watched.step(a)
    assert set(watched.spikes()) == {"head", "G1"} and watched.spikes()["head"].dtype == np.uint8


def test_reference_stream_needs_a_size(make_file: Any) -> None:
    with pytest.raises(SessionError, match="leaves the size free"):
        ReferenceStream(make_file(resolution=None))
    with pytest.raises(SessionError, match="is made for"):
        ReferenceStream(make_file(), resolution=(4, 4))
    assert ReferenceStream(make_file(resolution=None), resolution=(6, 7)).resolution == (6, 7)


# --- the command --------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return console.run(parity.main, [str(argument) for argument in arguments])


def test_command(make_file: Any, recording: Path, tmp_path: Path, capsys: Any) -> None:
    path, out = make_file(), tmp_path / "parity.json"
    status = run(
        path, path, "--data", recording, "--steps", 4, "--b-runtime", "reference",
        "--a-library", "never", "--json", out,
    )  # fmt: skip
    assert status == 0 and "equal: 4 steps" in capsys.readouterr().out
    values = json.loads(out.read_text())
    assert values["equal"] and values["steps"] == 4 and values["difference"] is None


def test_command_with_a_difference(make_file: Any, recording: Path, capsys: Any) -> None:
    other = make_file("other.onnx", edit=shift_threshold(0, -10, "head"))
    assert run(make_file(), other, "--data", recording) == 1
    assert "layer head, channel 0" in capsys.readouterr().out


def test_command_errors_are_one_line(make_file: Any, recording: Path, capsys: Any) -> None:
    real = make_file("f.onnx", kind="float")
    assert run(make_file(), real, "--data", recording) == 2
    assert run(make_file(), "absent.onnx", "--data", recording) == 2
    small = make_file("small.onnx", resolution=(8, 8))
    assert run(small, small, "--data", recording) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    assert "12 x 16 pixels" in lines[2]

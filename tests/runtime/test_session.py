"""Stepping an artifact: state, binding, streams, and clear refusals."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import lif_op
import lif_op.spec
from calib_data import Events
from runtime import SessionError, StatefulSession, load_model
from runtime.artifact import ArtifactError
from runtime.graph import inplace_states
from runtime.session import LibraryWarning

Array = np.ndarray[Any, Any]


def numpy_steps(path: Path, inputs: list[Array]) -> tuple[list[Array], dict[str, Array]]:
    """The small integer network by the NumPy references alone: accumulators and last states."""
    model = load_model(path).model
    w = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    shape = (inputs[0].shape[0], 4, *inputs[0].shape[2:])
    mem = {n: np.zeros(shape, np.int16) for n in ("head", "G1")}
    spike = np.zeros(shape, np.uint8)
    pads = (1, 1, 1, 1)
    accs = []
    for x in inputs:
        acc = lif_op.spec.qconv(x, w["head.weight"], w["head.bias"], pads=pads)
        s, mem["head"] = lif_op.spec.qlif(acc, mem["head"], w["head.decay"], w["head.threshold"])
        acc = lif_op.spec.qconv(s, w["G1.weight"], w["G1.bias"], pads=pads)
        acc = acc + lif_op.spec.qconv(spike, w["G1.rec.weight"], w["G1.rec.bias"], pads=pads)
        spike, mem["G1"] = lif_op.spec.qlif(acc, mem["G1"], w["G1.decay"], w["G1.threshold"])
        accs.append(lif_op.spec.qconv(spike, w["pred.weight"], w["pred.bias"]))
    return accs, {"mem.head": mem["head"], "mem.G1": mem["G1"], "spike.G1": spike}


SETTINGS: list[dict[str, Any]] = [
    {"library": "never"},
    {"library": "never", "optimization": "off"},
    {"library": "never", "optimization": "basic", "threads": 2},
    {"library": "require"},
    {"library": "require", "binding": "pingpong"},
    {"library": "require", "optimization": "off", "threads": 2},
    {"library": "require", "optimization": "extended", "threads": 2, "spinning": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("resolution", [(12, 16), None], ids=["fixed", "free"])
def test_equals_the_numpy_reference(
    make_file: Any, counts: Any, request: Any, settings: dict[str, Any], resolution: Any
) -> None:
    if settings["library"] == "require":
        request.getfixturevalue("library")
    path = make_file(resolution=resolution)
    batch = 1 if resolution else 2
    inputs = counts(8, batch=batch)
    accs, states = numpy_steps(path, inputs)
    assert states["spike.G1"].any()
    session = StatefulSession(path, batch=batch, **settings)
    for events, acc in zip(inputs, accs, strict=True):
        flow = session.step(events)
        assert np.array_equal(session.outputs()["flow_acc"], acc)
        np.testing.assert_allclose(flow, np.tanh(acc * np.float32(0.005)), rtol=1e-6)
    for name, array in session.states().items():
        assert array.dtype == states[name].dtype and np.array_equal(array, states[name])
    assert session.native == (settings["library"] == "require")


def test_float_neurons_equal_the_numpy_reference(make_file: Any, counts: Any) -> None:
    """The first layer's currents are recovered from the membranes and put through the reference."""
    stream = StatefulSession(make_file(kind="float"), optimization="off").diagnostic()
    model = load_model(make_file(kind="float")).model
    w = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for events in counts(4, np.float32):
        before = stream.states()["mem.head"]
        stream.step(events)
        after, spikes = stream.states()["mem.head"], stream.spikes()["head"]
        current = sum(
            np.pad(events, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, c, y : y + 12, x : x + 16]
            * w["head.weight"][:, c, y, x].reshape(-1, 1, 1)
            for c, y, x in itertools.product(range(2), range(3), range(3))
        )
        expected = lif_op.spec.lif(current, before, w["head.decay"], w["head.threshold"])
        assert spikes.any()
        agree = expected[0] == spikes
        assert agree.mean() > 0.999
        np.testing.assert_allclose(after[agree], expected[1][agree], atol=1e-5)


def test_reset_returns_to_the_start(make_file: Any, counts: Any) -> None:
    session = StatefulSession(make_file())
    inputs = counts(3)
    first = [session.step(events) for events in inputs]
    session.reset()
    assert not any(array.any() for array in session.states().values())
    again = [session.step(events) for events in inputs]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[2])


def test_reset_restores_the_initial_value(make_file: Any, counts: Any) -> None:
    path = make_file()
    loaded = load_model(path)
    text = loaded.artifact.to_json().replace('"init":0', '"init":7', 1)

    def edit(model: Any) -> None:
        del model.metadata_props[:]
        helper.set_model_props(model, {"snn.artifact": text})

    session = StatefulSession(make_file(edit=edit))
    assert (session.states()["mem.head"] == 7).all()
    session.step(counts(1)[0])
    session.reset()
    assert (session.states()["mem.head"] == 7).all()


def test_flow_is_the_callers_own_unless_asked_otherwise(make_file: Any, counts: Any) -> None:
    session = StatefulSession(make_file())
    a, b = counts(2)
    kept = session.step(a)
    before = kept.copy()
    view = session.step(b, copy=False)
    assert np.array_equal(kept, before) and np.shares_memory(view, session.step(a, copy=False))


def test_events_may_be_reused_after_a_step(make_file: Any, counts: Any) -> None:
    inputs = counts(3)
    one, other = (StatefulSession(make_file()) for _ in range(2))
    scratch = np.zeros_like(inputs[0])
    for events in inputs:
        expected = one.step(events)
        scratch[...] = events
        flow = other.step(scratch)
        scratch[...] = 99
        assert np.array_equal(flow, expected)


def test_non_contiguous_events(make_file: Any, counts: Any) -> None:
    events = counts(1)[0]
    a, b = (StatefulSession(make_file()) for _ in range(2))
    strided = np.repeat(events, 2, axis=3)[:, :, :, ::2]
    assert not strided.flags.c_contiguous
    assert np.array_equal(a.step(events), b.step(strided))


def test_states_can_be_put_back(make_file: Any, counts: Any) -> None:
    session = StatefulSession(make_file())
    a, b, c = counts(3)
    session.step(a)
    saved = session.states()
    expected = [session.step(b), session.step(c)]
    session.set_states(saved)
    assert all(
        np.array_equal(x, y)
        for x, y in zip(expected, [session.step(b), session.step(c)], strict=True)
    )
    with pytest.raises(SessionError, match=r"'mem.head' must be int16 \[1, 4, 12, 16\]"):
        session.set_states(saved | {"mem.head": saved["mem.head"][:, :2]})
    with pytest.raises(SessionError, match="differ in extra"):
        session.set_states(saved | {"extra": saved["mem.head"]})
    with pytest.raises(SessionError, match=r"'mem.head' must be a NumPy array .*got list"):
        session.set_states(saved | {"mem.head": saved["mem.head"].tolist()})
    with pytest.raises(SessionError, match="arrays by the name of their input, got list"):
        session.set_states(list(saved.values()))  # type: ignore[arg-type]


def test_streams_are_independent_and_thread_safe(make_file: Any, counts: Any) -> None:
    session = StatefulSession(make_file())
    inputs = [counts(40), counts(40)[::-1]]
    expected = []
    for sequence in inputs:
        alone = session.stream()
        expected.append([alone.step(events) for events in sequence])
    got: list[list[Array]] = [[], []]

    def work(number: int) -> None:
        stream = session.stream()
        got[number] = [stream.step(events) for events in inputs[number]]

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(
        np.array_equal(x, y)
        for mine, right in zip(got, expected, strict=True)
        for x, y in zip(mine, right, strict=True)
    )
    assert not any(array.any() for array in session.states().values())


def test_one_stream_from_two_threads_makes_every_step_once(make_file: Any, counts: Any) -> None:
    session = StatefulSession(make_file())
    events = counts(1)[0]
    alone = session.stream()
    for _ in range(40):
        alone.step(events)

    def work() -> None:
        for _ in range(20):
            session.step(events)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mine, right = session.states(), alone.states()
    assert all(np.array_equal(mine[name], right[name]) for name in right)


# --- binding ------------------------------------------------------------------------------------


def test_in_place_only_where_it_is_safe(make_file: Any, library: None) -> None:
    path = make_file()
    assert StatefulSession(path).inplace == {"mem.head", "mem.G1"}
    assert StatefulSession(path, binding="pingpong").inplace == frozenset()
    assert StatefulSession(path, library="never").inplace == frozenset()


def test_second_reader_prevents_in_place(make_file: Any, counts: Any, library: None) -> None:
    """A membrane that another node reads too alternates, and that node sees the old values."""

    def watch(model: Any) -> None:
        model.graph.node.insert(0, helper.make_node("Cast", ["mem.head"], ["watched"], to=6))
        acc = next(n for n in model.graph.node if "flow_acc" in n.output)
        acc.output[0] = "acc_before"
        size = numpy_helper.from_array(np.array([1, 2, 12, 16]), "some")
        starts = numpy_helper.from_array(np.zeros(4, np.int64), "starts")
        model.graph.initializer.extend([size, starts])
        place = list(model.graph.node).index(acc) + 1
        model.graph.node.insert(
            place, helper.make_node("Add", ["acc_before", "part"], ["flow_acc"])
        )
        model.graph.node.insert(
            place, helper.make_node("Slice", ["watched", "starts", "some"], ["part"])
        )

    path = make_file("watched.onnx", edit=watch)
    session = StatefulSession(path)
    assert session.inplace == {"mem.G1"}
    slow = StatefulSession(path, library="never", optimization="off")
    for events in counts(5):
        session.step(events)
        slow.step(events)
        assert np.array_equal(session.outputs()["flow_acc"], slow.outputs()["flow_acc"])


def test_in_place_needs_the_writer_to_be_the_reader(make_file: Any) -> None:
    loaded = load_model(make_file())
    graph, states = loaded.model.graph, loaded.artifact.states
    assert inplace_states(graph, states) == {"mem.head", "mem.G1"}
    neurons = [n for n in graph.node if n.op_type == "QLIF"]
    neurons[0].output[1], neurons[1].output[1] = "mem_out.G1", "mem_out.head"
    assert inplace_states(graph, states) == frozenset()
    neurons[0].output[1], neurons[1].output[1] = "mem_out.head", "mem_out.G1"
    neurons[0].op_type = "SomethingElse"
    assert inplace_states(graph, states) == {"mem.G1"}
    neurons[1].input[0], neurons[1].input[1] = neurons[1].input[1], neurons[1].input[0]
    assert inplace_states(graph, states) == frozenset()


def test_reader_inside_a_branch_counts(make_file: Any) -> None:
    loaded = load_model(make_file())
    value = helper.make_tensor_value_info("y", 5, None)
    branch = helper.make_graph([helper.make_node("Neg", ["mem.head"], ["y"])], "b", [], [value])
    loaded.model.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    )
    assert inplace_states(loaded.model.graph, loaded.artifact.states) == {"mem.G1"}


def test_foreign_op_runs(make_file: Any, counts: Any) -> None:
    """A file whose neurons are the foreign op, which fires at the threshold and resets to zero."""

    def foreign(model: Any) -> None:
        model.functions.append(lif_op.spec.function("LIF", domain="SNN_implementation"))
        model.opset_import.append(helper.make_opsetid("SNN_implementation", 1))
        for node in model.graph.node:
            if node.op_type == "LIF":
                node.domain = "SNN_implementation"
                del node.attribute[:]

    path = make_file("foreign.onnx", edit=foreign, kind="float")
    slow = StatefulSession(path, library="never", optimization="off").diagnostic()
    fast = StatefulSession(path, optimization="off").diagnostic()
    for events in counts(3, np.float32):
        slow.step(events)
        fast.step(events)
        assert set(slow.spikes()) == {"head", "G1"} and slow.spikes()["head"].any()
        for layer, spikes in slow.spikes().items():
            assert np.array_equal(spikes, fast.spikes()[layer])


# --- size ---------------------------------------------------------------------------------------


def test_free_size_comes_with_the_first_step(make_file: Any, counts: Any) -> None:
    session = StatefulSession(make_file(resolution=None))
    assert session.resolution is None
    with pytest.raises(SessionError, match="no state yet"):
        session.states()
    session.reset()
    session.step(counts(1, resolution=(9, 11))[0])
    assert session.resolution == (9, 11)
    assert session.states()["mem.head"].shape == (1, 4, 9, 11)
    with pytest.raises(SessionError, match=r"uint8 \[1, 2, 9, 11\], got uint8 \[1, 2, 12, 16\]"):
        session.step(counts(1)[0])
    other = session.stream(resolution=(5, 6))
    other.step(counts(1, resolution=(5, 6))[0])
    assert other.states()["mem.head"].shape == (1, 4, 5, 6)


def test_free_size_from_states(make_file: Any, counts: Any) -> None:
    path = make_file(resolution=None)
    first, second = StatefulSession(path), StatefulSession(path)
    a, b = counts(2, resolution=(7, 9))
    first.step(a)
    second.set_states(first.states())
    assert second.resolution == (7, 9)
    assert np.array_equal(first.step(b), second.step(b))


def test_other_size_than_the_files(make_file: Any) -> None:
    with pytest.raises(SessionError, match="made for 12 x 16, not for 8 x 8"):
        StatefulSession(make_file(), resolution=(8, 8))
    with pytest.raises(SessionError, match="takes a batch of 1, not 2"):
        StatefulSession(make_file(), batch=2)
    for batch in (0, 2.5, "2", True):
        with pytest.raises(SessionError, match=f"batch = {batch!r}: expected a whole number"):
            StatefulSession(make_file(resolution=None), batch=batch)  # type: ignore[arg-type]
    for size in ((0, 5), (-1, 5), (6.5, 7), ("6", 7), (6,), 6):
        with pytest.raises(SessionError, match=r"resolution = .*: expected \(H, W\)"):
            StatefulSession(make_file(resolution=None), resolution=size)  # type: ignore[arg-type]


def test_states_too_big_are_refused(make_file: Any) -> None:
    with pytest.raises(ArtifactError, match=r"states need .* GiB"):
        StatefulSession(make_file(resolution=None), resolution=(60000, 60000))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (np.zeros((1, 2, 12, 16), np.float32), r"must be uint8 \[1, 2, 12, 16\], got float32"),
        (np.zeros((1, 2, 16, 12), np.uint8), r"got uint8 \[1, 2, 16, 12\]"),
        (np.zeros((1, 3, 12, 16), np.uint8), r"got uint8 \[1, 3, 12, 16\]"),
        (np.zeros((2, 12, 16), np.uint8), r"got uint8 \[2, 12, 16\]"),
        (np.full((1, 2, 12, 16), 128, np.uint8), "count of 128; integer networks take counts up"),
        ([[1]], "must be a NumPy array .* got list"),
    ],
)
def test_wrong_events(make_file: Any, events: Any, message: str) -> None:
    with pytest.raises(SessionError, match=message):
        StatefulSession(make_file()).step(events)


def test_wrong_events_of_a_free_size(make_file: Any) -> None:
    session = StatefulSession(make_file(resolution=None))
    with pytest.raises(SessionError, match=r"\[1, 2, H, W\], got uint8 \[1, 3, 12, 16\]"):
        session.step(np.zeros((1, 3, 12, 16), np.uint8))
    with pytest.raises(SessionError, match=r"got uint8 \[1, 2, 0, 16\]"):
        session.step(np.zeros((1, 2, 0, 16), np.uint8))


def test_encode_saturates_for_integers(make_file: Any) -> None:
    many = 300
    zeros = np.zeros(many, np.int16)
    events = Events(zeros, zeros, np.arange(many) / many, np.ones(many, np.int8))
    integer = StatefulSession(make_file()).encode(events)
    assert integer.dtype == np.uint8 and integer.shape == (1, 2, 12, 16)
    assert integer[0, 0, 0, 0] == 127
    real = StatefulSession(make_file(kind="float")).encode(events)
    assert real.dtype == np.float32 and real[0, 0, 0, 0] == many
    with pytest.raises(SessionError, match="size is not known"):
        StatefulSession(make_file(resolution=None)).encode(events)


# --- settings and library -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "threads = 0"),
        ({"library": "maybe"}, "library = 'maybe': expected one of auto, never, require"),
        ({"optimization": "most"}, "optimization = 'most'"),
        ({"binding": "inplace"}, "binding = 'inplace'"),
    ],
)
def test_wrong_settings(make_file: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SessionError, match=message):
        StatefulSession(make_file(), **settings)


def no_library() -> Path:
    raise lif_op.LibraryError("the library is not there")


def test_missing_library_falls_back_with_a_warning(
    make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lif_op, "library_path", no_library)
    with pytest.warns(LibraryWarning, match="slower but with the same results"):
        session = StatefulSession(make_file())
    assert not session.native
    with pytest.raises(lif_op.LibraryError, match="the library is not there"):
        StatefulSession(make_file(), library="require")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not StatefulSession(make_file(), library="never").native


def test_unknown_kernel_target_is_no_silent_fallback(make_file: Any, library: None) -> None:
    """A library that is there but refuses to work is an error, even with ``auto``."""
    code = (
        "import sys, runtime\n"
        "try:\n runtime.StatefulSession(sys.argv[1])\n"
        "except Exception as e:\n print(getattr(type(e), 'user_error', False), str(e))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(make_file())],
        env={"LIF_OP_TARGET": "quantum", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("True") and "quantum" in done.stdout, done.stderr


def test_runtime_refusal_is_one_line(make_file: Any) -> None:
    """An op that ONNX knows at this version and ONNX Runtime does not take in this form."""

    def spoil(model: Any) -> None:
        node = next(n for n in model.graph.node if n.op_type == "Mul")
        node.input[1] = "head.decay"

    with pytest.raises(SessionError, match="ONNX Runtime refuses it") as caught:
        StatefulSession(make_file(edit=spoil))
    assert "\n" not in str(caught.value)


def test_torch_and_matplotlib_stay_out() -> None:
    """Everything a deployment machine uses works without the extras."""
    names = (
        "runtime, runtime.evaluate, runtime.parity, runtime.report, runtime.pictures, runtime.cli, "
        "runtime.reference, runtime.timing, runtime.html_report, runtime.video, bench.latency, "
        "bench.memory"
    )
    extras = "{'torch', 'matplotlib', 'pydantic', 'PIL', 'imageio_ffmpeg'}"
    code = f"import sys, {names}\nprint(sorted({extras} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_no_step_from_half_updated_states(make_file: Any) -> None:
    """A step that fails may have updated membranes in place; the next must not use them."""
    session = StatefulSession(make_file())
    events = np.ones((1, 2, 12, 16), np.uint8)
    first = session.step(events)
    states = session.states()
    after = session.step(events)
    buffers = session._buffers
    assert buffers is not None

    class Failing:
        def run_with_iobinding(self, binding: Any) -> None:
            raise RuntimeError("out of memory")

    for recover, expected in ((session.reset, first), (lambda: session.set_states(states), after)):
        with pytest.raises(SessionError, match="the step failed"):
            buffers.step(Failing(), events)  # type: ignore[arg-type]
        with pytest.raises(SessionError, match=r"call reset\(\) or set_states\(\) first"):
            session.step(events)
        recover()
        np.testing.assert_array_equal(session.step(events), expected)

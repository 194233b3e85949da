"""The ops inside ONNX Runtime: with the library, without it, against the NumPy references."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import op_models
import pytest

import lif_op
from lif_op import spec

TARGETS = lif_op.targets()
LEVELS = onnxruntime.GraphOptimizationLevel
NEURON_SHAPES = [(2, 3), (1, 4, 10), (2, 3, 9, 21), (1, 8, 64, 70)]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv("LIF_OP_TARGET", name)
    return name


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("reset", spec.RESETS)
@pytest.mark.parametrize("shape", NEURON_SHAPES)
def test_lif(reset: str, shape: tuple[int, ...]) -> None:
    inputs = op_models.lif_inputs(1, shape)
    model = op_models.single_node(
        "LIF", inputs, {"spike": np.float32, "mem_out": np.float32}, reset=reset
    )
    expected = spec.lif(**inputs, reset=reset)
    op_models.assert_same(op_models.session(model, None).run(None, inputs), expected)
    for threads in (1, 2):
        got = op_models.session(model, lif_op.register, threads=threads).run(None, inputs)
        op_models.assert_same(got, expected)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("mem_dtype", [np.int16, np.int8])
@pytest.mark.parametrize("reset", spec.RESETS)
@pytest.mark.parametrize("shape", NEURON_SHAPES)
def test_qlif(mem_dtype: Any, reset: str, shape: tuple[int, ...]) -> None:
    inputs = op_models.qlif_inputs(2, shape, mem_dtype)
    for frac_bits in (-4, 0, 3):
        model = op_models.single_node(
            "QLIF",
            inputs,
            {"spike": np.uint8, "mem_out": mem_dtype},
            frac_bits=frac_bits,
            reset=reset,
        )
        expected = spec.qlif(**inputs, frac_bits=frac_bits, reset=reset)
        op_models.assert_same(op_models.session(model, None).run(None, inputs), expected)
        for threads in (1, 2):
            got = op_models.session(model, lif_op.register, threads=threads).run(None, inputs)
            op_models.assert_same(got, expected)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("constant_weight", [False, True])
@pytest.mark.parametrize(
    ("x_shape", "out_channels", "kernel", "strides", "pads"),
    [
        ((1, 2, 20, 33), 8, (3, 3), (1, 1), (1, 1, 1, 1)),
        ((2, 5, 17, 40), 7, (3, 3), (2, 2), (1, 1, 1, 1)),
        ((1, 32, 6, 20), 2, (1, 1), (1, 1), (0, 0, 0, 0)),
        ((1, 3, 12, 12), 4, (5, 2), (3, 1), (0, 2, 1, 0)),
    ],
)
def test_qconv(
    constant_weight: bool,
    x_shape: tuple[int, ...],
    out_channels: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> None:
    tensors = op_models.qconv_inputs(3, x_shape, out_channels, kernel)
    constants = {"weight": tensors["weight"], "bias": tensors["bias"]} if constant_weight else {}
    inputs = {name: value for name, value in tensors.items() if name not in constants}
    model = op_models.single_node(
        "QConv",
        inputs,
        {"acc": np.int32},
        constants=constants,
        strides=list(strides),
        pads=list(pads),
    )
    expected = [spec.qconv(**tensors, strides=strides, pads=pads)]
    op_models.assert_same(op_models.session(model, None).run(None, inputs), expected)
    for threads in (1, 2):
        with_library = op_models.session(model, lif_op.register, threads=threads)
        for _ in range(2):
            op_models.assert_same(with_library.run(None, inputs), expected)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("version", [1, 7])
@pytest.mark.parametrize("unit_dims", [False, True])
def test_foreign_lif(version: int, unit_dims: bool) -> None:
    inputs = op_models.lif_inputs(4, (1, 3, 5, 7))
    inputs["mem"][:] = 0
    inputs["current"][0, 0, 0] = inputs["threshold"][0]  # a tie fires
    expected = spec.foreign_lif(**inputs)
    assert expected[0][0, 0, 0].all()
    inputs["input"] = inputs.pop("current")
    if unit_dims:
        for name in ("beta", "threshold"):
            inputs[name] = inputs[name].reshape(-1, 1, 1)
    model = op_models.single_node(
        "LIF",
        inputs,
        {"spike": np.float32, "mem_out": np.float32},
        domain=spec.FOREIGN_DOMAIN,
        domain_version=version,
        with_bodies=False,
    )
    op_models.assert_same(op_models.session(model, lif_op.register).run(None, inputs), expected)


def network(frac_bits: int = 0) -> onnx.ModelProto:
    """A recurrent integer layer with a feed-forward one on top, free in N, H and W."""
    rng = np.random.default_rng(5)
    channels = 8
    helper, info = onnx.helper, op_models.tensor_info
    conv = {"domain": spec.DOMAIN, "strides": [1, 1], "pads": [1, 1, 1, 1]}
    lif = {"domain": spec.DOMAIN, "frac_bits": frac_bits, "reset": "zero"}
    nodes = [
        helper.make_node("QConv", ["events", "w0", "b"], ["ff"], **conv),
        helper.make_node("QConv", ["spike.0", "w1", "b"], ["rec"], **conv),
        helper.make_node("Add", ["ff", "rec"], ["acc.0"]),
        helper.make_node("QLIF", ["acc.0", "mem.0", "d", "t"], ["spike_out.0", "mem_out.0"], **lif),
        helper.make_node("QConv", ["spike_out.0", "w1", "b"], ["acc.1"], **conv),
        helper.make_node("QLIF", ["acc.1", "mem.1", "d", "t"], ["spike_out.1", "mem_out.1"], **lif),
    ]
    shape = ["N", channels, "H", "W"]
    states = [("spike.0", np.uint8), ("mem.0", np.int16), ("mem.1", np.int16)]
    results = [("spike_out.0", np.uint8), ("mem_out.0", np.int16), ("mem_out.1", np.int16)]
    constants = {
        "w0": rng.integers(-63, 64, (channels, 2, 3, 3), dtype=np.int8),
        "w1": rng.integers(-63, 64, (channels, channels, 3, 3), dtype=np.int8),
        "b": rng.integers(-9, 10, channels, dtype=np.int32),
        "d": rng.integers(0, 257, channels, dtype=np.int32),
        "t": rng.integers(50, 200, channels, dtype=np.int32),
    }
    graph = helper.make_graph(
        nodes,
        "network",
        [
            info("events", np.uint8, ["N", 2, "H", "W"]),
            *(info(name, dtype, shape) for name, dtype in states),
        ],
        [info(name, dtype, shape) for name, dtype in [*results, ("spike_out.1", np.uint8)]],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", spec.OPSET),
            helper.make_opsetid(spec.DOMAIN, spec.DOMAIN_VERSION),
        ],
        functions=spec.functions(),
        ir_version=spec.IR_VERSION,
    )


def drive(session: onnxruntime.InferenceSession, steps: int = 6) -> list[list[op_models.Array]]:
    rng = np.random.default_rng(6)
    shape = (1, 8, 24, 37)
    state = [np.zeros(shape, dtype) for dtype in (np.uint8, np.int16, np.int16)]
    results = []
    for _ in range(steps):
        events = rng.integers(0, 4, (1, 2, *shape[2:]), dtype=np.uint8)
        feeds = dict(zip(["spike.0", "mem.0", "mem.1"], state, strict=True))
        outputs = session.run(None, {"events": events, **feeds})
        state = outputs[:3]
        results.append(outputs)
    return results


def test_a_network_gives_the_same_integers_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    onnx.checker.check_model(model)
    expected = drive(op_models.session(model, None))
    assert all(step[-1].any() and not step[-1].all() for step in expected[1:])
    levels = (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_ALL)
    for target, threads, level in itertools.product(TARGETS, (1, 2), levels):
        monkeypatch.setenv("LIF_OP_TARGET", target)
        session = op_models.session(model, lif_op.register, threads=threads, level=level)
        for got, want in zip(drive(session), expected, strict=True):
            op_models.assert_same(got, want)


def executed_ops(session: onnxruntime.InferenceSession) -> set[str]:
    drive(session, steps=1)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


def test_native_kernels_replace_the_function_bodies(tmp_path: Path) -> None:
    prefix = str(tmp_path / "profile")
    with_library = op_models.session(network(), lif_op.register, profile_prefix=prefix)
    assert executed_ops(with_library) == {"QConv", "QLIF", "Add"}
    without = executed_ops(op_models.session(network(), None, profile_prefix=prefix + "2"))
    assert not without & {"QConv", "QLIF"}


def test_inferred_shapes_keep_symbolic_dimensions() -> None:
    model = network()
    model.functions.clear()
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    session = op_models.session(model, lif_op.register)
    for output in session.get_outputs():
        assert output.shape == ["N", 8, "H", "W"], output.name


def test_states_bound_in_place_equal_states_bound_apart() -> None:
    shape = (1, 8, 24, 37)
    session = op_models.session(network(), lif_op.register)
    rng = np.random.default_rng(7)
    start = rng.integers(-999, 999, shape).astype(np.int16)
    feeds = {
        "events": rng.integers(0, 4, (1, 2, *shape[2:]), dtype=np.uint8),
        "spike.0": np.zeros(shape, np.uint8),
        "mem.0": start,
        "mem.1": start,
    }
    expected = session.run(["mem_out.0", "mem_out.1"], feeds)
    binding = session.io_binding()
    shared = {}
    for name, value in feeds.items():
        shared[name] = onnxruntime.OrtValue.ortvalue_from_numpy(value.copy())
        binding.bind_ortvalue_input(name, shared[name])
    for name in ("mem.0", "mem.1"):
        binding.bind_ortvalue_output(name.replace("mem", "mem_out"), shared[name])
    session.run_with_iobinding(binding)
    op_models.assert_same([shared["mem.0"].numpy(), shared["mem.1"].numpy()], expected)


def test_sessions_are_independent_and_may_share_their_options() -> None:
    options = onnxruntime.SessionOptions()
    lif_op.register(options)
    serialized = network().SerializeToString()
    first, second = (onnxruntime.InferenceSession(serialized, options) for _ in range(2))
    third = op_models.session(network(), lif_op.register)
    expected = drive(first)
    del first
    for session in (second, third):
        for got, want in zip(drive(session), expected, strict=True):
            op_models.assert_same(got, want)


def test_concurrent_runs_of_one_session() -> None:
    session = op_models.session(network(), lif_op.register, threads=2)
    expected = drive(session)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: drive(session), range(8)):
            for got, want in zip(results, expected, strict=True):
                op_models.assert_same(got, want)


def changed(
    inputs: dict[str, op_models.Array], **changes: op_models.Array
) -> dict[str, op_models.Array]:
    return {**inputs, **changes}


LIF_INPUTS = op_models.lif_inputs(8, (1, 3, 4, 5))
QLIF_INPUTS = op_models.qlif_inputs(8, (1, 3, 4, 5))
QCONV_INPUTS = op_models.qconv_inputs(8, (1, 2, 6, 6), 3)
LIF_OUTPUTS = {"spike": np.float32, "mem_out": np.float32}
QLIF_OUTPUTS = {"spike": np.uint8, "mem_out": np.int16}
QCONV_ATTRIBUTES = {"strides": [1, 1], "pads": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("op_type", "outputs", "attributes", "inputs", "message"),
    [
        (
            "LIF",
            LIF_OUTPUTS,
            {"reset": "zero"},
            changed(LIF_INPUTS, beta=np.ones(4, np.float32)),
            r"snn::LIF: input 'beta' must have shape \[3\], one value per channel, got \[4\]",
        ),
        (
            "LIF",
            LIF_OUTPUTS,
            {"reset": "zero"},
            changed(LIF_INPUTS, current=np.ones((1, 3, 5, 4), np.float32)),
            r"snn::LIF: input 'current' and input 'mem' must have the same shape",
        ),
        (
            "QLIF",
            QLIF_OUTPUTS,
            {"frac_bits": 0, "reset": "zero"},
            changed(QLIF_INPUTS, decay=np.array([0, 300, 1], np.int32)),
            r"snn::QLIF: input 'decay' must hold values from 0 to 256, got 300 for channel 1",
        ),
        (
            "QLIF",
            QLIF_OUTPUTS,
            {"frac_bits": 0, "reset": "zero"},
            changed(QLIF_INPUTS, threshold=np.ones((3, 1, 1), np.int32)),
            r"snn::QLIF: input 'threshold' must have shape \[3\]",
        ),
        (
            "QLIF",
            QLIF_OUTPUTS,
            {"frac_bits": 0, "reset": "zero"},
            {**QLIF_INPUTS, "acc": np.ones(3, np.int32), "mem": np.ones(3, np.int16)},
            r"snn::QLIF: input 'mem' must have shape \[N, C, ...\], got \[3\]",
        ),
        (
            "QConv",
            {"acc": np.int32},
            QCONV_ATTRIBUTES,
            changed(QCONV_INPUTS, x=np.ones((1, 4, 6, 6), np.uint8)),
            r"snn::QConv: input 'weight' is for 2 input channels, input 'x' has 4",
        ),
        (
            "QConv",
            {"acc": np.int32},
            QCONV_ATTRIBUTES,
            changed(QCONV_INPUTS, bias=np.ones(2, np.int32)),
            r"snn::QConv: input 'bias' must have shape \[3\]",
        ),
        (
            "QConv",
            {"acc": np.int32},
            {"strides": [1, 1], "pads": [0, 0, 0, 0]},
            changed(QCONV_INPUTS, x=np.ones((1, 2, 2, 6), np.uint8)),
            r"snn::QConv: input 'x' is too small",
        ),
    ],
)
def test_wrong_inputs_are_named_when_the_node_runs(
    op_type: str,
    outputs: dict[str, Any],
    attributes: dict[str, Any],
    inputs: dict[str, op_models.Array],
    message: str,
) -> None:
    model = op_models.single_node(op_type, inputs, outputs, with_bodies=False, **attributes)
    session = op_models.session(model, lif_op.register)
    with pytest.raises(Exception, match=message):
        session.run(None, inputs)


@pytest.mark.parametrize(
    ("op_type", "inputs", "outputs", "attributes", "message"),
    [
        ("LIF", LIF_INPUTS, LIF_OUTPUTS, {"reset": "soft"}, "snn::LIF: attribute 'reset' must be"),
        ("LIF", LIF_INPUTS, LIF_OUTPUTS, {}, "reset"),
        (
            "QLIF",
            QLIF_INPUTS,
            QLIF_OUTPUTS,
            {"frac_bits": 16, "reset": "zero"},
            "snn::QLIF: attribute 'frac_bits' must be from -30 to 15",
        ),
        (
            "QLIF",
            op_models.qlif_inputs(8, (1, 3, 4, 5), np.int8),
            {"spike": np.uint8, "mem_out": np.int8},
            {"frac_bits": 8, "reset": "zero"},
            "snn::QLIF: attribute 'frac_bits' must be from -30 to 7",
        ),
        (
            "QConv",
            QCONV_INPUTS,
            {"acc": np.int32},
            {"strides": [1], "pads": [0, 0, 0, 0]},
            "snn::QConv: attribute 'strides' must hold 2 integers",
        ),
        (
            "QConv",
            QCONV_INPUTS,
            {"acc": np.int32},
            {"strides": [1, 1], "pads": [0, 0, 0, -1]},
            "snn::QConv: attribute 'pads' must hold integers from 0",
        ),
        (
            "QLIF",
            changed(QLIF_INPUTS, mem=np.ones((1, 3, 4, 5), np.float32)),
            QLIF_OUTPUTS,
            {"frac_bits": 0, "reset": "zero"},
            r"[Tt]ype",
        ),
    ],
)
def test_wrong_attributes_and_types_are_named_when_the_model_is_loaded(
    op_type: str,
    inputs: dict[str, op_models.Array],
    outputs: dict[str, Any],
    attributes: dict[str, Any],
    message: str,
) -> None:
    model = op_models.single_node(op_type, inputs, outputs, with_bodies=False, **attributes)
    with pytest.raises(Exception, match=message):
        op_models.session(model, lif_op.register)


def test_a_wrong_constant_weight_is_named() -> None:
    inputs = {"x": QCONV_INPUTS["x"]}
    constants = {"weight": np.ones((3, 2), np.int8), "bias": QCONV_INPUTS["bias"]}
    model = op_models.single_node(
        "QConv",
        inputs,
        {"acc": np.int32},
        constants=constants,
        with_bodies=False,
        **QCONV_ATTRIBUTES,
    )
    session = op_models.session(model, lif_op.register)
    with pytest.raises(Exception, match=r"snn::QConv: input 'weight' must have shape"):
        session.run(None, inputs)


def test_empty_tensors() -> None:
    inputs = op_models.qlif_inputs(9, (0, 3, 4, 5))
    model = op_models.single_node("QLIF", inputs, QLIF_OUTPUTS, frac_bits=0, reset="zero")
    spike, mem_out = op_models.session(model, lif_op.register).run(None, inputs)
    assert spike.shape == mem_out.shape == (0, 3, 4, 5)
    inputs = op_models.qconv_inputs(9, (0, 2, 4, 4), 3)
    model = op_models.single_node("QConv", inputs, {"acc": np.int32}, **QCONV_ATTRIBUTES)
    (acc,) = op_models.session(model, lif_op.register).run(None, inputs)
    assert acc.shape == (0, 3, 4, 4)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("domain", ["snn", "SNN_implementation"])
def test_silence_ends_at_zero_and_not_among_denormals(domain: str) -> None:
    inputs = op_models.lif_inputs(5, (1, 3, 5, 7))
    inputs["current"][:] = 0
    inputs["beta"][:] = np.float32(0.5)
    model = op_models.single_node(
        "LIF", inputs, {"spike": np.float32, "mem_out": np.float32}, reset="none"
    )
    if domain != "snn":
        inputs["input"] = inputs.pop("current")
        model = op_models.single_node(
            "LIF", inputs, {"spike": np.float32, "mem_out": np.float32}, domain=domain
        )
    session = op_models.session(model, lif_op.register)
    for _ in range(200):
        _, inputs["mem"] = session.run(None, inputs)
        size = np.abs(inputs["mem"])
        assert ((size == 0) | (size >= np.finfo(np.float32).tiny)).all()
    assert not inputs["mem"].any()

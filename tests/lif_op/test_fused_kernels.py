"""Native fused layers, packing and convolutions of packed spikes: every target, called directly and
as nodes of ONNX Runtime, gives the bits of the NumPy references."""

from __future__ import annotations

import concurrent.futures
import resource
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import op_models
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lif_op
from lif_op import _core, spec

TARGETS = lif_op.targets()
LEVELS = onnxruntime.GraphOptimizationLevel
INT32 = np.iinfo(np.int32)

Arrays = dict[str, op_models.Array]
KERNELS = {"QConvLIF": _core.qconv_lif, "QConvLIFRec": _core.qconv_lif_rec}
REFERENCES = {"QConvLIF": spec.qconv_lif, "QConvLIFRec": spec.qconv_lif_rec}


@dataclass(frozen=True)
class Layer:
    """A fused layer with inputs and attributes."""

    op_type: str
    inputs: Arrays
    attributes: dict[str, Any]

    @property
    def outputs(self) -> dict[str, Any]:
        return {"spike": np.uint32, "mem_out": self.inputs["mem"].dtype}

    def expected(self) -> Any:
        return REFERENCES[self.op_type](**self.inputs, **self.attributes)

    def changed(self, **changes: Any) -> Layer:
        return Layer(self.op_type, self.inputs | changes, self.attributes)


def make_layer(
    seed: int,
    *,
    packed: bool = True,
    recurrent: bool = False,
    mem_dtype: Any = np.int16,
    batch: int = 1,
    cin: int = 32,
    cout: int = 32,
    size: tuple[int, int] = (6, 19),
    kernel: tuple[int, int] = (3, 3),
    rec_kernel: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    frac_bits: int = 0,
    reset: str = "zero",
    extreme: bool = False,
) -> Layer:
    """Random constants, spikes and states; `extreme` draws from the ends of every range."""
    rng = np.random.default_rng(seed)
    lo, hi = spec.membrane_limits(mem_dtype)
    out = tuple((size[i] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in range(2))

    def draw(shape: tuple[int, ...], low: int, high: int, dtype: Any, ends: bool) -> Any:
        if extreme and ends:
            return rng.choice([low, high, 0], shape).astype(dtype)
        return rng.integers(low, high + 1, shape).astype(dtype)

    density = rng.choice([0.0, 0.03, 0.3, 1.0]) if extreme else 0.3
    spikes = (rng.random((batch, cin, *size)) < density).astype(np.uint8)
    counts = draw((batch, cin, *size), 0, 255 if extreme else 5, np.uint8, True)
    biases = (INT32.min, INT32.max) if extreme else (-300, 300)
    inputs: Arrays = {
        "x": spec.pack_spikes(spikes) if packed else counts,
        "weight": draw((cout, cin, *kernel), -128, 127, np.int8, True),
        "bias": draw((cout,), *biases, np.int32, True),
    }
    if recurrent:
        own = (rng.random((batch, cout, *out)) < density).astype(np.uint8)
        inputs["spike_prev"] = spec.pack_spikes(own)
        inputs["weight_rec"] = draw((cout, cout, *rec_kernel), -128, 127, np.int8, True)
    inputs["mem"] = draw((batch, *out, cout), lo, hi, mem_dtype, True)
    inputs["decay"] = draw((cout,), 0, 256, np.int32, True)
    limits = (INT32.min, INT32.max) if extreme else (0, hi // 2)
    inputs["threshold"] = draw((cout,), *limits, np.int32, bool(rng.integers(2)))
    attributes = {"strides": strides, "pads": pads, "frac_bits": frac_bits, "reset": reset}
    return Layer("QConvLIFRec" if recurrent else "QConvLIF", inputs, attributes)


# --- the kernels, called directly -----------------------------------------------------------------


def check_kernels(layer: Layer, parts: int = 3) -> None:
    expected = layer.expected()
    kernel = KERNELS[layer.op_type]
    for target in TARGETS:
        got = kernel(**layer.inputs, **layer.attributes, target=target, parts=parts)
        op_models.assert_same(got, expected)
        mem = layer.inputs["mem"].copy()
        inputs = layer.inputs | {"mem": mem}
        got = kernel(**inputs, **layer.attributes, target=target, parts=1, in_place=True)
        op_models.assert_same(got, expected)
        assert np.shares_memory(got[1], mem)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_layer(data: st.DataObject) -> None:
    """Shapes, strides, pads, channels, resets and units nobody chose; values at their limits."""
    draw = data.draw
    mem_dtype = draw(st.sampled_from([np.int16, np.int8]))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    smallest = [max(1, kernel[i] - pads[i] - pads[i + 2]) for i in range(2)]
    odd = st.sampled_from([1, 3, 5])
    channels = st.sampled_from([1, 2, 5, 8, 16, 31, 32, 33, 64, 70])
    layer = make_layer(
        draw(st.integers(0, 10**6)),
        packed=draw(st.booleans()),
        recurrent=draw(st.booleans()),
        mem_dtype=mem_dtype,
        batch=draw(st.integers(1, 2)),
        cin=draw(channels),
        cout=draw(channels),
        size=(draw(st.integers(smallest[0], 7)), draw(st.integers(smallest[1], 40))),
        kernel=kernel,
        rec_kernel=(draw(odd), draw(odd)),
        strides=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        pads=pads,
        frac_bits=draw(st.integers(-30, 8 * np.dtype(mem_dtype).itemsize - 1)),
        reset=draw(st.sampled_from(spec.RESETS)),
        extreme=draw(st.booleans()),
    )
    check_kernels(layer, draw(st.integers(1, 4)))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("mem_dtype", [np.int16, np.int8])
@pytest.mark.parametrize("reset", spec.RESETS)
def test_the_layers_of_the_networks(recurrent: bool, mem_dtype: Any, reset: str) -> None:
    for packed, cin in ((False, 2), (True, 32)):
        for seed in range(3):
            layer = make_layer(
                seed,
                packed=packed,
                recurrent=recurrent,
                mem_dtype=mem_dtype,
                cin=cin,
                size=(7, 66),
                frac_bits=0 if mem_dtype is np.int16 else -4,
                reset=reset,
                extreme=seed == 2,
            )
            check_kernels(layer)


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 100])
def test_packing(channels: int) -> None:
    spikes = np.random.default_rng(channels).integers(0, 2, (2, channels, 5, 71), dtype=np.uint8)
    packed = _core.pack_spikes(spikes, parts=3)
    op_models.assert_same([packed], [spec.pack_spikes(spikes)])
    op_models.assert_same([_core.unpack_spikes(packed, channels, parts=4)], [spikes])


PACKED_CONVOLUTIONS = [
    ((1, 32, 6, 70), 2, (1, 1), (1, 1), (0, 0, 0, 0)),
    ((2, 33, 5, 9), 3, (3, 3), (1, 1), (1, 1, 1, 1)),
    ((1, 5, 8, 21), 4, (5, 2), (2, 3), (0, 2, 1, 0)),
]


def packed_convolution(seed: int, case: Any) -> tuple[Arrays, dict[str, Any]]:
    x_shape, out_channels, kernel, strides, pads = case
    inputs = op_models.qconv_inputs(seed, x_shape, out_channels, kernel)
    inputs["x"] = spec.pack_spikes(inputs["x"] % 2)
    return inputs, {"strides": strides, "pads": pads}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", PACKED_CONVOLUTIONS)
def test_convolutions_of_packed_spikes(target: str, case: Any) -> None:
    inputs, attributes = packed_convolution(1, case)
    got = _core.qconv(**inputs, **attributes, target=target, parts=3)
    op_models.assert_same([got], [spec.qconv(**inputs, **attributes)])
    unpacked = spec.unpack_spikes(inputs["x"], inputs["weight"].shape[1])
    op_models.assert_same([got], [spec.qconv(**(inputs | {"x": unpacked}), **attributes)])


# --- nodes of ONNX Runtime ------------------------------------------------------------------------


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv("LIF_OP_TARGET", name)
    return name


def node_model(layer: Layer, *, constant: bool, with_bodies: bool = False) -> tuple[Any, Arrays]:
    """A model of one node, and what to feed it."""
    states = ("x", "spike_prev", "mem")
    constants = {n: v for n, v in layer.inputs.items() if constant and n not in states}
    inputs = {name: value for name, value in layer.inputs.items() if name not in constants}
    model = op_models.single_node(
        layer.op_type,
        inputs,
        layer.outputs,
        constants=constants,
        with_bodies=with_bodies,
        order=list(layer.inputs),
        **layer.attributes,
    )
    return model, inputs


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("packed", "mem_dtype"), [(False, np.int16), (True, np.int8)])
def test_nodes(constant: bool, recurrent: bool, packed: bool, mem_dtype: Any) -> None:
    """Optimised or not, 1 and 2 threads."""
    other = np.int8 if mem_dtype is np.int16 else np.int16
    for kind, cout in ((mem_dtype, 32), (other, 12)):
        layer = make_layer(
            3,
            packed=packed,
            recurrent=recurrent,
            mem_dtype=kind,
            batch=2,
            cin=33 if packed else 2,
            cout=cout,
            size=(37, 21),
            strides=(1, 2),
        )
        model, inputs = node_model(layer, constant=constant)
        for level in (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_ALL):
            for threads in (1, 2):
                session = op_models.session(model, lif_op.register, threads=threads, level=level)
                for _ in range(2):
                    op_models.assert_same(session.run(None, inputs), layer.expected())


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("size", [(1, 9), (41, 30), (200, 90)])
def test_threads_change_nothing(size: tuple[int, int]) -> None:
    """Layers too small for several threads with every target, with the faster ones, with none."""
    for packed, recurrent in ((True, True), (False, False)):
        layer = make_layer(
            8, packed=packed, recurrent=recurrent, cin=32 if packed else 2, size=size
        )
        kernel = KERNELS[layer.op_type]
        expected = kernel(**layer.inputs, **layer.attributes, target=TARGETS[0], parts=1)
        model, inputs = node_model(layer, constant=True)
        for threads in (1, 2, 3):
            session = op_models.session(model, lif_op.register, threads=threads)
            for _ in range(3):
                op_models.assert_same(session.run(None, inputs), expected)


@pytest.mark.parametrize("side", [20, 300])
def test_threads_change_nothing_of_a_flow_head(side: int) -> None:
    case = ((1, 32, side, side), 2, (1, 1), (1, 1), (0, 0, 0, 0))
    tensors, attributes = packed_convolution(3, case)
    model = op_models.single_node("QConv", tensors, {"acc": np.int32}, **attributes)
    expected = [_core.qconv(**tensors, **attributes, target=TARGETS[0], parts=1)]
    for threads in (1, 2, 3):
        session = op_models.session(model, lif_op.register, threads=threads)
        op_models.assert_same(session.run(None, tensors), expected)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("case", PACKED_CONVOLUTIONS)
def test_convolution_nodes(constant: bool, case: Any) -> None:
    """With the library, and by the body, which is the same for bytes and words."""
    tensors, attributes = packed_convolution(2, case)
    constants = {n: v for n, v in tensors.items() if constant and n != "x"}
    inputs = {name: value for name, value in tensors.items() if name not in constants}
    model = op_models.single_node(
        "QConv", inputs, {"acc": np.int32}, constants=constants, **attributes
    )
    expected = [spec.qconv(**tensors, **attributes)]
    for register in (None, lif_op.register):
        for threads in (1, 2):
            session = op_models.session(model, register, threads=threads)
            op_models.assert_same(session.run(None, inputs), expected)
    del model.functions[:]
    model.functions.append(spec.function("QConv", strict_conv=True))
    op_models.assert_same(op_models.session(model, None).run(None, inputs), expected)


def test_the_library_computes_the_nodes(tmp_path: Any) -> None:
    """Without the library there is nothing that could."""
    for layer in (make_layer(4), make_layer(4, recurrent=True)):
        model, inputs = node_model(layer, constant=True)
        with pytest.raises(Exception, match=layer.op_type):
            op_models.session(model, None)
        op_models.assert_same(
            op_models.session(model, lif_op.register).run(None, inputs), layer.expected()
        )


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_states_in_place_and_in_turn(in_place: bool, threads: int) -> None:
    """The membrane in its own buffer or in two; spikes always in two."""
    layer = make_layer(5, recurrent=True, cin=8, cout=33, size=(35, 18))
    model, _ = node_model(layer, constant=True)
    session = op_models.session(model, lif_op.register, threads=threads)
    rng = np.random.default_rng(6)
    mem, previous = layer.inputs["mem"], layer.inputs["spike_prev"]
    mems = [mem.copy(), mem.copy()]
    spikes = [previous.copy(), previous.copy()]
    for step in range(6):
        x = spec.pack_spikes(rng.integers(0, 2, (1, 8, 35, 18), dtype=np.uint8))
        expected = layer.changed(x=x, mem=mem, spike_prev=previous).expected()
        now, after = step % 2, 1 - step % 2
        binding = session.io_binding()
        bound = {"x": x, "spike_prev": spikes[now], "mem": mems[0 if in_place else now]}
        values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(a) for n, a in bound.items()}
        outputs = {
            "spike": onnxruntime.OrtValue.ortvalue_from_numpy(spikes[after]),
            "mem_out": values["mem"]
            if in_place
            else onnxruntime.OrtValue.ortvalue_from_numpy(mems[after]),
        }
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        session.run_with_iobinding(binding)
        previous, mem = expected
        op_models.assert_same([spikes[after], mems[0 if in_place else after]], expected)
    assert previous.any()


def test_one_session_driven_from_threads_with_states_of_their_own() -> None:
    layer = make_layer(7, recurrent=True, size=(40, 30))
    model, inputs = node_model(layer, constant=True)
    for threads in (1, 2):
        session = op_models.session(model, lif_op.register, threads=threads)

        def drive(seed: int, session: Any = session) -> list[Any]:
            rng = np.random.default_rng(seed)
            state = {"spike_prev": inputs["spike_prev"], "mem": inputs["mem"]}
            results = []
            for _ in range(10):
                spikes = rng.integers(0, 2, (1, 32, 40, 30), dtype=np.uint8)
                results.append(session.run(None, {"x": spec.pack_spikes(spikes), **state}))
                state = dict(zip(("spike_prev", "mem"), results[-1], strict=True))
            return results

        alone = [drive(seed) for seed in range(4)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for got, want in zip(pool.map(drive, range(4)), alone, strict=True):
                for a, b in zip(got, want, strict=True):
                    op_models.assert_same(a, b)


# --- shapes, and what is refused ------------------------------------------------------------------


def test_inferred_shapes_keep_symbolic_dimensions() -> None:
    info, helper = op_models.tensor_info, onnx.helper
    for layer, words in ((make_layer(8, cout=33), 2), (make_layer(8, recurrent=True), 1)):
        model, _ = node_model(layer, constant=True)
        channels = layer.inputs["weight"].shape[0]
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            for position, name in enumerate(("N", "H", "W")):
                dims[position].Clear()
                dims[position].dim_param = name
        model.graph.node.append(
            helper.make_node("UnpackSpikes", ["spike"], ["bytes"], domain="snn", channels=channels)
        )
        model.graph.node.append(
            helper.make_node("PackSpikes", ["bytes"], ["again"], domain="snn", channels=channels)
        )
        for name, dtype in (("bytes", np.uint8), ("again", np.uint32)):
            value = info(name, dtype, [])
            value.type.tensor_type.ClearField("shape")
            model.graph.output.append(value)
        session = op_models.session(model, lif_op.register)
        shapes = {output.name: output.shape for output in session.get_outputs()}
        assert shapes["spike"] == ["N", "H", "W", words]
        assert shapes["mem_out"] == ["N", "H", "W", channels]
        assert [shapes["bytes"][i] for i in (0, 2, 3)] == ["N", "H", "W"]
        assert shapes["again"][:3] == ["N", "H", "W"]


LAYER = make_layer(9, recurrent=True, cin=33, cout=12, size=(5, 6))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x": np.zeros((1, 5, 6, 1), np.uint32)},
            r"'x' must have shape \[N, H, W, 2\]",
        ),
        ({"x": np.zeros((5, 6, 2), np.uint32)}, "'x' must have shape"),
        ({"weight": np.zeros((12, 33, 3), np.int8)}, "'weight' must have shape"),
        ({"weight": np.zeros((12, 0, 3, 3), np.int8)}, "'weight' is empty"),
        ({"bias": np.zeros(11, np.int32)}, r"'bias' must have shape \[12\]"),
        ({"mem": np.zeros((1, 12, 5, 6), np.int16)}, r"'mem' must have shape \[1, 5, 6, 12\]"),
        ({"mem": np.zeros((5, 6, 12), np.int16)}, r"'mem' must have shape \[1, 5, 6, 12\]"),
        ({"spike_prev": np.zeros((1, 5, 6, 2), np.uint32)}, r"'spike_prev' must have shape"),
        ({"weight_rec": np.zeros((12, 12, 2, 3), np.int8)}, "'weight_rec' must have shape"),
        ({"weight_rec": np.zeros((12, 13, 3, 3), np.int8)}, "'weight_rec' must have shape"),
        ({"decay": np.zeros((12, 1, 1), np.int32)}, r"'decay' must have shape \[12\]"),
        ({"decay": np.full(12, 257, np.int32)}, "'decay' must hold values from 0 to 256"),
        ({"threshold": np.zeros(1, np.int32)}, r"'threshold' must have shape \[12\]"),
    ],
)
def test_wrong_inputs_are_named(constant: bool, changes: Arrays, message: str) -> None:
    """By the kernels, and by the node: at once where everything wrong is a constant."""
    layer = LAYER.changed(**changes)
    with pytest.raises(ValueError, match=f"input {message}"):
        _core.qconv_lif_rec(**layer.inputs, **layer.attributes)
    model, inputs = node_model(layer, constant=constant)
    with pytest.raises(Exception, match=f"snn::QConvLIFRec: input {message}"):
        op_models.session(model, lif_op.register).run(None, inputs)


def test_wrong_attributes_are_named() -> None:
    for attributes, message in (
        ({"reset": "soft"}, "attribute 'reset' must be"),
        ({"frac_bits": 16}, "attribute 'frac_bits' must be from -30 to 15"),
        ({"strides": (0, 1)}, "attribute 'strides' must hold integers from 1"),
        ({"pads": (1, 1)}, "attribute 'pads' must hold 4 integers"),
    ):
        layer = Layer(LAYER.op_type, LAYER.inputs, LAYER.attributes | attributes)
        with pytest.raises(ValueError, match=message):
            _core.qconv_lif_rec(**layer.inputs, **layer.attributes)
        model, _ = node_model(layer, constant=True)
        with pytest.raises(Exception, match=f"snn::QConvLIFRec: {message}"):
            op_models.session(model, lif_op.register)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("strides", None, "'strides' is missing or not a list of integers"),
        ("pads", None, "'pads' is missing or not a list of integers"),
        ("pads", [1.0] * 4, "'pads' must hold 4 integers"),
        ("frac_bits", None, "'frac_bits' is missing or not an integer"),
        ("frac_bits", 1.5, "'frac_bits' is missing or not an integer"),
        ("reset", None, "'reset' is missing or not a text"),
        ("reset", 1, "'reset' is missing or not a text"),
        ("reset", "zero\0", "'reset' must be zero, subtract or none"),
    ],
)
def test_missing_attributes_and_those_of_a_wrong_kind_are_named(
    name: str, wrong: Any, message: str
) -> None:
    attributes = {n: v for n, v in LAYER.attributes.items() if n != name}
    if wrong is not None:
        attributes[name] = wrong
    model, _ = node_model(Layer(LAYER.op_type, LAYER.inputs, attributes), constant=True)
    with pytest.raises(Exception, match=f"snn::QConvLIFRec: attribute {message}"):
        op_models.session(model, lif_op.register)


@pytest.mark.parametrize("channels", [0, -3])
def test_packing_of_no_channels_is_refused(channels: int) -> None:
    packed = np.zeros((1, 2, 2, 1), np.uint32)
    with pytest.raises(ValueError, match="channels must be at least 1"):
        _core.unpack_spikes(packed, channels)
    model = op_models.single_node(
        "UnpackSpikes", {"x": packed}, {"y": np.uint8}, with_bodies=False, channels=channels
    )
    with pytest.raises(Exception, match="snn::UnpackSpikes: attribute 'channels' must be"):
        op_models.session(model, lif_op.register)


def test_dimensions_that_overflow_are_refused_before_anything_is_allocated() -> None:
    """Tensors without elements may have dimensions of any size."""
    huge = 2**40
    layer = make_layer(10, size=(4, 4))
    x = np.zeros((0, huge, 2**20, 1), np.uint32)
    for kernel in (
        lambda: _core.qconv_lif(**(layer.inputs | {"x": x}), **layer.attributes),
        lambda: _core.qconv(x, layer.inputs["weight"], layer.inputs["bias"]),
        lambda: _core.unpack_spikes(x, 32),
    ):
        with pytest.raises(ValueError, match=r"input '(x|packed)' is too large"):
            kernel()
    weight = np.zeros((2**20, 0, 2**20, 2**20), np.int8)
    with pytest.raises(ValueError, match="input 'weight' is too large"):
        _core.qconv_lif(**(layer.inputs | {"weight": weight}), **layer.attributes)


def memory_peak() -> int:
    """Bytes this process had at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_as_no_network_has_them(packed: bool) -> None:
    """Strides, kernels and channels far beyond the usual: equal, in memory for the tensors."""
    far: dict[str, Any] = {"packed": packed, "pads": (0, 0, 0, 0)}
    layers = [
        make_layer(1, recurrent=True, size=(1, 1), kernel=(1, 1), strides=(65536, 65536), **far),
        make_layer(2, cin=2, cout=2, size=(300, 2), kernel=(300, 1), **far),
        make_layer(3, cin=3, cout=2, size=(2, 300), kernel=(1, 300), **far),
        make_layer(4, cin=40_000, cout=3, size=(2, 2), kernel=(1, 1), **far),
        make_layer(5, cin=1, cout=1, size=(200, 200), kernel=(200, 200), **far),
        make_layer(6, cin=1, cout=1, size=(1, 1), **(far | {"pads": (200, 200, 200, 200)})),
    ]
    models = [(layer, *node_model(layer, constant=True)) for layer in layers]
    expected = [layer.expected() for layer in layers]
    before = memory_peak()
    for (_, model, inputs), wanted in zip(models, expected, strict=True):
        op_models.assert_same(op_models.session(model, lif_op.register).run(None, inputs), wanted)
    assert memory_peak() - before < 64 << 20


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("packed", [False, True])
def test_convolutions_of_sizes_as_no_network_has_them(packed: bool) -> None:
    cases: list[Any] = [
        ((1, 32, 1000, 1), 3, (1, 1), (1, 65536), (0, 0, 0, 0)),
        ((1, 4, 1, 1), 3, (1, 1), (60_000, 60_000), (65_536, 65_536, 65_536, 65_536)),
    ]
    for seed, case in enumerate(cases):
        inputs, attributes = packed_convolution(seed, case)
        wanted = inputs["bias"].reshape(1, -1, 1, 1) + np.zeros((1, 3, 3, 3), np.int32)
        if seed == 0:
            wanted = spec.qconv(**inputs, **attributes)
        if not packed:
            inputs["x"] = spec.unpack_spikes(inputs["x"], inputs["weight"].shape[1])
        model = op_models.single_node("QConv", inputs, {"acc": np.int32}, **attributes)
        before = memory_peak()
        op_models.assert_same(op_models.session(model, lif_op.register).run(None, inputs), [wanted])
        assert memory_peak() - before < 64 << 20


HUGE = 2**22


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("constant", [False, True])
def test_tensors_without_elements_take_no_time(constant: bool) -> None:
    """However many rows, positions or channels they have."""
    bias = np.arange(3, dtype=np.int32)
    for x, weight in (
        (np.zeros((1, 0, HUGE, 4), np.uint8), np.zeros((3, 0, HUGE, 2), np.int8)),
        (np.zeros((1, HUGE, 4, 0), np.uint32), np.zeros((3, 0, HUGE, 2), np.int8)),
        (np.zeros((HUGE, HUGE, 0, 1), np.uint32), np.zeros((0, 1, 1, 1), np.int8)),
    ):
        inputs = {"x": x, "weight": weight, "bias": bias[: weight.shape[0]]}
        constants = {n: inputs.pop(n) for n in ("weight", "bias") if constant}
        model = op_models.single_node(
            "QConv",
            inputs,
            {"acc": np.int32},
            constants=constants,
            strides=(1, 1),
            pads=(0, 0, 0, 1) if x.shape[2] == 0 else (0, 0, 0, 0),
        )
        (acc,) = op_models.session(model, lif_op.register).run(None, inputs)
        if weight.shape[0]:
            op_models.assert_same([acc], [np.broadcast_to(bias.reshape(1, 3, 1, 1), (1, 3, 1, 3))])
        else:
            assert acc.shape == (HUGE, 0, HUGE, 1)
    for op_type, x, kind in (
        ("PackSpikes", np.zeros((HUGE, 1, HUGE, 0), np.uint8), np.uint32),
        ("UnpackSpikes", np.zeros((HUGE, HUGE, 0, 1), np.uint32), np.uint8),
    ):
        model = op_models.single_node(op_type, {"x": x}, {"y": kind}, channels=1)
        assert op_models.session(model, lif_op.register).run(None, {"x": x})[0].size == 0


def test_a_weight_of_no_input_channels_is_not_packed() -> None:
    """Its output channels are not counted before the bias confirms them."""
    weight = np.zeros((2**40, 0, 1, 1), np.int8)
    for x in (np.zeros((1, 0, 2, 2), np.uint8), np.zeros((1, 2, 2, 0), np.uint32)):
        model = op_models.single_node(
            "QConv",
            {"x": x},
            {"acc": np.int32},
            constants={"weight": weight, "bias": np.zeros(3, np.int32)},
            strides=(1, 1),
            pads=(0, 0, 0, 0),
        )
        session = op_models.session(model, lif_op.register)
        with pytest.raises(Exception, match="snn::QConv: input 'bias' must have shape"):
            session.run(None, {"x": x})


def test_empty_batches() -> None:
    for recurrent in (False, True):
        layer = make_layer(11, recurrent=recurrent, batch=0, size=(4, 5))
        model, inputs = node_model(layer, constant=True)
        got = op_models.session(model, lif_op.register).run(None, inputs)
        assert [array.shape for array in got] == [(0, 4, 5, 1), (0, 4, 5, 32)]

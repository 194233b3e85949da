"""Bundles: the C code equals the integer graph, compiles everywhere, and is refused by name."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundle_tools import (
    CASES,
    CC,
    SELFTEST,
    SIZE,
    STRICT,
    TRACE,
    Written,
    assert_step,
    run,
    trace,
    write,
)
from onnx import numpy_helper

from calib_data import console
from export import bundle as command
from export.graphs.builder import Dims
from export.graphs.integer import integer_model
from export.microcontroller import source
from export.microcontroller.factors import integer_factor
from export.microcontroller.flow_head import fixed_head
from export.microcontroller.network import BundleError, FlowHead, identifier, read_network
from export.microcontroller.packing import Packing, packing_of
from export.microcontroller.vectors import crc, run_reference, synthetic_counts
from export.profile_export import build_profile
from export.profiles import PROFILES
from runtime.artifact import LoadedModel, load_model, validate_model
from runtime.errors import ArtifactError

STEPS = 50
SANITIZED = (*CC, *STRICT, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CXX = ("c++", "-x", "c++", "-std=c++17", "-O1", *STRICT)

# The undefined symbols of the integers' object on any processor: the C library's, and the head.
ALLOWED = {"memcpy", "memset", "net_flow_of", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")


@pytest.mark.parametrize("case", CASES)
def test_equals_the_integer_graph(
    case: str, bundles: Any, moving_counts: Any, tmp_path: Path
) -> None:
    written = bundles(case)
    program = written.compile(tmp_path / "trace", [*CC, *STRICT], TRACE)
    windows = moving_counts(STEPS, SIZE, seed=5)
    loaded = load_model(written.model)
    expected = run_reference(loaded, written.bundle.network, windows)
    waiting = {layer.name for layer in written.bundle.network.layers}
    found = trace([program], written.bundle, windows)
    for (step, fired), seen in zip(expected, found, strict=True):
        assert_step(written.bundle, seen, step)
        waiting -= fired
    assert not waiting


@pytest.mark.parametrize(
    ("case", "compiler"),
    [
        ("short-4-8", SANITIZED),
        ("uint8", SANITIZED),
        ("words", SANITIZED),
        ("short-4-8", CXX),
    ],
)
def test_selftest_prints_what_was_expected(
    case: str, compiler: tuple[str, ...], bundles: Any, tmp_path: Path
) -> None:
    written = bundles(case)
    assert not written.bundle.vectors.silent
    program = written.compile(tmp_path / "selftest", compiler, *SELFTEST)
    assert run([program]).decode() == (written.folder / "selftest/expected.txt").read_text()


def test_selftest_fails_on_another_weight(bundles: Any, tmp_path: Path) -> None:
    written = bundles("LIFFireNet")
    edited = tmp_path / "bundle"
    shutil.copytree(written.folder, edited)
    text = (edited / "net_weights.h").read_text()
    start = text.index("R1a_threshold[8] = {\n") + len("R1a_threshold[8] = {\n")
    first, rest = text[start:].split(",", 1)
    (edited / "net_weights.h").write_text(f"{text[:start]}    {int(first) + 1},{rest}")
    program = Written(written.bundle, edited, written.model).compile(
        tmp_path / "selftest", CC, *SELFTEST
    )
    with pytest.raises(AssertionError, match="expected"):
        run([program])


def test_fused_and_separate_graphs_give_the_same_code(sources: Any, tmp_path: Path) -> None:
    spec = sources.spec
    texts = []
    for name in ("integer", "integer-nchw"):
        model, _ = build_profile(PROFILES[name], spec, Dims(SIZE, free=False))
        texts.append(write(model, tmp_path / name).bundle.files)
    assert texts[0] == texts[1]


def test_free_size_is_chosen(sources: Any, tmp_path: Path) -> None:
    model = integer_model(sources.spec, Dims(SIZE, free=True))
    assert write(model, tmp_path / "a").bundle.network.resolution == SIZE
    small = write(model, tmp_path / "b", resolution=(9, 7))
    program = small.compile(tmp_path / "selftest", CC, *SELFTEST)
    run([program])
    assert "#define NET_HEIGHT 9 " in small.bundle.files["net.h"]


def test_sums_that_need_more_than_16_bits(
    make_sources: Any, moving_counts: Any, tmp_path: Path
) -> None:
    """Largest weights in one layer, whose sums are then kept in 32 bits; all its inputs fire."""
    spec = copy.deepcopy(make_sources("LIFFireNet_short", channels=40).spec)
    spec.layers[0].conv.bias[:] = 32000
    for weight in (spec.layers[1].conv.weight, spec.layers[1].weight_rec):
        weight[:] = np.where(weight < 0, -127, 127)
        weight[:5], weight[5:10] = 127, -127
    model = integer_model(spec, Dims(SIZE, free=False))
    written = write(model, tmp_path, allow_silent=True)
    network = written.bundle.network
    packings = [packing_of(network, layer) for layer in network.layers[:3]]
    assert packings == [None, None, Packing(8)]
    program = written.compile(tmp_path / "trace", [*CC, *STRICT, "-fsanitize=undefined"], TRACE)
    windows = moving_counts(8, SIZE)
    expected = run_reference(load_model(written.model), written.bundle.network, windows)
    for (step, _), seen in zip(expected, trace([program], written.bundle, windows), strict=True):
        assert_step(written.bundle, seen, step)
    assert step.states["mem.G1"].min() == -32768


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 1)])
def test_tiny_images(
    size: tuple[int, int], sources: Any, moving_counts: Any, tmp_path: Path
) -> None:
    """Fewer rows than a kernel is high: every border at once."""
    model = integer_model(sources.spec, Dims(size, free=False))
    written = write(model, tmp_path, allow_silent=True)
    program = written.compile(tmp_path / "trace", CC, TRACE)
    windows = [np.minimum(w * 9, 127) for w in moving_counts(20, size)]
    expected = run_reference(load_model(written.model), written.bundle.network, windows)
    for (step, _), seen in zip(expected, trace([program], written.bundle, windows), strict=True):
        assert_step(written.bundle, seen, step)


def test_sizes_are_those_of_the_object(bundles: Any, tmp_path: Path) -> None:
    written = bundles("uint8-4-8")
    sizes, network = written.bundle.sizes, written.bundle.network
    probe = tmp_path / "probe.c"
    names = [
        f"{layer.identifier}_{what}"
        for layer in network.layers
        for what in ("weight", "bias", "decay", "threshold", "factor")
    ]
    names += [f"{layer.identifier}_weight_rec" for layer in network.layers if layer.recurrent]
    names += ["pred_weight", "pred_bias", "zeros_8"]
    flow = 2 * written.bundle.fixed.tables.size
    probe.write_text(
        '#include "net.c"\n#include <stdio.h>\nint main(void) {\n'
        f'printf("%zu %zu %zu", sizeof arena.state, sizeof arena.buffers, {flow} + '
        + " + ".join(f"sizeof {name}" for name in names)
        + ");\nreturn 0; }\n"
    )
    program = tmp_path / "probe"
    run([*CC, f"-I{written.folder}", "-o", program, probe, written.folder / "net_head.c"])
    assert run([program]).split() == [
        str(value).encode() for value in (sizes.state, sizes.buffers, sizes.constants)
    ]


@pytest.mark.parametrize("fixed", [False, True])
def test_nothing_allocates_and_nothing_floats_before_the_head(
    fixed: bool, bundles: Any, tmp_path: Path
) -> None:
    """Symbols of the objects, and the text of the sources."""
    written = bundles("uint8-4-8" if fixed else "uint8")
    symbols = {}
    for name in ("net", "net_head"):
        target = tmp_path / f"{name}.o"
        run([*CC, f"-I{written.folder}", "-c", written.folder / f"{name}.c", "-o", target])
        lines = run(["nm", target]).decode().splitlines()
        symbols[name] = {line.split()[-1] for line in lines if line.split()[-2] == "U"}
        if name == "net":
            public = {line.split()[-1] for line in lines if line.split()[-2] in "TDRB"}
    assert symbols["net"] <= ALLOWED
    assert symbols["net_head"] <= (set() if fixed else {"tanhf", "_GLOBAL_OFFSET_TABLE_"})
    assert public == {"net_reset", "net_step", "net_step_rows", "net_states"}
    for name in ("net.c", "net_kernels.h", "net_weights.h"):
        code = written.bundle.files[name].replace("float32", "")
        assert "double" not in code and "float" not in code
    assert ("float " in written.bundle.files["net_head.c"]) != fixed


def test_kernels_of_a_target_take_the_place_of_ours(bundles: Any, tmp_path: Path) -> None:
    written = bundles("short-4-8")
    header = tmp_path / "my_kernels.h"
    header.write_text(
        "extern int32_t calls;\n"
        "static inline int32_t my_bit(uint32_t word)\n"
        "{\n    int32_t n = 0;\n    while (!(word & 1u)) { word >>= 1; ++n; }\n"
        "    ++calls;\n    return n;\n}\n"
        "#define NET_LOWEST_BIT my_bit\n"
        "static inline void my_add(int32_t *sums, const int8_t *weights, int32_t channels)\n"
        "{\n    while (channels-- > 0) { sums[channels] += weights[channels]; }\n}\n"
        "#define NET_ADD_WEIGHTS my_add\n"
    )
    counter = tmp_path / "counter.c"
    counter.write_text(
        "#include <stdint.h>\n#include <stdlib.h>\nint32_t calls;\n"
        "static void check(void) { if (calls == 0) { abort(); } }\n"
        "void start(void);\n__attribute__((constructor)) void start(void) { atexit(check); }\n"
    )
    define = f'-DNET_TARGET_KERNELS="{header}"'
    program = written.compile(tmp_path / "selftest", [*CC, define], *SELFTEST, counter)
    assert run([program]).decode() == (written.folder / "selftest/expected.txt").read_text()


def test_builds_with_cmake(bundles: Any, tmp_path: Path) -> None:
    written = bundles("flow-short")
    build = tmp_path / "build"
    run(["cmake", "-S", written.folder, "-B", build])
    run(["cmake", "--build", build])
    assert b"100% tests passed" in run(["ctest", "--test-dir", build])


def test_requantization_is_that_of_float32(tmp_path: Path, bundles: Any) -> None:
    """Halves, sums that float32 rounds onto a half, factors of every size."""
    random = np.random.default_rng(3)
    multipliers = [0.5, 0.25, 1.0, 3.0, 127.5, 255.9, 300.0, 1e30, 1e-9, 1e-38, 2.0**-24]
    multipliers += np.exp(random.uniform(-14, 4, 60)).tolist()
    # Products a hair beside a half: (k + 1/2) / a, rounded to float32.
    whole = random.integers(0, 128, 200) + 0.5
    multipliers += (whole / random.integers(1, 2**16, 200)).tolist()
    table = np.array(multipliers, np.float32)
    sums = [
        np.unique(
            np.clip(
                np.concatenate(
                    [
                        np.arange(-40, 41),
                        random.integers(-(2**24), 2**24, 60),
                        np.rint((np.arange(-129, 130) + 0.5) / float(m)),
                        np.rint((np.arange(-129, 130) + 0.5) / float(m)) + 1,
                    ]
                ),
                -(2**24),
                2**24,
            )
        ).astype(np.int32)
        for m in table
    ]
    factors = [integer_factor(m) for m in table]
    harness = tmp_path / "requantize.c"
    harness.write_text(
        '#include "net_kernels.h"\n#include <stdio.h>\nint main(void) {\n'
        "net_factor f; unsigned m, l, s, n; int a;\n"
        'while (scanf("%u %u %u %u", &m, &l, &s, &n) == 4) {\n'
        "f.mantissa = m; f.largest = l; f.shift = (uint8_t)s;\n"
        'while (n--) { if (scanf("%d", &a) != 1) return 1; '
        'printf("%d\\n", (int)net_requantize(a, &f)); } }\nreturn 0; }\n'
    )
    program = tmp_path / "requantize"
    folder = bundles("uint8").folder
    run([*CC, "-fsanitize=undefined", f"-I{folder}", "-o", program, harness])
    given = "\n".join(
        f"{f.mantissa} {f.largest} {f.shift} {a.size} {' '.join(map(str, a.tolist()))}"
        for f, a in zip(factors, sums, strict=True)
    )
    found = np.array(run([program], given.encode()).split(), int)
    with np.errstate(over="ignore"):
        expected = np.concatenate(
            [
                np.clip(np.rint(a.astype(np.float32) * m), -128, 127)
                for a, m in zip(sums, table, strict=True)
            ]
        )
    np.testing.assert_array_equal(found, expected)


def test_fixed_flow_is_within_its_bound(bundles: Any) -> None:
    written = bundles("LIFFireNet")
    fixed, head = written.bundle.fixed, written.bundle.network.head
    reach = head.largest_sum()
    sums = np.arange(-reach, reach + 1, dtype=np.int32).repeat(2).reshape(1, -1, 2, 1)
    sums = np.ascontiguousarray(sums.transpose(0, 2, 1, 3))
    exact = np.tanh(sums * head.scale.astype(np.float64).reshape(1, 2, 1, 1))
    off = np.abs(fixed.values(sums) / 2.0**fixed.frac_bits - exact).max()
    assert off <= fixed.error <= 2.0 / 2**fixed.frac_bits
    assert f"{fixed.error:.3g}" in written.bundle.files["net.h"]


@pytest.mark.parametrize(("bias", "scale"), [(0, 1.0), (300, 0.02), (1 << 21, 1e-9), (70000, 1e-3)])
def test_fixed_heads_of_any_size(bias: int, scale: float, tmp_path: Path, bundles: Any) -> None:
    """In 32 bits, from the smallest sums to the largest, and for sums that are never reached."""
    given = bundles("LIFFireNet").bundle.network
    head = FlowHead(
        given.head.convolution,
        np.array([bias, -bias // 2], np.int32),
        np.array([scale, scale / 3], np.float32),
    )
    fixed, reach = fixed_head(head), head.largest_sum()
    text = source.head_source(replace(given, head=head), fixed)
    (tmp_path / "net_head.c").write_text(text)
    sums = np.unique(np.concatenate([np.linspace(-reach, reach, 4000), np.arange(-50, 51)]))
    sums = np.clip(np.rint(sums), -reach, reach).astype(np.int32)
    harness = tmp_path / "flow.c"
    harness.write_text(
        '#include "net.h"\n#include <stdio.h>\nint main(void) {\nint a;\n'
        'while (scanf("%d", &a) == 1) printf("%d %d\\n", (int)net_flow_of(a, 0), '
        "(int)net_flow_of(a, 1));\nreturn 0; }\n"
    )
    program, folder = tmp_path / "flow", bundles("LIFFireNet").folder
    flags = [*CC, *STRICT, "-fsanitize=undefined", "-fno-sanitize-recover=all", f"-I{folder}"]
    run([*flags, "-o", program, harness, tmp_path / "net_head.c"])
    beyond = [-(2**31), 2**31 - 1]
    found = run([program], "\n".join(map(str, [*sums.tolist(), *beyond])).encode())
    values = np.array(found.split(), int).reshape(-1, 2)
    both = sums.reshape(1, 1, -1, 1).repeat(2, axis=1)
    expected = fixed.values(both)[0, :, :, 0].T
    np.testing.assert_array_equal(values[:-2], expected)
    np.testing.assert_array_equal(values[-2:], expected[[0, -1]])
    exact = np.tanh(sums[:, None] * head.scale.astype(np.float64))
    assert np.abs(expected / 2.0**fixed.frac_bits - exact).max() <= fixed.error


# The command and its folder.


def main(*arguments: object) -> int:
    return console.run(command.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(bundles: Any) -> Path:
    path: Path = bundles("flow-short").model
    return path


def test_command_writes_and_says_the_sizes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(model, "--target", "c", "--out", out, "--flow", "fixed") == 0
    text = capsys.readouterr().out
    manifest = json.loads((out / "bundle.json").read_text())
    for part, size in manifest["bytes"].items():
        assert part in text and str(size) in text
    assert "off tanh by at most" in text and "pixels per window" in text
    assert main(model, "--out", out, "--json", "--measure") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["figures"]["code"][0]["ram"] == values["bytes"]["arena"]
    for tool, count in (("valgrind", "instructions"), ("qemu-system-arm", "board_instructions")):
        if shutil.which(tool) and shutil.which("arm-none-eabi-gcc"):
            pixels = SIZE[0] * SIZE[1] * len(CASES)
            assert pixels < values["figures"][count] < 10000 * pixels
    assert values["flow"]["type"] == "float32"


def test_command_takes_a_recording(model: Path, tmp_path: Path, scene: Path) -> None:
    assert main(model, "--out", tmp_path / "out", "--data", scene) == 2
    free = tmp_path / "free.onnx"
    make_free(model, free)
    out = tmp_path / "free"
    arguments = ("--resolution", 32, 48, "--data", scene, "--window", 200, "--allow-silent")
    assert main(free, "--out", out, *arguments) == 0
    program = tmp_path / "selftest"
    files = [out / name for name in ("net.c", "net_head.c", *SELFTEST)]
    run([*CC, f"-I{out}", f"-I{out}/port", "-o", program, *files, "-lm"])
    assert run([program]).decode() == (out / "selftest/expected.txt").read_text()


def make_free(path: Path, target: Path) -> None:
    """A copy of a file with free sizes."""
    model = onnx.load(path)
    entry = next(p for p in model.metadata_props if p.key == "snn.artifact")
    about = json.loads(entry.value)
    about["spatial_free"] = True
    height, width = about["resolution"]
    names = {1: "N", height: "H", width: "W"}
    for state in about["states"]:
        state["shape"] = ["N", "H", "W", state["shape"][3]]
    entry.value = json.dumps(about)
    for value in [*model.graph.input, *model.graph.output]:
        last = value.name.startswith(("mem", "spike"))
        for place, d in enumerate(value.type.tensor_type.shape.dim):
            if place != (3 if last else 1):
                name = names[d.dim_value]
                d.ClearField("dim_value")
                d.dim_param = name
    onnx.save(model, target)


def test_folder_is_replaced_only_if_it_is_a_bundle(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(model, "--out", out) == 0
    (out / "old.txt").write_text("of an older bundle")
    assert main(model, "--out", out) == 0
    assert not (out / "old.txt").exists() and (out / "net.c").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    assert main(model, "--out", other) == 2
    assert "holds something other than a bundle" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
    file = tmp_path / "file"
    file.write_text("")
    assert main(model, "--out", file) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other", "out"]


def test_nothing_is_left_when_writing_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(model, "--out", out) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    written = Path.write_text

    def full(path: Path, text: str, *args: Any, **kwargs: Any) -> int:
        if path.name == "net_head.c":
            raise OSError(28, "No space left on device", str(path))
        return written(path, text, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    assert main(model, "--out", out) == 2
    assert main(model, "--out", tmp_path / "fresh") == 2
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_silent_layers_are_refused(sources: Any, tmp_path: Path) -> None:
    spec = copy.deepcopy(sources.spec)
    spec.layers[3].threshold[:] = 32767
    model = integer_model(spec, Dims((6, 8), free=False))
    with pytest.raises(BundleError, match="layer 'R1b' never fires"):
        write(model, tmp_path / "a")
    written = write(model, tmp_path / "b", allow_silent=True)
    assert "R1b" in written.bundle.vectors.silent


# Refusals.

Edit = Callable[[onnx.ModelProto, dict[str, Any]], None]


def node_of(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def set_ints(node: onnx.NodeProto, name: str, values: list[int]) -> None:
    attribute = next(a for a in node.attribute if a.name == name)
    attribute.ints[:] = values


def initial_state(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    about["states"][0]["init"] = 3


def extra_node(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    node = node_of(model, "Tanh")
    model.graph.node.insert(
        len(model.graph.node) - 1,
        onnx.helper.make_node("Neg", [node.input[0]], ["negated"], name="negate"),
    )
    node.input[0] = "negated"


def padding(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    set_ints(node_of(model, "QConvLIF"), "pads", [0, 0, 2, 2])


def swapped_states(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    """The membranes of two layers change places on their way out."""
    swap = {"mem_out.R1a": "mem_out.R2a", "mem_out.R2a": "mem_out.R1a"}
    for node in model.graph.node:
        node.output[:] = [swap.get(name, name) for name in node.output]


def skipped_layer(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    """R2a reads the spikes of G1 in place of those of G2."""
    nodes = [node for node in model.graph.node if node.op_type.startswith("QConvLIF")]
    nodes[4].input[0] = nodes[1].output[0]


def large_weights(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "R1a.bias")
    values = numpy_helper.to_array(tensor).copy()
    values[0] = 2**31 - 5
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    import lif_op.spec

    del model.functions[:]
    model.functions.extend(lif_op.spec.functions(strict_conv=True))


def negative_scale(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "pred.scale")
    values = -numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (initial_state, "state 'mem.head' starts at 3"),
        (extra_node, r"node 'negate' \(Neg\) is not part of such a network"),
        (padding, "does not keep the image's size"),
        (swapped_states, "state 'mem_out.R1a' is not what layer 'R1a' computes"),
        (skipped_layer, "is not next in a chain of layers"),
        (large_weights, r"R1a.* can sum to 2147\d+, more than"),
        (negative_scale, "scales that are not positive"),
    ],
)
def test_inconsistent_artifacts_are_refused(
    edit: Edit, message: str, bundles: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(bundles("words").model)
    entry = next(p for p in model.metadata_props if p.key == "snn.artifact")
    about = json.loads(entry.value)
    edit(model, about)
    entry.value = json.dumps(about)
    path = tmp_path / "edited.onnx"
    onnx.save(model, path)
    with pytest.raises(BundleError, match=message):
        read_network(load_model(path))
    assert main(path, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_kinds_are_refused(sources: Any, tmp_path: Path) -> None:
    for kind in ("float", "qdq"):
        with pytest.raises(BundleError, match=f"a file of kind {kind}"):
            write(sources.graph(kind), tmp_path)
    voxel = integer_model(sources.spec, Dims(SIZE, free=False))
    entry = next(p for p in voxel.metadata_props if p.key == "snn.artifact")
    entry.value = json.dumps(json.loads(entry.value) | {"encoding": "voxel"})
    with pytest.raises(BundleError, match="encoding voxel"):
        write(voxel, tmp_path)
    model, _ = build_profile(PROFILES["portable-int"], sources.spec, Dims(SIZE, free=False))
    with pytest.raises(BundleError, match="bundles take the graphs that"):
        write(model, tmp_path)
    with pytest.raises(BundleError, match="MiB of RAM at 4096 x 4096 pixels"):
        free = integer_model(sources.spec, Dims(SIZE, free=True))
        write(free, tmp_path, resolution=(4096, 4096))
    with pytest.raises(BundleError, match="made for 18 x 26"):
        write(integer_model(sources.spec, Dims(SIZE, free=False)), tmp_path, resolution=(8, 8))


def garble(model: onnx.ModelProto, draw: random.Random) -> None:
    """One change that a stranger, or a fault of an exporter, could have made."""
    node = draw.choice(model.graph.node)
    tensor = draw.choice(model.graph.initializer)
    other = draw.choice(model.graph.initializer)
    what = draw.randrange(5)
    if what == 0 and node.input:
        names = [name for each in model.graph.node for name in each.input]
        node.input[draw.randrange(len(node.input))] = draw.choice(names)
    elif what == 1 and node.input:
        del node.input[-1]
    elif what == 2 and node.attribute:
        attribute = draw.choice(node.attribute)
        if attribute.ints:
            attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice([0, 1, 2, 3])
        else:
            attribute.i = draw.choice([0, 1, 2, 6])
    elif what == 3:
        values = numpy_helper.to_array(tensor)
        changed = draw.choice(
            [values.reshape(-1)[:1], values[..., None], values.reshape(-1).repeat(2), values * 0]
        )
        tensor.CopyFrom(numpy_helper.from_array(np.array(changed), tensor.name))
    else:
        tensor.name, other.name = other.name, tensor.name


@pytest.mark.parametrize("case", ["flow-short", "uint8"])
def test_garbled_graphs_are_one_error(case: str, bundles: Any) -> None:
    draw = random.Random(11)
    given = onnx.load(bundles(case).model)
    refused = 0
    for _ in range(80):
        model = onnx.ModelProto()
        model.CopyFrom(given)
        garble(model, draw)
        try:
            artifact = validate_model(model)
        except ArtifactError:
            continue
        try:
            read_network(LoadedModel(Path("garbled"), artifact, model, b""))
        except BundleError as error:
            assert "garbled" in str(error)
            refused += 1
    assert refused > 3


def test_small_weights_take_half_the_flash(bundles: Any) -> None:
    for case, bits in (("LIFFireNet", 8), ("short-4-8", 4), ("uint8-4-8", 4)):
        network = bundles(case).bundle.network
        packings = [packing_of(network, layer) for layer in network.layers]
        assert packings == [None] + [Packing(bits)] * (len(packings) - 1)
    weights = np.array([[-8, 7, 0, 1, -1, 2, 3, 4, 5]], np.int8)
    assert [hex(word) for word in Packing(4).pack(weights)[0]] == ["0xcba798f0", "0x8888888d"]
    assert [hex(word) for word in Packing(8).pack(weights)[0, :1]] == ["0x81808778"]


def test_layers_of_one_name_in_c_are_refused(bundles: Any) -> None:
    assert identifier("R1a") == "R1a" and identifier("0.conv-x") == "layer_0_conv_x"
    assert identifier("flow") == "layer_flow" and identifier("a*/b") == "a_b"
    model = onnx.load(bundles("flow-short").model)
    entry = next(p for p in model.metadata_props if p.key == "snn.artifact")
    entry.value = entry.value.replace('R1a"', 'G_1"').replace('G1"', 'G.1"')
    for value in [*model.graph.input, *model.graph.output]:
        value.name = value.name.replace(".R1a", ".G_1").replace(".G1", ".G.1")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [
                name.replace("mem.G1", "mem.G.1")
                .replace("mem.R1a", "mem.G_1")
                .replace("out.G1", "out.G.1")
                .replace("out.R1a", "out.G_1")
                for name in names
            ]
    artifact = validate_model(model)
    with pytest.raises(BundleError, match="layer 'G_1' has the name of another one in C"):
        read_network(LoadedModel(Path("twice"), artifact, model, b""))


def test_names_of_an_artifact_cannot_become_code() -> None:
    assert source.comment_text("x */ int y; /*\n") == "x __ int y_ ___"
    assert source.comment_text("a" * 500) == "a" * 80


def test_crc_does_not_depend_on_the_byte_order() -> None:
    values = np.array([1, -2, 300], "<i2")
    assert crc(values) == crc(values.astype(">i2"))


def test_synthetic_counts_are_what_the_encoder_gives() -> None:
    windows = list(synthetic_counts(2, (9, 11), 12))
    assert {w.shape for w in windows} == {(1, 2, 9, 11)} and {w.dtype for w in windows} == {
        np.dtype(np.uint8)
    }
    assert max(int(w.max()) for w in windows) == 127

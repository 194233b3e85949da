"""Any Brevitas module to float, QDQ and integer files, with what was checked about them."""

from __future__ import annotations

import gc
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

from calib_data.console import progress
from export.errors import ExportError
from export.files import write_model
from export.module_inputs import Inputs, Samples
from export.module_profiles import MODULE_PROFILES, ModuleProfile
from export.oracle import run_integer
from export.passes import find_pass, run_passes
from export.torch_graph import Route, export_float, export_qdq, run_module
from runtime.timing import Timing, times_faster

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="fast_hadamard_transform package not found")
    from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
    from brevitas.proxy import ActQuantProxyFromInjector

FILES = {"float": "module.float.onnx", "qdq": "module.qdq.onnx", "int8": "module.int8.onnx"}
CANONICAL = (
    "clean",
    "fold_weights",
    "integer_bias",
    "explicit_zero_points",
    "remove_redundant_quantizers",
)
THREADS = (1, 2)
TIMED_RUNS = 15
WARMUP_RUNS = 3
LSB = 1.0 / 255

_LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_ISLANDS = frozenset(
    {
        "AveragePool", "BatchNormalization", "Conv", "Div", "Erf", "Exp", "Gelu", "Gemm",
        "GlobalAveragePool", "HardSigmoid", "HardSwish", "InstanceNormalization",
        "LayerNormalization", "Log", "MatMul", "Pow", "ReduceMean", "Resize", "Sigmoid", "Softmax",
        "Sqrt", "Tanh",
    }
)  # fmt: skip
"""Operators whose last bits in float depend on the runtime."""

_SCALE_INPUTS = {
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
}

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Options:
    """route: exporter. bias_correction: after calibration. quiet: no progress bars. profiles:
    graphs to write beside the three."""

    route: Route = "torchscript"
    bias_correction: bool = False
    quiet: bool = False
    profiles: tuple[ModuleProfile, ...] = ()


@dataclass(frozen=True)
class Difference:
    """The largest difference of two runs over all outputs and held-out samples.

    lsb: in units of the output's quantizer, or of 1/255 of the output's range where it has none.
    share: of values that differ.
    """

    lsb: float
    share: float

    def to_dict(self) -> dict[str, float]:
        """JSON values."""
        return {"max_lsb": self.lsb, "share_differing": self.share}


@dataclass(frozen=True)
class Report:
    """What was written and found.

    paths: by kind. torch_qdq, qdq_integer: neighbouring stages compared. runs: runs of ONNX Runtime
    on the integer graph and how many equalled the oracle bit for bit. islands: nodes that stay in
    float arithmetic whose last bits are nobody's contract; where there are some, ``runs`` are
    compared within one LSB. constants: number of values by type in the integer graph. floats_left:
    float constants that are no scales. timings: by threads and kind. profiles: difference of each
    further graph to the QDQ graph, or None where it equals the integer oracle bit for bit.
    """

    paths: dict[str, Path]
    own_scales: bool
    torch_qdq: Difference
    qdq_integer: Difference
    runs: int
    islands: tuple[str, ...]
    nodes: dict[str, int]
    constants: dict[str, int]
    floats_left: tuple[str, ...]
    timings: dict[int, dict[str, Timing]]
    profiles: dict[str, Difference | None]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "files": {
                kind: {"file": str(path), "bytes": path.stat().st_size}
                for kind, path in self.paths.items()
            },
            "scales": "the module's own" if self.own_scales else "calibrated",
            "brevitas_to_qdq": self.torch_qdq.to_dict(),
            "qdq_to_integer": self.qdq_integer.to_dict(),
            "integer_runs": self.runs,
            "integer_equal": "within one LSB" if self.islands else "bit for bit",
            "float_islands": list(self.islands),
            "profiles": {
                name: {"equal": "bit for bit"} if gap is None else gap.to_dict()
                for name, gap in self.profiles.items()
            },
            "nodes": self.nodes,
            "constants": self.constants,
            "float_constants": list(self.floats_left),
            "latency": {
                str(threads): {
                    kind: timing.to_dict() | {"times_float": times_faster(timing, row["float"])}
                    for kind, timing in row.items()
                }
                for threads, row in self.timings.items()
            },
        }


def calibrate(module: nn.Module, samples: Sequence[Inputs], options: Options) -> None:
    """Set the scales of a module's activations from samples, in place.

    Raises:
        ExportError: the module does not run on them.
    """
    module.eval()
    with torch.no_grad(), calibration_mode(module):
        _forward(module, samples, "calibrating", options)
    if options.bias_correction:
        with torch.no_grad(), bias_correction_mode(module):
            _forward(module, samples, "correcting biases", options)


def _forward(module: nn.Module, samples: Sequence[Inputs], what: str, options: Options) -> None:
    for sample in progress(samples, what, len(samples), quiet=options.quiet):
        run_module(module, sample)


def check_module(module: nn.Module) -> None:
    """Refuse what no file of integers can come of.

    Raises:
        ExportError: no quantizer at all, or a batch norm by name.
    """
    quantizers = [
        part
        for part in module.modules()
        if isinstance(part, ActQuantProxyFromInjector) and part.is_quant_enabled
    ]
    if not quantizers:
        raise ExportError(
            f"{type(module).__name__} has no activation quantizer; build it from brevitas.nn layers"
        )
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise ExportError(
                f"module {name!r} ({type(part).__name__}) has no integer form; fold it into the "
                "layer before it with brevitas.nn.utils.merge_bn, before calibration"
            )


def integer_model(raw: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The canonical QDQ graph and the integer graph of a raw export.

    Raises:
        PassError: a node that has no integer form and has to have one.
    """
    qdq, _ = run_passes(raw, [find_pass(name)() for name in CANONICAL])
    return qdq, MODULE_PROFILES["integer"].build(qdq)


def export_module(module: nn.Module, samples: Samples, out: Path, options: Options) -> Report:
    """Calibrate, export, check and time a module; writes the three files of ``FILES``.

    Args:
        module: calibrated in place where there are calibration samples.
        samples: first of the held-out ones gives the shapes.
        out: folder.
        options: see there.

    Raises:
        ExportError: the module cannot be exported, or a file computes something else.
    """
    check_module(module)
    if samples.calibration:
        calibrate(module, samples.calibration, options)
    example = samples.held_out[0]
    names, outputs = samples.names, _output_names(module, example)
    raw = export_qdq(module, example, route=options.route, input_names=names, output_names=outputs)
    qdq, integer = integer_model(raw)
    floating = export_float(module, example, input_names=names, output_names=outputs)
    models = {"float": floating, "qdq": qdq, "int8": integer}
    feeds = [
        {name: tensor.numpy() for name, tensor in zip(names, sample, strict=True)}
        for sample in samples.held_out
    ]
    islands = tuple(_islands(integer))
    stages = _Stages(integer, outputs)
    torch_outputs = [
        {name: t.numpy() for name, t in zip(outputs, run_module(module, sample), strict=True)}
        for sample in samples.held_out
    ]
    qdq_outputs = [run_onnx(_session(qdq, "off", 1), feed) for feed in feeds]
    oracle = [
        run_integer(integer, feed)
        for feed in progress(feeds, "integer oracle", len(feeds), quiet=options.quiet)
    ]
    runs = _check_runs(integer, feeds, oracle, stages, bool(islands), options)
    more = {profile.name: profile.build(qdq) for profile in options.profiles}
    gaps = {
        profile.name: _check_profile(
            profile, more[profile.name], feeds, qdq_outputs, None if islands else oracle, stages
        )
        for profile in options.profiles
    }
    paths = {kind: write_model(model, out / FILES[kind]) for kind, model in models.items()}
    for profile in options.profiles:
        paths[profile.name] = write_model(more[profile.name], out / profile.file)
    return Report(
        paths=paths,
        own_scales=not samples.calibration,
        torch_qdq=stages.compare(torch_outputs, qdq_outputs),
        qdq_integer=stages.compare(qdq_outputs, oracle),
        runs=runs,
        islands=islands,
        nodes=dict(Counter(node.op_type for node in integer.graph.node)),
        constants=_census(integer),
        floats_left=tuple(_float_constants(integer)),
        timings={
            threads: _time(models | more, feeds, threads, options.quiet) for threads in THREADS
        },
        profiles=gaps,
    )


def _output_names(module: nn.Module, example: Inputs) -> list[str]:
    count = len(run_module(module, example))
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _session(model: onnx.ModelProto, level: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exception classes have no common base
        raise ExportError(
            f"ONNX Runtime refuses the graph: {str(error).splitlines()[0]}"
        ) from error


def run_onnx(session: onnxruntime.InferenceSession, feed: Arrays) -> Arrays:
    """Outputs of a session by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


class _Stages:
    """Compares outputs in units of their last place, which the integer graph knows."""

    def __init__(self, integer: onnx.ModelProto, outputs: Sequence[str]) -> None:
        constants = {t.name: numpy_helper.to_array(t) for t in integer.graph.initializer}
        makers = {name: node for node in integer.graph.node for name in node.output}
        self._units: dict[str, float] = {}
        for name in outputs:
            node = makers.get(name)
            while node is not None and node.op_type in ("Reshape", "Flatten", "Transpose"):
                node = makers.get(node.input[0])
            if node is not None and node.op_type == "DequantizeLinear":
                source = makers.get(node.input[0])
                # An accumulator's unit is no last place of anything that is stored.
                if source is not None and source.op_type in ("QuantizeLinear", "QLinearConv"):
                    self._units[name] = float(constants[node.input[1]].min())

    def compare(self, left: Sequence[Arrays], right: Sequence[Arrays]) -> Difference:
        largest, differing, total = 0.0, 0, 0
        for a, b in zip(left, right, strict=True):
            for name in a:
                span = float(np.ptp(a[name])) or 1.0
                gap = np.abs(a[name].astype(np.float64) - b[name])
                unit = self._units.get(name, span * LSB)
                largest = max(largest, float(gap.max()) / unit)
                # Below a thousandth of a unit two float32 sums differ in order, not in value.
                differing += int((gap > unit * 1e-3).sum())
                total += gap.size
        return Difference(largest, differing / total)


def _check_runs(
    model: onnx.ModelProto,
    feeds: Sequence[Arrays],
    oracle: Sequence[Arrays],
    stages: _Stages,
    islands: bool,
    options: Options,
) -> int:
    """ONNX Runtime against the oracle; returns the number of runs.

    Raises:
        ExportError: a value differs (with float islands: by more than one LSB).
    """
    settings = [(level, threads) for level in _LEVELS for threads in THREADS]
    for level, threads in progress(settings, "ONNX Runtime", len(settings), quiet=options.quiet):
        session = _session(model, level, threads)
        got = [run_onnx(session, feed) for feed in feeds]
        if islands:
            within = stages.compare(oracle, got).lsb <= 1.001
            where = "" if within else "an output by more than one LSB"
        else:
            where = ", ".join(_unequal(oracle, got))
        if where:
            raise ExportError(
                f"the integer graph in ONNX Runtime (optimisation {level}, {threads} threads) "
                f"differs from its oracle in {where}"
            )
    return len(settings) * len(feeds)


def _check_profile(
    profile: ModuleProfile,
    model: onnx.ModelProto,
    feeds: Sequence[Arrays],
    qdq: Sequence[Arrays],
    oracle: Sequence[Arrays] | None,
    stages: _Stages,
) -> Difference | None:
    """Run a profile's graph; None where it has to equal the oracle and does.

    Args:
        oracle: of the integer graph; None where float islands leave no exact one.

    Raises:
        ExportError: an exact profile differs from the oracle.
    """
    exact = profile.exact and oracle is not None
    for level in ("all", "off"):
        session = _session(model, level, THREADS[0])
        got = [run_onnx(session, feed) for feed in feeds]
        if exact and oracle is not None:
            where = _unequal(oracle, got)
            if where:
                raise ExportError(
                    f"profile {profile.name} in ONNX Runtime (optimisation {level}) differs from "
                    f"the integer oracle in {', '.join(where)}"
                )
    return None if exact else stages.compare(qdq, got)


def _unequal(left: Sequence[Arrays], right: Sequence[Arrays]) -> list[str]:
    pairs = zip(left, right, strict=True)
    return sorted({name for a, b in pairs for name in a if not np.array_equal(a[name], b[name])})


def _islands(model: onnx.ModelProto) -> Iterator[str]:
    """Nodes whose float results depend on how a runtime computes them."""
    types = {entry.name: entry.type.tensor_type.elem_type for entry in _typed(model)}
    for node in model.graph.node:
        real = types.get(node.output[0]) == onnx.TensorProto.FLOAT
        if real and node.op_type in _ISLANDS and not node.domain:
            yield f"{node.name or node.output[0]} ({node.op_type})"


def _typed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return [*inferred.value_info, *inferred.output]


def _census(model: onnx.ModelProto) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        counts[str(array.dtype)] += array.size
    return dict(sorted(counts.items()))


def _float_constants(model: onnx.ModelProto) -> Iterator[str]:
    """Float initializers that some node reads as something else than a scale."""
    floats = {t.name for t in model.graph.initializer if numpy_helper.to_array(t).dtype.kind == "f"}
    for node in model.graph.node:
        scales = _SCALE_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name in floats and position not in scales:
                yield f"{name} of {node.name or node.output[0]} ({node.op_type})"


def _time(
    models: Mapping[str, onnx.ModelProto], feeds: Sequence[Arrays], threads: int, quiet: bool
) -> dict[str, Timing]:
    """Run float, QDQ and integer graph in turn, fully optimised."""
    sessions = {kind: _session(model, "all", threads) for kind, model in models.items()}
    seconds = {kind: np.zeros(TIMED_RUNS) for kind in sessions}
    numbers = range(-WARMUP_RUNS, TIMED_RUNS)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in progress(numbers, f"timing, {threads} threads", len(numbers), quiet=quiet):
            feed = feeds[number % len(feeds)]
            for kind, session in sessions.items():
                start = time.perf_counter()
                session.run(None, feed)
                if number >= 0:
                    seconds[kind][number] = time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()
    return {kind: Timing(values) for kind, values in seconds.items()}

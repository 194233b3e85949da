"""Both files of a rewrite on the same random inputs: what came out differently?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

from calib_data.encodings import COUNT_LIMIT
from export.errors import ExportError
from export.grids import artifact_of
from export.passes.attach_functions import AttachFunctions
from export.passes.base import Array
from export.passes.trial_layout import StateLayouts
from runtime.graph_checks import EVENTS

FREE_SIZE = 16
"""Of dimensions that a file leaves free; the first of a tensor, its batch, is 1."""

_ERRORS_ONLY = 4
_BEYOND = 1.1
"""How far, relative to a quantizer's range, its random inputs reach."""

_TOLERANCE = 1e-5

Arrays = dict[str, Array]
Limits = dict[str, tuple[float, float]]


class TrialSkipped(ExportError):
    """The file given cannot be run as it is; the message says why."""


@dataclass(frozen=True)
class Difference:
    """How one output changed.

    largest: absolute, in the output's own unit; infinite where one file gives NaN. differing:
    elements that are not equal, of total. integer: whether both files give integers. magnitude: the
    largest finite value before.
    """

    output: str
    largest: float
    differing: int
    total: int
    integer: bool
    magnitude: float

    def accepted(self, tolerance: float | None = None) -> bool:
        """Whether integers are equal and floats differ by at most the tolerance.

        Args:
            tolerance: absolute; None for 1e-5 of the largest value before.
        """
        if self.integer:
            return not self.differing
        allowed = _TOLERANCE * self.magnitude if tolerance is None else tolerance
        return self.largest <= allowed


@dataclass(frozen=True)
class Trial:
    """runs: how many random inputs. outputs: of both files. only: outputs that one file has, not
    compared. retyped: inputs and outputs whose type changed, which are compared as numbers."""

    runs: int
    outputs: list[Difference]
    only: list[str]
    retyped: list[str]

    @property
    def largest(self) -> float:
        """The largest difference of any output."""
        return max((entry.largest for entry in self.outputs), default=0.0)


def compare(before: onnx.ModelProto, after: onnx.ModelProto, runs: int, seed: int = 0) -> Trial:
    """Run two models in ONNX Runtime, unoptimised and without the op library.

    Inputs of one name get the same numbers, in each model's own type; states of artifacts also in
    its own layout. Integers are random over
    what both types hold (counts and spikes of artifacts over what these can be); floats that a
    QuantizeLinear reads cover its range and a tenth more, others are standard normal.

    Raises:
        TrialSkipped: the first model does not run, or has an input of a kind nobody can guess.
        ExportError: the second does not run where the first does.
    """
    try:
        first = _session(before)
        feeds = list(_inputs(before, after, runs, seed))
        wanted = [_run(first, before, feed) for feed in feeds]
    except Exception as error:  # ONNX Runtime's exception classes have no common base
        raise TrialSkipped(f"the file given does not run ({_first_line(error)})") from error
    try:
        second = _session(after)
        got = [_run(second, after, feed) for feed in feeds]
    except Exception as error:
        raise ExportError(
            f"the rewritten file does not run ({_first_line(error)}); "
            "--check 0 writes it without running it"
        ) from error
    shared = [name for name in wanted[0] if name in got[0]]
    differences = [
        _difference(name, [w[name] for w in wanted], [g[name] for g in got]) for name in shared
    ]
    only = sorted(set(wanted[0]) ^ set(got[0]))
    return Trial(runs, differences, only, _retyped(before, after))


def _retyped(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    sides = []
    for model in (before, after):
        values = [*_true_inputs(model), *model.graph.output]
        sides.append({v.name: TensorProto.DataType.Name(_kind(v)).lower() for v in values})
    first, second = sides
    return [
        f"{name}: {first[name]} -> {second[name]}"
        for name in first
        if name in second and first[name] != second[name]
    ]


def _kind(value: onnx.ValueInfoProto) -> int:
    kind: int = value.type.tensor_type.elem_type
    return kind


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    runnable = onnx.ModelProto()
    runnable.CopyFrom(model)
    AttachFunctions().rewrite_model(runnable)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    return onnxruntime.InferenceSession(
        runnable.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _run(session: onnxruntime.InferenceSession, model: onnx.ModelProto, feed: Arrays) -> Arrays:
    types = {value.name: _dtype(value) for value in _true_inputs(model)}
    names = [output.name for output in session.get_outputs()]
    layouts = StateLayouts(model)
    given = {n: layouts.laid_out(n, feed[n]).astype(types[n], copy=False) for n in types}
    results = zip(names, session.run(names, given), strict=True)
    return {name: layouts.plain(name, array) for name, array in results}


def _true_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    held = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in held]


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(_kind(value))
    if dtype.kind not in "iufb":
        raise ValueError(f"input {value.name!r} is of a type without random values")
    return dtype


def _inputs(
    before: onnx.ModelProto, after: onnx.ModelProto, runs: int, seed: int
) -> Iterator[Arrays]:
    generator = np.random.default_rng(seed)
    sides = [{v.name: v for v in _true_inputs(model)} for model in (before, after)]
    limits = _limits(before)
    layouts = StateLayouts(before), StateLayouts(after)
    for _ in range(runs):
        feed: Arrays = {}
        for name in {**sides[0], **sides[1]}:
            values = [side[name] for side in sides if name in side]
            dtypes = sorted((_dtype(value) for value in values), key=lambda d: d.itemsize)
            layout = layouts[0 if name in sides[0] else 1]
            shape = layout.plain_shape(name, _shape(values[0]))
            feed[name] = _random(generator, shape, dtypes, limits.get(name))
        yield feed


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ValueError(f"input {value.name!r} has no shape")
    free = [1] + [FREE_SIZE] * len(tensor.shape.dim)
    return [d.dim_value or size for d, size in zip(tensor.shape.dim, free, strict=False)]


def _random(
    generator: np.random.Generator,
    shape: list[int],
    dtypes: list[np.dtype[Any]],
    limits: tuple[float, float] | None,
) -> Array:
    integers = [dtype for dtype in dtypes if dtype.kind in "iu"]
    if any(dtype.kind == "b" for dtype in dtypes):
        return generator.integers(0, 2, shape)
    if not integers and limits is None:
        return generator.standard_normal(shape)
    if not integers and limits is not None:
        return generator.uniform(*limits, shape)
    low = max(np.iinfo(dtype).min for dtype in integers)
    high = min(np.iinfo(dtype).max for dtype in integers)
    if limits is not None:
        low, high = max(low, int(np.ceil(limits[0]))), min(high, int(limits[1]))
    return generator.integers(low, high, shape, np.int64, endpoint=True)


def _limits(model: onnx.ModelProto) -> Limits:
    """What inputs can hold: counts and spikes of artifacts, and the range of a quantizer."""
    arrays = {t.name: t for t in model.graph.initializer}
    found: Limits = {}
    for node in model.graph.node:
        scale = arrays.get(node.input[1]) if node.op_type == "QuantizeLinear" else None
        zero = arrays.get(node.input[2]) if scale is not None and len(node.input) > 2 else None
        if scale is None or zero is None:
            continue
        unit = float(numpy_helper.to_array(scale).max())
        offset = numpy_helper.to_array(zero)
        if offset.dtype.kind in "iu":
            ends = np.array([np.iinfo(offset.dtype).min, np.iinfo(offset.dtype).max], np.float64)
            low, high = (ends - float(offset.flat[0])) * unit * _BEYOND
            found[node.input[0]] = (float(low), float(high))
    artifact = artifact_of(model)
    if artifact is not None:
        found |= {state.input: (0.0, 1.0) for state in artifact.states if state.role == "spike"}
        if artifact.encoding == "cnt":
            found[EVENTS] = (0.0, float(COUNT_LIMIT))
    return found


def _difference(name: str, wanted: list[Array], got: list[Array]) -> Difference:
    largest, differing, total, magnitude = 0.0, 0, 0, 0.0
    for left, right in zip(wanted, got, strict=True):
        if left.shape != right.shape:
            raise ExportError(
                f"output {name!r} has shape {list(right.shape)} after the passes and "
                f"{list(left.shape)} before; --check 0 writes the file nevertheless"
            )
        equal = (left == right) | ((left != left) & (right != right))
        real = left.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.abs(real - right.astype(np.float64))
        gap = np.where(equal, 0, np.where(np.isnan(gap), np.inf, gap))
        largest = max(largest, float(gap.max(initial=0)))
        magnitude = max(magnitude, float(np.abs(real[np.isfinite(real)]).max(initial=0)))
        differing, total = differing + int((~equal).sum()), total + left.size
    integer = all(array.dtype.kind in "iub" for array in (wanted[0], got[0]))
    return Difference(name, largest, differing, total, integer, magnitude)

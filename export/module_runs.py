"""Graphs of one network run in ONNX Runtime and held against the integer oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from calib_data.console import progress
from export.difference import Arrays
from export.errors import ExportError
from export.module_profiles import ModuleProfile
from export.trace import first_line

LSB = 1.0 / 255
CHECK_THREADS = (1, 2)

_LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_ERRORS_ONLY = 3


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


def onnx_session(model: onnx.ModelProto, level: str, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Args:
        model: any.
        level: of optimisation: off, basic or all.
        threads: within an operator.

    Raises:
        ExportError: ONNX Runtime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exception classes have no common base
        raise ExportError(f"ONNX Runtime refuses the graph: {first_line(error)}") from error


def run_onnx(session: onnxruntime.InferenceSession, feed: Arrays) -> Arrays:
    """Outputs of a session by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


class Outputs:
    """Compares outputs in units of their last place, which the integer graph knows.

    Args:
        integer: the integer graph.
    """

    def __init__(self, integer: onnx.ModelProto) -> None:
        constants = {t.name: numpy_helper.to_array(t) for t in integer.graph.initializer}
        makers = {name: node for node in integer.graph.node for name in node.output}
        self._units: dict[str, float] = {}
        for output in integer.graph.output:
            node = makers.get(output.name)
            while node is not None and node.op_type in ("Reshape", "Flatten", "Transpose"):
                node = makers.get(node.input[0])
            if node is not None and node.op_type == "DequantizeLinear":
                source = makers.get(node.input[0])
                # An accumulator's unit is no last place of anything that is stored.
                if source is not None and source.op_type in ("QuantizeLinear", "QLinearConv"):
                    self._units[output.name] = float(constants[node.input[1]].min())

    def compare(self, left: Sequence[Arrays], right: Sequence[Arrays]) -> Difference:
        """The largest difference of two runs over the same samples."""
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


@dataclass(frozen=True)
class Checks:
    """What graphs are held against.

    feeds: samples. oracle: outputs of the integer graph's NumPy oracle. qdq: outputs of the QDQ
    graph. outputs: compares. exact: whether the oracle is exact, that is, without float islands.
    quiet: no progress bar.
    """

    feeds: Sequence[Arrays]
    oracle: Sequence[Arrays]
    qdq: Sequence[Arrays]
    outputs: Outputs
    exact: bool
    quiet: bool

    def integer_runs(self, model: onnx.ModelProto) -> int:
        """The integer graph in ONNX Runtime against the oracle; returns the number of runs.

        Raises:
            ExportError: a value differs (with float islands: by more than one LSB).
        """
        settings = [(level, threads) for level in _LEVELS for threads in CHECK_THREADS]
        shown = progress(settings, "ONNX Runtime", len(settings), quiet=self.quiet)
        for level, threads in shown:
            got = self._run(model, level, threads)
            if self.exact:
                where = ", ".join(_unequal(self.oracle, got))
            else:
                within = self.outputs.compare(self.oracle, got).lsb <= 1.001
                where = "" if within else "an output by more than one LSB"
            if where:
                raise ExportError(
                    f"the integer graph in ONNX Runtime (optimisation {level}, {threads} threads) "
                    f"differs from its oracle in {where}"
                )
        return len(settings) * len(self.feeds)

    def profile(self, profile: ModuleProfile, model: onnx.ModelProto) -> Difference | None:
        """Run a profile's graph; None where it has to equal the oracle and does, else its
        difference from the QDQ graph.

        Raises:
            ExportError: an exact profile differs from the oracle.
        """
        exact = profile.exact and self.exact
        for level in ("all", "off"):
            got = self._run(model, level, CHECK_THREADS[0])
            where = _unequal(self.oracle, got) if exact else []
            if where:
                raise ExportError(
                    f"profile {profile.name} in ONNX Runtime (optimisation {level}) differs from "
                    f"the integer oracle in {', '.join(where)}"
                )
        return None if exact else self.outputs.compare(self.qdq, got)

    def _run(self, model: onnx.ModelProto, level: str, threads: int) -> list[Arrays]:
        session = onnx_session(model, level, threads)
        return [run_onnx(session, feed) for feed in self.feeds]


def _unequal(left: Sequence[Arrays], right: Sequence[Arrays]) -> list[str]:
    pairs = zip(left, right, strict=True)
    return sorted({name for a, b in pairs for name in a if not np.array_equal(a[name], b[name])})

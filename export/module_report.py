"""What an export of any Brevitas module found, for people's tables and for ``report.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.module_runs import Difference
from export.module_stages import ModuleStage
from runtime.timing import Timing, times_faster


@dataclass(frozen=True)
class Report:
    """What was written and found.

    paths, sizes: of the files, in bytes, by kind. torch_qdq, qdq_integer: outputs of neighbouring
    graphs, differences carried on from layer to layer. runs: runs of ONNX Runtime on the integer
    graph and how many equalled the oracle bit for bit. islands: nodes that stay in float arithmetic
    whose last bits are nobody's contract; where there are some, ``runs`` are compared within one
    LSB. constants: number of values by type in the integer graph. floats_left: float constants that
    are no scales. timings: by threads and kind. profiles: difference of each further graph to the
    QDQ graph, or None where it equals the integer oracle bit for bit. stages: by kind; those of
    ``qdq`` come first, those of every other kind follow on them.
    """

    paths: dict[str, Path]
    sizes: dict[str, int]
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
    stages: dict[str, list[ModuleStage]]

    def to_dict(self) -> dict[str, Any]:
        """JSON values of all but the stages."""
        return {
            "files": {
                kind: {"file": str(path), "bytes": self.sizes[kind]}
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

    def stages_dict(self) -> dict[str, Any]:
        """JSON values of the stages, as ``stages.json`` holds them."""
        return {
            "artifacts": [
                {
                    "profile": kind,
                    "file": str(self.paths[kind]),
                    "bytes": self.sizes[kind],
                    "after": None if kind == "qdq" else "qdq",
                    "stages": [stage.to_dict() for stage in stages],
                }
                for kind, stages in self.stages.items()
            ]
        }

"""Checks the op library in another Python with another, older ONNX Runtime.

usage: python oldest_runtime.py LIBRARY.so REPOSITORY

Needs numpy, onnx, onnxruntime and nothing of this project but ``lif_op/spec.py``, in particular
no compiled Python module. Prints the runtime's version and exits with 0 when every op gives what
the NumPy references give.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = Any
FLOAT, UINT8, INT16, INT32 = (
    TensorProto.FLOAT,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.INT32,
)


def build(constants: dict[str, Array]) -> bytes:
    """Events -> QConv -> QLIF, and beside it both float neurons on the same current."""
    conv = {"domain": "snn", "strides": [1, 1], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("QConv", ["x", "weight", "bias"], ["acc"], **conv),
        helper.make_node(
            "QLIF",
            ["acc", "mem", "decay", "threshold"],
            ["spike", "mem_out"],
            domain="snn",
            frac_bits=-1,
            reset="subtract",
        ),
        helper.make_node("Cast", ["acc"], ["current"], to=FLOAT),
        helper.make_node(
            "LIF",
            ["current", "mem_f", "beta_f", "threshold_f"],
            ["spike_f", "mem_out_f"],
            domain="snn",
            reset="zero",
        ),
        helper.make_node(
            "LIF",
            ["current", "mem_f", "beta_f", "threshold_f"],
            ["spike_g", "mem_out_g"],
            domain="SNN_implementation",
        ),
    ]
    shape = ["N", 8, "H", "W"]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "ops",
        [
            info("x", UINT8, ["N", 2, "H", "W"]),
            info("mem", INT16, shape),
            info("mem_f", FLOAT, shape),
        ],
        [
            info("acc", INT32, shape),
            info("spike", UINT8, shape),
            info("mem_out", INT16, shape),
            *(info(name, FLOAT, shape) for name in ("spike_f", "mem_out_f")),
            *(info(name, FLOAT, shape) for name in ("spike_g", "mem_out_g")),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("snn", 1)]
    opsets.append(helper.make_opsetid("SNN_implementation", 1))
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def references(spec: Any, feeds: dict[str, Array], constants: dict[str, Array]) -> list[Array]:
    acc = spec.qconv(feeds["x"], constants["weight"], constants["bias"], (1, 1), (1, 1, 1, 1))
    current = acc.astype(np.float32)
    beta, threshold = constants["beta_f"], constants["threshold_f"]
    return [
        acc,
        *spec.qlif(acc, feeds["mem"], constants["decay"], constants["threshold"], -1, "subtract"),
        *spec.lif(current, feeds["mem_f"], beta, threshold, "zero"),
        *spec.foreign_lif(current, feeds["mem_f"], beta, threshold),
    ]


def main(library: str, repository: str) -> int:
    sys.path.insert(0, repository)
    from lif_op import spec

    rng = np.random.default_rng(0)
    shape = (1, 8, 13, 21)
    constants = {
        "weight": rng.integers(-128, 128, (8, 2, 3, 3)).astype(np.int8),
        "bias": rng.integers(-99, 99, 8).astype(np.int32),
        "decay": rng.integers(0, 257, 8).astype(np.int32),
        "threshold": rng.integers(0, 999, 8).astype(np.int32),
        "beta_f": rng.random(8).astype(np.float32),
        "threshold_f": rng.random(8).astype(np.float32),
    }
    feeds = {
        "x": rng.integers(0, 256, (1, 2, *shape[2:])).astype(np.uint8),
        "mem": rng.integers(-999, 999, shape).astype(np.int16),
        "mem_f": rng.random(shape).astype(np.float32),
    }
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(
        build(constants), options, providers=["CPUExecutionProvider"]
    )
    expected = references(spec, feeds, constants)
    got = session.run(None, feeds)
    wrong = [
        output.name
        for output, a, b in zip(session.get_outputs(), got, expected, strict=True)
        if not np.array_equal(a, b)
    ]
    print(f"onnxruntime {onnxruntime.__version__}: {'differs: ' if wrong else 'equal'}", *wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))

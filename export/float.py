"""Export the float artifact: ``python -m export.float --help``."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from calib_data.console import run
from export.check import check_float
from export.files import write_model
from export.graphs.builder import Dims
from export.graphs.floating import float_model
from export.network import add_network_arguments, load_network, positive_pair

NOMINAL_RESOLUTION = (256, 256)


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m export.float",
        description="Export a network as a float32 ONNX file with explicit state.",
        epilog="example: python -m export.float --checkpoint weights.pth --out model.float.onnx",
    )
    add_network_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("model.float.onnx"), metavar="F")
    parser.add_argument(
        "--resolution",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="fix batch 1 and this size; without it batch, height and width stay free",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    model = load_network(arguments)
    resolution = positive_pair(arguments.resolution, NOMINAL_RESOLUTION)
    dims = Dims(resolution, free=arguments.resolution is None)
    check = partial(check_float, model=model)
    path = write_model(float_model(model, dims), arguments.out, check)
    size = path.stat().st_size
    if arguments.json:
        print(json.dumps({"file": str(path), "bytes": size, "model": model.config.model}))
    else:
        print(f"{path}: {model.config.model}, {size} bytes, equals PyTorch within its bound")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))

"""Fine-tune a network on its integer grid (QAT), from a configuration with a ``quant:`` section.

The loop is that of ``training.fit``; see ``python -m training.fit --help`` for its options. Beside
the files of any run it writes ``best.qat.safetensors``, the float shadows from which training can
go on, and ``best.quantized.safetensors``, the integers to export.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import cast

from calib_data.console import run

EPILOG = "example: python -m quant.qat --config configs/qat_snn.yml --out runs/qat"


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    # By name: the loop stands in a room above this one.
    loop = importlib.import_module("training.fit")
    fit = cast(Callable[..., int], loop.main)
    return fit(argv, prog="python -m quant.qat", description=__doc__, epilog=EPILOG, quantized=True)


if __name__ == "__main__":
    sys.exit(run(main))

"""Compiles a folder of ``--profile deeploy`` to C with Deeploy's generic target.

python examples/deeploy/compile.py build/mine/model.deeploy --out build/deeploy

Runs in an environment of its own with deeploy-pulp (``make deeploy`` makes one), not in ours.
Writes ``Network.c`` and ``Network.h``; ``kernels.c`` and ``steps.c`` beside this file complete a
program.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

HEADER = """#pragma once
#include <stdint.h>
{includes}
void RunNetwork(uint32_t core, uint32_t cores);
void InitNetwork(uint32_t core, uint32_t cores);
{buffers}
"""

SOURCE = """#include <stdlib.h>
#include <string.h>
{includes}
#include "Network.h"
{buffers}
{globals}
void RunNetwork(uint32_t core, uint32_t cores) {{
(void)core; (void)cores;
{setup}
{body}
}}
void InitNetwork(uint32_t core, uint32_t cores) {{
(void)core; (void)cores;
{engine}
{allocation}
}}
"""

# Inputs that the network feeds back to itself: number of the output, number of the input.
PAIRS = """#pragma once
#define STATES {count}
static const int state_pairs[][2] = {{{pairs}}};
"""


def input_types(folder: Path) -> dict[str, Any]:
    """C types of the graph's inputs, by Deeploy's names for them."""
    from Deeploy.AbstractDataTypes import PointerClass
    from Deeploy.CommonExtensions.DataTypes import int8_t, int16_t, int32_t

    known = {kind.typeName: kind for kind in (int8_t, int16_t, int32_t)}
    entries = json.loads((folder / "types.json").read_text())["inputs"]
    return {entry["key"]: PointerClass(known[entry["type"]]) for entry in entries}


def state_pairs(folder: Path) -> list[tuple[int, int]]:
    """Which output is which input's next value."""
    types = json.loads((folder / "types.json").read_text())
    inputs = {entry["tensor"]: number for number, entry in enumerate(types["inputs"])}
    pairs = []
    for number, entry in enumerate(types["outputs"]):
        kind, _, layer = entry["tensor"].partition("_out.")
        if layer:
            pairs.append((number, inputs[f"{kind}.{layer}"]))
    return pairs


def compile_network(folder: Path, out: Path) -> None:
    """Write Network.c, Network.h and pairs.h."""
    import onnx
    import onnx_graphsurgeon
    from Deeploy.Targets.Generic.Deployer import GenericDeployer
    from Deeploy.Targets.Generic.Platform import GenericOptimizer

    sys.path.insert(0, str(HERE))
    from qlif import platform

    types = input_types(folder)
    deployer = GenericDeployer(
        onnx_graphsurgeon.import_onnx(onnx.load_model(folder / "network.onnx")),
        platform(),
        types,
        GenericOptimizer,
        lambda graph: [[node] for node in graph.nodes],
        default_channels_first=True,
        deeployStateDir=str(out / "states"),
        inputOffsets=dict.fromkeys(types, 0),
    )
    body = deployer.generateFunction()
    (out / "Network.h").write_text(
        HEADER.format(
            includes=deployer.generateIncludeString(),
            buffers=deployer.generateIOBufferInitializationCode(),
        )
    )
    (out / "Network.c").write_text(
        SOURCE.format(
            includes=deployer.generateIncludeString(),
            buffers=deployer.generateBufferInitializationCode(),
            globals=deployer.generateGlobalDefinitionCode(),
            setup=deployer.generateInferenceInitializationCode(),
            body=body,
            engine=deployer.generateEngineInitializationCode(),
            allocation=deployer.generateBufferAllocationCode(),
        )
    )
    pairs = state_pairs(folder)
    text = ", ".join(f"{{{source}, {target}}}" for source, target in pairs)
    (out / "pairs.h").write_text(PAIRS.format(count=len(pairs), pairs=text))


def main() -> int:
    """Compile; exit 2 with one line where it cannot."""
    parser = argparse.ArgumentParser(
        description="Compile an export of profile deeploy to C with Deeploy's generic target.",
        epilog="example: python examples/deeploy/compile.py build/mine/model.deeploy --out build/d",
    )
    parser.add_argument("folder", type=Path, help="what export.qdq --profile deeploy wrote")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not (options.folder / "types.json").is_file():
        print(f"error: {options.folder} has no types.json: export it with --profile deeploy")
        return 2
    try:
        import Deeploy  # noqa: F401
    except ImportError:
        print("error: deeploy-pulp is not installed here; `make deeploy` makes an environment")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    compile_network(options.folder, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

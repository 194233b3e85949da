"""``spikedeploy <command> ...``: the second spelling of ``python -m <module> ...``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from calib_data import console
from runtime.house import check_house

COMMANDS = {
    "export.qdq": "quantize a network, write float, QDQ and integer files, and run them",
    "export.float": "write a network as a float32 ONNX file",
    "export.diff": "compare two graphs of a network tensor by tensor",
    "export.passes": "rewrite an ONNX file with chosen graph passes",
    "export.view": "look at a graph in a browser, or draw it",
    "export.bundle": "write an integer network as plain C for microcontrollers",
    "export.layer": "write single layers with test vectors for other people's kernels",
    "quant.ptq": "quantize trained weights, tune and report layer by layer",
    "quant.qat": "fine-tune a network on its integer grid",
    "runtime.evaluate": "drive files over a recording and score their flow",
    "runtime.analyze": "spike rates, dead neurons and membranes by layer and channel",
    "runtime.trace": "membranes, thresholds and spikes of chosen neurons over time",
    "runtime.parity": "compare two runs of a network bit for bit",
    "bench.latency": "measure time per step, memory and the split by operator",
    "bench.kernels": "time every kernel on every target against the roofs of the core",
    "bench.scaling": "sweep image size, threads and spike density, with charts",
    "bench.synops": "count synaptic operations, traffic and estimated energy by layer",
    "bench.soak": "a million small steps: differences, bounds, memory, reset",
    "bench.recordings": "artifacts on a folder of real recordings",
    "calib_data.prepare": "bring MVSEC, DSEC and other recordings to the layout read here",
    "calib_data.inspect": "rate, polarity, hot pixels, gaps and disorder of a recording",
    "calib_data.synthetic": "render a synthetic recording with exact flow",
    "training.fit": "train a network",
    "training.card": "ship a trained network with its model card",
}
"""Module of each command; its last part is a short name."""

SHORT = {name.rpartition(".")[2]: name for name in COMMANDS}

Main = Callable[[list[str] | None], int]


class CommandError(ValueError):
    """No such command, or its extra is not installed."""

    user_error = True


def usage() -> str:
    """The help text: every command with its purpose."""
    width = max(len(name) for name in COMMANDS) + 2
    lines = [f"  {name:<{width}}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: spikedeploy <command> [options]",
            "",
            "Spiking optical-flow networks to ONNX artifacts that run, match and are measured.",
            "",
            "commands:",
            *lines,
            "",
            "Each is also `python -m <command>`; the part before the dot may be left out.",
            "`spikedeploy <command> --help` tells the options.",
        ]
    )


def command_main(command: str) -> Main:
    """The ``main`` of a command, given its full or short name.

    Raises CommandError when there is none, or a package it needs is not installed.
    """
    name = SHORT.get(command, command)
    if name not in COMMANDS:
        raise CommandError(f"no command {command!r}; `spikedeploy --help` lists them")
    check_house()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {room.partition(".")[0] for room in COMMANDS}:
            raise
        raise CommandError(
            f"{name} needs the package {missing!r}, which is not installed; "
            "pip install 'spikedeploy[export]' (or [training])"
        ) from error
    main: Main = module.main
    return main


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    return command_main(arguments[0])(arguments[1:])


def entry() -> int:
    """The console script."""
    return console.run(main)


if __name__ == "__main__":
    raise SystemExit(entry())

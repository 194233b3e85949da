"""``python -m export.qdq --profile``: quantize as the profiles need it, write every one."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from calib_data.console import progress
from calib_data.files import atomic_path
from export.errors import ExportError
from export.float import NOMINAL_RESOLUTION
from export.graphs.builder import Dims
from export.network import load_network, positive_pair
from export.pipeline import Windows, calibration_sequences
from export.profile_export import Written, export_profiles
from export.profiles import PROFILES, Profile, find_profile
from export.stages import Stage
from models import SpikingFireNet
from quant import QuantOptions, calibrate, is_quantized_checkpoint, load_spec, quantize
from quant.spec import CURRENTS, NetworkSpec
from runtime.evaluate import table_console

STAGES = "stages.json"

Specs = dict[str, NetworkSpec]


def add_profile_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --profile, --list-profiles, --current and --per-tensor."""
    group = parser.add_argument_group("profiles")
    group.add_argument(
        "--profile",
        nargs="+",
        metavar="P",
        help=f"write these instead of float, qdq and int8: {', '.join(PROFILES)}",
    )
    group.add_argument(
        "--per-tensor", action="store_true", help="one weight scale per layer, not per channel"
    )
    group.add_argument("--list-profiles", action="store_true", help="describe them and stop")
    group.add_argument(
        "--current",
        choices=CURRENTS,
        help="what a neuron receives: the accumulator itself, or requantized to 8 bits (default: "
        "what the profile needs, else accumulator)",
    )


def list_profiles() -> int:
    """Print every profile with its summary and its passes."""
    for profile in PROFILES.values():
        print(f"{profile.name}: {profile.summary}")
        print(f"  writes {profile.file}; passes {', '.join(s.name for s in profile.steps)}")
    return 0


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse combinations that mean nothing.

    Raises:
        ExportError: by option.
    """
    if arguments.profile is None:
        if arguments.current is not None:
            raise ExportError("--current goes with --profile; without it all currents are exact")
        if arguments.per_tensor:
            raise ExportError("--per-tensor goes with --profile")
        if arguments.checkpoint is not None and is_quantized_checkpoint(arguments.checkpoint):
            raise ExportError(
                f"{arguments.checkpoint} holds integers and no float network; choose --profile"
            )
    elif arguments.run:
        raise ExportError("--run drives float, qdq and int8; drive profiles with runtime.evaluate")


def export_command(arguments: argparse.Namespace) -> int:
    """Write the profiles that the arguments name; returns the exit status.

    Raises:
        ExportError, QuantError: as ``export.profile_export``.
    """
    profiles = [find_profile(name) for name in dict.fromkeys(arguments.profile)]
    resolution = positive_pair(arguments.resolution, NOMINAL_RESOLUTION)
    dims = Dims(resolution, free=arguments.resolution is None)
    network, specs = _quantized(arguments, profiles)
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = export_profiles(profiles, specs, dims, arguments.out, network)
    results = {"artifacts": [entry.to_dict() for entry in written]}
    write_stages(results, arguments.out)
    if arguments.json:
        print(json.dumps(results))
    else:
        _print(written, arguments.out, table_console())
    return 0


def write_stages(results: dict[str, Any], folder: Path) -> Path:
    """Write the evidence of an export as ``stages.json``."""
    with atomic_path(folder / STAGES) as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    return folder / STAGES


def _quantized(
    arguments: argparse.Namespace, profiles: list[Profile]
) -> tuple[SpikingFireNet | None, Specs]:
    """The float network, unless a checkpoint holds integers, and the integers by profile."""
    if arguments.checkpoint is not None and is_quantized_checkpoint(arguments.checkpoint):
        spec = load_spec(arguments.checkpoint)
        return None, {profile.name: spec for profile in profiles}
    model = load_network(arguments)
    plan = Windows(arguments.mode, arguments.window)
    sequence = calibration_sequences(arguments.calibration, plan)[0]
    windows = [torch.from_numpy(counts)[None] for counts in sequence]
    shown = progress(windows, "calibrating", len(windows), quiet=arguments.json)
    calibration = calibrate(model, (counts.float() for counts in shown))
    options = QuantOptions(
        arguments.weight_bits,
        arguments.mem_bits,
        arguments.frac_bits,
        per_tensor=arguments.per_tensor,
    )
    derived: Specs = {}
    specs: Specs = {}
    for profile in profiles:
        own = _options_of(profile, options, arguments.current)
        key = f"{own.current} {own.neuron}"
        if key not in derived:
            derived[key] = quantize(model, own, calibration)
        specs[profile.name] = derived[key]
    return model, specs


def _options_of(profile: Profile, options: QuantOptions, current: str | None) -> QuantOptions:
    """What a profile is quantized with; float neurons have no integer membrane to choose."""
    current = current or profile.current or CURRENTS[0]
    if profile.float_membranes and current == profile.current:
        return replace(options, current=current, mem_bits=16, frac_bits=None, neuron="float")
    return replace(options, current=current)


def stage_table(title: str, stages: list[Stage]) -> Table:
    """Stages as a table for people."""
    table = Table(title=title)
    table.add_column("stage")
    for heading in ("places", "nodes", "to the stage before", "largest", "bound", "flips", "flow"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in stages:
        equal = stage.relation == "equal"
        table.add_row(
            stage.name,
            str(stage.changes),
            str(stage.nodes),
            f"equal, {stage.values} values" if equal else "within its bound",
            "0" if equal else f"{stage.largest:.2f} LSB",
            "0" if equal else f"{stage.bound:.2f} LSB",
            str(stage.flips),
            f"{stage.flow:.1e}",
        )
    return table


def _print(written: list[Written], out: Path, console: Console) -> None:
    for entry in written:
        console.print(stage_table(f"{entry.profile}, layer by layer", entry.stages))
        print(f"{entry.path}: {entry.size} bytes, checked")
        if entry.note:
            print(f"  {entry.note}")
    print(f"{out / STAGES}: what each stage changed")

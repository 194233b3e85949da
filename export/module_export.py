"""Any Brevitas module to float, QDQ and integer files, with what was checked about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx
from torch import nn

from calib_data.console import progress
from export.difference import Arrays
from export.files import write_model
from export.module_calibrate import calibrate, check_module
from export.module_census import census, float_constants, islands
from export.module_inputs import Inputs, Samples
from export.module_profiles import MODULE_PROFILES, ModuleProfile
from export.module_report import Report
from export.module_runs import Checks, Outputs, onnx_session, run_onnx
from export.module_stages import ModuleStage, ModuleStages
from export.module_timing import time_models
from export.module_trace import trace_brevitas
from export.oracle import run_integer
from export.passes import find_pass
from export.stage import run_staged
from export.together import together
from export.torch_graph import Route, export_float, export_qdq, run_module

FILES = {"float": "module.float.onnx", "qdq": "module.qdq.onnx", "int8": "module.int8.onnx"}
REPORT, STAGES = "report.json", "stages.json"
CANONICAL = (
    "clean",
    "fold_weights",
    "integer_bias",
    "explicit_zero_points",
    "remove_redundant_quantizers",
)


@dataclass(frozen=True)
class Options:
    """route: exporter. bias_correction: after calibration. quiet: no progress bars. profiles:
    graphs to write beside the three."""

    route: Route = "torchscript"
    bias_correction: bool = False
    quiet: bool = False
    profiles: tuple[ModuleProfile, ...] = ()


@dataclass
class Graphs:
    """Graphs of one module by kind, and the stages of each that has any; those of ``qdq`` first."""

    models: dict[str, onnx.ModelProto] = field(default_factory=dict)
    stages: dict[str, list[ModuleStage]] = field(default_factory=dict)


def export_module(module: nn.Module, samples: Samples, out: Path, options: Options) -> Report:
    """Calibrate, export, check and time a module; writes its files together.

    They are the three of ``FILES``, one per profile, ``stages.json`` and ``report.json``; none is
    written unless all of them can be.

    Args:
        module: calibrated in place where there are calibration samples.
        samples: first of the held-out ones gives the shapes, and is what stages are compared on.
        out: folder.
        options: see there.

    Raises:
        ExportError: the module cannot be exported, or a file computes something else.
        StageError: a pass changes more than it may, by its name, the tensor and the size.
    """
    check_module(module)
    if samples.calibration:
        calibrate(
            module,
            samples.calibration,
            bias_correction=options.bias_correction,
            quiet=options.quiet,
        )
    outputs = output_names(module, samples.held_out[0])
    graphs = build_graphs(module, samples, outputs, options)
    return _checked(module, samples, outputs, graphs, options, out)


def build_graphs(
    module: nn.Module, samples: Samples, outputs: list[str], options: Options
) -> Graphs:
    """Every graph of a module, each pass on the way compared with what was before it.

    Raises:
        PassError: a node that has no integer form and has to have one.
        StageError: a pass changes more than it may.
    """
    example, names = samples.held_out[0], samples.names
    raw = export_qdq(module, example, route=options.route, input_names=names, output_names=outputs)
    stages = ModuleStages(samples.feeds[0])
    trace = partial(trace_brevitas, module, example, outputs=outputs)
    stages.add_first(options.route, raw, trace)
    qdq = run_staged(raw, [find_pass(name)() for name in CANONICAL], stages)
    floating = export_float(module, example, input_names=names, output_names=outputs)
    graphs = Graphs({"float": floating, "qdq": qdq}, {"qdq": stages.stages})
    wanted = {"int8": MODULE_PROFILES["integer"], **{p.name: p for p in options.profiles}}
    shown = progress(wanted.items(), "stages", len(wanted), quiet=options.quiet)
    for kind, profile in shown:
        branch = stages.branch()
        graphs.models[kind] = profile.build(qdq, branch)
        graphs.stages[kind] = branch.stages
    return graphs


def output_names(module: nn.Module, example: Inputs) -> list[str]:
    """Names of a graph's outputs: one, or numbered."""
    count = len(run_module(module, example))
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _checked(
    module: nn.Module,
    samples: Samples,
    outputs: list[str],
    graphs: Graphs,
    options: Options,
    out: Path,
) -> Report:
    """Run the graphs, time them and write the files."""
    integer, qdq = graphs.models["int8"], graphs.models["qdq"]
    feeds, left = samples.feeds, islands(integer)
    session = onnx_session(qdq, "off", 1)
    checks = Checks(
        feeds=feeds,
        oracle=[
            run_integer(integer, feed)
            for feed in progress(feeds, "integer oracle", len(feeds), quiet=options.quiet)
        ],
        qdq=[run_onnx(session, feed) for feed in feeds],
        outputs=Outputs(integer),
        exact=not left,
        quiet=options.quiet,
    )
    brevitas = [_run_brevitas(module, sample, outputs) for sample in samples.held_out]
    runs = checks.integer_runs(integer)
    gaps = {p.name: checks.profile(p, graphs.models[p.name]) for p in options.profiles}
    timings = time_models(graphs.models, feeds, quiet=options.quiet)
    files = FILES | {profile.name: profile.file for profile in options.profiles}
    with together(out) as folder:
        sizes = _write(graphs.models, files, folder)
        report = Report(
            paths={kind: out / name for kind, name in files.items()},
            sizes=sizes,
            own_scales=not samples.calibration,
            torch_qdq=checks.outputs.compare(brevitas, checks.qdq),
            qdq_integer=checks.outputs.compare(checks.qdq, checks.oracle),
            runs=runs,
            islands=left,
            nodes=dict(Counter(node.op_type for node in integer.graph.node)),
            constants=census(integer),
            floats_left=tuple(float_constants(integer)),
            timings=timings,
            profiles=gaps,
            stages=graphs.stages,
        )
        for name, values in ((REPORT, report.to_dict()), (STAGES, report.stages_dict())):
            (folder / name).write_text(json.dumps(values, indent=2) + "\n")
    return report


def _run_brevitas(module: nn.Module, sample: Inputs, outputs: list[str]) -> Arrays:
    results = run_module(module, sample)
    return {name: result.numpy() for name, result in zip(outputs, results, strict=True)}


def _write(
    models: Mapping[str, onnx.ModelProto], files: Mapping[str, str], folder: Path
) -> dict[str, int]:
    """Write every model; returns the sizes in bytes by kind."""
    return {
        kind: write_model(models[kind], folder / name).stat().st_size
        for kind, name in files.items()
    }

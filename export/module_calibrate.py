"""A Brevitas module made ready for its export: refused by name, or calibrated in place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from calib_data.console import progress
from export.errors import ExportError
from export.module_inputs import Inputs
from export.torch_graph import run_module

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="fast_hadamard_transform package not found")
    from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
    from brevitas.proxy import ActQuantProxyFromInjector


def calibrate(
    module: nn.Module,
    samples: Sequence[Inputs],
    *,
    bias_correction: bool = False,
    quiet: bool = False,
) -> None:
    """Set the scales of a module's activations from samples, in place.

    Args:
        module: gets into eval mode.
        samples: inputs of the module.
        bias_correction: correct biases afterwards.
        quiet: no progress bar.

    Raises:
        ExportError: the module does not run on them.
    """
    module.eval()
    with torch.no_grad(), calibration_mode(module):
        _forward(module, samples, "calibrating", quiet)
    if bias_correction:
        with torch.no_grad(), bias_correction_mode(module):
            _forward(module, samples, "correcting biases", quiet)


def _forward(module: nn.Module, samples: Sequence[Inputs], what: str, quiet: bool) -> None:
    for sample in progress(samples, what, len(samples), quiet=quiet):
        run_module(module, sample)


def check_module(module: nn.Module) -> None:
    """Refuse what no file of integers can come of.

    Raises:
        ExportError: no quantizer at all, or a batch norm by name.
    """
    quantizers = [
        part
        for part in module.modules()
        if isinstance(part, ActQuantProxyFromInjector) and part.is_quant_enabled
    ]
    if not quantizers:
        raise ExportError(
            f"{type(module).__name__} has no activation quantizer; build it from brevitas.nn layers"
        )
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise ExportError(
                f"module {name!r} ({type(part).__name__}) has no integer form; fold it into the "
                "layer before it with brevitas.nn.utils.merge_bn, before calibration"
            )

"""Profiles: which graph a consumer gets, as data.

A profile is a list of passes over the source graph, what the result has to satisfy, and what it
cannot express. ``docs/profiles.md`` says whom each one is for and what was run.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import onnx

from export.errors import ExportError
from export.gates import (
    check_dtypes,
    check_fusion,
    check_hybrid_dtypes,
    check_standard,
    check_tensorrt,
)
from export.passes import find_pass
from export.passes.base import FunctionPass, GraphPass
from quant.spec import NetworkSpec

Options = Mapping[str, Any]
Check = Callable[[onnx.ModelProto], object]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "dtypes": check_dtypes,
        "fusion": check_fusion,
        "hybrid": check_hybrid_dtypes,
        "standard": check_standard,
        "tensorrt": check_tensorrt,
    }
)
"""What a profile may demand of its graph."""


class ProfileError(ExportError):
    """A network that a profile cannot express."""


@dataclass(frozen=True)
class Step:
    """One pass with its options."""

    name: str
    options: Options = field(default_factory=lambda: MappingProxyType({}))

    def make(self) -> GraphPass | FunctionPass:
        """The pass, ready to run."""
        return find_pass(self.name)(**self.options)


@dataclass(frozen=True)
class Profile:
    """What one kind of consumer gets.

    name, summary: for the command line. steps: passes over the source graph, in order. checks:
    names in ``CHECKS``. suffix: of the file or folder behind ``model.``. current: the mode of the
    currents it needs, or None for either. float_membranes: only convolutions are quantized,
    whatever neurons the network says it has. exact: whether ONNX Runtime has to give the values of
    the PyTorch emulation, bit for bit. max_frac_bits: most fractional bits of a membrane it can
    express, or None.
    """

    name: str
    summary: str
    steps: tuple[Step, ...]
    checks: tuple[str, ...]
    suffix: str
    current: str | None = None
    float_membranes: bool = False
    exact: bool = False
    fixed_size: bool = False
    max_frac_bits: int | None = None

    @property
    def file(self) -> str:
        """Name of the file, or of the folder, that an export writes."""
        return f"model.{self.suffix}"

    @property
    def integer_neurons(self) -> bool:
        """Whether its neurons compute in integers, which float neurons cannot become."""
        return self.exact and not self.float_membranes

    def refuse(self, spec: NetworkSpec) -> None:
        """Refuse a network that this profile cannot express.

        Raises:
            ProfileError: naming the layer, the reason and the nearest supported form.
        """
        if self.integer_neurons and spec.neuron == "float":
            fitting = [name for name, profile in PROFILES.items() if not profile.integer_neurons]
            raise ProfileError(
                f"profile {self.name}: the network has float neurons, and this profile computes "
                f"integer ones; use profile {', '.join(fitting[:-1])} or {fitting[-1]}, or "
                "quantize with --neuron integer"
            )
        for layer in spec.layers:
            if self.current not in (None, layer.current):
                raise ProfileError(
                    f"profile {self.name}: layer {layer.name!r} has current {layer.current!r}, and "
                    f"this profile computes {self.current!r}; quantize with --current "
                    f"{self.current}, or use profile integer"
                )
            if self.max_frac_bits is not None and layer.frac_bits > self.max_frac_bits:
                raise ProfileError(
                    f"profile {self.name}: layer {layer.name!r} has frac_bits {layer.frac_bits}, "
                    f"and this profile has no shift to the left; quantize with --frac-bits "
                    f"{self.max_frac_bits} or less"
                )


def _steps(*entries: str | Step) -> tuple[Step, ...]:
    return tuple(entry if isinstance(entry, Step) else Step(entry) for entry in entries)


CANONICAL = _steps(
    "clean",
    "fold_weights",
    "integer_bias",
    "explicit_zero_points",
    "remove_redundant_quantizers",
    "fold_into_lif",
    "merge_recurrent",
)
"""What makes any exporter's QDQ graph the source graph; changes nothing on one built here."""

INTEGER = _steps(
    *CANONICAL,
    "sink_dequantize",
    "integer_inputs",
    "lower_lif",
    "expose_flow_accumulator",
)
"""From the source graph to integers between the events and the flow head's accumulator."""

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                "portable",
                "QuantizeLinear/DequantizeLinear with real scales, for other people's compilers",
                _steps(*CANONICAL, "scalar_scales", "attach_functions"),
                (),
                "portable.onnx",
            ),
            Profile(
                "portable-int",
                "integer arithmetic in standard operators, no domain of our own",
                _steps(
                    *INTEGER,
                    Step("fuse_qlinear", MappingProxyType({"kernels": False})),
                    "spell_requantize",
                    "attach_functions",
                    "inline_functions",
                ),
                ("dtypes", "standard"),
                "portable-int.onnx",
                exact=True,
            ),
            Profile(
                "ort-x86",
                "stock ONNX Runtime on x86: uint8 currents, every convolution a QLinearConv",
                _steps(
                    *CANONICAL,
                    "unsigned_activations",
                    "concat_quantized",
                    "integer_inputs",
                    "lower_lif",
                    "attach_functions",
                ),
                ("dtypes", "fusion"),
                "ort-x86.onnx",
                current="uint8",
                exact=True,
            ),
            Profile(
                "tensorrt",
                "symmetric int8 convolutions, float neurons and biases, standard operators",
                _steps(*CANONICAL, "symmetric_activations", "float_bias", "inline_functions"),
                ("tensorrt",),
                "tensorrt.onnx",
                current="accumulator",
                float_membranes=True,
            ),
            Profile(
                "hybrid",
                "integer convolutions in operators of domain snn, float neurons and membranes",
                _steps(
                    *CANONICAL,
                    "sink_dequantize",
                    "integer_inputs",
                    "expose_flow_accumulator",
                    "attach_functions",
                ),
                ("hybrid",),
                "hybrid.onnx",
                current="accumulator",
                float_membranes=True,
                exact=True,
            ),
            Profile(
                "integer",
                "integers up to the flow head in operators of domain snn; the fastest here",
                _steps(*INTEGER, "fuse_qlinear", "fuse_conv_lif", "attach_functions"),
                ("dtypes",),
                "integer.onnx",
                exact=True,
            ),
            Profile(
                "integer-nchw",
                "the same with convolution, neuron and spikes apart: one tensor per quantity",
                _steps(*INTEGER, "fuse_qlinear", "attach_functions"),
                ("dtypes",),
                "integer-nchw.onnx",
                exact=True,
            ),
            Profile(
                "deeploy",
                "a folder for Deeploy's frontend: Conv, RequantShift and QLif in int8",
                _steps(*INTEGER, "requant_shift"),
                ("dtypes",),
                "deeploy",
                current="accumulator",
                exact=True,
                fixed_size=True,
                max_frac_bits=0,
            ),
        )
    }
)
"""Every profile by name."""


def find_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        ProfileError: there is none; a name that is close to it is given.
    """
    if name not in PROFILES:
        near = difflib.get_close_matches(name, PROFILES, n=1)
        meant = f"nearest is {near[0]!r}, " if near else ""
        raise ProfileError(f"no profile {name!r}; {meant}--list-profiles shows all")
    return PROFILES[name]


def check_result(profile: Profile, model: onnx.ModelProto) -> None:
    """Run a profile's checks on its graph.

    Raises:
        ExportError: the first check that fails, with the profile's name.
    """
    for name in profile.checks:
        try:
            CHECKS[name](model)
        except ExportError as error:
            raise ProfileError(f"profile {profile.name}: {error}") from error

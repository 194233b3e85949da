"""Profiles of any Brevitas network: which graph a consumer gets, and how it is checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx

from export.errors import ExportError
from export.profiles import CHECKS, ProfileError, Step
from export.stage import Recorder, run_staged


@dataclass(frozen=True)
class ModuleProfile:
    """What one kind of consumer gets of a network without neurons.

    steps: passes over the canonical QDQ graph. checks: names in ``export.profiles.CHECKS``.
    exact: whether ONNX Runtime has to give the integers of the NumPy oracle; else the outputs are
    compared with the QDQ graph's and the difference is reported.
    """

    name: str
    steps: tuple[Step, ...]
    checks: tuple[str, ...]
    exact: bool = False

    @property
    def file(self) -> str:
        """Name of the file that an export writes."""
        return f"module.{self.name}.onnx"

    def build(self, qdq: onnx.ModelProto, stages: Recorder) -> onnx.ModelProto:
        """The profile's graph.

        Args:
            qdq: the canonical QDQ graph.
            stages: has seen it, and compares what each pass makes of it.

        Raises:
            ProfileError: naming the profile, the node, the reason and the nearest supported form,
                or the stage that changes more than it may.
        """
        try:
            model = run_staged(qdq, [step.make() for step in self.steps], stages)
            for name in self.checks:
                CHECKS[name](model)
        except ExportError as error:
            raise ProfileError(f"profile {self.name}: {error}") from error
        return model


_SPELLED = Step("fuse_qlinear", MappingProxyType({"kernels": False}))
_CHOOSING = ("Concat", "Flatten", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose")
# ONNX Runtime fuses a convolution whose own input is dequantized, not one behind a pooling.
_TO_CONVOLUTIONS = Step("sink_dequantize", MappingProxyType({"through": _CHOOSING}))
_STEPS: Mapping[str, tuple[Sequence[str | Step], tuple[str, ...]]] = {
    "portable": (("scalar_scales", "attach_functions"), ()),
    "portable-int": (
        (
            "unsigned_activations",
            "sink_dequantize",
            _SPELLED,
            "spell_requantize",
            "tabulate",
            "attach_functions",
            "inline_functions",
        ),
        ("standard",),
    ),
    "ort-x86": (("unsigned_activations", _TO_CONVOLUTIONS, "clean"), ("fusion",)),
    "tensorrt": (("symmetric_activations", "float_bias"), ("tensorrt",)),
    "integer": (
        (
            "unsigned_activations",
            "sink_dequantize",
            "fuse_qlinear",
            "tabulate",
            "attach_functions",
        ),
        (),
    ),
}
_EXACT = ("portable-int", "integer")

MODULE_PROFILES: Mapping[str, ModuleProfile] = MappingProxyType(
    {
        name: ModuleProfile(
            name,
            tuple(step if isinstance(step, Step) else Step(step) for step in steps),
            checks,
            exact=name in _EXACT,
        )
        for name, (steps, checks) in _STEPS.items()
    }
)
"""Every profile a network without neurons can have, by name."""


def find_module_profile(name: str) -> ModuleProfile:
    """The profile of that name.

    Raises:
        ProfileError: there is none for networks without neurons.
    """
    if name == "deeploy":
        raise ProfileError(
            "profile deeploy writes spiking networks of the family; for other networks use "
            "portable-int, whose operators are standard"
        )
    if name not in MODULE_PROFILES:
        near = difflib.get_close_matches(name, MODULE_PROFILES, n=1)
        hint = f"nearest is {near[0]!r}" if near else f"choose of {', '.join(MODULE_PROFILES)}"
        raise ProfileError(f"no profile {name!r}; {hint}")
    return MODULE_PROFILES[name]

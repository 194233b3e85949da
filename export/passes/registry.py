"""The passes this version knows, in the order in which they usefully run."""

from __future__ import annotations

import difflib

from export.errors import ExportError
from export.passes.attach_functions import AttachFunctions
from export.passes.base import FunctionPass, GraphPass
from export.passes.clean import Clean
from export.passes.concat_quantized import ConcatQuantized
from export.passes.explicit_zero_points import ExplicitZeroPoints
from export.passes.expose_flow_accumulator import ExposeFlowAccumulator
from export.passes.float_bias import FloatBias
from export.passes.fold_into_lif import FoldIntoLif
from export.passes.fold_weights import FoldWeights
from export.passes.fuse_conv_lif import FuseConvLif
from export.passes.fuse_qlinear import FuseQLinear
from export.passes.inline_functions import InlineFunctions
from export.passes.integer_bias import IntegerBias
from export.passes.integer_inputs import IntegerInputs
from export.passes.lower_lif import LowerLif
from export.passes.merge_recurrent import MergeRecurrent
from export.passes.remove_redundant_quantizers import RemoveRedundantQuantizers
from export.passes.requant_shift import RequantShift
from export.passes.scalar_scales import ScalarScales
from export.passes.sink_dequantize import SinkDequantize
from export.passes.spell_requantize import SpellRequantize
from export.passes.split_conv_lif import SplitConvLif
from export.passes.symmetric_activations import SymmetricActivations
from export.passes.tabulate import Tabulate
from export.passes.unsigned_activations import UnsignedActivations

PASSES: tuple[type[GraphPass] | type[FunctionPass], ...] = (
    Clean,
    FoldWeights,
    IntegerBias,
    ExplicitZeroPoints,
    RemoveRedundantQuantizers,
    FoldIntoLif,
    MergeRecurrent,
    SinkDequantize,
    IntegerInputs,
    LowerLif,
    ExposeFlowAccumulator,
    FuseQLinear,
    Tabulate,
    ConcatQuantized,
    ScalarScales,
    SpellRequantize,
    FuseConvLif,
    SplitConvLif,
    UnsignedActivations,
    SymmetricActivations,
    FloatBias,
    RequantShift,
    AttachFunctions,
    InlineFunctions,
)
"""Every pass; a new one gets a line here."""


def find_pass(name: str) -> type[GraphPass] | type[FunctionPass]:
    """The pass of that name.

    Raises:
        ExportError: there is none; a name that is close to it is given.
    """
    known = {entry.name: entry for entry in PASSES}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"nearest is {near[0]!r}, " if near else ""
        raise ExportError(f"no pass {name!r}; {meant}--list shows all")
    return known[name]


def markdown() -> str:
    """Every pass in Markdown, as docs/passes.md holds them."""
    rows = [("pass", "what it does"), ("---", "---")]
    rows += [(f"`{entry.name}`", entry.summary) for entry in PASSES]
    return "".join(f"| {name} | {what} |\n" for name, what in rows)

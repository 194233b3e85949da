"""The neuron for Deeploy's generic target, registered from outside, and wider RequantShift.

Deeploy has neither: an operator is a parser, a type checker and a C template, and its own
``RequantShift`` writes int8 only, not 16 or 32 bits. Definitions: docs/targets/deeploy.md.
"""

from __future__ import annotations

from typing import Any

from Deeploy.AbstractDataTypes import PointerClass
from Deeploy.CommonExtensions.DataTypes import int8_t, int16_t, int32_t
from Deeploy.CommonExtensions.TypeCheckers.SignPropTypeChecker import SignPropTypeChecker
from Deeploy.DeeployTypes import NodeBinding, NodeMapper, NodeParser, NodeTemplate, ONNXLayer
from Deeploy.Targets.Generic.Bindings import BasicTransformer
from Deeploy.Targets.Generic.Layers import RequantShiftLayer
from Deeploy.Targets.Generic.Parsers import RequantShiftParser
from Deeploy.Targets.Generic.Platform import GenericEngine, GenericMapping, GenericPlatform
from Deeploy.Targets.Generic.Templates import RequantShiftTemplate
from Deeploy.Targets.Generic.TypeCheckers import RequantShiftChecker

RESETS = ("zero", "subtract", "none")
INPUTS = ("current", "mem", "decay", "threshold")
OUTPUTS = ("spike", "mem_out")


class QLifParser(NodeParser):
    """QLif(current, mem, decay, threshold) -> (spike, mem_out), NCHW with batch 1."""

    def parseNode(self, node: Any) -> bool:
        """Whether it has the operator's inputs, outputs and a known reset."""
        reset = node.attrs.get("reset")
        if len(node.inputs) != 4 or len(node.outputs) != 2 or reset not in RESETS:
            return False
        self.operatorRepresentation["reset"] = reset
        return True

    def parseNodeCtxt(self, ctxt: Any, node: Any, channels_first: bool = True) -> tuple[Any, bool]:
        """Names of the buffers, and the sizes."""
        names = zip((*INPUTS, *OUTPUTS), (*node.inputs, *node.outputs), strict=True)
        for key, tensor in names:
            self.operatorRepresentation[key] = ctxt.lookup(tensor.name).name
        _, channels, height, width = ctxt.lookup(node.inputs[0].name).shape
        self.operatorRepresentation |= {"channels": channels, "pixels": height * width}
        return ctxt, channels_first


class QLifChecker(SignPropTypeChecker):
    """Spikes are 0 or 1 in int8, membranes as wide as the current; all signed."""

    def _inferNumLevels(self, inputs: list[Any], operatorRepresentation: Any) -> list[int]:
        return [2**8, 2 ** self.output_types[1].referencedType.typeWidth]

    def _inferSignedness(self, inputs: list[Any], operatorRepresentation: Any) -> list[bool]:
        return [True, True]


class QLifLayer(ONNXLayer):
    """Shapes stay as they are."""


TEMPLATE = NodeTemplate("""
// QLif (Name: ${nodeName}, Op: ${nodeOp})
BEGIN_SINGLE_CORE
    QLif_s${current_type.referencedType.typeWidth}_${reset}(${current}, ${mem}, ${decay},
        ${threshold}, ${spike}, ${mem_out}, ${channels}, ${pixels});
END_SINGLE_CORE
""")


class LevelsParser(RequantShiftParser):
    """RequantShift of one number of levels, which decides the type of what it writes."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def parseNode(self, node: Any) -> bool:
        """Whether it has that many levels."""
        return super().parseNode(node) and self.operatorRepresentation["n_levels"] == 2**self.bits


def _neuron(kind: Any) -> NodeBinding:
    inputs = [PointerClass(kind), PointerClass(kind), PointerClass(int32_t), PointerClass(int32_t)]
    checker = QLifChecker(inputs, [PointerClass(int8_t), PointerClass(kind)])
    return NodeBinding(checker, TEMPLATE, BasicTransformer)


def _requant(bits: int, kind: Any) -> NodeMapper:
    checker = RequantShiftChecker([PointerClass(int32_t)] * 3, [PointerClass(kind)])
    binding = NodeBinding(checker, RequantShiftTemplate.referenceTemplate, BasicTransformer)
    return NodeMapper(LevelsParser(bits), [binding])


def platform() -> GenericPlatform:
    """The generic target that knows spiking networks."""
    mapping = GenericMapping | {
        "QLif": QLifLayer([NodeMapper(QLifParser(), [_neuron(int8_t), _neuron(int16_t)])]),
        "RequantShift": RequantShiftLayer(
            [_requant(8, int8_t), _requant(16, int16_t), _requant(32, int32_t)]
        ),
    }
    return GenericPlatform(engines=[GenericEngine("Generic", mapping)])

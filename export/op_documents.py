"""What the ops of an artifact do, in words, and copies of models that carry those words.

Viewers show a model-local function by its body and its doc string; that is where the words go.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import FunctionProto, ModelProto

from runtime.graph import spiking_op
from runtime.metadata import METADATA_KEY, Artifact, Layer

DOCUMENTS: Mapping[str, str] = {
    "LIF": "Leaky integrate-and-fire neurons in float32. u = beta * mem + current; spike = 1 where "
    "u > threshold; mem_out is 0 (reset zero), u - threshold (subtract) or u (none) where a spike "
    "is, u elsewhere. beta and threshold are per channel.",
    "QConv": "Integer convolution: x holds bytes uint8 [N, Cin, H, W] or spikes packed 32 channels "
    "to a uint32 word [N, H, W, ceil(Cin / 32)]; weight int8, bias and sum int32, zero padding.",
    "QLIF": "Leaky integrate-and-fire neurons in integers. I is the sum times 2^frac_bits, clamped "
    "to the membrane's type; r = mem * decay / 256, truncated toward zero; u = clamp(r + I); "
    "spike = 1 where u > threshold; reset as the attribute says.",
    "QConvLIF": "QConv and QLIF in one: spikes come out packed 32 channels to a uint32 word "
    "[N, H, W, ceil(C / 32)], membranes are int16 or int8 with channels last [N, H, W, C].",
    "QConvLIFRec": "QConvLIF of a recurrent layer: a second integer convolution (weight_rec) of "
    "the layer's own spikes of the step before is added to the sum.",
    "PackSpikes": "Packs spikes uint8 [N, C, H, W] 32 channels to a uint32 word "
    "[N, H, W, ceil(C / 32)]; bit i of word k is channel 32k + i.",
    "UnpackSpikes": "The inverse of PackSpikes: uint8 [N, C, H, W], 0 or 1.",
}
"""By op of domain snn; docs/artifact.md has the arithmetic in full."""

DOMAIN = "snn"


def op_document(function: FunctionProto) -> str:
    """The words for a function: its own doc string where it has one, else those of DOCUMENTS."""
    if function.doc_string or function.domain != DOMAIN:
        return str(function.doc_string)
    return DOCUMENTS.get(function.name, "")


def documented(model: ModelProto) -> ModelProto:
    """A copy whose functions, spiking nodes and graph say what they do; it computes the same.

    Doc strings that are there already are kept.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for function in copy.functions:
        function.doc_string = op_document(function)
    if all(entry.key != METADATA_KEY for entry in copy.metadata_props):
        return copy
    artifact = Artifact.from_model(copy)
    layers = {s.input: artifact.layer(s.layer) for s in artifact.states if s.role == "mem"}
    for node in copy.graph.node:
        op = spiking_op(node)
        if op is not None and not node.doc_string and node.input[op.mem] in layers:
            node.doc_string = layer_document(layers[node.input[op.mem]])
    if not copy.graph.doc_string:
        height, width = artifact.resolution
        copy.graph.doc_string = (
            f"{artifact.model}, {artifact.kind} artifact, made for {height} x {width} pixels"
            f"{' but free in size' if artifact.spatial_free else ''}; a step takes events "
            f"({artifact.encoding}) and states, and gives flow and states."
        )
    return copy


def layer_document(layer: Layer) -> str:
    """One sentence about a spiking layer."""
    words = [f"Layer {layer.name}: {layer.channels} channels"]
    words.append(f"kernel {layer.kernel}, stride {layer.stride}, reset {layer.reset}")
    if layer.recurrent:
        words.append("recurrent")
    if layer.mem_bits is not None:
        words.append(f"{layer.mem_bits}-bit membrane with {layer.frac_bits} fractional bits")
    if layer.threshold is not None and layer.decay is not None:
        words.append(f"thresholds {min(layer.threshold)} to {max(layer.threshold)}")
        words.append(f"decays {min(layer.decay)} to {max(layer.decay)} in 256ths")
    return ", ".join(words) + "."

"""Which operator has which rule; the one table of the oracle.

A rule is called after its operator and computes what ONNX, or ``lif_op.spec``, says of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from export.oracle import elementwise, floats, linear, movement, neurons, quantizers, reductions
from export.oracle.arguments import Rule
from lif_op.spec import DOMAIN

RULES: Mapping[tuple[str, str], Rule] = MappingProxyType(
    {
        ("", "QuantizeLinear"): quantizers.quantize,
        ("", "DequantizeLinear"): quantizers.dequantize,
        ("", "ConvInteger"): linear.conv_integer,
        ("", "QLinearConv"): linear.qlinear_conv,
        ("", "MatMulInteger"): linear.matmul_integer,
        ("", "QLinearMatMul"): linear.qlinear_matmul,
        (DOMAIN, "QConv"): linear.qconv,
        (DOMAIN, "QLIF"): neurons.qlif,
        (DOMAIN, "LIF"): neurons.lif,
        (DOMAIN, "QConvLIF"): neurons.qconv_lif,
        (DOMAIN, "QConvLIFRec"): neurons.qconv_lif_rec,
        (DOMAIN, "PackSpikes"): neurons.pack_spikes,
        (DOMAIN, "UnpackSpikes"): neurons.unpack_spikes,
        ("", "Mod"): elementwise.mod,
        ("", "Relu"): elementwise.relu,
        ("", "Clip"): elementwise.clip,
        ("", "Neg"): elementwise.neg,
        ("", "Not"): elementwise.not_,
        ("", "Where"): elementwise.where,
        ("", "Cast"): elementwise.cast,
        ("", "CastLike"): elementwise.cast_like,
        ("", "BitShift"): elementwise.bit_shift,
        ("", "Identity"): elementwise.identity,
        **{("", name): rule for name, rule in elementwise.BINARY.items()},
        ("", "Tanh"): floats.tanh,
        ("", "Sigmoid"): floats.sigmoid,
        ("", "Softmax"): floats.softmax,
        ("", "ReduceSum"): reductions.reduce_sum,
        ("", "MaxPool"): reductions.max_pool,
        ("", "Reshape"): movement.reshape,
        ("", "Flatten"): movement.flatten,
        ("", "Transpose"): movement.transpose,
        ("", "Squeeze"): movement.squeeze,
        ("", "Unsqueeze"): movement.unsqueeze,
        ("", "Concat"): movement.concat,
        ("", "Split"): movement.split,
        ("", "Slice"): movement.slice_,
        ("", "Gather"): movement.gather,
        ("", "GatherElements"): movement.gather_elements,
        ("", "Pad"): movement.pad,
        ("", "Expand"): movement.expand,
        ("", "Tile"): movement.tile,
        ("", "Shape"): movement.shape,
        ("", "Resize"): movement.resize,
    }
)

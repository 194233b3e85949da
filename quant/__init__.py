"""Quantization: one integer arithmetic from calibration to the exported graph."""

from quant.calibration import LayerActivity, LayerCalibration, calibrate, observe
from quant.checkpoint import is_quantized_checkpoint, load_spec, save_spec
from quant.conversion import quantize
from quant.emulation import IntegerNetwork, IntegerState, IntegerStep
from quant.errors import QuantError
from quant.hybrid import HybridNetwork, network_of
from quant.layers import GridSettings, LayerSettings, QuantConvLIF, QuantFlowHead
from quant.network import QuantFireNet
from quant.options import LayerOptions, QuantOptions
from quant.qat_checkpoint import load_qat, save_qat
from quant.scales import measure_moments
from quant.spec import ConvSpec, LayerSpec, NetworkSpec

__all__ = [
    "ConvSpec",
    "GridSettings",
    "HybridNetwork",
    "IntegerNetwork",
    "IntegerState",
    "IntegerStep",
    "LayerActivity",
    "LayerCalibration",
    "LayerOptions",
    "LayerSettings",
    "LayerSpec",
    "NetworkSpec",
    "QuantConvLIF",
    "QuantError",
    "QuantFireNet",
    "QuantFlowHead",
    "QuantOptions",
    "calibrate",
    "is_quantized_checkpoint",
    "load_qat",
    "load_spec",
    "measure_moments",
    "network_of",
    "observe",
    "quantize",
    "save_qat",
    "save_spec",
]

"""Quantization: one integer arithmetic from calibration to the exported graph."""

from quant.emulation import IntegerNetwork, IntegerState, IntegerStep
from quant.errors import QuantError
from quant.ptq import LayerActivity, LayerCalibration, QuantOptions, calibrate, observe, quantize
from quant.spec import ConvSpec, LayerSpec, NetworkSpec

__all__ = [
    "ConvSpec",
    "IntegerNetwork",
    "IntegerState",
    "IntegerStep",
    "LayerActivity",
    "LayerCalibration",
    "LayerSpec",
    "NetworkSpec",
    "QuantError",
    "QuantOptions",
    "calibrate",
    "observe",
    "quantize",
]

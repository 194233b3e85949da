"""Quantization: one integer arithmetic from calibration to the exported graph."""

from quant.calibration import LayerActivity, LayerCalibration, calibrate, observe
from quant.checkpoint import is_quantized_checkpoint, load_spec, save_spec
from quant.conversion import quantize
from quant.emulation import IntegerNetwork, IntegerState, IntegerStep
from quant.errors import QuantError
from quant.options import LayerOptions, QuantOptions
from quant.spec import ConvSpec, LayerSpec, NetworkSpec

__all__ = [
    "ConvSpec",
    "IntegerNetwork",
    "IntegerState",
    "IntegerStep",
    "LayerActivity",
    "LayerCalibration",
    "LayerOptions",
    "LayerSpec",
    "NetworkSpec",
    "QuantError",
    "QuantOptions",
    "calibrate",
    "is_quantized_checkpoint",
    "load_spec",
    "observe",
    "quantize",
    "save_spec",
]

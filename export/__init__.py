"""Export of networks to self-describing ONNX artifacts."""

from calib_data.console import demand, stop
from runtime.house import HouseError, check_house

try:
    check_house()
except HouseError as error:
    stop(error)
demand("export", ("torch", "brevitas", "onnx_ir", "onnxscript", "onnxoptimizer", "safetensors"))

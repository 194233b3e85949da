"""Training of the LIFFireNet family; one loop, driven by a YAML configuration."""

from calib_data.console import demand

demand("training", ("torch", "pydantic", "yaml", "safetensors"))

"""Training of the LIFFireNet family; one loop, driven by a YAML configuration."""

"""Export of networks to self-describing ONNX artifacts."""

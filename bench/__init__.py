"""Measuring artifacts: time per step, memory, synaptic operations, the split by operator."""

"""Measuring artifacts: time per step, memory, the split by operator."""

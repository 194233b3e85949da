"""The bundle's own README."""

from __future__ import annotations

from export.microcontroller.flow_head import FixedHead
from export.microcontroller.memory import Sizes, state_arrays
from export.microcontroller.network import Network
from export.microcontroller.schedule import Schedule
from export.microcontroller.source import comment_text, template


def readme(network: Network, schedule: Schedule, sizes: Sizes, fixed: FixedHead | None) -> str:
    """``README.md``: what is in the folder, how to build it, and where the memory goes."""
    height, width = network.resolution
    states = "\n".join(
        f"| {array.label} | {array.kind} | {array.size} |" for array in state_arrays(network)
    )
    buffers = "\n".join(
        f"| {buffer.name} | {schedule.plan.offsets[buffer.name]} | {buffer.size} |"
        for buffer in schedule.buffers
    )
    flow = "float32 (`tanhf`)"
    if fixed is not None:
        flow = f"int16 in {fixed.format}, which differs from tanh by at most {fixed.error:.3g}"
    text = template("README.md")
    for key, value in {
        "model": comment_text(network.artifact.model),
        "height": str(height),
        "width": str(width),
        "arena": str(sizes.arena),
        "state": str(sizes.state),
        "buffers": str(sizes.buffers),
        "constants": str(sizes.constants),
        "flow": flow,
        "state_rows": states,
        "buffer_rows": buffers,
    }.items():
        text = text.replace(f"@{key}@", value)
    return text

"""Graph passes: small rewrites of ONNX graphs, one file each, in a registry.

``python -m export.passes --list`` names them; ``run_passes`` applies them to a model.
"""

from __future__ import annotations

from export.passes.base import GraphPass, PassError
from export.passes.command import main
from export.passes.registry import PASSES, find_pass
from export.passes.run import PassReport, run_passes

__all__ = ["PASSES", "GraphPass", "PassError", "PassReport", "find_pass", "main", "run_passes"]

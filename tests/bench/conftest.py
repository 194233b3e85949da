"""The small artifacts of the runtime's tests, here too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_SOURCE = Path(__file__).resolve().parents[1] / "runtime" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("runtime_test_networks", _SOURCE)
if _SPEC is None or _SPEC.loader is None:
    raise ImportError(f"{_SOURCE} is missing")
_MODULE = importlib.util.module_from_spec(_SPEC)
# Dataclasses look their module up by name while it is executed.
sys.modules[_SPEC.name] = _MODULE
_SPEC.loader.exec_module(_MODULE)

make_file = _MODULE.make_file
make_model = _MODULE.make_model
recording = _MODULE.recording
library = _MODULE.library

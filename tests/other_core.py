"""A pytest plugin: ``lif_op._core`` from the file that ``SPIKEDEPLOY_TEST_CORE`` names.

``make sanitize-python`` runs the tests with a module built under sanitizers in this way.
"""

from __future__ import annotations

import importlib.util
import os
import sys

_NAME = "lif_op._core"

spec = importlib.util.spec_from_file_location(_NAME, os.environ["SPIKEDEPLOY_TEST_CORE"])
if spec is None or spec.loader is None:
    raise ImportError(f"SPIKEDEPLOY_TEST_CORE={os.environ['SPIKEDEPLOY_TEST_CORE']} is no module")
module = importlib.util.module_from_spec(spec)
sys.modules[_NAME] = module
spec.loader.exec_module(module)

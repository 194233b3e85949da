"""``python -m export.passes``: see ``export.passes.command``."""

from __future__ import annotations

import sys

from calib_data.console import run
from export.passes.command import main

if __name__ == "__main__":
    sys.exit(run(main))

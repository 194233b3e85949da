"""``python -m calib_data.prepare``."""

import sys

from calib_data.console import run
from calib_data.prepare.command import main

if __name__ == "__main__":
    sys.exit(run(main))

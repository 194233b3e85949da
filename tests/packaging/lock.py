"""Prints the versions of everything in this environment but spikedeploy, for constraints.txt."""

from __future__ import annotations

import re
from importlib import metadata

HEADER = """\
# The versions that are tested, used by `make demo` and `make test`; `make lock` writes them anew.
# Bounds that must hold are in pyproject.toml.
"""


def main() -> None:
    """Print the file. What a package's build adds to its version ("+cpu") is left out."""
    pins = {
        re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower(): distribution.version
        for distribution in metadata.distributions()
    }
    pins.pop("spikedeploy")
    print(HEADER, end="")
    for name, version in sorted(pins.items()):
        print(f"{name}=={version.partition('+')[0]}")


if __name__ == "__main__":
    main()

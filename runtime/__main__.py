"""Where the C++ runtime of this installation lies.

cmake -S . -B build -Dspikedeploy_DIR="$(python -m runtime --cmake-dir)"
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import lif_op
from calib_data.console import run

EXAMPLE = 'example: cmake -S . -B build -Dspikedeploy_DIR="$(python -m runtime --cmake-dir)"'


class NoHeaders(FileNotFoundError):
    """The installation has no C++ headers."""

    user_error = True


def folders() -> dict[str, Path]:
    """Folders of the CMake package and of the headers, and the op library.

    Raises:
        NoHeaders: they were not installed. lif_op.LibraryError: the op library was not built.
    """
    library = lif_op.library_path()
    root = library.parent.parent / "runtime"
    found = {"cmake": root / "cmake", "include": root / "include", "op_library": library}
    if not (found["cmake"] / "spikedeployConfig.cmake").is_file():
        raise NoHeaders(f"no CMake package in {found['cmake']}; install spikedeploy again")
    return found


def main(argv: list[str] | None = None) -> int:
    """Print what was asked for; exit 2 where it is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime",
        description="Where the C++ headers of this installation lie (docs/embedding.md).",
        epilog=EXAMPLE,
    )
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--cmake-dir", action="store_true", help="for find_package(spikedeploy)")
    wanted.add_argument("--include-dir", action="store_true", help="for other build systems")
    wanted.add_argument("--json", action="store_true", help="both, and the op library")
    options = parser.parse_args(argv)
    found = folders()
    if options.json:
        print(json.dumps({name: str(path) for name, path in found.items()}))
    else:
        print(found["cmake" if options.cmake_dir else "include"])
    return 0


if __name__ == "__main__":
    sys.exit(run(main))

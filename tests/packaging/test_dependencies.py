"""What an installation brings along, and what importing a room loads."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).parents[2]
BASE = {"numpy", "onnx", "onnxruntime", "h5py", "rich"}
DEPLOYED = ("lif_op", "calib_data", "runtime", "bench")
EXTRAS_ONLY = (
    "torch",
    "brevitas",
    "snntorch",
    "onnx_ir",
    "onnxscript",
    "safetensors",
    "pydantic",
    "yaml",
    "matplotlib",
    "PIL",
    "imageio_ffmpeg",
)

IMPORT_ALL = """
import importlib, pkgutil, sys
for room in sys.argv[1].split(","):
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        if not module.name.startswith("lif_op.lib"):  # the op library, no Python module
            importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def requirements() -> list[Requirement]:
    return [Requirement(line) for line in metadata.requires("spikedeploy") or []]


def names_needed(extra: str) -> set[str]:
    """Names of the packages that spikedeploy[extra] asks for, those of nested extras included."""
    needed: set[str] = set()
    for requirement in requirements():
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == "spikedeploy":
            for nested in requirement.extras:
                needed |= names_needed(nested)
        else:
            needed.add(requirement.name)
    return needed


def test_the_base_installation_is_a_deployment_machine() -> None:
    assert names_needed("") == BASE


def test_torch_comes_with_what_needs_it() -> None:
    for extra in ("export", "training", "test"):
        assert "torch" in names_needed(extra), extra
    for extra in ("report", "video", "view", "extensions"):
        assert "torch" not in names_needed(extra), extra


def test_the_extras_are_those_installed() -> None:
    """An environment made from an older pyproject.toml would test the wrong packages."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata.version("spikedeploy") == project["version"]
    declared = set(project["optional-dependencies"])
    assert set(metadata.metadata("spikedeploy").get_all("Provides-Extra") or []) == declared


def test_the_version_is_the_same_everywhere() -> None:
    version = metadata.version("spikedeploy")
    cmake = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"project(spikedeploy VERSION {version} " in cmake
    assert f"\nversion: {version}\n" in citation


@pytest.mark.parametrize("rooms", [",".join(DEPLOYED), "runtime,bench"])
def test_deployed_rooms_load_nothing_of_the_extras(rooms: str) -> None:
    """Every module of them, in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, rooms], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"runtime", "bench", "onnxruntime"} <= loaded
    assert not loaded & set(EXTRAS_ONLY)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# The first release without the advisories that SECURITY.md names.
SAFE = {
    "onnx": "1.21",
    "pillow": "10.3",
    "opencv-python-headless": "4.8.1.78",
    "torch": "2.6",
    "pydantic": "2.4",
    "pyyaml": "5.4",
}


def test_lower_bounds_leave_out_known_advisories() -> None:
    page = (REPOSITORY / "SECURITY.md").read_text()
    bounds: dict[str, list[Requirement]] = {}
    for requirement in requirements():
        bounds.setdefault(normal(requirement.name), []).append(requirement)
    for name, safe in SAFE.items():
        assert f"| {name} | " in page
        for requirement in bounds[name]:
            lowest = min(
                Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")
            )
            assert lowest >= Version(safe), str(requirement)


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_constraints_fit_the_bounds() -> None:
    pinned = pins()
    assert "+" not in "".join(pinned.values())
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda"))]
    for requirement in requirements():
        name = normal(requirement.name)
        if name in pinned:
            assert requirement.specifier.contains(pinned[name]), str(requirement)
        else:
            assert name == "spikedeploy" or "view" in str(requirement.marker), name


def test_the_constraints_are_what_is_tested() -> None:
    """Every package here that the constraints name has the version they name."""
    for name, version in pins().items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:  # on this platform or Python nobody needs it
            continue
        assert installed.partition("+")[0] == version, name


def test_the_licences_of_all_direct_dependencies_are_listed() -> None:
    page = (REPOSITORY / "docs" / "licenses.md").read_text()
    listed = set(re.findall(r"^\| ([\w-]+) \|", page, re.MULTILINE))
    needed = {normal(r.name) for r in requirements() if "view" not in str(r.marker)}
    assert needed - {"spikedeploy"} <= listed

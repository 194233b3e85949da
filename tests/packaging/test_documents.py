"""What the documents promise: code that runs, links that lead somewhere, every key described."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "SECURITY.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
ARTIFACT = REPOSITORY / "docs" / "artifact.md"


@pytest.fixture(scope="module")
def exported(active_network: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the integer file of a small network that fires."""
    from export.graphs.builder import Dims
    from export.graphs.integer import integer_model
    from quant import QuantOptions, quantize

    spec = quantize(active_network("LIFFireNet_short"), QuantOptions())
    folder = tmp_path_factory.mktemp("exported")
    onnx.save(integer_model(spec, Dims((24, 32), free=True)), folder / "model.int8.onnx")
    return folder


def test_the_example_runs_without_this_project(exported: Path) -> None:
    """In an interpreter in which importing any package of ours fails."""
    (code,) = re.findall(r"```python\n(.*?)```", ARTIFACT.read_text(encoding="utf-8"), re.DOTALL)
    ours = ("lif_op", "calib_data", "models", "quant", "export", "runtime", "bench", "training")
    hide = f"import numpy, sys; sys.modules.update(dict.fromkeys({ours!r}))\n"
    hide += "numpy.random.seed(0)\n"
    show = "np.savez('result.npz', **results)\n"
    done = subprocess.run(
        [sys.executable, "-c", hide + code + show],
        cwd=exported,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(exported / "result.npz") as results:
        assert results["flow"].shape == (1, 2, 24, 32)
        assert results["flow_acc"].any()
        assert results["spike_out.G1"].any()


def test_every_key_of_the_metadata_is_described(exported: Path) -> None:
    model = onnx.load(exported / "model.int8.onnx")
    (entry,) = (e for e in model.metadata_props if e.key == "snn.artifact")
    about = json.loads(entry.value)
    keys = {*about, *about["states"][0], *about["layers"][0], *about["head"]}
    described = set(re.findall(r"`(\w+)`", ARTIFACT.read_text(encoding="utf-8")))
    assert keys <= described, sorted(keys - described)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_named_paths_exist(document: Path) -> None:
    """Files and folders of the source tree that are named in code style."""
    text = document.read_text(encoding="utf-8")
    rooms = "lif_op|calib_data|models|quant|export|runtime|bench|training|tests|docs|configs"
    named = re.findall(rf"`((?:{rooms})/[\w./-]*\w/?)`", text)
    missing = [path for path in named if not (REPOSITORY / path).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_make_targets_exist(document: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)]
    assert not missing


def source_text() -> str:
    """Everything that can print a message, with string literals that follow each other joined."""
    tracked = [REPOSITORY / "Makefile"]
    for room in ("lif_op", "calib_data", "models", "export", "runtime", "bench", "tests/lif_op"):
        for pattern in ("*.py", "*.cc", "*.sh"):
            tracked += sorted((REPOSITORY / room).rglob(pattern))
    text = "\n".join(path.read_text(encoding="utf-8") for path in tracked)
    return re.sub(r'"[ \\]*\n?\s*f?"', "", text)


def test_troubleshooting_quotes_real_messages() -> None:
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", text, re.M)
    quoted = [piece for heading in headings for piece in re.findall(r"`([^`]+)`", heading)]
    assert len(quoted) > 20
    sources = source_text()
    invented = [
        piece
        for message in quoted
        for piece in message.split("...")
        if piece.strip() and piece.strip() not in sources
    ]
    assert not invented

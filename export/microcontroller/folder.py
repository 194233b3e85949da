"""A bundle on the disk: whole, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from export.microcontroller.network import BundleError

MANIFEST = "bundle.json"


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, which takes its place on success.

    A bundle that is there already is replaced. Whatever the block raises is passed on; ``path`` is
    then as it was before.

    Raises:
        BundleError: something else is there. OSError: nothing can be written.
    """
    path = path.absolute()
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        yield fresh
        check_replaceable(path)
        if path.exists():
            os.replace(path, scratch / "old")
        try:
            os.replace(fresh, path)
        except OSError:
            if (scratch / "old").exists():
                os.replace(scratch / "old", path)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """Refuse a place that holds something other than a bundle or an empty folder.

    Raises:
        BundleError: naming it.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise BundleError(f"{path}: is no folder; name another with --out")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise BundleError(
            f"{path}: holds something other than a bundle (no {MANIFEST}); name another folder "
            "with --out, or empty it"
        )


def write_files(folder: Path, files: Mapping[str, str], manifest: Mapping[str, object]) -> None:
    """Write texts by their path inside the folder, and the manifest."""
    for name, text in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="ascii")
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")

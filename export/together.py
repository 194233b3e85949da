"""Files that belong together: a folder has all of them or none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def together(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside ``folder``, whose files move to ``folder`` on success.

    Two processes that do this at once leave the whole set of one of them. Whatever the block
    raises is passed on, and then ``folder`` is as it was before; Ctrl-C while files move waits
    until all of them have.

    Raises:
        OSError: the folder cannot be written, or has a folder where a file belongs.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".export.", dir=folder))
    try:
        yield temporary
        files = sorted(temporary.iterdir())
        for path in files:
            if (folder / path.name).is_dir():
                raise IsADirectoryError(
                    errno.EISDIR, "is a folder; remove it", str(folder / path.name)
                )
        with _locked(folder), _uninterrupted():
            for path in files:
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off until the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt

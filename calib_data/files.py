"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from calib_data.errors import DataError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; renamed to it on success, deleted on failure.

    The temporary file lies in the same folder, so the rename never crosses file systems. It keeps
    the suffix of ``path`` for writers that choose a format by suffix. The folder is created if it
    is missing. Whatever the block raises is passed on; ``path`` is then as it was before.
    """
    target = _replaceable(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; give the result the permissions of any new file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def held(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within, no other process that asks can hold ``path``; the hold ends with the process.

    What a process left that was killed while it wrote ``path`` by :func:`atomic_path` is deleted
    first. The folder is created if it is missing.

    Raises:
        DataError: another process holds it.
        OSError: nothing can be written in the folder.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    descriptor = _locked(lock)
    if descriptor is None:
        raise DataError(f"{target}: another process is writing it; wait for that")
    try:
        mark = re.compile(re.escape(f".{target.stem}.") + "[a-z0-9_]{8}" + re.escape(target.suffix))
        for entry in target.parent.iterdir():
            if mark.fullmatch(entry.name):
                entry.unlink(missing_ok=True)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path) -> int | None:
    """A descriptor of the file ``lock`` that this process alone has locked; None if it cannot."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have deleted the file in between, and another may have made a new one.
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out before long work whether :func:`atomic_path` could write here; leaves nothing.

    Raises:
        OSError: it could not, by the file or folder that is in the way.
    """
    folder = _replaceable(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is no folder; name another", str(folder))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OSError(error.errno, f"nothing can be written here ({reason})", str(folder)) from None


def _replaceable(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file", str(target))
    if target.exists() and not target.is_file():
        # Renaming would put a plain file where a device or a pipe was.
        raise OSError(errno.EINVAL, "is not a plain file; name another", str(target))
    return target


def _umask() -> int:
    """The process's file creation mask, in octal bits (it can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

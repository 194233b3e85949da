"""What every command of the project shares: one-line errors and a progress bar."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def run(
    main: Callable[[list[str] | None], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Call ``main(argv)`` and return its exit status; user mistakes become one line on stderr.

    An exception whose class has a true attribute ``user_error``, and any OSError, prints
    ``error: <message>`` and gives status 2; Ctrl-C gives 130; a closed output pipe gives 141.
    So does a MemoryError, which sizes on the command line can cause.
    Every other exception is a fault of the program and keeps its traceback.
    """
    try:
        return main(None if argv is None else list(argv))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except MemoryError as error:
        print(f"error: out of memory ({one_line(error)})", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        # The reader has gone; without this the interpreter complains while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        if not (isinstance(error, OSError) or getattr(type(error), "user_error", False)):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_USER_ERROR


def progress(
    iterable: Iterable[Item],
    description: str,
    total: int | None = None,
    *,
    quiet: bool = False,
) -> Iterator[Item]:
    """Yield the items while a bar runs on stderr; no bar if that is no terminal or ``quiet``."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield from iterable
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        yield from bar.track(iterable, total=total, description=description)


class MissingExtra(ImportError):
    """An optional dependency is not installed."""

    user_error = True


def demand(extra: str, needed: Iterable[str]) -> None:
    """For a package's ``__init__``: stop with one clear error unless the extra is installed.

    Args:
        extra: of the distribution, such as "export".
        needed: top-level modules that it brings.
    """
    for name in needed:
        if importlib.util.find_spec(name) is None:
            stop(
                MissingExtra(
                    f"needs the package {name!r}, which is not installed; "
                    f"pip install 'spikedeploy[{extra}]'"
                )
            )


def stop(error: Exception) -> NoReturn:
    """Raise the error, or end in one line while Python looks for a ``-m`` command's module.

    Python imports a command's package before the command itself, and calls the program "-m"
    meanwhile; no ``run`` is there yet to catch anything.
    """
    if sys.argv[0] == "-m":
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    raise error


def one_line(error: BaseException) -> str:
    """The error's message on one line; OSErrors read ``file: reason``."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__

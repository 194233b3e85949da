"""Errors of the op library."""

from __future__ import annotations


class LibraryError(RuntimeError):
    """The op library is missing, or it was asked for a kernel target it does not have."""

    user_error = True

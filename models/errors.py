"""Errors a user of this room can cause."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, is unsafe, or has no canonical form."""

    user_error = True

"""Errors a user of this room can cause."""

from __future__ import annotations


class ExportError(ValueError):
    """Something that cannot be exported, or an export that failed its own check."""

    user_error = True

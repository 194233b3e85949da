"""Errors a user of this room can cause."""

from __future__ import annotations


class QuantError(ValueError):
    """A network or a setting that has no integer form."""

    user_error = True

"""The error class of this room: one clear line for the user, no traceback."""


class DataError(ValueError):
    """Data, a file or a setting that cannot be used; the message says which and what to do."""

    user_error = True

"""The error class of this room: one clear line for the user, no traceback."""


class BenchError(ValueError):
    """A measurement that cannot be made as asked."""

    user_error = True

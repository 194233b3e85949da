"""The error classes of this room: each is one clear line for the user, no traceback."""


class ArtifactError(ValueError):
    """A model file that cannot be trusted or understood; the message says why and what to do."""

    user_error = True


class SessionError(ValueError):
    """A session that cannot be made, or an input it cannot take."""

    user_error = True


class EvaluationError(ValueError):
    """A recording and a model that cannot be evaluated together."""

    user_error = True


class ParityError(ValueError):
    """Two runs whose comparison would prove nothing."""

    user_error = True


class PictureError(ValueError):
    """A picture or report that cannot be drawn."""

    user_error = True
